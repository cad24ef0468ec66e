"""What is compared: where proposals come from, and which trials are stopped when.

Proposals are those of `tune_kd.tuning.samplers`, in the order of origins that the product has. Some
samplers are not the product's: `gp+stopped` hears the last value of stopped trials as if they had
ended with it; `prior` draws from a mixture of random settings, settings around the default and the
published ones, and settings around the best so far, as PriorBand does (Mallik et al. 2023);
`tpe+prior` is TPE whose random start lies around the default and the published settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import truncnorm

from benchmarks.search.surface import Floats, Surface
from tune_kd.recipe import stream
from tune_kd.tuning import samplers

SPREAD = 0.25  # of a setting drawn around another one, in shares of the range
MUTATED = 0.5  # the probability that a value of the best setting so far is drawn anew
ETA = 3  # of the mixture: the share of random settings, and how many trials it waits for


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When trials are compared and how many go on: one of `reduction`; `first` is a share of epochs."""

    first: float = 1.0  # 1: never compared
    reduction: int = 3
    together: bool = False  # all trials of a rung are compared at once (synchronous halving)

    def rungs(self, epochs: int) -> list[int]:
        """Epochs after which trials are compared.

        >>> Stopping(first=1 / 3).rungs(15), Stopping(first=1 / 3, reduction=2).rungs(15)
        ([5], [5, 10])
        >>> Stopping(first=1 / 2, reduction=2).rungs(15), Stopping().rungs(15)
        ([8], [])
        """
        result, rung = [], math.ceil(round(epochs * self.first, 6))
        while rung < epochs:
            result.append(rung)
            rung *= self.reduction
        return result

    def stops(self, score: float, earlier: Sequence[float]) -> bool:
        """Whether ASHA stops a trial that has this score where others had these (Li et al. 2020).

        The rule of `tune_kd.tuning.asha.AshaRule`, for any reduction.
        """
        return bool(earlier) and score < np.percentile(earlier, 100 - 100 / self.reduction)


STOPPING = {
    "none": Stopping(),
    "ASHA third, 3": Stopping(first=1 / 3, reduction=3),
    "ASHA third, 2": Stopping(first=1 / 3, reduction=2),
    "ASHA half, 3": Stopping(first=1 / 2, reduction=3),
    "ASHA half, 2": Stopping(first=1 / 2, reduction=2),
    "halving third, 3": Stopping(first=1 / 3, reduction=3, together=True),
    "halving half, 2": Stopping(first=1 / 2, reduction=2, together=True),
}
SAMPLERS = ("random", "tpe", "gp", "gp+stopped", "prior", "tpe+prior")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as a sampler hears of it: its setting, its validation by epoch, whether it has ended."""

    config: dict[str, Any]
    scores: dict[int, float]
    finished: bool


class Length(NamedTuple):
    """How long a search is: its trials, and the rungs at which they are compared."""

    trials: int
    rungs: int


def propose(
    kind: str,
    history: Sequence[Trial],
    surface: Surface,
    *,
    length: Length,
    seed: tuple[object, ...],
) -> dict[str, Any]:
    """Return the next setting of a search of so many trials and rungs, some of whose trials were heard."""
    number, cube, (trials, rungs) = len(history), surface.cube, length
    proposal_seed = stream(*seed, number, "proposal")
    if kind == "prior" and number > 0:
        return mixture(history, surface, rung=0 if rungs else 1, seed=proposal_seed)
    start = samplers.random_start(trials)
    origin = samplers.origin(number, settings=len(surface.settings), start=start)
    if origin in ("default", "published"):
        return surface.settings[number // samplers.PUBLISHED_EVERY]
    if origin == "random" and kind == "tpe+prior":
        return cube.config(_near_settings(surface, np.random.default_rng(proposal_seed)))
    if "random" in (origin, kind):
        return samplers.random_config(surface.ranges, seed=proposal_seed)
    optuna_trials = [_optuna_trial(trial, surface, ended=kind == "gp+stopped") for trial in history]
    sampler, ranges = kind.partition("+")[0], dict(surface.ranges)
    return samplers.sample(sampler, optuna_trials, ranges, seed=proposal_seed).config


def _optuna_trial(trial: Trial, surface: Surface, *, ended: bool) -> FrozenTrial:
    """Return what Optuna hears of a trial; `ended`: of a stopped one that its last value is its result."""
    last = trial.scores[max(trial.scores)]
    complete = trial.finished or ended
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=last if complete else None,
        params=trial.config,
        distributions=dict(surface.ranges),
        intermediate_values=trial.scores,
    )


def mixture(history: Sequence[Trial], surface: Surface, *, rung: int, seed: int) -> dict[str, Any]:
    """Return a setting of PriorBand's mixture for a trial that enters at a rung (0: it may be stopped there).

    It is random with probability 1 / (1 + ETA^rung). The rest is shared by settings around the
    default and the published ones, and settings around the best one, as likely as the best third of
    the trials are under each of both.
    """
    random, cube = np.random.default_rng(seed), surface.cube
    best, share = _incumbent(history, surface)
    uniform = 1 / (1 + ETA**rung)
    draw = random.random()
    if draw < uniform:
        return cube.config(random.random(len(cube)))
    if best is not None and draw < uniform + (1 - uniform) * share:
        anew = random.random(len(cube)) < MUTATED
        return cube.config(np.where(anew, _sample_near(best, random), best))
    return cube.config(_near_settings(surface, random))


def _near_settings(surface: Surface, random: np.random.Generator) -> Floats:
    """Return a point around one of the default and the published settings."""
    settings = surface.settings
    return _sample_near(surface.cube.point(settings[random.integers(len(settings))]), random)


def _incumbent(history: Sequence[Trial], surface: Surface) -> tuple[Floats | None, float]:
    """Return the best setting so far, and the share of draws around it among all that are not random."""
    finished = [t for t in history if t.finished]
    if len(history) < ETA or not finished:
        return None, 0.0
    epoch = max(e for t in history for e in t.scores if sum(e in o.scores for o in history) >= ETA)
    rung_trials = sorted((t for t in history if epoch in t.scores), key=lambda t: -t.scores[epoch])
    top = np.array([surface.cube.point(t.config) for t in rung_trials[: len(rung_trials) // ETA]])
    leader = max(finished, key=lambda t: t.scores[max(t.scores)])
    best = surface.cube.point(leader.config)
    prior = np.array([surface.cube.point(setting) for setting in surface.settings])
    weights = np.arange(len(top), 0, -1)
    around_best = float(weights @ _density(top, best[None]))
    around_prior = float(weights @ _density(top, prior))
    return best, around_best / (around_best + around_prior)


def _sample_near(centre: Floats, random: np.random.Generator) -> Floats:
    """Return a point near another, within the cube."""
    low, high = -centre / SPREAD, (1 - centre) / SPREAD
    return np.asarray(truncnorm.rvs(low, high, loc=centre, scale=SPREAD, random_state=random))


def _density(points: Floats, centres: Floats) -> Floats:
    """Return the density of `_sample_near` at points [n, d], of centres [m, d] that are equally likely: [n]."""
    low, high = -centres / SPREAD, (1 - centres) / SPREAD
    each = truncnorm.pdf(points[:, None], low, high, loc=centres, scale=SPREAD)
    return np.asarray(each.prod(-1).mean(-1))
