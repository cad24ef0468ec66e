"""A study as the report reads it: its manifest and its rows, from a folder or a bucket."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from analysis import address as places
from analysis import selection as select
from analysis.description import Description
from tune_kd import objectives
from tune_kd.study import results, selection
from tune_kd.study.results import Row
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import confirm_trial, is_start_trial


@dataclass(frozen=True, kw_only=True, eq=False)
class Study(Description):
    """What a search left: `rows` are verdicts (fractions), `curves` epoch rows by trial.

    A method was searched `repeats` times over. Each repeat chose a trial, its winner; all winners
    together stand for the tuned method. The recommended trial is what somebody would use.
    """

    rows: Sequence[Row] = field(repr=False)
    curves: Mapping[str, Sequence[Row]] = field(repr=False)

    @cached_property
    def repeats(self) -> int:
        """K: how many independent searches of each method were asked for or begun."""
        counts = [int(row["repeat"]) + 1 for row in self.rows if row["phase"] == "search"]
        return max([self.manifest.repeats, *counts])

    def winners(self, method: str) -> dict[int, Row]:
        """Return the search trial that each repeat of a method chose, by repeat.

        A trial that was confirmed as its repeat's best stands until a better one is confirmed.
        """
        return self._winners.get(method, {})

    def winner(self, method: str, repeat: int) -> Row | None:
        """Return the search trial that one repeat chose; None where it has no finished one."""
        return self.winners(method).get(repeat)

    @cached_property
    def _winners(self) -> dict[str, dict[int, Row]]:
        winners = {}
        for method in self.methods:
            ranked = results.rank_trials(self.rows, method, **self._rules)
            stand = {row["repeat"]: row for row in reversed(ranked) if self.runs(row, "best")}
            winners[method] = dict(sorted((self.best_so_far(method) | stand).items()))
        return winners

    def best_so_far(self, method: str) -> dict[int, Row]:
        """Return the best finished trial of each repeat as of now, whether confirmed or not."""
        return selection.winners(self.rows, method, **self._rules)

    def recommended_trial(self, method: str) -> Row | None:
        """Return the search trial that a method recommends (`selection.recommend`).

        Once the test split has been opened: of the repeats that were looked at.
        """
        return self._recommended_trials.get(method)

    @cached_property
    def _recommended_trials(self) -> dict[str, Row | None]:
        repeats = self.test_access.design.get("repeats")
        rows = [
            r for r in self.rows if r["phase"] != "search" or not repeats or r["repeat"] in repeats
        ]
        return {method: selection.recommend(rows, method, **self._rules) for method in self.methods}

    @property
    def _rules(self) -> dict[str, Any]:
        return {"metric": self.metric, "constraints": self.manifest.constraints}

    def fresh_means(self, method: str) -> dict[str, float]:
        """Mean validation over fresh seeds of the winners that were trained again, by search trial."""
        return {
            t: statistics.fmean(seeds.values()) for t, seeds in self.fresh_values(method).items()
        }

    def fresh_values(self, method: str) -> dict[str, dict[int, float]]:
        """Their validation by search trial and seed."""
        return selection.reevaluations(self.rows, method, metric=self.metric)

    def tuned_values(self, method: str, metric: str = "") -> dict[int, float]:
        """Return what each search of a method led to: a test metric by repeat, mean over the repeat's seeds."""
        values = self.by_seed(method, "best", metric)
        return {repeat: statistics.fmean(seeds.values()) for repeat, seeds in values.items()}

    def default(self, method: str, metric: str = "") -> dict[int, float]:
        """Return a test metric of a method's default settings by seed, over all repeats."""
        values = self.by_seed(method, "default", metric)
        return {seed: value for seeds in values.values() for seed, value in seeds.items()}

    def default_by_repeat(self, method: str, metric: str = "") -> dict[int, float]:
        """Return the same by repeat, mean over the repeat's seeds."""
        values = self.by_seed(method, "default", metric)
        return {repeat: statistics.fmean(seeds.values()) for repeat, seeds in values.items()}

    def by_seed(self, method: str, role: str, metric: str = "") -> dict[int, dict[int, float]]:
        """Return a test metric of the runs in a role ("best" or "default"), by repeat and seed."""
        values_by_repeat = {
            repeat: select.values(runs, metric or self.test_metric)
            for repeat, runs in self.runs_by_repeat(method, role).items()
        }
        return {repeat: values for repeat, values in values_by_repeat.items() if values}

    def runs_by_repeat(self, method: str, role: str) -> dict[int, dict[int, Row]]:
        """Return the finished runs in a role ("best" or "default"): their verdicts by repeat and seed."""
        trials = (
            self.winners(method) if role == "best" else select.default_trials(self.rows, method)
        )
        all_runs = {repeat: self.runs(row, role) for repeat, row in trials.items()}
        return {repeat: _verdicts(runs) for repeat, runs in all_runs.items() if runs}

    def confirmed_values(self, trial: Row | None, metric: str = "") -> dict[int, float]:
        """Return a test metric by seed of a recommended trial, over the seeds that all methods have in common."""
        runs = self.runs(trial, "recommended")
        return select.values(_verdicts(runs), metric or self.test_metric)

    def runs(self, trial: Row | None, role: str = "") -> dict[int, list[Row]]:
        """Return the finished runs that confirm a search trial (in a role): their stages' rows by seed."""
        runs_by_seed = self._runs.get(trial["trial"], {}) if trial else {}
        return {
            s: rows
            for s, rows in runs_by_seed.items()
            if not role or role in select.roles(rows[-1])
        }

    @cached_property
    def _runs(self) -> dict[str, dict[int, list[Row]]]:
        runs_by_trial: dict[str, dict[int, list[Row]]] = {}
        for stages in self.stages.values():
            last = stages[-1]
            if last["phase"] == "confirm" and last["status"] == "finished" and last.get("source"):
                runs_by_trial.setdefault(last["source"], {})[last["seed"]] = stages
        return {source: dict(sorted(runs.items())) for source, runs in runs_by_trial.items()}

    @cached_property
    def infeasible_trials(self) -> set[str]:
        """The search trials that break a constraint."""
        return {
            trial
            for trial, stages in self.stages.items()
            if self.constraints
            and stages[-1]["phase"] == "search"
            and objectives.violations(self.values(stages[-1]), self.constraints)
        }

    @cached_property
    def stages(self) -> dict[str, list[Row]]:
        """The rows of each trial by stage, the verdict last."""
        stages: dict[str, list[Row]] = {}
        for row in self.rows:
            stages.setdefault(row["trial"], []).append(row)
        return {t: sorted(rows, key=lambda r: r["stage"] or 0) for t, rows in stages.items()}

    def shared(self, method: str) -> Row | None:
        """Return what all trials of a method begin from: their first stages, trained once, or what was given."""
        rows = select.trials(self.rows, "teacher", method)
        shared = (r for r in rows if r.get("origin") == "shared" and r["status"] == "finished")
        return next(shared, None) or self.initial_student("teacher")

    def initial_student(self, phase: str) -> Row | None:
        """Return the measurement of a student that was given in place of first stages (`--set start=...`).

        Phase teacher: on validation; confirm: on test, where its training could not be repeated.
        """
        rows = [r for r in select.trials(self.rows, phase) if r["status"] == "finished"]
        if phase == "confirm":
            return next((r for r in rows if r["trial"] == confirm_trial("start")), None)
        return next((r for r in rows if is_start_trial(r["trial"])), None)

    def footprint(self, trial: Row | None) -> Row | None:
        """How big and how fast a search trial's student is: as measured, else as its rows say.

        A student that was cut or quantized and not timed yet has no latency.
        """
        student_sizes = self._student_footprint
        if trial is None or trial["trial"] not in self.stages:
            return student_sizes
        rows = self.stages[trial["trial"]]
        sizes = select.latest_sizes(rows)
        measurement = self._measurements.get(trial["trial"])
        if measurement:
            return {**sizes, **{k: v for k, v in measurement.items() if v is not None}}
        if not select.compresses(rows):
            return student_sizes
        has_same_shape = sizes.get("num_params") in (None, (student_sizes or {}).get("num_params"))
        if student_sizes and has_same_shape and not select.compresses(rows, "Quantize"):
            # weights that are zero change neither shape nor speed
            return {**student_sizes, **sizes}
        return sizes or None

    @cached_property
    def _student_footprint(self) -> Row | None:
        return select.student_footprint(self.rows)

    @cached_property
    def _measurements(self) -> dict[str, Row]:
        """Measurements of search trials' students by trial."""
        rows = select.trials(self.rows, "measure")
        return {r["source"]: r for r in rows if r.get("source") and r["status"] == "finished"}

    def values(self, trial: Row) -> Row:
        """All that is known of a search trial by name: its row, and how big and fast it is."""
        values = {name: value for name, value in trial.items() if value is not None}
        return {**(self.footprint(trial) or {}), **values}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a verdict, columns as in tune_kd/study/results.py."""
        return pd.DataFrame(list(self.rows))

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch, columns as in tune_kd/study/results.py."""
        return pd.DataFrame([row for rows in self.curves.values() for row in rows])


def _verdicts(runs: Mapping[int, Sequence[Row]]) -> dict[int, Row]:
    return {seed: stages[-1] for seed, stages in runs.items()}


def load(address: str) -> Study:
    """Read a study; UsageError where there is none or where another version wrote it."""
    manifest = places.read_manifest(address)
    storage = Storage(address)
    return Study(
        address=address,
        storage=storage,
        manifest=manifest,
        rows=results.read_trials(storage),
        curves=results.read_epochs(storage),
    )
