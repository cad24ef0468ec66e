"""Images of one class each on a device: a batch of crops is one gather; MixUp and CutMix after it.

An image is known by its index in the whole decoded split, and what is seen of it by a view
(`views.crops`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tune_kd.data import arrays, augmentation
from tune_kd.data.batch import Batch
from tune_kd.data.decoded import Decoded
from tune_kd.recipe import Images


class Normaliser:
    """uint8 [B, H, W, C] to float32 [B, C, H, W] in a memory layout: (x / 255 - mean) / std."""

    def __init__(
        self, images: Images, *, device: torch.device | str, layout: str = "contiguous"
    ) -> None:
        """`layout`: contiguous or channels_last; images are `images.size`."""
        assert layout in ("contiguous", "channels_last"), layout
        self._layout, self._size = layout, (*images.size, len(images.mean))
        exact_mean, exact_std = torch.tensor([images.mean, images.std], dtype=torch.float64)
        self._scale = self._spread(1 / 255 / exact_std).to(device)
        self._shift = self._spread(exact_mean / exact_std).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return a normalised copy."""
        if self._layout == "channels_last":
            rows = pixels.flatten(2).float().mul_(self._scale).sub_(self._shift)
            return rows.view(-1, *self._size).permute(0, 3, 1, 2)
        pixels = pixels.permute(0, 3, 1, 2).contiguous()  # while it is bytes
        return pixels.float().mul_(self._scale).sub_(self._shift)

    def _spread(self, per_channel: Tensor) -> Tensor:
        """Return a channel's number for each pixel: [C, 1, 1], or [W * C], twice as fast as [C]."""
        values = per_channel.float()
        if self._layout == "channels_last":
            return values.repeat(self._size[1])
        return values.view(-1, 1, 1)


class ClassificationImages:
    """A split's uint8 images with zeros around, on a device; batches are one gather from them.

    On a CPU the images are a memory-mapped file that all processes of a node share; another device
    gets one copy. Zeros are put around before normalising, as torchvision's RandomCrop does.

    Attributes:
        labels: int64 [N], on the device.
    """

    def __init__(
        self,
        decoded: Decoded,
        *,
        images: Images,
        device: torch.device | str = "cpu",
        layout: str = "contiguous",
    ) -> None:
        """`layout`: contiguous or channels_last."""
        size = tuple(decoded.images.shape[1:])
        assert size == (*images.size, len(images.mean)), f"{size} are not images of {images}"
        self._images, self._size = images, size
        self._normalise = Normaliser(images, device=device, layout=layout)
        self.labels = torch.tensor(decoded.labels, dtype=torch.int64, device=device)
        around = torch.from_numpy(
            arrays.pad_images(decoded.images, images.pad, folder=decoded.folder)
        )
        self._windows = _windows(around.to(device), size, 2 * images.pad + 1)

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def plain_batch(self, index: Tensor) -> Batch:
        """Images int64 [B], neither cropped, mirrored nor mixed: [B, C, H, W], normalised."""
        index = index.to(self.labels.device)
        return Batch(self.batch(index), self.labels[index], index)

    def augmenter(self, *, seed: int, epoch: int, among: Tensor) -> Callable[[Tensor], Batch]:
        """How training sees images int64 [B] in an epoch; `among` [M] are those to mix with."""
        images, device = self._images, self.labels.device
        view = augmentation.crops(
            len(self), seed=seed, epoch=epoch, pad=images.pad, flip=images.flip
        )
        view = view.to(device)

        def make_batch(index: Tensor) -> Batch:
            index = index.to(device)
            return Batch(self.batch(index, view[index]), self.labels[index], index)

        if images.mix == "none":
            return make_batch
        partner = augmentation.partners(len(self), seed=seed, epoch=epoch, among=among).to(device)
        share = augmentation.shares(len(self), seed=seed, epoch=epoch, alpha=images.mix_alpha)
        if images.mix == "mixup":
            return _mixup(make_batch, partner, share.float().to(device))
        sides = (images.size[0], images.size[1])
        return _cutmix(
            make_batch, partner, augmentation.boxes(share, sides, seed=seed, epoch=epoch).to(device)
        )

    def batch(self, index: Tensor, view: Tensor | None = None) -> Tensor:
        """Normalised float32 [B, C, H, W] in the layout, on the device.

        `index` is int64 [B] in [0, N), `view` int64 [B] as `views.crops` draws it (None: whole
        images). They may lie on another device.
        """
        index = index.to(self.labels.device)
        if view is None:
            pad = self._images.pad
            return self._normalise(self._windows[:, pad, pad][index].view(-1, *self._size))
        return self._normalise(self._crop(index, view.to(self.labels.device)))

    def _crop(self, index: Tensor, view: Tensor) -> Tensor:
        """Cropped and mirrored uint8 [B, H, W, C]."""
        side = 2 * self._images.pad + 1
        mirrored, offset = view >= side * side, view % (side * side)
        dy, dx = torch.div(offset, side, rounding_mode="floor"), offset % side
        crops = self._windows[index, dy, dx].view(-1, *self._size)
        return torch.where(mirrored.view(-1, 1, 1, 1), crops.flip(2), crops)


def _windows(around: Tensor, size: tuple[int, ...], side: int) -> Tensor:
    """Every crop of every image without a copy: a view uint8 [N, side, side, H, W * C]."""
    height, width, channels = size
    image, row, column, _ = around.stride()
    shape = (len(around), side, side, height, width * channels)
    return around.as_strided(shape, (image, row, column, row, 1))


def _mixup(
    make_batch: Callable[[Tensor], Batch], partner: Tensor, share: Tensor
) -> Callable[[Tensor], Batch]:
    """MixUp: share * image + (1 - share) * partner (Zhang et al. 2018, eq. 1)."""

    def mix_batch(index: Tensor) -> Batch:
        batch, other = make_batch(index), make_batch(partner[index.to(partner.device)])
        weight = share[batch.index]
        images = other.images.lerp(batch.images, weight.view(-1, 1, 1, 1))
        return Batch(images, batch.labels, batch.index, other.labels, weight)

    return mix_batch


def _cutmix(
    make_batch: Callable[[Tensor], Batch], partner: Tensor, boxes: Tensor
) -> Callable[[Tensor], Batch]:
    """CutMix: a box of the partner in the image, which weighs as its area (Yun et al. 2019, eq. 1)."""

    def mix_batch(index: Tensor) -> Batch:
        batch, other = make_batch(index), make_batch(partner[index.to(partner.device)])
        height, width = batch.images.shape[2:]
        top, bottom, left, right = boxes[batch.index].T
        rows, columns = _in_range(height, top, bottom), _in_range(width, left, right)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        images = torch.where(inside, other.images, batch.images)
        return Batch(images, batch.labels, batch.index, other.labels, share)

    return mix_batch


def _in_range(length: int, low: Tensor, high: Tensor) -> Tensor:
    """Which positions lie in [low, high): bool [B, length]."""
    at = torch.arange(length, device=low.device)
    return (at >= low[:, None]) & (at < high[:, None])
