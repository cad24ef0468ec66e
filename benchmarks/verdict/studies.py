"""A study in a world whose truth is known: its rows, as the product would have written them.

Searches ask the product's samplers and stop by ASHA's rule (benchmarks/search/policies.py); winners
and recommendations are those of tune_kd/study/selection.py, seeds and design those of
tune_kd/workflows/confirm_plan.py. An effect raises or lowers all configurations of a method alike.
Optuna's samplers, ASHA and selection look at ranks within a method only, so one search serves all
scenarios, and what differs between them is the confirmation.

Left out: students are confirmed on train and validation images together, which makes all of them a
little better and scatter less, so that the product sees more than is counted here; a trial's first
rung and its last epoch have independent noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.selection import BASELINE
from benchmarks.search.policies import STOPPING, Length, Trial, propose
from benchmarks.search.replay import Curve, run_trials
from benchmarks.search.surface import Floats
from benchmarks.verdict.world import Split, World
from tune_kd.recipe import stream
from tune_kd.study import selection
from tune_kd.study.results import Row
from tune_kd.study.trial_names import refit_trial, search_trial
from tune_kd.tuning import samplers
from tune_kd.workflows.confirm_plan import COMMON_SEEDS, REEVALUATION_SEEDS, Design

METHODS = (BASELINE, "response", "feature", "combined")
METRIC = "val_accuracy"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What all studies were asked to be."""

    repeats: int
    trials: int  # of a method in a repeat
    seeds: int  # confirming ones, of a repeat
    sampler: str
    stopping: str
    val_images: int
    test_images: int

    @property
    def design(self) -> Design:
        """What is looked at on the test split."""
        return Design(repeats=tuple(range(self.repeats)), seeds=self.seeds, defaults=True)

    @property
    def single(self) -> tuple[int, ...]:
        """As many confirming seeds for one trial as a method's winners have together."""
        return tuple(range(900, 900 + self.repeats * self.seeds))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A confirming run: which trial with which seed in which role."""

    source: Row
    seed: int
    role: str


@dataclass(frozen=True, kw_only=True)
class SearchedStudy:
    """A study whose test split is about to be opened: its rows, and what nobody could know."""

    rows: list[Row]
    truth: Mapping[str, float]  # by search trial, where the method has no effect
    runs: Sequence[Run]
    accuracies: Floats  # of the runs, with the luck of their seeds, without an effect
    margins: npt.NDArray[np.float64] = field(repr=False)  # [runs, images]
    test: Split = field(repr=False)

    def confirm(self, effects: Mapping[str, float]) -> list[Row]:
        """Return the rows of the confirmation where methods have these effects (fractions)."""
        raised = np.array([effects.get(run.source["method"], 0.0) for run in self.runs])
        correct = self.test.correct(self.margins, self.accuracies + raised)
        return [_confirm_row(run, right) for run, right in zip(self.runs, correct, strict=True)]


class Simulation:
    """One study, whose draws depend on its number only."""

    def __init__(self, world: World, options: StudyOptions, *, number: int) -> None:
        """Draws its validation and test images."""
        self._world, self._options, self._number = world, options, number
        self._val, self._test = (
            Split(world, count, METHODS, seed=stream("verdict", number, name))
            for name, count in (("val", options.val_images), ("test", options.test_images))
        )
        self._random = np.random.default_rng(stream("verdict", number, "runs"))
        self._points: dict[str, Floats] = {}
        self._truths: dict[str, float] = {}
        self._seeds: dict[int, float] = {}

    def run(self) -> SearchedStudy:
        """Search, re-evaluate and recommend; then train what is to be confirmed."""
        rows = [
            row for m in METHODS for r in range(self._options.repeats) for row in self._search(m, r)
        ]
        for method in METHODS:
            for seed in REEVALUATION_SEEDS:
                for source in selection.candidates(rows, method, metric=METRIC):
                    rows.append(self._reevaluate(source, seed))
        runs = [run for method in METHODS for run in self._plan_confirmation(rows, method)]
        names = [run.source["trial"] for run in runs]
        margins = [
            self._test.margins(run.source["method"], self._features(name))[0]
            for run, name in zip(runs, names, strict=True)
        ]
        return SearchedStudy(
            rows=rows,
            truth={
                row["trial"]: self._truth(row["trial"]) for row in rows if row["phase"] == "search"
            },
            runs=runs,
            accuracies=np.array([self._accuracy(run.source["trial"], run.seed) for run in runs]),
            margins=np.stack(margins),
            test=self._test,
        )

    def _search(self, method: str, repeat: int) -> list[Row]:
        """Return the rows of one search."""
        options, surface = self._options, self._world.surface
        stopping = STOPPING[options.stopping]
        start = samplers.random_start(options.trials)

        def ask(history: Sequence[Trial]) -> dict[str, Any]:
            # methods share the quantiles of their random start, and nothing else
            method_key = () if len(history) < start else (method,)
            return propose(
                options.sampler,
                history,
                surface,
                length=Length(options.trials, len(stopping.rungs(surface.epochs))),
                seed=("verdict", self._number, repeat, *method_key),
            )

        def show(number: int, config: dict[str, Any]) -> Curve:
            name = search_trial(method, repeat, number)
            self._points[name] = surface.cube.point(config)
            curve = surface.curve(self._points[name], self._random)
            return {**curve, surface.epochs: self._validate(name, method, seed=repeat)}

        ended = run_trials(
            ask, show, stopping=stopping, epochs=surface.epochs, trials=options.trials
        )
        return [_search_row(method, repeat, number, trial) for number, trial in enumerate(ended)]

    def _reevaluate(self, source: Row, seed: int) -> Row:
        value = self._validate(source["trial"], source["method"], seed=seed)
        name = refit_trial("reevaluate", source=source["trial"], seed=seed)
        again = {"phase": "reevaluate", "trial": name, "source": source["trial"], "seed": seed}
        return {**source, **again, METRIC: value}

    def _plan_confirmation(self, rows: Sequence[Row], method: str) -> list[Run]:
        """Return what is confirmed of a method; beside it the single best trial of all repeats, as it once was."""
        winners = selection.winners(rows, method, metric=METRIC)
        design, runs = self._options.design, []
        for repeat, best in winners.items():
            default = next(r for r in rows if r["trial"] == search_trial(method, repeat, 0))
            roles = (
                [(best, "best+default")]
                if best is default
                else [(best, "best"), (default, "default")]
            )
            runs += [
                Run(source=row, seed=seed, role=role)
                for row, role in roles
                for seed in design.seeds_of(repeat)
            ]
        recommended = selection.recommend(rows, method, metric=METRIC)
        first = max(winners.values(), key=lambda row: row[METRIC])
        for source, seeds, role in (
            (recommended, COMMON_SEEDS, "recommended"),
            (first, self._options.single, "single"),
        ):
            assert source is not None  # the trial with the default settings always ends
            runs += [Run(source=source, seed=seed, role=role) for seed in seeds]
        return runs

    def _validate(self, name: str, method: str, *, seed: int) -> float:
        """Return the validation accuracy of one training."""
        margins = self._val.margins(method, self._features(name))
        return float(self._val.correct(margins, np.array([self._accuracy(name, seed)])).mean())

    def _accuracy(self, name: str, seed: int) -> float:
        """Return the accuracy of one training on infinitely many images."""
        noise = self._world.noise
        if seed not in self._seeds:
            self._seeds[seed] = noise.seed * self._random.standard_normal()
        return self._truth(name) + self._seeds[seed] + noise.run * self._random.standard_normal()

    def _truth(self, name: str) -> float:
        if name not in self._truths:
            point = self._points[name][None]
            self._truths[name] = float(self._world.surface.true_accuracy(point)[0])
        return self._truths[name]

    def _features(self, name: str) -> Floats:
        return self._world.features(self._points[name][None])


def _search_row(method: str, repeat: int, number: int, trial: Trial) -> Row:
    """Return the verdict of a search trial."""
    return {
        "phase": "search",
        "method": method,
        "repeat": repeat,
        "number": number,
        "trial": search_trial(method, repeat, number),
        "origin": "sampled" if number else "default",
        "source": None,
        "seed": repeat,
        "stage": 0,
        "status": "finished" if trial.finished else "stopped",
        METRIC: trial.scores[max(trial.scores)],
        **{f"config.{name}": value for name, value in trial.config.items()},
    }


def _confirm_row(run: Run, correct: npt.NDArray[np.bool_]) -> Row:
    """Return the verdict of a confirming run."""
    source = run.source["trial"]
    return {
        **run.source,
        "phase": "confirm",
        "trial": refit_trial("confirm", source=source, seed=run.seed),
        "origin": run.role,
        "source": source,
        "seed": run.seed,
        METRIC: None,
        "test_accuracy": float(correct.mean()),
        "test_correct": np.packbits(correct).tobytes(),
        "test_confusion": [len(correct)],
    }
