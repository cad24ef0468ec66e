"""Images and labels as they lie on a disk: class folders and Hugging Face style Parquet.

Readers are lazy: images come one at a time, and of a split only its own files are opened.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tune_kd.errors import UsageError

SPLITS = ("train", "test")
_FOLDERS = "train/<class>/* and test/<class>/*"
_PARQUET = "train*.parquet and test*.parquet"
EXPECTED = f"{_FOLDERS}, or {_PARQUET}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """A split as its source has it.

    `images` yields one image for each label, in order: a PIL image or a uint8 array [H, W] or
    [H, W, C] with values 0..255. `labels` is int64 [N] with values in [0, len(class_names)).

    Of a dense task `labels` yields a mask for each image, in step with the images: a palette or
    grey PIL image or a uint8 array [H, W] of the image's size, with values in [0,
    len(class_names)), or 255 where a pixel counts for nothing (void).

    `validation`: which positions of a train split are the data set's own validation images; None:
    it has none. `names`: what messages call the images, their files say; else they are counted from
    0.
    """

    images: Iterable[Image.Image | npt.NDArray[np.uint8]]
    labels: npt.NDArray[np.int64] | Iterable[Image.Image | npt.NDArray[np.uint8]]
    class_names: tuple[str, ...]
    validation: npt.NDArray[np.int64] | None = None
    names: Sequence[str] = ()

    def name(self, number: int) -> str:
        """Return what a message calls an image."""
        return self.names[number] if self.names else f"image {number}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a folder or an archive holds a data set; `check` and `files` open nothing of the test split.

    `matches` is cheap and says whether something of the layout is there; `read(split, place,
    cache)` gives a split, as a task's own `read` does.
    """

    expected: str  # for messages
    matches: Callable[[Path], bool]
    check: Callable[[Path], None]
    files: Callable[[Path, str], list[Path]]  # of one split, sorted
    read: Callable[[str, Path, Path], Raw]
    archives: bool = False  # whether a file may hold it


def open_image(source: Path | io.BytesIO, where: str) -> Image.Image:
    """Return a decoded image; UsageError with `where` it lies if it is not readable."""
    try:
        with Image.open(source) as image:
            image.load()
            return image
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and others
        reason = str(error).splitlines()[0] if isinstance(source, Path) and str(error) else ""
        raise UsageError(
            f"{where} is not a readable image{f' ({reason})' if reason else ''}"
        ) from error


def _demand_classes(num_classes: int, where: Path) -> None:
    if num_classes < 2:
        raise UsageError(
            f"--data: {where} has {num_classes} class(es), at least 2 are needed: {EXPECTED}"
        )


def _demand_split(exists: bool, folder: Path, split: str) -> None:
    if not exists:
        raise UsageError(f"--data {folder} has no {split} split: expected {EXPECTED}")


# Class folders


def _class_folders(folder: Path, split: str) -> list[Path]:
    inside = (folder / split).iterdir() if (folder / split).is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def _images_below(folder: Path) -> list[Path]:
    """Files with an image's ending, at any depth, sorted; others (notes, say) do not count."""
    endings = Image.registered_extensions()
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in endings)
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())


def _check_folders(folder: Path) -> None:
    for split in SPLITS:
        _demand_split((folder / split).is_dir(), folder, split)
    train, test = ([path.name for path in _class_folders(folder, split)] for split in SPLITS)
    _demand_classes(len(train), folder / "train")
    if train != test:
        odd = sorted(set(train) ^ set(test))[0]
        raise UsageError(
            f"--data {folder}: train and test must have the same classes; '{odd}' is only in "
            f"{'train' if odd in train else 'test'}"
        )


def _folder_files(folder: Path, split: str) -> list[Path]:
    return [path for inner in _class_folders(folder, split) for path in _images_below(inner)]


def _read_folders(split: str, folder: Path, cache: Path) -> Raw:
    _check_folders(folder)
    inner = _class_folders(folder, split)
    files = [_images_below(path) for path in inner]
    for path, images in zip(inner, files, strict=True):
        if not images:
            raise UsageError(f"--data: {path} has no images: expected {EXPECTED}")
    labels = np.repeat(np.arange(len(inner)), [len(images) for images in files]).astype(np.int64)
    decoded = (open_image(path, str(path)) for paths in files for path in paths)
    return Raw(images=decoded, labels=labels, class_names=tuple(path.name for path in inner))


# Parquet as Hugging Face writes it


def _parquet_files(folder: Path, split: str) -> list[Path]:
    """`train*.parquet` in the folder itself, else in its `data`, as the hub's repositories do."""
    files = sorted(folder.glob(f"{split}*.parquet"))
    return files or sorted((folder / "data").glob(f"{split}*.parquet"))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is not a readable Parquet file") from error


