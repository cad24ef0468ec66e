"""One search, replayed: trials one after the other, whose curves come from a surface."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search.policies import Length, Stopping, Trial, propose
from benchmarks.search.surface import Floats, Surface
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
    default_settings: float  # true accuracy of the first trial
    best_stopped: bool


Ask = Callable[[Sequence[Trial]], dict[str, Any]]  # a setting, after hearing of earlier trials
Show = Callable[[int, dict[str, Any]], Curve]  # what trial number n of that setting shows


def search(
    surface: Surface, *, sampler: str, stopping: Stopping, trials: int, seed: tuple[object, ...]
) -> Outcome:
    """Replay a search. Trial n of searches with one seed has one luck, whatever its policy."""
    rungs = stopping.rungs(surface.epochs)

    def ask(history: Sequence[Trial]) -> dict[str, Any]:
        return propose(sampler, history, surface, length=Length(trials, len(rungs)), seed=seed)

    def show(number: int, config: dict[str, Any]) -> Curve:
        random = np.random.default_rng(stream(*seed, number, "curve"))
        return surface.curve(surface.cube.point(config), random)

    ended = run_trials(ask, show, stopping=stopping, epochs=surface.epochs, trials=trials)
    points = np.array([surface.cube.point(trial.config) for trial in ended])
    return outcome(ended, surface.true_accuracy(points))


def outcome(ended: Sequence[Trial], true: Sequence[float] | Floats) -> Outcome:
    """Return what a search's trials, of these true accuracies, come to: the best finished one is chosen."""
    finals = [trial.scores[max(trial.scores)] if trial.finished else -1.0 for trial in ended]
    winner = int(np.argmax(finals))
    return Outcome(
        epochs=sum(max(trial.scores) for trial in ended),
        finished=sum(trial.finished for trial in ended),
        chosen=float(true[winner]),
        validation=float(finals[winner]),
        best=float(np.max(true)),
        default_settings=float(true[0]),
        best_stopped=not ended[int(np.argmax(true))].finished,
    )


def run_trials(
    ask: Ask, show: Show, *, stopping: Stopping, epochs: int, trials: int
) -> list[Trial]:
    """Trials in the order of their numbers, each stopped or ended; the first one always ends."""
    looks = [*stopping.rungs(epochs), epochs]
    run = _run_by_rung if stopping.together else _run_sequentially
    return run(ask, show, stopping=stopping, looks=looks, trials=trials)


def _run_sequentially(
    ask: Ask, show: Show, *, stopping: Stopping, looks: Sequence[int], trials: int
) -> list[Trial]:
    """Return a trial runs until it is stopped or ends, then the next one is proposed."""
    history: list[Trial] = []
    rungs: dict[int, list[float]] = {epoch: [] for epoch in looks[:-1]}
    for number in range(trials):
        config = ask(history)
        curve, end = show(number, config), looks[-1]
        for epoch, earlier in rungs.items():
            stopped = number > 0 and stopping.stops(curve[epoch], earlier)
            earlier.append(curve[epoch])
            if stopped:
                end = epoch
                break
        history.append(_partial_trial(end, config, curve, looks))
    return history


def _run_by_rung(
    ask: Ask, show: Show, *, stopping: Stopping, looks: Sequence[int], trials: int
) -> list[Trial]:
    """All trials are proposed and run to the first rung, the best go on to the next."""
    history: list[Trial] = []
    curves: list[Curve] = []
    for number in range(trials):
        config = ask(history)
        curves.append(show(number, config))
        history.append(_partial_trial(looks[0], config, curves[-1], looks))
    going = list(range(trials))
    for epoch, after in itertools.pairwise(looks):
        going.sort(key=lambda n: -curves[n][epoch])  # stable: of equals the earlier one goes on
        going = going[: -(-len(going) // stopping.reduction)]
        for number in {0, *going}:
            history[number] = _partial_trial(after, history[number].config, curves[number], looks)
    return history


def _partial_trial(end: int, config: dict[str, Any], curve: Curve, looks: Sequence[int]) -> Trial:
    """Return a trial that was stopped after an epoch, or has ended."""
    scores = {epoch: curve[epoch] for epoch in looks if epoch <= end}
    return Trial(config=config, scores=scores, finished=end == looks[-1])
