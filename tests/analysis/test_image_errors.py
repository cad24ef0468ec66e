"""The error from test images, on simulated correctness whose spread between images is known."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from analysis.comparison.image_errors import (
    _miou,
    image_standard_error,
    image_standard_error_of_counts,
)


def simulate(random, between: float, *, images: int, repeats: int, seeds: int) -> list[np.ndarray]:
    """Correctness bool [K, m, N] of a method and of a baseline that is right with 0.5 an image.

    `between` is the sd over images of the method's probability to be right.
    """
    chances = 0.5 + between * random.choice([-1.0, 1.0], images)
    shape = (repeats, seeds, images)
    return [random.random(shape) < chances, random.random(shape) < 0.5]


@pytest.mark.parametrize(("repeats", "seeds"), [(3, 2), (5, 1), (10, 2)])
def test_a_known_spread_between_images_is_found(repeats, seeds):
    random = np.random.default_rng(0)
    errors = [
        image_standard_error(*simulate(random, 0.3, images=500, repeats=repeats, seeds=seeds))
        for _ in range(40)
    ]
    assert np.mean(np.square(errors)) ** 0.5 == pytest.approx(0.3 / np.sqrt(500), rel=0.06)


def test_what_flips_from_training_to_training_is_not_the_images():
    random = np.random.default_rng(0)
    pairs = [simulate(random, 0.0, images=2000, repeats=5, seeds=2) for _ in range(40)]
    errors = [image_standard_error(*pair) for pair in pairs]
    naive = [np.std((a.mean((0, 1)) - b.mean((0, 1))), ddof=1) / np.sqrt(2000) for a, b in pairs]
    assert np.mean(errors) < np.mean(naive) / 5
    assert np.mean(np.square(errors)) ** 0.5 < 0.001


def test_it_is_the_spread_of_new_test_splits():
    """Repeats with luck of their own: over new images the mean moves by what is claimed."""
    random = np.random.default_rng(1)
    luck = random.normal(0, 0.02, (4, 1, 1))
    differences, errors = [], []
    for _ in range(400):
        chances = np.clip(0.6 + luck + 0.25 * random.standard_normal(300), 0, 1)
        method, baseline = random.random((4, 2, 300)) < chances, random.random((4, 2, 300)) < 0.6
        differences.append(method.mean() - baseline.mean())
        errors.append(image_standard_error(method, baseline))
    flips = (0.25 + 0.25) / (4 * 2 * 300)  # at most: what the spread over repeats holds already
    assert np.var(differences) == pytest.approx(np.mean(np.square(errors)) + flips * 0.9, rel=0.15)


def test_repeats_may_have_different_numbers_of_seeds():
    random = np.random.default_rng(0)
    method, baseline = simulate(random, 0.3, images=5000, repeats=4, seeds=6)
    ragged = [one[:m] for one, m in zip(method, (6, 4, 3, 5), strict=True)]
    assert image_standard_error(ragged, list(baseline)) == pytest.approx(
        0.3 / np.sqrt(5000), rel=0.15
    )


def test_one_repeat_counts_the_whole_spread():
    random = np.random.default_rng(0)
    method, baseline = simulate(random, 0.0, images=4000, repeats=1, seeds=1)
    assert image_standard_error(method, baseline) == pytest.approx(np.sqrt(0.5 / 4000), rel=0.05)


@pytest.mark.parametrize("find", [image_standard_error, image_standard_error_of_counts])
def test_nothing_to_estimate_from(find):
    one = (
        np.ones((2, 1, 3, 3), int)
        if find is image_standard_error_of_counts
        else np.ones((2, 1), bool)
    )
    assert find([], []) == 0.0
    assert find([one], [one]) == 0.0  # a single image
    with pytest.raises(ValueError, match="shorter"):
        find([one], [])


def counts_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """int64 [N, classes, 3] of maps [N, pixels]."""
    one_hot = np.eye(classes, dtype=np.int64)
    right = one_hot[labels] * (labels == predictions)[..., None]
    return np.stack([x.sum(1) for x in (right, one_hot[predictions], one_hot[labels])], axis=-1)


def segment(random, images: int, *, runs: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Label maps [N, pixels], and those of `runs` trainings [runs, N, pixels]; images differ in ease."""
    labels = random.integers(0, 4, (images, 60))
    labels[:, :20] = random.integers(0, 4, (images, 1))  # a larger object: images differ in content
    ease = np.clip(0.7 + spread * random.standard_normal((images, 1)), 0, 1)
    wrong = random.random((runs, images, 60)) > ease
    return labels, np.where(wrong, random.integers(0, 4, wrong.shape), labels)


def test_counts_give_scikit_learns_miou():
    labels, (predictions,) = segment(np.random.default_rng(0), 20, runs=1, spread=0.1)
    total = counts_of(labels, predictions, 4).sum(0)
    expected = jaccard_score(labels.ravel(), predictions.ravel(), average="macro")
    assert _miou(total) == pytest.approx(expected)
    assert _miou(np.zeros((4, 3), np.int64)) == 0.0


def test_of_counts_it_is_the_spread_of_new_test_splits():
    random = np.random.default_rng(2)
    differences, errors = [], []
    for _ in range(200):
        labels, method = segment(random, 80, runs=6, spread=0.2)
        baseline = np.where(random.random(method.shape) < 0.7, labels, (labels + 1) % 4)
        method_counts = np.stack([counts_of(labels, run, 4) for run in method])[:, None]
        baseline_counts = np.stack([counts_of(labels, run, 4) for run in baseline])[:, None]
        errors.append(image_standard_error_of_counts(method_counts, baseline_counts))
        differences.append(np.mean(_miou(method_counts.sum(2)) - _miou(baseline_counts.sum(2))))
    assert np.std(differences) == pytest.approx(np.mean(np.square(errors)) ** 0.5, rel=0.2)


def test_pixels_that_flip_by_chance_are_not_the_images():
    random = np.random.default_rng(3)
    labels, runs = segment(random, 200, runs=10, spread=0.0)
    counts = np.stack([counts_of(labels, run, 4) for run in runs])[:, None]
    error = image_standard_error_of_counts(counts[:5], counts[5:])
    single_error = image_standard_error_of_counts(counts[:1], counts[5:6])
    assert error < single_error / 4
