"""A batch of images as networks and losses see it."""

from dataclasses import dataclass

from torch import Tensor

IGNORE = -100  # the label of a position that counts for nothing


@dataclass(frozen=True)
class Batch:
    """Images [B, ...] as the networks see them, labels [B, ...] (int64) and each image's number [B].

    Of mixed images (MixUp, CutMix) `labels` has the weight `share` (float32 [B], in [0, 1]) and
    `other` (int64 [B]), the partner's, has the rest.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    other: Tensor | None = None
    share: Tensor | None = None
