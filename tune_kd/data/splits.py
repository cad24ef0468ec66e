"""Which images are trained on, how they are normalised, and their home on a device.

An image is known by its index in the whole decoded train split. What training sees of it in an
epoch is a pure function of (seed, epoch, index) (`views`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tune_kd.data import stratify
from tune_kd.data.batch import Batch
from tune_kd.data.classification import ClassificationImages
from tune_kd.data.decoded import Decoded
from tune_kd.data.segmentation import SegmentationImages
from tune_kd.data.tasks import Task
from tune_kd.errors import UsageError
from tune_kd.recipe import Images

Ints = npt.NDArray[np.int64]
Moments = tuple[tuple[float, ...], tuple[float, ...]]

MIN_TRAIN, MIN_VALIDATION = 2, 2  # images a class; in all, where every pixel has a label
TABLE_TOLERANCE = 0.01  # of published statistics against the data, in units of 0..1
CHUNK = 1 << 22  # pixels that are counted at once
EVALUATION_PIXELS = 512 * 32 * 32  # of a batch for inference


VALIDATION_RULE = "max(n / 10, min(2,000, 3 n / 10)) of n training images"


def validation_size(images: int, *, share: float = 0.0) -> int:
    """How many of `images` training images are held out for validation, unless a `share` is given.

    A tenth of a small set tells good configurations hardly apart; confirming trains on all of them
    again, so that holding out more costs the result nothing.

    >>> [validation_size(n) for n in (1257, 5000, 10_000, 50_000)]
    [377, 1500, 2000, 5000]
    >>> validation_size(50_000, share=0.2)
    10000
    """
    if share:
        return round(images * share)
    return max(images // 10, min(2000, images * 3 // 10))


def split(
    decoded: Decoded, *, limit: int = 0, seed: int = 0, share: float = 0.0
) -> tuple[Ints, Ints]:
    """Train and validation images: two sorted int64 arrays of positions in the decoded train split.

    A stratified subset of `limit` images (0: all) is taken first; then `validation_size` of it, in
    proportion to its classes, at least 2 images of each, is validation. Dense images have no class
    and are one stratum. Where the data set has validation images of its own, a tenth of the limit
    is of those and the rest of the others. The same labels, limit, seed and share give the same
    split.

    Raises:
        UsageError: a limit below 0, above the set's size or too small for 2 + 2 images a class.
    """
    labels = _classes(decoded)
    if decoded.validation is not None:
        return _given_split(labels, decoded.validation, limit=limit, seed=seed)
    classes, counts = np.unique(labels, return_counts=True)
    needed = MIN_TRAIN + MIN_VALIDATION
    _demand_images(classes, counts, needed, dense=decoded.dense)
    _demand_limit(limit, needed * len(classes), len(labels))
    per_class = stratify.shares(counts, limit or len(labels), at_least=needed)
    subset = stratify.pick(labels, _by_class(classes, per_class), seed=(seed, "split", "subset"))
    total = max(validation_size(int(per_class.sum()), share=share), MIN_VALIDATION * len(classes))
    held_out = stratify.shares(per_class, total, at_least=MIN_VALIDATION)
    positions = stratify.pick(
        labels[subset], _by_class(classes, held_out), seed=(seed, "split", "val")
    )
    return np.delete(subset, positions), subset[positions]


def _classes(decoded: Decoded) -> Ints:
    """Return the class of each image; dense images are all of one."""
    if decoded.dense:
        return np.zeros(len(decoded.labels), np.int64)
    return np.asarray(decoded.labels, dtype=np.int64)


def _given_split(labels: Ints, validation: Ints, *, limit: int, seed: int) -> tuple[Ints, Ints]:
    """Return the same where the validation images are the data set's own."""
    train = np.setdiff1d(np.arange(len(labels)), validation)
    classes, counts = np.unique(labels[train], return_counts=True)
    if not len(train) or counts.min() < MIN_TRAIN or len(validation) < MIN_VALIDATION:
        raise UsageError(
            f"the data set has {len(train)} training and {len(validation)} validation images; at "
            f"least {MIN_TRAIN} training images of each class and {MIN_VALIDATION} validation "
            "images are needed"
        )
    _demand_limit(limit, MIN_TRAIN * len(classes) + MIN_VALIDATION, len(labels))
    if not limit:
        return train, np.sort(validation)
    most = min(len(validation), limit - MIN_TRAIN * len(classes))
    held_out = max(min(max(MIN_VALIDATION, (limit + 5) // 10), most), limit - len(train))
    return (
        _sample(
            labels, train, limit - held_out, at_least=MIN_TRAIN, seed=(seed, "split", "subset")
        ),
        _sample(labels, validation, held_out, at_least=0, seed=(seed, "split", "val")),
    )


def _sample(
    labels: Ints, index: Ints, total: int, *, at_least: int, seed: tuple[object, ...]
) -> Ints:
    """So many of some images, in proportion to their classes."""
    classes, counts = np.unique(labels[index], return_counts=True)
    per_class = stratify.shares(counts, total, at_least=at_least)
    return np.sort(index[stratify.pick(labels[index], _by_class(classes, per_class), seed=seed)])


def _demand_images(classes: Ints, counts: Ints, needed: int, *, dense: bool) -> None:
    if counts.min() < needed:
        whose = "the data set" if dense else f"class {classes[counts.argmin()]}"
        raise UsageError(
            f"{whose} has {counts.min()} training images; at least "
            f"{needed}{'' if dense else ' a class'} are needed (some are held out for validation)"
        )


def _demand_limit(limit: int, smallest: int, largest: int) -> None:
    if limit and not smallest <= limit <= largest:
        raise UsageError(
            f"--limit-train {limit}: {smallest} to {largest} is allowed, or 0 for all "
            f"({MIN_TRAIN} + {MIN_VALIDATION} images for each class are the least)"
        )


def _by_class(classes: Ints, counts: Ints) -> dict[int, int]:
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def statistics(images: npt.NDArray[np.uint8], index: Ints) -> Moments:
    """Mean and standard deviation per channel over all pixels of some images, in units of 0..1.

    `images` is uint8 [N, H, W, C]. Sums are of integers, so exact whatever their order. The
    standard deviation is the population's, and 1/255 at least, so that it can be divided by.

    >>> statistics(np.array([[[[0], [255]]]], np.uint8), np.array([0]))
    ((0.5,), (0.5,))
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    step = max(1, CHUNK // (images.shape[1] * images.shape[2]))
    for start in range(0, len(index), step):
        chunk = images[index[start : start + step]]
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    total = counts.sum(1)
    mean = counts @ values / total
    # about the mean: differences of big sums would cost digits
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / total
    deviation = np.maximum(np.sqrt(variance), 1.0)
    return tuple((mean / 255).tolist()), tuple((deviation / 255).tolist())


def normalisation(task: Task, decoded: Decoded, index: Ints) -> Moments:
    """Return the task's published mean and deviation if they are those of these data, else computed ones.

    Published ones are compared with the whole train split, to 0.01: `--data` may hold quite other
    images. Computed ones are over the images `index`.
    """
    if task.mean is None or task.std is None:
        return statistics(decoded.images, index)
    moments = statistics(decoded.images, np.arange(len(decoded.images)))
    off = np.abs(np.array(moments) - np.array([task.mean, task.std])).max()
    return (task.mean, task.std) if off < TABLE_TOLERANCE else statistics(decoded.images, index)


class DeviceImages(Protocol):
    """A split on a device, as training and evaluation see it: `ClassificationImages` or `SegmentationImages`.

    `labels` lie on the device: int64 [N], or uint8 [N, H, W] as stored where every pixel has one.
    """

    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images N."""

    def plain_batch(self, index: Tensor) -> Batch:
        """Images int64 [B], neither cropped, mirrored nor mixed; void pixels are losses.IGNORE."""

    def augmenter(self, *, seed: int, epoch: int, among: Tensor) -> Callable[[Tensor], Batch]:
        """How training sees images int64 [B] in an epoch; `among` [M] are those to mix with."""


@dataclass(frozen=True, kw_only=True)
class DeviceSplit:
    """Images on the device and which of them are fitted on and validated on, by index in the set."""

    images: DeviceImages
    fit: Tensor  # int64, sorted
    validation: Tensor  # int64, may be empty
    num_classes: int
    sides: tuple[int, int]  # height and width
    dense: bool = False

    def augmenter(self, seed: int, epoch: int) -> Callable[[Tensor], Batch]:
        """How training sees images in an epoch: batches by index, the same for every trial."""
        return self.images.augmenter(seed=seed, epoch=epoch, among=self.fit)

    def batches(
        self, index: Tensor, *, view: Callable[[Tensor], Batch] | None = None
    ) -> Iterator[Batch]:
        """Yield the images `index` int64 [N] in batches for inference: fewer at once where they are bigger.

        `view`: how they are seen; left out, as they are.
        """
        height, width = self.sides
        for part in index.split(max(1, EVALUATION_PIXELS // (height * width))):
            yield (view or self.images.plain_batch)(part)


def device_images(
    decoded: Decoded,
    *,
    images: Images,
    device: torch.device | str = "cpu",
    layout: str = "contiguous",
) -> DeviceImages:
    """Return a split on a device, seen as `images` says; `layout`: contiguous or channels_last."""
    kind = SegmentationImages if images.dense else ClassificationImages
    return kind(decoded, images=images, device=device, layout=layout)
