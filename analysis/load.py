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
from tune_kd import results
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

    def chosen(self, method: str) -> Row | None:
        """The search trial that stands for a method (`select.chosen`)."""
        return select.chosen(self.rows, method, metric=self.metric)

    def confirmed(self, trial: Row | None) -> dict[int, float]:
        """Test accuracy by seed of a search trial that was confirmed."""
        return select.confirmed(self.rows, trial["trial"]) if trial else {}

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
