"""Tiny ImageNet in the layout of its original archive, as a folder or an archive.

`wnids.txt` names the classes, `train/<wnid>/images/*.JPEG` holds a class, and the images of `val`
with their classes in `val/val_annotations.txt` are the sealed test split: those of the archive's
own `test` have no labels. Classes are the wnids that have training images, sorted, as ImageFolder
has them.
"""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tune_kd.data.readers import archives
from tune_kd.data.readers.archives import Files
from tune_kd.data.readers.base import Layout, Raw, open_image
from tune_kd.errors import UsageError

NAME = "tiny-imagenet-200"
EXPECTED = (
    f"{NAME} with wnids.txt, train/<wnid>/images and val/val_annotations.txt, "
    "a folder or an archive (.zip, .tar, .tar.gz)"
)
_MARKER, _ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"


def _folder(place: Path) -> Path | None:
    """Return the folder that holds wnids.txt."""
    options = (place, place / NAME)
    return next((folder for folder in options if (folder / _MARKER).is_file()), None)


def _matches(place: Path) -> bool:
    return archives.is_archive(place) or _folder(place) is not None


def _root(files: Files, place: Path) -> Files:
    roots = archives.roots(files, _MARKER)
    if len(roots) != 1:
        raise UsageError(f"--data {place} holds no data set: expected {EXPECTED}")
    return files.below(roots[0])


def _train(tree: Files) -> dict[str, list[str]]:
    """Return the training images of each class, both sorted."""
    classes = set(tree.text(_MARKER))
    images: dict[str, list[str]] = {}
    for name in sorted(tree.names):
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[1] in classes and _is_image(name):
            images.setdefault(parts[1], []).append(name)
    return images


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in Image.registered_extensions()


def _test(tree: Files, classes: list[str]) -> tuple[list[str], list[int]]:
    """Images of val and their classes, in the order of the annotations; other classes' are left out."""
    number = {wnid: at for at, wnid in enumerate(classes)}
    rows = [line.split("\t") for line in tree.text(_ANNOTATIONS)]
    if any(len(row) < 2 for row in rows):
        raise UsageError(f"{tree.where}/{_ANNOTATIONS}: expected name, tab, wnid in each line")
    pairs = [(f"val/images/{row[0]}", number[row[1]]) for row in rows if row[1] in number]
    missing = [name for name, _ in pairs if name not in tree.names]
    if missing:
        raise UsageError(f"{tree.where}/{missing[0]} is missing, but {_ANNOTATIONS} names it")
    return [name for name, _ in pairs], [label for _, label in pairs]


def _class_names(tree: Files, classes: list[str]) -> tuple[str, ...]:
    """Return the first name of each in words.txt; the wnid where there is none."""
    rows = (
        [line.partition("\t") for line in tree.text("words.txt")]
        if "words.txt" in tree.names
        else []
    )
    words = {wnid: names.split(",")[0].strip() for wnid, _, names in rows}
    return tuple(words.get(wnid) or wnid for wnid in classes)


def _check(place: Path) -> None:
    with archives.open_files(place) as files:
        tree = _root(files, place)
        if len(_train(tree)) < 2:
            raise UsageError(
                f"--data: {tree.where}/train has images of {len(_train(tree))} class(es) of "
                f"{_MARKER}, at least 2 are needed: expected {EXPECTED}"
            )
        if _ANNOTATIONS not in tree.names:
            raise UsageError(f"--data: {tree.where}/{_ANNOTATIONS} is missing: expected {EXPECTED}")


def _files(place: Path, split: str) -> list[Path]:
    """Return the archive, or the files of a folder's split; the lists of names belong to the train split."""
    folder = _folder(place)
    if folder is None:
        return [place]
    if split == "test":
        return [folder / _ANNOTATIONS, *sorted((folder / "val/images").glob("*"))]
    lists = [path for name in (_MARKER, "words.txt") if (path := folder / name).is_file()]
    return [*lists, *sorted((folder / "train").glob("*/images/*"))]


def _read(split: str, place: Path, cache: Path) -> Raw:
    with archives.open_files(place) as files:
        tree = _root(files, place)
        train = _train(tree)
        classes = sorted(train)
        if split == "train":
            names = [name for wnid in classes for name in train[wnid]]
            labels = [at for at, wnid in enumerate(classes) for _ in train[wnid]]
        else:
            names, labels = _test(tree, classes)
        class_names = _class_names(tree, classes)
    return Raw(
        images=_images(place, names, cache),
        labels=np.array(labels, np.int64),
        class_names=class_names,
        names=names,
    )


def _images(place: Path, names: list[str], cache: Path) -> Iterator[Image.Image]:
    with archives.open_files(place, scratch=cache) as files:
        tree = _root(files, place)
        for name in names:
            yield open_image(io.BytesIO(tree.read(name)), f"{tree.where}/{name}")


LAYOUT = Layout(
    expected=EXPECTED, matches=_matches, check=_check, files=_files, read=_read, archives=True
)
