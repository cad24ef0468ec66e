"""One search, replayed: trials one after the other, whose curves come from a surface."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search.policies import Stopping, Trial, propose
from benchmarks.search.surface import Surface
from tune_kd.recipe import stream

Curve = dict[int, float]  # validation accuracy by epoch


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one search found and spent; accuracies are fractions."""

    epochs: int  # spent by all trials
    finished: int  # trials
    chosen: float  # true accuracy of the trial that is best on validation
    validation: float  # its validation accuracy
    best: float  # true accuracy of the best trial proposed
    textbook: float  # true accuracy of the first trial
    best_stopped: bool


def search(
    surface: Surface, *, sampler: str, stopping: Stopping, trials: int, seed: tuple[object, ...]
) -> Outcome:
    """Replay a search. Trial n of searches with one seed has one luck, whatever its policy."""

    def curve(number: int, config: dict[str, float]) -> Curve:
        random = np.random.default_rng(stream(*seed, number, "curve"))
        return surface.curve(surface.cube.point(config), random)

    rungs = stopping.rungs(surface.epochs)
    run = _together if stopping.together else _one_by_one
    heard, curves = run(
        lambda heard: propose(sampler, heard, surface, trials=trials, rungs=len(rungs), seed=seed),
        curve,
        stopping=stopping,
        looks=[*rungs, surface.epochs],
        trials=trials,
    )
    points = np.array([surface.cube.point(trial.config) for trial in heard])
    true = surface.true_accuracy(points)
    finals = [c[surface.epochs] if t.finished else -1.0 for t, c in zip(heard, curves, strict=True)]
    winner = int(np.argmax(finals))
    return Outcome(
        epochs=sum(max(trial.scores) for trial in heard),
        finished=sum(trial.finished for trial in heard),
        chosen=float(true[winner]),
        validation=float(finals[winner]),
        best=float(true.max()),
        textbook=float(true[0]),
        best_stopped=not heard[int(true.argmax())].finished,
    )


Propose = Callable[[Sequence[Trial]], dict[str, float]]


def _one_by_one(
    ask: Propose,
    curve: Callable[[int, dict[str, float]], Curve],
    *,
    stopping: Stopping,
    looks: Sequence[int],
    trials: int,
) -> tuple[list[Trial], list[Curve]]:
    """A trial runs until it is stopped or ends, then the next one is proposed; the first one ends."""
    heard: list[Trial] = []
    curves: list[Curve] = []
    rungs: dict[int, list[float]] = {epoch: [] for epoch in looks[:-1]}
    for number in range(trials):
        config = ask(heard)
        shown = curve(number, config)
        end = looks[-1]
        for epoch, earlier in rungs.items():
            stopped = number > 0 and stopping.stops(shown[epoch], earlier)
            earlier.append(shown[epoch])
            if stopped:
                end = epoch
                break
        heard.append(_until(end, config, shown, looks))
        curves.append(shown)
    return heard, curves


def _together(
    ask: Propose,
    curve: Callable[[int, dict[str, float]], Curve],
    *,
    stopping: Stopping,
    looks: Sequence[int],
    trials: int,
) -> tuple[list[Trial], list[Curve]]:
    """All trials run to the first rung, and the best go on; the first trial ends in any case."""
    heard: list[Trial] = []
    curves: list[Curve] = []
    for number in range(trials):
        config = ask(heard)
        curves.append(curve(number, config))
        heard.append(_until(looks[0], config, curves[-1], looks))
    going = list(range(trials))
    for epoch, after in itertools.pairwise(looks):
        going.sort(key=lambda n: -curves[n][epoch])  # stable: of equals the earlier one goes on
        going = going[: -(-len(going) // stopping.reduction)]
        for number in {0, *going}:
            heard[number] = _until(after, heard[number].config, curves[number], looks)
    return heard, curves


def _until(end: int, config: dict[str, float], shown: Curve, looks: Sequence[int]) -> Trial:
    """A trial that was stopped after an epoch, or has ended."""
    scores = {epoch: shown[epoch] for epoch in looks if epoch <= end}
    return Trial(config=config, scores=scores, finished=end == looks[-1])
