"""How far trainings and images scatter, measured on a recording of learning curves.

Two chances meet in an accuracy: the training's (its seed) and that of the images on which it is
measured. A recording keeps which images each training got right, so the two can be told apart. They
are measured on the better half of each method's configurations that several seeds have trained: a
search chooses there.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

Floats = npt.NDArray[np.float64]

PAIRS = 3000  # of configurations of two methods, for the spread between images


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations and a mean variance, all of fractions, n configurations with several seeds.

    `seed`: what a seed does to all configurations alike. `run`: what it does to one configuration,
    on
    infinitely many images. `flips`: of one image's correctness over seeds, the mean variance.
    `images`: over images, of the difference of two methods' probabilities to be right; it does not
    shrink with seeds.
    """

    seed: float
    run: float
    flips: float
    images: float
    level: float  # mean accuracy of these configurations
    n: int

    def __str__(self) -> str:
        """All of it in percentage points."""
        return (
            f"{self.n} configurations at {self.level * 100:.1f} %: sd of the seed "
            f"{self.seed * 100:.2f} and of configuration x seed {self.run * 100:.2f} points on "
            f"infinitely many images; variance of one image over seeds {self.flips:.3f}; sd over "
            f"images of two methods' difference {self.images:.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The same images as a probit model: an image is right where a sum of normal variables is positive.

    `ease` is the sd of how easy images are, `taste` the sd of what one method gets out of an image
    in one region of its configurations; the training's own part has sd 1.
    """

    ease: float
    taste: float

    @property
    def total(self) -> float:
        """The sd of the whole sum."""
        return float(np.sqrt(1 + self.ease**2 + self.taste**2))


def measure(rows: pd.DataFrame, images: Mapping[str, int]) -> Noise:
    """Return the noise of a recording, on its validation and test images together, of which it has so many."""
    correct = _correct(rows, images)
    methods = np.array([method for method, _ in correct])
    table = np.stack(list(correct.values())).astype(float)  # [configurations, seeds, images]
    accuracy = pd.Series(table.mean((1, 2)))
    better = (accuracy >= accuracy.groupby(methods).transform("median")).to_numpy()
    table, methods = table[better], methods[better]
    count, seeds, size = table.shape
    by_run = table.mean(2)
    by_seed = by_run.mean(0) - by_run.mean()
    residuals = by_run - by_run.mean(1, keepdims=True) - by_seed
    within = float(
        (residuals**2).sum() / ((count - 1) * (seeds - 1))
    )  # configuration x seed, on these images
    flips = float(table.var(1, ddof=1).mean())
    seed = float((by_seed**2).sum() / (seeds - 1)) - within / count
    return Noise(
        seed=max(0.0, seed) ** 0.5,
        run=max(0.0, within - flips / size) ** 0.5,
        flips=flips,
        images=max(0.0, _between_images(table, methods)) ** 0.5,
        level=float(by_run.mean()),
        n=count,
    )


def _correct(
    rows: pd.DataFrame, images: Mapping[str, int]
) -> dict[tuple[str, int], npt.NDArray[np.uint8]]:
    """Which images were right, 0 or 1 [seeds, images], of each configuration that has all seeds."""
    last = rows[rows["epoch"] == rows["epoch"].max()].sort_values("seed")
    by_configuration: dict[tuple[str, int], list[npt.NDArray[np.uint8]]] = {}
    for row in last.to_dict("records"):
        bits = [
            np.unpackbits(np.frombuffer(row[f"{split}_correct"], np.uint8), count=images[name])
            for split, name in (("val", "validation"), ("test", "test"))
        ]
        by_configuration.setdefault((row["method"], row["number"]), []).append(np.concatenate(bits))
    most = max(len(runs) for runs in by_configuration.values())
    return {key: np.stack(runs) for key, runs in by_configuration.items() if len(runs) == most}


def _between_images(table: Floats, methods: npt.NDArray[np.str_]) -> float:
    """Variance over images of the difference of two methods, less what flips from seed to seed."""
    pairs = [
        (a, b) for a, b in itertools.combinations(range(len(table)), 2) if methods[a] != methods[b]
    ]
    random = np.random.default_rng(0)
    if len(pairs) > PAIRS:
        pairs = [pairs[n] for n in random.choice(len(pairs), PAIRS, replace=False)]
    _, seeds, images = table.shape
    variances = []
    for one, other in pairs:
        difference = table[one] - table[other]
        residuals = (
            difference - difference.mean(0) - difference.mean(1, keepdims=True) + difference.mean()
        )
        error = (residuals**2).sum() / ((seeds - 1) * (images - 1))
        variances.append(difference.mean(0).var(ddof=1) - error / seeds)
    return float(np.mean(variances)) if variances else 0.0


def latent_model(noise: Noise) -> Latent:
    """Return the probit model whose images flip, and differ between methods, as much as measured.

    An image is right with probability p, and E p (1 - p) is `flips`; the mean square of the
    difference of two methods' p is `images` squared. Both are integrals of a normal variable in two
    dimensions.
    """
    at = norm.ppf(noise.level)

    def joint_probability(correlation: float) -> float:
        """Return the probability that two trainings are right whose sums have this correlation."""
        return float(multivariate_normal.cdf([at, at], cov=[[1, correlation], [correlation, 1]]))

    same = _solve(lambda r: noise.level - joint_probability(r) - noise.flips)
    other = _solve(
        lambda r: 2 * (joint_probability(same) - joint_probability(r)) - noise.images**2, high=same
    )
    total = 1 / (1 - same)  # variance, in units of the training's own
    return Latent(ease=(other * total) ** 0.5, taste=max(0.0, (same - other) * total) ** 0.5)


def _solve(excess: Callable[[float], float], high: float = 0.999) -> float:
    """Where a falling function of a correlation in [0, high] is 0, or the nearer end."""
    if excess(0.0) <= 0:
        return 0.0
    return high if excess(high) >= 0 else float(brentq(excess, 0.0, high))
