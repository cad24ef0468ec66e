"""Arrays of images as files of the node's cache, memory-mapped by all its processes."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from PIL import Image

from tune_kd import files
from tune_kd.errors import UsageError

Pixels = npt.NDArray[np.uint8]
VOID = 255  # the class of a pixel that counts for nothing


def fit(image: Image.Image | Pixels, sides: tuple[int, int], channels: int) -> Pixels:
    """One image as uint8 [height, width, channels]: grey or RGB, resized where it has other sides.

    >>> fit(np.zeros((28, 20), np.uint8), (32, 24), 3).shape
    (32, 24, 3)
    """
    height, width = sides
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise UsageError(f"images must be uint8, 0 to 255, but one is {image.dtype}")
        if image.shape == (height, width, channels):
            return image
        image = Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)
    if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def fit_mask(mask: Image.Image | Pixels, sides: tuple[int, int]) -> Pixels:
    """One mask of classes as uint8 [height, width]; the nearest pixel's class where sides differ.

    Of a palette picture the numbers count, not the colours.

    >>> fit_mask(np.array([[0, 7], [255, 1]], np.uint8), (2, 4)).tolist()
    [[0, 0, 7, 7], [255, 255, 1, 1]]
    """
    if isinstance(mask, Image.Image):
        if mask.mode not in ("P", "L"):
            raise UsageError(
                f"a mask must be a palette or 8-bit grey picture, but its mode is {mask.mode}"
            )
        mask = np.asarray(mask)
    if mask.dtype != np.uint8 or mask.ndim != 2:
        shape = "x".join(map(str, mask.shape))
        raise UsageError(f"a mask must be uint8 [height, width], but it is {mask.dtype} [{shape}]")
    if mask.shape == sides:
        return mask
    resized = Image.fromarray(mask).resize(sides[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)


class ImageFile:
    """A uint8 .npy file [N, ...] that grows image by image; whole once its `with` block has ended.

    Written, not memory-mapped: a full disk is an error then, not the end of the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """`shape` is one image's."""
        self.count = 0
        self._shape, self._hasher = shape, hashlib.sha256()
        self._file = path.open("wb")
        self._header()

    def append(self, images: Pixels) -> None:
        """Images [n, ...] after those that are there."""
        assert images.shape[1:] == self._shape, f"{images.shape[1:]} among {self._shape}"
        data = np.ascontiguousarray(images).data
        self._hasher.update(data)
        self._file.write(data)
        self.count += len(images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (self.count, *self._shape)

    @property
    def hash(self) -> bytes:
        """The SHA-256 of all pixels."""
        return self._hasher.digest()

    def _header(self) -> None:
        """Numpy leaves room for the first axis to grow, so the length of the header is the same."""
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()
                self._file.flush()
                os.fsync(self._file.fileno())


def shared_array(folder: Path | None, array: Pixels, name: str) -> Pixels:
    """Return a file of a decoded split mapped copy-on-write, as torch wants it; all processes share its pages.

    `folder` is where the file `name` lies; None: a copy of `array`, which it holds, for this
    process.
    """
    if folder is None:
        return np.array(array)
    mapped: Pixels = np.load(folder / name, mmap_mode="c")
    return mapped


def pad_images(images: Pixels, pad: int, *, folder: Path | None) -> Pixels:
    """Return the images with `pad` zeros around, uint8 [N, H + 2 pad, W + 2 pad, C].

    `folder` is where `images.npy` lies: the padded file is made beside it and shared as it is.
    None: an array of this process.
    """
    if not pad:
        return shared_array(folder, images, "images.npy")
    if folder is None:
        return np.concatenate(list(_padded_chunks(images, pad)))
    path = folder / f"padded-{pad}.npy"
    if not path.is_file():
        _, height, width, channels = images.shape
        with files.lock(folder / ".lock"):
            if not path.is_file():
                temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
                shape = (height + 2 * pad, width + 2 * pad, channels)
                with ImageFile(temporary, shape) as file:
                    for chunk in _padded_chunks(images, pad):
                        file.append(chunk)
                temporary.replace(path)
    return shared_array(folder, images, path.name)


def _padded_chunks(images: Pixels, pad: int) -> Iterator[Pixels]:
    for start in range(0, len(images), 1024):
        yield np.pad(images[start : start + 1024], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
