"""A decoded split: arrays in memory-mapped files that all processes of a node share."""

import io
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tune_kd.data.arrays import VOID, ImageFile, Pixels, fit, fit_mask
from tune_kd.data.readers.base import Raw
from tune_kd.errors import UsageError
from tune_kd.files import write_whole
from tune_kd.recipe import digest


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What images are brought to: height and width, channels, and whether labels are masks."""

    sides: tuple[int, int]
    channels: int
    dense: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A split in memory-mapped files; not to be written to.

    `images` is uint8 [N, height, width, channels], `labels` int64 [N], of a dense task uint8 [N,
    height, width] with 255 for void. `hash` is a digest of pixels, labels and class names, whatever
    files they came from. `folder` is where it lies in the cache (None: nowhere). `validation` is
    int64, sorted: the positions of a train split that are the data set's own validation images;
    None: a tenth is chosen.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.uint8]
    class_names: tuple[str, ...]
    hash: str
    folder: Path | None = None
    validation: npt.NDArray[np.int64] | None = None

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return self.labels.ndim > 1


def load(folder: Path) -> Decoded:
    """Return the split that `write` put into a folder."""
    meta = json.loads((folder / "meta.json").read_text())
    path = folder / "validation.npy"
    return Decoded(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy", mmap_mode="r"),
        class_names=tuple(meta["class_names"]),
        hash=meta["hash"],
        folder=folder,
        validation=np.load(path) if path.is_file() else None,
    )


def write(raw: Raw, folder: Path, shape: Shape) -> None:
    """Write a split as a whole folder. The caller holds its lock, so a part found is a dead process's.

    Raises:
        UsageError: no images, another number of labels than of images, or labels that do not fit.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        pixels, labels = (_write_dense if shape.dense else _write_classification)(raw, part, shape)
        if not pixels.count:
            raise UsageError(f"{folder.name.rpartition('-')[0]} has no images")
        facts: list[str | bytes] = [
            str(pixels.shape),
            pixels.hash,
            labels,
            json.dumps(raw.class_names),
        ]
        if raw.validation is not None:
            validation = np.ascontiguousarray(raw.validation, dtype=np.int64)
            write_whole(part / "validation.npy", _encode(validation))
            facts.append(validation.tobytes())
        meta = {"class_names": raw.class_names, "hash": digest(*facts)}
        write_whole(part / "meta.json", json.dumps(meta).encode())
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_classification(raw: Raw, part: Path, shape: Shape) -> tuple[ImageFile, bytes]:
    """Write images with one label each; the file, and what its labels add to the hash."""
    labels = np.ascontiguousarray(raw.labels, dtype=np.int64)
    with ImageFile(part / "images.npy", (*shape.sides, shape.channels)) as images:
        for image in raw.images:
            images.append(fit(image, shape.sides, shape.channels)[None])
        if images.count != len(labels):
            raise UsageError(f"there are {len(labels)} labels but {images.count} images")
    write_whole(part / "labels.npy", _encode(labels))
    return images, labels.tobytes()


def _write_dense(raw: Raw, part: Path, shape: Shape) -> tuple[ImageFile, bytes]:
    """Return the same of images with a mask each, one of both at a time."""
    with (
        ImageFile(part / "images.npy", (*shape.sides, shape.channels)) as images,
        ImageFile(part / "labels.npy", shape.sides) as masks,
    ):
        for image, mask in itertools.zip_longest(raw.images, raw.labels):
            if image is None or mask is None:
                raise UsageError(
                    f"there are {'more' if image is None else 'fewer'} masks than images"
                )
            where = raw.name(images.count)
            if _sides(image) != _sides(mask):
                raise UsageError(
                    f"{where} has {_sides(image)} pixels (height, width), its mask {_sides(mask)}"
                )
            images.append(fit(image, shape.sides, shape.channels)[None])
            masks.append(
                _check_mask(fit_mask(mask, shape.sides), len(raw.class_names), where)[None]
            )
    return images, masks.hash


def _sides(image: Image.Image | Pixels) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.height, image.width
    return int(image.shape[0]), int(image.shape[1])


def _check_mask(mask: Pixels, classes: int, where: str) -> Pixels:
    wrong = mask[(mask >= classes) & (mask != VOID)]
    if wrong.size:
        raise UsageError(
            f"the mask of {where} has class {wrong.max()}; allowed are 0 to {classes - 1}, and "
            f"{VOID} where a pixel counts for nothing"
        )
    return mask


def _encode(array: npt.NDArray[np.int64]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
