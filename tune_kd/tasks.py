"""Data sets with sealed splits: what a task is, and its images decoded once into the node's cache.

`check` and `decode(..., "train")` open no file of the test split.
"""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tune_kd import plugins, sources
from tune_kd.errors import UsageError, unknown
from tune_kd.pixels import fit, lock, write_images
from tune_kd.readers import EXPECTED, SPLITS, recognise
from tune_kd.readers import Raw as Raw  # for users' own tasks
from tune_kd.recipe import digest
from tune_kd.storage import write_whole

DECODE_VERSION = 1  # of the cache's files; raised when decoding changes


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification data set and how its images are seen.

    `size` is the side in pixels to which images are brought, `channels` 3 (RGB) or 1 (grey), `pad`
    the zeros around a random crop, `flip` whether mirrored images are of the same class. `mean` and
    `std` are per channel in units of 0..1; None: computed from the training images.

    `read(split, folder, cache)` gives a split: `folder` is the user's (--data) or None, and below
    `cache` it may keep what it downloads. It is asked where the folder is None, or where it holds
    one of `own_layouts`: paths in the folder, all of which make a layout. Folders in the layouts
    that every task knows (readers.LAYOUTS) are read without it.
    """

    name: str
    size: int
    channels: int
    pad: int
    flip: bool
    read: Callable[[str, Path | None, Path], Raw]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    own_layouts: tuple[tuple[str, ...], ...] = ()
    version: str = "1"  # raised when the images that `read` gives change
    num_train: int | None = None  # training images and classes, where they are known without data
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.pad < 0 or self.channels not in (1, 3):
            raise UsageError(
                f"task {self.name}: size >= 1, pad >= 0 and channels 1 or 3 must hold, but got "
                f"size={self.size}, pad={self.pad}, channels={self.channels}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A split in memory-mapped files that all processes of a node share; not to be written to.

    `images` is uint8 [N, size, size, channels], `labels` int64 [N]; `hash` is a digest of pixels,
    labels and class names, whatever files they came from. `folder` is where it lies in the cache
    (None: nowhere).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    hash: str
    folder: Path | None = None


_CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

TASKS: dict[str, Task] = {
    "digits": Task(
        name="digits",
        size=8,
        channels=1,
        pad=1,
        flip=False,
        read=sources.read_digits,
        num_train=1257,
        num_classes=10,
    ),
    "cifar10": Task(
        name="cifar10",
        size=32,
        channels=3,
        pad=4,
        flip=True,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        read=sources.cifar_reader("CIFAR10"),
        num_train=50_000,
        num_classes=10,
        own_layouts=(
            tuple(f"cifar-10-batches-py/{file}" for file in _CIFAR10_FILES),
            ("cifar-10-python.tar.gz",),
        ),
    ),
    "cifar100": Task(
        name="cifar100",
        size=32,
        channels=3,
        pad=4,
        flip=True,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        read=sources.cifar_reader("CIFAR100"),
        num_train=50_000,
        num_classes=100,
        own_layouts=(
            tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
            ("cifar-100-python.tar.gz",),
        ),
    ),
}


def find(name: str, *, base: Path | None = None) -> Task:
    """A task by its key in TASKS, or as `file.py:function` that returns a Task.

    Raises:
        UsageError: no such key, file or function, or what it returns is not a Task.
    """
    if not plugins.is_reference(name):
        if name not in TASKS:
            raise unknown("task", name, TASKS, where="a file.py:function, or one of")
        return TASKS[name]
    task = plugins.load_function(name, base=base)()
    if not isinstance(task, Task):
        raise UsageError(
            f"'{name}' returned a {type(task).__name__}; a tune_kd.tasks.Task is needed"
        )
    source = plugins.source_hash(
        name, base=base
    )  # so that an edited file's old images are not used
    return dataclasses.replace(task, version=f"{task.version}-{source}")


# Folders


def _own_layout(task: Task, folder: Path) -> tuple[str, ...]:
    """The first of the task's own layouts that is complete in the folder, else the first begun."""
    begun: tuple[str, ...] = ()
    for layout in task.own_layouts:
        there = [(folder / file).exists() for file in layout]
        if all(there):
            return layout
        begun = begun or (layout if any(there) else ())
    return begun


