"""Images with a mask of classes each, on a device: both resized, cropped and mirrored by one grid."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_kd.data import arrays, augmentation
from tune_kd.data.batch import IGNORE, Batch
from tune_kd.data.classification import Normaliser
from tune_kd.data.decoded import Decoded
from tune_kd.recipe import Images


class SegmentationImages:
    """A split's uint8 images and masks on a device; they become numbers a batch at a time.

    On a CPU both are memory-mapped files that all processes of a node share; another device gets
    one copy. Where a view reaches beyond the image it shows the mean colour, and the mask is void
    there.

    Attributes:
        labels: uint8 [N, H, W], on the device; 255 is void.
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
        assert images.pad == 0, "dense images are resized, not padded"
        self._images, self._channels_last = images, layout == "channels_last"
        self._normalise = Normaliser(images, device=device, layout=layout)
        stored = arrays.shared_array(decoded.folder, decoded.images, "images.npy")
        masks = arrays.shared_array(
            decoded.folder, decoded.labels.astype("uint8", copy=False), "labels.npy"
        )
        self._pixels = torch.from_numpy(stored).to(device)
        self.labels = torch.from_numpy(masks).to(device)

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def plain_batch(self, index: Tensor) -> Batch:
        """Images int64 [B] as they are: [B, C, H, W], normalised; labels [B, H, W] with IGNORE."""
        index = index.to(self.labels.device)
        images = self._normalise(self._pixels[index])
        return Batch(images, _classes(self.labels[index].long()), index)

    def augmenter(self, *, seed: int, epoch: int, among: Tensor) -> Callable[[Tensor], Batch]:
        """How training sees images int64 [B] in an epoch; nothing is mixed, so `among` is not asked."""
        images, device = self._images, self.labels.device
        geometry = augmentation.geometry(
            len(self), seed=seed, epoch=epoch, scale=images.scale, flip=images.flip
        )
        if images.scale == (1.0, 1.0):  # nothing between pixels is needed
            return self._mirror_batches(geometry[:, 3].bool().to(device))
        matrices = augmentation.affine(geometry).float().to(device)

        def make_batch(index: Tensor) -> Batch:
            index = index.to(device)
            return self._resize_batch(index, matrices[index])

        return make_batch

    def _mirror_batches(self, mirrored: Tensor) -> Callable[[Tensor], Batch]:
        def make_batch(index: Tensor) -> Batch:
            index = index.to(self.labels.device)
            flip = mirrored[index].view(-1, 1, 1)
            pixels, mask = self._pixels[index], self.labels[index]
            pixels = torch.where(flip[..., None], pixels.flip(2), pixels)
            mask = torch.where(flip, mask.flip(2), mask)
            return Batch(self._normalise(pixels), _classes(mask.long()), index)

        return make_batch

    def _resize_batch(self, index: Tensor, matrices: Tensor) -> Batch:
        """Images bilinear, masks nearest, through the same grid."""
        images = self._normalise(self._pixels[index])
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
        # classes count from 1 meanwhile, so that the zeros around them mean void
        masks = self.labels[index][:, None].float() + 1
        masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)[:, 0]
        labels = masks.long() - 1
        labels = labels.masked_fill(labels < 0, arrays.VOID)
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        return Batch(images.contiguous(memory_format=layout), _classes(labels), index)


def _classes(labels: Tensor) -> Tensor:
    """Labels with IGNORE for void."""
    return labels.masked_fill(labels == arrays.VOID, IGNORE)
