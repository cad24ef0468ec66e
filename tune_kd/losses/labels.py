"""The loss on labels: cross-entropy, of mixed images with both their labels."""

import torch.nn.functional as F
from torch import Tensor

from tune_kd.data.batch import IGNORE, Batch
from tune_kd.losses.outputs import mean


def hard_loss(
    student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = IGNORE
) -> Tensor:
    """Cross-entropy of scores [B, C, ...] with labels [B, ...], the mean over valid positions.

    Positions labelled `ignore_index` are left out; with none left the loss and its gradient are 0.

    >>> import torch
    >>> hard_loss(torch.zeros(2, 4), torch.tensor([1, 3])).item() == torch.tensor(4.0).log().item()
    True
    """
    each = F.cross_entropy(
        student.float(),
        labels,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return mean(each, labels != ignore_index)


def mixed_loss(student: Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of mixed images with both their labels by their shares, the mean over images.

    Zhang et al. 2018, section 2: the loss is linear in the target. Scores are [B, C].
    """
    assert batch.other is not None
    assert batch.share is not None
    scores = student.float()
    loss, partner_loss = (
        F.cross_entropy(scores, labels, label_smoothing=label_smoothing, reduction="none")
        for labels in (batch.labels, batch.other)
    )
    return (batch.share * loss + (1 - batch.share) * partner_loss).mean()
