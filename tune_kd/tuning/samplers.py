"""What a search tries next: Optuna's samplers behind one function, random values, and where each idea is from.

A fresh Optuna study and a sampler seeded for one proposal hear of a search's other trials in the
order of their numbers, so that a proposal is a pure function of them and of its seed.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tune_kd.recipe import stream

POPULATION = 8  # of NSGA-II: a generation; Optuna's 50 are more than most searches have trials
PUBLISHED_EVERY = 4  # at most a quarter of a search's trials have published settings

optuna.logging.set_verbosity(optuna.logging.WARNING)


def random_start(trials: int) -> int:
    """How many of a search's trials are random before TPE: a third, at most 10."""
    return min(10, math.ceil(trials / 3))


def origin(number: int, *, settings: int, start: int) -> str:
    """Where a method's trial `number` comes from; `settings` counts the default and the published ones.

    >>> [origin(n, settings=3, start=4) for n in (0, 1, 3, 7, 8, 11)]
    ['default', 'random', 'random', 'published', 'sampled', 'published']
    """
    if number == 0:
        return "default"
    if number % PUBLISHED_EVERY == PUBLISHED_EVERY - 1 and 0 < number // PUBLISHED_EVERY < settings:
        return "published"
    return "random" if number < start else "sampled"


class Suggestion(NamedTuple):
    """What a sampler proposes: sampled values, and attributes of its own that it will look for."""

    config: dict[str, Any]
    attributes: dict[str, Any]


def random_config(ranges: Mapping[str, BaseDistribution], *, seed: int) -> dict[str, Any]:
    """Random values, each a function of the seed and of its parameter's name.

    Methods that are asked with one seed get the same quantiles of what they have in common, so that
    a difference between them is not one of luck with the learning rate.
    """
    return {
        name: at_quantile(range_, (stream(seed, name, "quantile") + 0.5) / 2**63)
        for name, range_ in ranges.items()
    }


def at_quantile(range_: BaseDistribution, share: float) -> Any:
    """Return the value below which a `share` in (0, 1) of a range lies; choices are in their order.

    >>> at_quantile(FloatDistribution(0.01, 1.0, log=True), 0.5)
    0.1
    >>> at_quantile(IntDistribution(1, 4), 0.5), at_quantile(CategoricalDistribution("abc"), 0.99)
    (3, 'c')
    """
    if isinstance(range_, CategoricalDistribution):
        return range_.choices[min(int(share * len(range_.choices)), len(range_.choices) - 1)]
    assert isinstance(range_, FloatDistribution | IntDistribution), range_
    half = (range_.step or 0.0) / 2  # of a range of steps each has the same share
    low, high = range_.low - half, range_.high + half
    if range_.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    if range_.step:
        value = range_.low + round((value - range_.low) / range_.step) * range_.step
    value = min(max(float(f"{value:.12g}"), range_.low), range_.high)
    return int(value) if isinstance(range_, IntDistribution) else value


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a search is for: a direction of Optuna's for each objective, and whether there are constraints."""

    directions: Sequence[str] = ("maximize",)
    constrained: bool = False


def sample(
    kind: str,
    trials: Sequence[FrozenTrial],
    ranges: dict[str, BaseDistribution],
    *,
    seed: int,
    goal: Goal = Goal(),
) -> Suggestion:
    """Return the next values of a method, after hearing of all its trials, one value per direction each."""
    goal = goal or Goal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental arguments that newer versions make default
        sampler = _sampler(kind, seed, goal.constrained)
        directions = [StudyDirection[direction.upper()] for direction in goal.directions]
        study = optuna.create_study(directions=directions, sampler=sampler)
        study.add_trials(list(trials))
        params = dict(study.ask(ranges).params)
        attributes = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
        # Optuna's GPSampler does not hear of stopped trials and may repeat one; a generation
        # of NSGA-II may inherit all of a parent
        if params and params in [trial.params for trial in trials]:
            params = random_config(ranges, seed=seed)
        return Suggestion(params, attributes)


def _sampler(kind: str, seed: int, constrained: bool) -> BaseSampler:
    seed %= 2**32
    constraints_func = _stored_constraints if constrained else None
    if kind == "tpe":
        return TPESampler(
            seed=seed,
            n_startup_trials=1,
            multivariate=True,
            constant_liar=True,
            constraints_func=constraints_func,
        )
    if kind == "gp":
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=1, constraints_func=constraints_func
        )
    if kind == "nsga2":
        return optuna.samplers.NSGAIISampler(
            seed=seed, population_size=POPULATION, constraints_func=constraints_func
        )
    raise ValueError(f"no sampler {kind!r}")


def _stored_constraints(trial: FrozenTrial) -> Sequence[float]:
    """Never called: all trials that a sampler hears of have ended, with their constraints."""
    return tuple(trial.system_attrs["constraints"])
