"""Images with a mask of classes each, as PASCAL VOC lays them out, in a folder or an archive.

`ImageSets/Segmentation/{train,val,test}.txt` name the images of a split, a name a line; the images
are `JPEGImages/<name>.jpg`, their masks `SegmentationClass/<name>.png`, in which 255 is void. Where
there is a test.txt with masks, that is the sealed test split and val.txt is the validation split;
the original set's test masks are not public, so there val.txt is the test split.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tune_kd.data.readers import archives
from tune_kd.data.readers.archives import Files
from tune_kd.data.readers.base import Layout, Raw, open_image
from tune_kd.errors import UsageError

EXPECTED = (
    "VOCdevkit/<name>/ with JPEGImages, SegmentationClass and "
    "ImageSets/Segmentation/{train,val}.txt, a folder or an archive (.zip, .tar, .tar.gz)"
)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_LISTS = "ImageSets/Segmentation"
_MARKER = f"{_LISTS}/train.txt"
_LEVELS = ("", "*/", "VOCdevkit/*/", "*/VOCdevkit/*/")  # where a folder may hold it


@dataclass(frozen=True)
class Lists:
    """Names of images. `validation` is None where a tenth of the training images has to do."""

    train: list[str]
    validation: list[str] | None
    test: list[str]

    def of_split(self, split: str) -> list[str]:
        """Return the names of what is decoded as a split, validation after training images."""
        return self.test if split == "test" else self.train + (self.validation or [])


def layout(num_classes: int | None) -> Layout:
    """Return the layout; its classes are named in `classes.txt` or `labels.txt`, else it has `num_classes`."""

    def read(split: str, place: Path, cache: Path) -> Raw:
        with archives.open_files(place) as files:
            tree = _root(files, place)
            lists, names = _lists(tree), _class_names(tree, num_classes)
        image_names = lists.of_split(split)
        validation = None
        if split == "train" and lists.validation is not None:
            validation = np.arange(len(lists.train), len(image_names))
        pairs, same = itertools.tee(_pairs(place, image_names, cache))
        return Raw(
            images=(image for image, _ in pairs),
            labels=(mask for _, mask in same),
            class_names=names,
            validation=validation,
            names=image_names,
        )

    return Layout(
        expected=EXPECTED, matches=_matches, check=_check, files=_files, read=read, archives=True
    )


def _matches(place: Path) -> bool:
    return archives.is_archive(place) or bool(_folders(place))


def _folders(place: Path) -> list[Path]:
    markers = (path for level in _LEVELS for path in sorted(place.glob(level + _MARKER)))
    return [path.parents[2] for path in markers]


def _root(files: Files, place: Path) -> Files:
    """Return the files below the one folder that holds the lists."""
    roots = archives.roots(files, _MARKER)
    if not roots:
        raise UsageError(f"--data {place} holds no data set: expected {EXPECTED}")
    if len(roots) > 1:
        hint = "name one of them" if place.is_dir() else "it must hold one"
        raise UsageError(f"--data {place} holds {len(roots)} data sets, {', '.join(roots)}; {hint}")
    return files.below(roots[0])


def _list(tree: Files, split: str) -> list[str]:
    name = f"{_LISTS}/{split}.txt"
    return tree.text(name) if name in tree.names else []


def _lists(tree: Files) -> Lists:
    """Return what the three lists say; no image is in two of them."""
    train, val, test = (_list(tree, split) for split in ("train", "val", "test"))
    if not any(_mask(name) in tree.names for name in test):
        test = []  # as in the original set: images without masks
    if not train or not (val or test):
        missing = "val" if train else "train"
        raise UsageError(f"--data: {tree.where}/{_LISTS}/{missing}.txt names no image: {EXPECTED}")
    names: set[str] = set()
    for name in [*train, *val, *test]:
        if name in names:
            raise UsageError(f"--data: the lists in {tree.where}/{_LISTS} name '{name}' twice")
        names.add(name)
    return Lists(train, val or None, test) if test else Lists(train, None, val)


def _image(tree: Files, name: str) -> str:
    """Return the image's file; the first ending where there is none."""
    options = [f"JPEGImages/{name}{ending}" for ending in (".jpg", ".jpeg", ".png")]
    return next((option for option in options if option in tree.names), options[0])


def _mask(name: str) -> str:
    return f"SegmentationClass/{name}.png"


def _class_names(tree: Files, num_classes: int | None) -> tuple[str, ...]:
    for name in ("classes.txt", "labels.txt"):
        if name in tree.names:
            return tuple(tree.text(name))
    if num_classes is None:
        raise UsageError(
            f"--data: {tree.where} does not say which classes it has; "
            "put their names, one a line, into classes.txt there"
        )
    if num_classes == len(CLASSES):
        return CLASSES
    return tuple(f"class {number}" for number in range(num_classes))


def _check(place: Path) -> None:
    with archives.open_files(place) as files:
        tree = _root(files, place)
        lists = _lists(tree)
        for name in [*lists.of_split("train"), *lists.of_split("test")]:
            for file in (_image(tree, name), _mask(name)):
                if file not in tree.names:
                    raise UsageError(f"--data: {tree.where}/{file} is missing, but it is listed")


def _files(place: Path, split: str) -> list[Path]:
    """Return the archive, or of a folder the lists, the names of classes, and the split's own files."""
    if not place.is_dir():
        return [place]
    paths = []
    for folder in _folders(place):
        with archives.open_files(folder) as tree:
            names = [f"{_LISTS}/{name}.txt" for name in ("train", "val", "test")]
            names += ["classes.txt", "labels.txt"]
            names += [
                file
                for name in _lists(tree).of_split(split)
                for file in (_image(tree, name), _mask(name))
            ]
            paths += [folder / name for name in names if name in tree.names]
    return sorted(paths)


def _pairs(place: Path, names: list[str], cache: Path) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Each image with its mask."""
    with archives.open_files(place, scratch=cache) as files:
        tree = _root(files, place)
        for name in names:
            yield _open(tree, _image(tree, name)), _open(tree, _mask(name))


def _open(tree: Files, name: str) -> Image.Image:
    return open_image(io.BytesIO(tree.read(name)), f"{tree.where}/{name}")
