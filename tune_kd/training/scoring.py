"""What predictions are worth: a confusion matrix and what follows from it, calibration, agreement.

Classes are on axis 1 of scores [B, K, ...]; a position is an image or a pixel. Everything is added
up over batches first and divided at the end, so batches do not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_kd.data.batch import IGNORE
from tune_kd.losses import hard_loss
from tune_kd.metrics import METRICS

BINS = 15  # of the calibration error


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a network reaches on some images, over all positions that count."""

    accuracy: float
    loss: float  # mean cross-entropy
    ece: float
    confusion: Tensor  # int64 [K, K], true class by row, on the CPU
    agreement: float | None = None  # share of positions where both predict the same class
    # of single images, in their order, where a tally was asked for them: bool [N], or where every
    # pixel has a label int64 [N, K, 3] as `image_counts`
    images: Tensor | None = None

    def values(self, split: str, *, dense: bool) -> dict[str, float]:
        """Return the columns of a row: the metrics of SCORED that this kind of task has."""
        kind = "segmentation" if dense else "classification"
        names = [name for name in SCORED if kind in METRICS[f"{split}_{name}"].tasks]
        return {f"{split}_{name}": SCORED[name](self) for name in names}


def mean_iou(confusion: Tensor) -> float:
    """Mean intersection over union of a confusion matrix [K, K], over classes that occur in either.

    The Jaccard index of each class over the whole set (Everingham et al. 2010, section 4.3), then
    their mean; another number than a mean over images.

    >>> round(mean_iou(torch.tensor([[2, 1], [1, 6]])), 4)  # 2 / 4 and 6 / 8
    0.625
    """
    counts = confusion.double()
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    occurs = either > 0
    return float((both[occurs] / either[occurs]).mean()) if bool(occurs.any()) else 0.0


# Of each metric `NAME` there are columns val_NAME and test_NAME in metrics.METRICS.
SCORED: dict[str, Callable[[Scores], float]] = {
    "accuracy": lambda scores: scores.accuracy,
    "loss": lambda scores: scores.loss,
    "miou": lambda scores: mean_iou(scores.confusion),
}


def image_ious(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean intersection over union of each image alone: float32 [B] of scores [B, K, H, W].

    Over the classes that occur in its labels [B, H, W] or in what is predicted at pixels that
    count; NaN where none counts.

    >>> scores = torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]])  # predicts 0, then 1
    >>> image_ious(scores, torch.tensor([[[0, 0]]])).tolist()  # 1 of 2, and 0 of 1
    [0.25]
    """
    both, predicted, labelled = image_counts(scores, labels).double().unbind(2)
    either = predicted + labelled - both
    ious = torch.where(either > 0, both / either, torch.nan)
    return ious.nanmean(1).float()


def image_counts(scores: Tensor, labels: Tensor) -> Tensor:
    """Pixels of each image and class: int64 [B, K, 3] of scores [B, K, H, W].

    Those where prediction and label agree, those predicted, and those labelled, of the pixels that
    count. Sums over images give the mIoU of any set of images.

    >>> scores = torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]])  # predicts 0, then 1
    >>> image_counts(scores, torch.tensor([[[0, 0]]])).tolist()
    [[[1, 1, 2], [0, 1, 0]]]
    """
    count, classes = scores.shape[:2]
    valid = labels != IGNORE
    image = torch.arange(count, device=labels.device).view(-1, 1, 1).expand_as(labels)
    cells = (image * classes + labels) * classes + scores.argmax(1)
    counts = torch.bincount(cells[valid], minlength=count * classes**2)
    counts = counts.view(count, classes, classes)  # image, label, prediction
    return torch.stack([counts.diagonal(dim1=1, dim2=2), counts.sum(1), counts.sum(2)], dim=2)


class Tally:
    """Adds up what batches say; `scores` divides."""

    def __init__(
        self, num_classes: int, *, device: torch.device | str = "cpu", each_image: bool = False
    ) -> None:
        self._classes, self._each_image = num_classes, each_image
        self._images: list[Tensor] = []
        self._confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        # count, right and confidence of each bin of confidence
        self._bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._agreed = torch.zeros((), dtype=torch.int64, device=device)
        self._compared = False

    def add(self, scores: Tensor, labels: Tensor, *, teacher: Tensor | None = None) -> None:
        """Add a batch: scores [B, K, ...] and labels [B, ...] (IGNORE counts for nothing), float32 and int64.

        `teacher`: scores of the same shape, or of a smaller map, to agree with.
        """
        valid = labels != IGNORE
        count = valid.sum()
        self._loss += hard_loss(scores, labels).double() * count
        top, predicted = scores.softmax(1).max(1)
        guess, true = predicted[valid], labels[valid]
        cells = true * self._classes + guess
        self._confusion += torch.bincount(cells, minlength=self._classes**2)
        confidence = top[valid].double()
        # what is not a number becomes the least
        place = (confidence * BINS).long().clamp(0, BINS - 1)
        bin_values = (torch.ones_like(confidence), (guess == true).double(), confidence)
        for at, weights in enumerate(bin_values):
            self._bins[at] += torch.bincount(place, weights=weights, minlength=BINS)
        if self._each_image:
            dense = labels.dim() > 1
            single = image_counts(scores, labels) if dense else scores.argmax(1) == labels
            self._images.append(single.cpu())
        if teacher is not None:
            self._compared = True
            self._agreed += (teacher.argmax(1)[valid] == guess).sum()

    def scores(self) -> Scores:
        """Return what all batches together are worth; at least one position must have counted."""
        confusion = self._confusion.view(self._classes, self._classes).cpu()
        total = int(confusion.sum())
        assert total > 0, "nothing was scored"
        _, hits, confidence = self._bins.cpu()
        return Scores(
            accuracy=float(confusion.diagonal().sum()) / total,
            loss=float(self._loss) / total,
            ece=float((hits - confidence).abs().sum()) / total,  # Guo et al. 2017, equation 3
            confusion=confusion,
            agreement=float(self._agreed) / total if self._compared else None,
            images=torch.cat(self._images) if self._each_image else None,
        )
