"""Data sets with sealed splits: what a task is, and its images decoded once into the node's cache.

`check` and `decode(..., "train")` open no image and no mask of the test split.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_kd import plugins
from tune_kd.data import decoded
from tune_kd.data.datasets import locations
from tune_kd.data.decoded import Decoded as Decoded
from tune_kd.data.readers import base as readers
from tune_kd.data.readers import tiny_imagenet, voc
from tune_kd.data.readers.base import SPLITS, Layout, named_files
from tune_kd.data.readers.base import Raw as Raw  # for users' own tasks
from tune_kd.errors import UsageError, unknown
from tune_kd.files import lock
from tune_kd.recipe import digest

DECODE_VERSION = 2  # of the cache's files; raised when decoding changes


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set and how its images are seen: one class an image, or (`dense`) one for every pixel.

    `size` is what images are brought to in pixels, one side or (height, width); `channels` is 3
    (RGB) or 1 (grey); `flip` whether mirrored images are of the same class. Images of a class are
    cropped with `pad` zeros around; dense ones are resized by a random factor in `scale` and
    cropped. `mean` and `std` are per channel in units of 0..1; None: computed from the training
    images.

    Without --data the images are what `read(split, None, cache)` gives, or they lie where
    `locate(cache)` says; both may keep what they download below `cache`. With --data they lie in
    one of the task's `own_layouts`, or in one that every task of its kind knows: class folders and
    Parquet, for dense tasks VOC's (of `num_classes`, or with a classes.txt).
    """

    name: str
    size: int | tuple[int, int]
    channels: int
    pad: int
    flip: bool
    read: Callable[[str, Path | None, Path], Raw] | None = None
    locate: Callable[[Path], Path] | None = None
    dense: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    own_layouts: tuple[Layout, ...] = ()
    version: str = "1"  # raised when the images that `read` gives change
    num_train: int | None = None  # images of the train split, where it is known without data
    num_classes: int | None = None

    def __post_init__(self) -> None:
        rules = {
            "size >= 1, one or (height, width)": len(self.sides) == 2 and min(self.sides) >= 1,
            "channels 1 or 3": self.channels in (1, 3),
            "pad >= 0, and 0 where dense": self.pad >= 0 and not (self.dense and self.pad),
            "0 < scale[0] <= scale[1], and 1 unless dense": 0 < self.scale[0] <= self.scale[1]
            and (self.dense or self.scale == (1.0, 1.0)),
            "read or locate, one of them": (self.read is None) != (self.locate is None),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise UsageError(
                f"task {self.name}: {broken[0]} must hold, but got size={self.size}, "
                f"channels={self.channels}, pad={self.pad}, scale={self.scale}, dense={self.dense}"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of its images in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """How --data may hold it, its own layouts first."""
        usual = (voc.layout(self.num_classes),) if self.dense else readers.LAYOUTS
        return (*self.own_layouts, *usual)


def _cifar_layout(folder: str, files: tuple[str, ...], *, name: str) -> Layout:
    archive = folder.removesuffix("-batches-py").removesuffix("-python") + "-python.tar.gz"
    inside = tuple(f"{folder}/{file}" for file in files)
    return named_files(inside, (archive,), read=locations.cifar_reader(name))


_CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
_CIFAR100_FILES = ("train", "test", "meta")

TASKS: dict[str, Task] = {
    "digits": Task(
        name="digits",
        size=8,
        channels=1,
        pad=1,
        flip=False,
        read=locations.read_digits,
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
        read=locations.cifar_reader("CIFAR10"),
        num_train=50_000,
        num_classes=10,
        own_layouts=(_cifar_layout("cifar-10-batches-py", _CIFAR10_FILES, name="CIFAR10"),),
    ),
    "cifar100": Task(
        name="cifar100",
        size=32,
        channels=3,
        pad=4,
        flip=True,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        read=locations.cifar_reader("CIFAR100"),
        num_train=50_000,
        num_classes=100,
        own_layouts=(_cifar_layout("cifar-100-python", _CIFAR100_FILES, name="CIFAR100"),),
    ),
    "tinyimagenet": Task(
        name="tinyimagenet",
        size=64,
        channels=3,
        pad=8,
        flip=True,
        locate=locations.find_tiny_imagenet,
        num_train=100_000,
        num_classes=200,
        own_layouts=(tiny_imagenet.LAYOUT,),
    ),
    "voc": Task(
        name="voc",
        size=(512, 512),
        channels=3,
        pad=0,
        flip=True,
        dense=True,
        scale=(0.5, 2.0),
        locate=locations.find_voc,
        num_train=1464,
        num_classes=21,
    ),
    "camvid": Task(
        name="camvid",
        size=(180, 240),
        channels=3,
        pad=0,
        flip=True,
        dense=True,
        scale=(0.75, 1.5),
        locate=locations.find_camvid,
        num_train=468,
        num_classes=11,
    ),
}


def find(name: str, *, base: Path | None = None) -> Task:
    """Return a task by its key in TASKS, or as `file.py:function` that returns a Task.

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
            f"'{name}' returned a {type(task).__name__}; a tune_kd.data.tasks.Task is needed"
        )
    source = plugins.file_id_of(name, base=base)  # so that an edited file's old images are not used
    return dataclasses.replace(task, version=f"{task.version}-{source}")


# Folders and archives


def check(task: Task, place: Path | None) -> None:
    """Whether a user's folder or archive has both splits in a known layout; opens no test image.

    Raises:
        UsageError: no such place, a missing split, fewer than two classes, or no known layout.
    """
    if place is not None:
        _layout(task, place).check(place)


def _layout(task: Task, place: Path) -> Layout:
    """Return the layout that the place seems to have; cheap."""
    packed = any(layout.archives for layout in task.layouts)
    if not place.is_dir() and not (packed and place.is_file()):
        raise UsageError(f"--data {place}: there is no such folder{' or archive' * packed}")
    layout = readers.recognise(place, task.layouts)
    if layout is None:
        expected = ", or ".join(layout.expected for layout in task.layouts)
        raise UsageError(f"--data {place} holds no data set: expected {expected}")
    return layout


def _key(task: Task, split: str, place: Path | None) -> str:
    """Names the decoded split in the cache; it changes with the task's shape and with the source.

    The files of a folder count by name, size and time of change; no image is opened. Test labels
    need the train split's classes, so its files count for both.
    """
    facts: list[Any] = [DECODE_VERSION, task.name, task.version, task.sides, task.channels, split]
    if place is not None:
        layout = _layout(task, place)
        splits = ("train",) if split == "train" else SPLITS
        facts.append(str(place.resolve()))
        for path in (path for name in splits for path in layout.files(place, name)):
            stat = path.stat()
            facts.append((str(path.relative_to(place)), stat.st_size, stat.st_mtime_ns))
    return f"{task.name}-{split}-{digest(json.dumps(facts))}"


# Decoding


def decode(task: Task, split: str, *, folder: Path | None, cache: Path) -> Decoded:
    """Return a split's images in the task's size, from the node's cache or decoded into it.

    `split` is train or test, `folder` the user's folder or archive (--data) or None. Images of
    another size are resized (antialiased, bilinear; masks: nearest) whatever their shape was.
    Processes that decode the same split at once wait for the first; a killed one leaves nothing
    that is taken for whole.

    Raises:
        UsageError: what `check` says, an unreadable image (with its file or row), a failed
            download, or a cache that cannot be written to.
    """
    assert split in SPLITS, split
    try:
        place = folder if folder or task.locate is None else task.locate(cache)
        target = cache / "data" / _key(task, split, place)
        if not target.is_dir():
            check(task, place)
            with lock(target.with_name(f".{target.name}.lock")):
                if not target.is_dir():
                    decoded.write(_raw(task, split, place, cache), target, _shape(task))
    except OSError as error:
        raise UsageError(
            f"cannot decode into {cache} ({error}); TUNE_KD_CACHE may name another folder"
        ) from error
    return decoded.load(target)


def _shape(task: Task) -> decoded.Shape:
    return decoded.Shape(sides=task.sides, channels=task.channels, dense=task.dense)


def _raw(task: Task, split: str, place: Path | None, cache: Path) -> Raw:
    if place is not None:
        return _layout(task, place).read(split, place, cache)
    assert task.read is not None  # or locate had named a place
    return task.read(split, None, cache)
