"""How much of a difference hangs on the choice of test images: standard errors from single images.

Repeats (searches, seeds) train again but are tested on the same images, so the spread between them
does not hold the luck of this test split. It is estimated here, and stats.estimate adds it to the
interval. Model, over repeats k and images i:

    d[k, i] = mean + repeat[k] + image[i] + rest[k, i]

The spread over repeats holds `repeat` and `rest`; var(image) / N is what it lacks. An analysis of
variance of two ways without replication (Searle, Casella and McCulloch 1992, chapter 4) takes
`rest`, what flips from one training to the next, out of the spread between images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def image_standard_error(
    method: Sequence[NDArray[np.bool_]], baseline: Sequence[NDArray[np.bool_]]
) -> float:
    """Return standard error of the mean difference in accuracy from the choice of test images, a fraction.

    Each of both holds one array bool [m, N] a repeat, in the same order of repeats: whether each of
    m trainings got each of N test images right (m may differ, N may not). Estimated variances below
    0 count as 0. With one repeat nothing tells images from luck in training: then all of the spread
    between images counts. 0 where there is nothing to estimate from (no repeat, fewer than two
    images).

    >>> right, wrong = np.ones((1, 50), bool), np.zeros((1, 50), bool)
    >>> image_standard_error([right, right, right], [wrong, wrong, wrong])  # of every image the same
    0.0
    >>> half = np.arange(50)[None] % 2 == 0  # half of the images are gained, always the same ones
    >>> round(image_standard_error([right, right], [half, half]), 4)  # 0.505 / sqrt(50)
    0.0714
    """
    pairs = zip(method, baseline, strict=True)
    return _standard_error([_correctness(one) - _correctness(other) for one, other in pairs])


def image_standard_error_of_counts(
    method: Sequence[NDArray[np.int64]], baseline: Sequence[NDArray[np.int64]]
) -> float:
    """Return the same of the difference in mIoU over the whole test split, a fraction.

    Each of both holds one array int64 [m, N, classes, 3] a repeat: of each image and class the
    pixels where prediction and label agree, the predicted and the labelled ones. mIoU is no mean
    over images; the jackknife's pseudo-values (leave one image out; Efron and Tibshirani 1993,
    chapter 11) stand for what each image contributes, and are treated as correctness is.
    """
    pairs = zip(method, baseline, strict=True)
    return _standard_error([_pseudo_values(one) - _pseudo_values(other) for one, other in pairs])


def _correctness(runs: NDArray[np.bool_]) -> Floats:
    """Share of trainings that got each image right: float64 [N]."""
    return np.asarray(np.mean(runs, axis=0), np.float64)


def _pseudo_values(runs: NDArray[np.int64]) -> Floats:
    """N mIoU - (N - 1) mIoU without image i, mean over trainings: float64 [N]."""
    pseudo_values = []
    for counts in np.asarray(runs, np.int64):  # one at a time: N x classes x 3 may be large
        total, images = counts.sum(0), len(counts)
        pseudo_values.append(images * _miou(total) - (images - 1) * _miou(total - counts))
    return np.asarray(np.mean(pseudo_values, axis=0), np.float64)


def _miou(counts: NDArray[np.int64]) -> Floats:
    """Return the mIoU of counts [..., classes, 3], over classes that occur in either; 0 where none does."""
    overlap, predictions, labels = np.moveaxis(counts, -1, 0)
    union = predictions + labels - overlap
    occurs = union > 0
    ious = np.where(occurs, overlap / np.maximum(union, 1), 0.0)
    return np.asarray(ious.sum(-1) / np.maximum(occurs.sum(-1), 1), np.float64)


def _standard_error(by_repeat: Sequence[Floats]) -> float:
    """sqrt(var(image) / N) of differences [N] a repeat."""
    if not by_repeat or len(by_repeat[0]) < 2:
        return 0.0
    table = np.stack(by_repeat)  # [K, N]
    repeats, images = table.shape
    variance = table.mean(0).var(ddof=1)
    if repeats > 1:
        residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        variance -= (residuals**2).sum() / ((repeats - 1) * (images - 1)) / repeats
    return float(np.sqrt(max(0.0, float(variance)) / images))