def check(task: Task, folder: Path | None) -> None:
    """Whether a user's folder has both splits in a known layout; cheap, opens no test file.

    Raises:
        UsageError: no such folder, a missing split, fewer than two classes, or no known layout.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"--data {folder}: there is no such folder")
    own = _own_layout(task, folder)
    missing = [file for file in own if not (folder / file).exists()]
    if own and missing:
        raise UsageError(f"--data {folder}: {missing[0]} is missing")
    layout = recognise(folder)
    if not own and layout is None:
        also = "".join(f", or {Path(files[0]).parts[0]}" for files in task.own_layouts)
        raise UsageError(f"--data {folder} holds no data set: expected {EXPECTED}{also}")
    if not own and layout is not None:
        layout.check(folder)


def _key(task: Task, split: str, folder: Path | None) -> str:
    """Names the decoded split in the cache; it changes with the task's shape and with the source.

    The files of a folder count by name, size and time of change; nothing is opened.
    """
    facts: list[Any] = [DECODE_VERSION, task.name, task.version, task.size, task.channels, split]
    if folder is not None:
        facts.append(str(folder.resolve()))
        for path in _sources(task, split, folder):
            stat = path.stat()
            facts.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
    return f"{task.name}-{split}-{digest(json.dumps(facts))}"


def _sources(task: Task, split: str, folder: Path) -> list[Path]:
    """The files that decide what a split decodes to: test labels need the train split's classes."""
    if own := _own_layout(task, folder):
        named = [folder / file for file in own]
        return [p for path in named for p in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    layout = recognise(folder)
    assert layout is not None
    splits = ("train",) if split == "train" else SPLITS
    return [path for name in splits for path in layout.files(folder, name)]


# Decoding


def decode(task: Task, split: str, *, folder: Path | None, cache: Path) -> Decoded:
    """A split's images in the task's size, from the node's cache or decoded into it.

    `split` is train or test, `folder` the user's (--data) or None. Images of another size are
    resized (antialiased, bilinear) to size x size whatever their shape was. Processes that decode
    the same split at once wait for the first; a killed one leaves nothing that is taken for whole.

    Raises:
        UsageError: what `check` says, an unreadable image (with its file or row), a failed
            download, or a cache that cannot be written to.
    """
    assert split in SPLITS, split
    check(task, folder)
    place = cache / "data" / _key(task, split, folder)
    if not place.is_dir():
        try:
            with lock(place.with_name(f".{place.name}.lock")):
                if not place.is_dir():
                    _write(_raw(task, split, folder, cache), place, task)
        except OSError as error:
            raise UsageError(
                f"cannot decode into {cache} ({error}); TUNE_KD_CACHE may name another folder"
            ) from error
    meta = json.loads((place / "meta.json").read_text())
    return Decoded(
        images=np.load(place / "images.npy", mmap_mode="r"),
        labels=np.load(place / "labels.npy", mmap_mode="r"),
        class_names=tuple(meta["class_names"]),
        hash=meta["hash"],
        folder=place,
    )


def _raw(task: Task, split: str, folder: Path | None, cache: Path) -> Raw:
    layout = recognise(folder) if folder and not _own_layout(task, folder) else None
    return layout.read(folder, split) if layout and folder else task.read(split, folder, cache)


def _write(raw: Raw, place: Path, task: Task) -> None:
    """The decoded split as a whole folder. The lock is ours, so a part found is a dead process's."""
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        labels = np.ascontiguousarray(raw.labels, dtype=np.int64)
        if not len(labels):
            raise UsageError(
                f"task {task.name}: the {place.name.split('-')[1]} split has no images"
            )
        shape = (len(labels), task.size, task.size, task.channels)
        fitted = (fit(image, task.size, task.channels)[None] for image in raw.images)
        pixels = write_images(part / "images.npy", shape, fitted)
        encoded = io.BytesIO()
        np.save(encoded, labels)
        write_whole(part / "labels.npy", encoded.getvalue())
        hash = digest(str(shape), pixels, labels.tobytes(), json.dumps(raw.class_names))
        meta = {"class_names": raw.class_names, "hash": hash}
        write_whole(part / "meta.json", json.dumps(meta).encode())
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
