"""A world in which the truth is known: surfaces, images and trainings drawn as a recording measured them.

All methods have the baseline's response surface, plus the effect that a scenario gives them; so a
method's true difference is that effect, whatever a search finds. An image is right where a normal
sum is positive (noise.py): the configuration's accuracy, how easy the image is, what the method
makes of it near this configuration, and this training's own luck. The third part varies smoothly
over the configurations (a Gaussian process for each image): so a validation split favours like
configurations alike, in all repeats, which no repetition takes away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from analysis.selection import BASELINE
from benchmarks.search import surface
from benchmarks.search.policies import STOPPING
from benchmarks.search.surface import Floats, Surface
from benchmarks.verdict.noise import Latent, Noise, latent_model, measure
from tune_kd.space import loader

WAVES = 48  # random Fourier features of each image's process
WIDTH = 0.7  # over which a method's taste in images changes, in shares of a range
SMOOTHNESS = 5  # degrees of freedom of a Matérn 5/2 kernel's spectrum


@dataclass(frozen=True, kw_only=True)
class World:
    """What is the same in all studies."""

    surface: Surface  # of the baseline
    noise: Noise
    latent: Latent
    waves: Floats  # [WAVES, d]
    phases: Floats  # [WAVES]

    def features(self, points: Floats) -> Floats:
        """Return unit vectors [n, WAVES] of points [n, d]; their products are a Matérn kernel, nearly."""
        waves = np.cos(points @ self.waves.T + self.phases)
        return np.asarray(waves / np.linalg.norm(waves, axis=1, keepdims=True))


def build(rows: pd.DataFrame, about: Mapping[str, Any], *, stopping: str) -> World:
    """Return the world of a recording: its baseline's surface, and the noise of all its methods."""
    space, _ = loader.load(str(about["space"]))
    images: Mapping[str, int] = about["images"]
    response = surface.fit(
        rows[rows["method"] == BASELINE],
        space.methods[BASELINE],
        looked_at=STOPPING[stopping].rungs(int(rows["epoch"].max())),
        images=images,
    )
    random = np.random.default_rng(0)
    spread = np.sqrt(SMOOTHNESS / random.chisquare(SMOOTHNESS, (WAVES, 1)))
    noise = measure(rows, images)
    return World(
        surface=response,
        noise=noise,
        latent=latent_model(noise),
        waves=random.standard_normal((WAVES, len(response.cube))) / WIDTH * spread,
        phases=random.uniform(0, 2 * np.pi, WAVES),
    )


class Split:
    """One drawn set of images, on which trainings of some methods are measured."""

    def __init__(self, world: World, count: int, methods: Sequence[str], *, seed: int) -> None:
        """Draws `count` images."""
        self._world, self._random = world, np.random.default_rng(seed)
        self._ease = world.latent.ease * self._random.standard_normal(count)
        shape = (WAVES, count)
        self._tastes = {
            m: world.latent.taste * self._random.standard_normal(shape) for m in methods
        }

    def margins(self, method: str, features: Floats) -> Floats:
        """How far trainings at points with these features [n, WAVES] are above average: [n, images].

        Each training draws its own luck with each image.
        """
        luck = self._random.standard_normal((len(features), len(self._ease)))
        return np.asarray(self._ease + features @ self._tastes[method] + luck)

    def correct(self, margins: Floats, accuracies: Floats) -> npt.NDArray[np.bool_]:
        """Which images trainings of these true accuracies [n] got right: bool [n, images]."""
        bar = -self._world.latent.total * ndtri(np.clip(accuracies, 1e-6, 1 - 1e-6))
        return np.asarray(margins > bar[:, None])
