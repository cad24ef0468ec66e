"""A study as the report reads it: its manifest and its rows, from a folder or a bucket."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import pandas as pd

from analysis import select
from tune_kd import fronts, results
from tune_kd.errors import UsageError
from tune_kd.results import Row
from tune_kd.storage import Storage

MANIFEST = "manifest.json"
_REQUIRED = ("study", "family", "methods")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a search left: `rows` are verdicts (fractions), `curves` epoch rows by trial."""

    address: str  # as the user typed it
    storage: Storage = field(repr=False)
    manifest: Mapping[str, Any]
    rows: Sequence[Row] = field(repr=False)
    curves: Mapping[str, Sequence[Row]] = field(repr=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.manifest["study"])

    @property
    def family(self) -> str:
        """Its key in report.json."""
        return str(self.manifest["family"])

    @property
    def methods(self) -> list[str]:
        """Names in the table's order, the baseline first where the study has it."""
        return sorted(self.manifest["methods"], key=lambda name: name != select.BASELINE)

    @property
    def kd_methods(self) -> list[str]:
        """The methods that distil."""
        return [name for name in self.methods if name != select.BASELINE]

    @property
    def metric(self) -> str:
        """The validation metric that the search ranked by."""
        return str(self.manifest.get("metric", "val_accuracy"))

    @property
    def test_metric(self) -> str:
        """The same metric on the test split."""
        return f"test_{self.metric.removeprefix('val_')}"

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return bool(self.manifest.get("dense"))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers; empty where nobody named them."""
        return [str(name) for name in self.manifest.get("class_names") or ()]

    @property
    def objectives(self) -> list[str]:
        """What the search was for, the metric that it ranks and stops by first."""
        return [str(name) for name in self.manifest.get("objectives") or (self.metric,)]

    @cached_property
    def constraints(self) -> list[fronts.Constraint]:
        """What a student must keep, such as `size_mb <= 3`."""
        return [fronts.parse(text) for text in self.manifest.get("constraints") or ()]

    def chosen(self, method: str) -> Row | None:
        """The search trial that stands for a method (`select.chosen`)."""
        return self._chosen.get(method)

    @cached_property
    def _chosen(self) -> dict[str, Row | None]:
        return {
            method: select.chosen(self.rows, method, metric=self.metric, barred=self.barred)
            for method in self.methods
        }

    @cached_property
    def barred(self) -> set[str]:
        """The search trials that break a constraint."""
        return {
            trial
            for trial, stages in self.stages.items()
            if self.constraints
            and stages[-1]["phase"] == "search"
            and fronts.broken(self.values(stages[-1]), self.constraints)
        }

    def confirmed(self, trial: Row | None, metric: str = "") -> dict[int, float]:
        """A test metric (the study's own, unless named) by seed of a search trial, if confirmed."""
        name = metric or self.test_metric
        return select.confirmed(self.rows, trial["trial"], metric=name) if trial else {}

    def confirming(self, trial: Row | None) -> dict[int, list[Row]]:
        """The finished runs that confirm a search trial: their stages' rows by seed."""
        if trial is None:
            return {}
        runs = [
            (stages[-1]["seed"], stages)
            for stages in self.stages.values()
            if stages[-1]["phase"] == "confirm" and stages[-1].get("source") == trial["trial"]
        ]
        return {seed: stages for seed, stages in sorted(runs) if stages[-1]["status"] == "finished"}

    @cached_property
    def stages(self) -> dict[str, list[Row]]:
        """The rows of each trial by stage, the verdict last."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["trial"], []).append(row)
        return {t: sorted(rows, key=lambda r: r["stage"] or 0) for t, rows in found.items()}

    def shared(self, method: str) -> Row | None:
        """What all trials of a method begin from: their first stages, trained once, or what was given."""
        rows = select.trials(self.rows, "teach", method)
        shared = (r for r in rows if r.get("origin") == "shared" and r["status"] == "finished")
        return next(shared, None) or self.given("teach")

    def given(self, phase: str) -> Row | None:
        """The measurement of a student that was given in place of first stages (`--set start=...`).

        Phase teach: on validation; confirm: on test, where its training could not be repeated.
        """
        rows = select.trials(self.rows, phase)
        named = {"teach": "start-", "confirm": "confirm-start"}[phase]
        found = (r for r in rows if r["trial"].startswith(named) and r["status"] == "finished")
        return next(found, None)

    def footprint(self, trial: Row | None) -> Row | None:
        """How big and how fast a search trial's student is: as measured, else as its rows say.

        A student that was cut or quantised and not timed yet has no latency.
        """
        plain = self._plain
        if trial is None or trial["trial"] not in self.stages:
            return plain
        rows = self.stages[trial["trial"]]
        own = select.settled(rows)
        measured = self._measured.get(trial["trial"])
        if measured:
            return {**own, **{k: v for k, v in measured.items() if v is not None}}
        if not select.compresses(rows):
            return plain
        same = own.get("num_params") in (None, (plain or {}).get("num_params"))
        if plain and same and not select.compresses(rows, "Quantize"):
            return {**plain, **own}  # weights that are zero change neither shape nor speed
        return own or None

    @cached_property
    def _plain(self) -> Row | None:
        return select.student_footprint(self.rows)

    @cached_property
    def _measured(self) -> dict[str, Row]:
        """Measurements of search trials' students by trial."""
        rows = select.trials(self.rows, "measure")
        return {r["source"]: r for r in rows if r.get("source") and r["status"] == "finished"}

    def values(self, trial: Row) -> Row:
        """All that is known of a search trial by name: its row, and how big and fast it is."""
        known = {name: value for name, value in trial.items() if value is not None}
        return {**(self.footprint(trial) or {}), **known}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a verdict, columns as in tune_kd/results.py."""
        return pd.DataFrame(list(self.rows))

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch, columns as in tune_kd/results.py."""
        return pd.DataFrame([row for rows in self.curves.values() for row in rows])


def load(address: str) -> Study:
    """Read a study; UsageError where there is none or where another version wrote it."""
    manifest = _manifest(address)
    storage = Storage(address)
    return Study(
        address=address,
        storage=storage,
        manifest=manifest,
        rows=results.read_trials(storage),
        curves=results.read_epochs(storage),
    )


def _manifest(address: str) -> dict[str, Any]:
    """The checked manifest; gives up soon on a bucket that does not answer."""
    storage = Storage(address, patient=False)
    try:
        text = storage.read(MANIFEST)
    except FileNotFoundError:
        raise UsageError(_no_study(address, storage)) from None
    except OSError as error:
        raise UsageError(f"cannot read {address}: {' '.join(str(error).split())[:300]}") from None
    try:
        manifest = json.loads(text)
    except ValueError:
        raise UsageError(f"{address}/{MANIFEST} is not JSON; is this a study's folder?") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != results.SCHEMA_VERSION:
        raise UsageError(
            f"{address} was written with schema {schema}, this version reads schema "
            f"{results.SCHEMA_VERSION}; report it with the version that wrote it"
        )
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise UsageError(f"{address}/{MANIFEST} lacks {', '.join(missing)}; was it edited?")
    return dict(manifest)


def _no_study(address: str, storage: Storage) -> str:
    """What is there instead of a study: studies below, studies beside, or nothing."""
    inside = _studies(storage)
    if inside:
        return f"{address} is no study but holds studies: name one of {', '.join(inside)}"
    parent = _parent(address)
    beside = _studies(Storage(parent, patient=False)) if parent else []
    there = (
        f"{parent} has: {', '.join(beside)}" if beside else f"{parent or address} has no studies"
    )
    return f"no study at {address} ({MANIFEST} is missing); {there}"


def _studies(storage: Storage) -> list[str]:
    try:
        return [name for name in storage.names("") if storage.exists(f"{name}/{MANIFEST}")]
    except (OSError, ValueError):
        return []  # a file, or not to be listed: there is nothing to say


def _parent(address: str) -> str:
    """The address one level up, options of a bucket kept; "" for a bucket itself."""
    if "://" not in address:
        return str(PurePath(address).parent)
    parts = urllib.parse.urlsplit(address)
    above, _, last = parts.path.rstrip("/").rpartition("/")
    return urllib.parse.urlunsplit(parts._replace(path=above)) if last else ""
