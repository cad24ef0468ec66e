"""Arrays of images as files of the node's cache, memory-mapped by all its processes."""

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from tune_kd.errors import UsageError

Pixels = npt.NDArray[np.uint8]


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Held by one process; it dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fit(image: Image.Image | Pixels, size: int, channels: int) -> Pixels:
    """One image as uint8 [size, size, channels]: grey or RGB, resized where it has another size.

    >>> fit(np.zeros((28, 20), np.uint8), 32, 3).shape
    (32, 32, 3)
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise UsageError(f"images must be uint8, 0 to 255, but one is {image.dtype}")
        if image.shape == (size, size, channels):
            return image
        image = Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)
    if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)


def write_images(path: Path, shape: tuple[int, ...], chunks: Iterable[Pixels]) -> bytes:
    """Chunks of images as one .npy file, in order; returns the SHA-256 of the pixels.

    Written, not memory-mapped: a full disk is an error then, not the end of the process.
    """
    hasher, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        _write_header(file, shape)
        for chunk in chunks:
            data = np.ascontiguousarray(chunk).data
            hasher.update(data)
            file.write(data)
            written += len(chunk)
        if written != shape[0]:
            raise UsageError(f"there are {shape[0]} labels but {written} images")
        file.flush()
        os.fsync(file.fileno())
    return hasher.digest()


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def padded(images: Pixels, pad: int, *, folder: Path | None) -> Pixels:
    """The images with `pad` zeros around, uint8 [N, H + 2 pad, W + 2 pad, C].

    `folder` is where `images.npy` lies: the padded file is made beside it and mapped copy-on-write,
    so that all processes of a node share its pages. None: an array of this process.
    """
    if folder is None:
        return np.concatenate(list(_padded_chunks(images, pad)))
    path = folder / (f"padded-{pad}.npy" if pad else "images.npy")
    if not path.is_file():
        count, height, width, channels = images.shape
        shape = (count, height + 2 * pad, width + 2 * pad, channels)
        with lock(folder / ".lock"):
            if not path.is_file():
                temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
                write_images(temporary, shape, _padded_chunks(images, pad))
                temporary.replace(path)
    shared: Pixels = np.load(path, mmap_mode="c")
    return shared


def _padded_chunks(images: Pixels, pad: int) -> Iterator[Pixels]:
    for start in range(0, len(images), 1024):
        yield np.pad(images[start : start + 1024], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