def _columns(path: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the image column, the label column and the class names (if it has them)."""
    schema = _parquet(path).schema_arrow
    image = next((name for name in ("image", "img") if name in schema.names), "")
    label = next((name for name in ("label", "fine_label") if name in schema.names), "")
    if not image or not label or not pa.types.is_integer(schema.field(label).type):
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UsageError(
            f"{path} has the columns {columns[:300]}; expected image or img (a struct with bytes) "
            "and label or fine_label (integers)"
        )
    kind = schema.field(image).type
    in_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not in_struct and not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise UsageError(f"{path}: column {image} is {kind}; expected a struct with bytes")
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = info.get("info", {}).get("features", {}).get(label, {})
    return image, label, tuple(str(name) for name in feature.get("names") or ())


def _labels(files: list[Path]) -> npt.NDArray[np.int64]:
    labels = []
    for path in files:
        column = _parquet(path).read(columns=[_columns(path)[1]]).column(0)
        if column.null_count:
            raise UsageError(f"{path}: a label is missing (null)")
        labels.append(column.to_numpy().astype(np.int64))
    return np.concatenate(labels) if labels else np.zeros(0, np.int64)


def _class_names(folder: Path) -> tuple[str, ...]:
    """From the train split's metadata; numbers, counted from its labels, where it has no names."""
    files = _parquet_files(folder, "train")
    names = _columns(files[0])[2]
    highest = int(_labels(files).max(initial=-1))
    return names or tuple(str(label) for label in range(highest + 1))


def _check_parquet(folder: Path) -> None:
    for split in SPLITS:
        _demand_split(bool(_parquet_files(folder, split)), folder, split)
    files = _parquet_files(folder, "train")
    _demand_classes(len(np.unique(_labels(files))), files[0])


def _read_parquet(split: str, folder: Path, cache: Path) -> Raw:
    _check_parquet(folder)
    files, names = _parquet_files(folder, split), _class_names(folder)
    for path in files:
        file_classes = _columns(path)[2]
        if file_classes and file_classes != names:
            raise UsageError(f"{path}: its class names differ from the train split's")
        labels = _labels([path])
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            label = labels[wrong[0]]
            raise UsageError(
                f"{path}, row {wrong[0]}: label {label}; allowed are 0 to {len(names) - 1}"
            )
    images = (image for path in files for image in _parquet_images(path))
    return Raw(images=images, labels=_labels(files), class_names=names)


def _parquet_images(path: Path) -> Iterator[Image.Image]:
    """Row by row, a thousand encoded images in memory at a time; rows are counted from 0."""
    column, row = _columns(path)[0], 0
    for batch in _batches(path, column):
        encoded = batch.column(0)
        if pa.types.is_struct(encoded.type):
            encoded = encoded.field("bytes")
        for data in encoded.to_pylist():
            where = f"{path}, row {row}"
            if data is None:
                raise UsageError(f"{where}: no bytes (images beside the Parquet are not read)")
            yield open_image(io.BytesIO(data), where)
            row += 1


def _batches(path: Path, column: str) -> Iterator[Any]:
    try:
        yield from _parquet(path).iter_batches(1024, columns=[column])
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


LAYOUTS = (
    Layout(
        expected=_FOLDERS,
        matches=lambda folder: any((folder / split).is_dir() for split in SPLITS),
        check=_check_folders,
        files=_folder_files,
        read=_read_folders,
    ),
    Layout(
        expected=_PARQUET,
        matches=lambda folder: any(_parquet_files(folder, split) for split in SPLITS),
        check=_check_parquet,
        files=_parquet_files,
        read=_read_parquet,
    ),
)  # of every task with one label an image


def named_files(
    *alternatives: tuple[str, ...], read: Callable[[str, Path | None, Path], Raw]
) -> Layout:
    """Return a folder with all files (or folders) of one of the alternatives, which `read` knows."""

    def best(folder: Path) -> tuple[str, ...]:
        """Return the first that is complete, else the first that is begun."""
        presence = {files: [(folder / file).exists() for file in files] for files in alternatives}
        complete_sets = (files for files, flags in presence.items() if all(flags))
        partial_sets = (files for files, flags in presence.items() if any(flags))
        return next(complete_sets, next(partial_sets, ()))

    def check(folder: Path) -> None:
        missing = [file for file in best(folder) if not (folder / file).exists()]
        if missing:
            raise UsageError(f"--data {folder}: {missing[0]} is missing")

    def files(folder: Path, split: str) -> list[Path]:
        paths = [folder / file for file in best(folder)]
        return [p for path in paths for p in (sorted(path.rglob("*")) if path.is_dir() else [path])]

    return Layout(
        expected=", or ".join(Path(files[0]).parts[0] for files in alternatives),
        matches=lambda folder: bool(best(folder)),
        check=check,
        files=files,
        read=read,
    )


def recognise(place: Path, layouts: Iterable[Layout]) -> Layout | None:
    """Return the first layout of which the folder or the file has something, or None."""
    able = (layout for layout in layouts if layout.archives or place.is_dir())
    return next((layout for layout in able if layout.matches(place)), None)
