"""Batches on the device: which images are trained on, how each is seen in an epoch, one gather.

An image is known by its index in the whole decoded train split, and what is seen of it by a view:
view = mirrored * (2 pad + 1)^2 + dy * (2 pad + 1) + dx, where the crop begins dy pixels down and
dx pixels right in the image with `pad` zeros around. Views are a pure function of (seed, epoch,
index), the same for every trial, so a teacher's outputs can be kept.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tune_kd import pixels, strata
from tune_kd.errors import UsageError
from tune_kd.recipe import stream
from tune_kd.tasks import Decoded, Task

Ints = npt.NDArray[np.int64]
Moments = tuple[tuple[float, ...], tuple[float, ...]]

MIN_TRAIN, MIN_VALIDATION = 2, 2  # images a class
TABLE_TOLERANCE = 0.01  # of published statistics against the data, in units of 0..1


def split(labels: Ints, *, limit: int = 0, seed: int = 0) -> tuple[Ints, Ints]:
    """Train and validation images: two sorted int64 arrays of positions in `labels`.

    A stratified subset of `limit` images (0: all) is taken first; then a tenth of each class,
    rounded, at least 2 images, is validation. The same labels, limit and seed give the same split.

    Raises:
        UsageError: a limit below 0, above the set's size or too small for 2 + 2 images a class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    needed = MIN_TRAIN + MIN_VALIDATION
    if counts.min() < needed:
        raise UsageError(
            f"class {classes[counts.argmin()]} has {counts.min()} training images; "
            f"at least {needed} a class are needed (a tenth is validation)"
        )
    smallest = needed * len(classes)
    if limit and not smallest <= limit <= len(labels):
        raise UsageError(
            f"--limit-train {limit}: {smallest} to {len(labels)} is allowed, or 0 for all "
            f"({needed} images for each of {len(classes)} classes are the least)"
        )
    kept = strata.shares(counts, limit or len(labels), at_least=needed)
    chosen = strata.pick(labels, _by_class(classes, kept), seed=(seed, "split", "subset"))
    held_out = np.maximum(MIN_VALIDATION, (kept + 5) // 10)
    mine = strata.pick(labels[chosen], _by_class(classes, held_out), seed=(seed, "split", "val"))
    return np.delete(chosen, mine), chosen[mine]


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
    for start in range(0, len(index), 2048):
        chunk = images[index[start : start + 2048]]
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
    """The task's published mean and deviation if they are those of these data, else computed ones.

    Published ones are compared with the whole train split, to 0.01: `--data` may hold quite other
    images. Computed ones are over the images `index`.
    """
    if task.mean is None or task.std is None:
        return statistics(decoded.images, index)
    found = statistics(decoded.images, np.arange(len(decoded.images)))
    off = np.abs(np.array(found) - np.array([task.mean, task.std])).max()
    return (task.mean, task.std) if off < TABLE_TOLERANCE else statistics(decoded.images, index)


def centre(pad: int) -> int:
    """The view without crop and flip.

    >>> centre(0), centre(4)
    (0, 40)
    """
    return pad * (2 * pad + 1) + pad


def views(num_images: int, *, seed: int, epoch: int, pad: int, flip: bool) -> Tensor:
    """The view of every image of the decoded set in an epoch: int64 [num_images], on the CPU.

    Uniform over the (2 pad + 1)^2 crops, mirrored half of the time where `flip`; the same for every
    subset, because it is drawn for the whole set.
    """
    generator = torch.Generator().manual_seed(stream(seed, "views", epoch))
    kinds = (2 * pad + 1) ** 2 * (2 if flip else 1)
    return torch.randint(0, kinds, (num_images,), generator=generator)


class Resident:
    """A split's uint8 images with zeros around, on a device; batches are one gather from them.

    On a CPU the images are a memory-mapped file that all processes of a node share; another device
    gets one copy. Zeros are put around before normalising, as torchvision's RandomCrop does.

    Attributes:
        labels: int64 [N], on the device.
    """

    def __init__(  # noqa: PLR0913 - moments and place of one array
        self,
        decoded: Decoded,
        *,
        pad: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device | str = "cpu",
        layout: str = "contiguous",
    ) -> None:
        """`mean`, `std`: per channel in units of 0..1; `layout`: contiguous or channels_last."""
        channels = decoded.images.shape[-1]
        assert len(mean) == len(std) == channels, f"{channels} channels need as many means and stds"
        assert layout in ("contiguous", "channels_last"), layout
        self._pad, self._layout = pad, layout
        self._size = tuple(decoded.images.shape[1:])
        self.labels = torch.from_numpy(np.array(decoded.labels)).to(device)
        around = torch.from_numpy(pixels.padded(decoded.images, pad, folder=decoded.folder))
        self._windows = _windows(around.to(device), self._size, 2 * pad + 1)
        exact_mean, exact_std = torch.tensor([mean, std], dtype=torch.float64)
        self._scale = self._spread(1 / 255 / exact_std)
        self._shift = self._spread(exact_mean / exact_std)

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.labels)

    def batch(self, index: Tensor, view: Tensor | None = None) -> Tensor:
        """Normalised float32 [B, C, H, W] in the layout, on the device.

        `index` is int64 [B] in [0, N), `view` int64 [B] as `views` draws it (None: whole images,
        neither cropped nor mirrored). They may lie on another device.
        """
        index = index.to(self.labels.device)
        if view is None:
            taken = self._windows[:, self._pad, self._pad][index].view(-1, *self._size)
        else:
            taken = self._crop(index, view.to(self.labels.device))
        if self._layout == "channels_last":
            rows = taken.flatten(2).float().mul_(self._scale).sub_(self._shift)
            return rows.view(-1, *self._size).permute(0, 3, 1, 2)
        taken = taken.permute(0, 3, 1, 2).contiguous()  # while it is bytes
        return taken.float().mul_(self._scale).sub_(self._shift)

    def _spread(self, per_channel: Tensor) -> Tensor:
        """A channel's number for each pixel: [C, 1, 1], or [W * C], twice as fast as [C]."""
        values = per_channel.float().to(self.labels.device)
        if self._layout == "channels_last":
            return values.repeat(self._size[1])
        return values.view(-1, 1, 1)

    def _crop(self, index: Tensor, view: Tensor) -> Tensor:
        """Cropped and mirrored uint8 [B, H, W, C]."""
        side = 2 * self._pad + 1
        mirrored, offset = view >= side * side, view % (side * side)
        dy, dx = torch.div(offset, side, rounding_mode="floor"), offset % side
        taken = self._windows[index, dy, dx].view(-1, *self._size)
        return torch.where(mirrored.view(-1, 1, 1, 1), taken.flip(2), taken)


def _windows(around: Tensor, size: tuple[int, ...], side: int) -> Tensor:
    """Every crop of every image without a copy: a view uint8 [N, side, side, H, W * C]."""
    height, width, channels = size
    image, row, column, _ = around.stride()
    shape = (len(around), side, side, height, width * channels)
    return around.as_strided(shape, (image, row, column, row, 1))
