"""Stratified picks that are the same with every version of every library."""

import numpy as np
import numpy.typing as npt

from tune_kd.recipe import stream

Ints = npt.NDArray[np.int64]


def shares(counts: Ints, total: int, *, at_least: int = 0) -> Ints:
    """How many of `total` each class gets: in proportion to its count, at least `at_least`.

    Largest remainders; ties go to the lower class. `at_least * classes <= total <= sum(counts)` and
    `at_least <= min(counts)` must hold.

    >>> shares(np.array([50, 30, 20]), 10).tolist()
    [5, 3, 2]
    >>> shares(np.array([90, 5, 5]), 10, at_least=2).tolist()
    [6, 2, 2]
    """
    assert at_least * len(counts) <= total <= counts.sum()
    assert counts.min() >= at_least
    exact = total * counts  # in units of 1 / sum(counts), so that no float decides
    unit = int(counts.sum())
    sizes = np.maximum(exact // unit, at_least)
    while sizes.sum() < total:
        sizes[np.argmax(exact - sizes * unit)] += 1
    while sizes.sum() > total:  # the classes that were raised to at_least took too much
        missing = np.where(sizes > at_least, exact - sizes * unit, np.iinfo(np.int64).max)
        sizes[np.argmin(missing)] -= 1
    return sizes.astype(np.int64)


def pick(labels: Ints, per_class: dict[int, int], *, seed: tuple[object, ...]) -> Ints:
    """Sorted positions of so many random images of each class, a function of labels and seed.

    numpy promises the bits of PCG64, not what its distributions make of them; so the bits rank.

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> labels[pick(labels, {0: 1, 1: 2}, seed=("example",))].tolist()
    [0, 1, 1]
    """
    rank = np.random.PCG64(stream(*seed)).random_raw(len(labels))
    positions = []
    for label, count in per_class.items():
        members = np.flatnonzero(labels == label)
        positions.append(members[np.argsort(rank[members], kind="stable")[:count]])
    return np.sort(np.concatenate(positions)).astype(np.int64)
