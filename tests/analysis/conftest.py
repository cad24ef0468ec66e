"""A made-up study, written with the project's own schema, whose numbers are known by heart."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.study import load
from tests.analysis import kinds
from tests.helpers import made_manifest
from tune_kd.study import manifest, results
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import parse_search_trial, refit_trial, search_trial

WEIGHTS = {
    "no_kd": (1.0, 0.0, 0.0, None),
    "response": (0.5, 0.5, 0.0, 4.0),
    "feature": (1.0, 0.0, 0.5, None),
    "combined": (1.0, 0.7, 0.5, 4.0),
}
Row = dict[str, Any]


def row(**values: Any) -> Row:
    """A finished row of the schema's usual columns."""
    usual = {
        "schema": results.SCHEMA_VERSION,
        "study": "made_up",
        "phase": "search",
        "method": "",
        "repeat": 0,
        "number": 0,
        "seed": 0,
        "stage": 0,
        "status": "finished",
        "epochs": 6,
        "seconds": 30.0,
        "device": "Some CPU",
        "host": "node",
        "started": "2026-11-21T10:00:00",
        "ended": "2026-11-21T10:01:00",
    }
    return usual | values


def name(method: str, repeat: int, number: int) -> str:
    """A search trial's name.

    >>> name("no_kd", 1, 2)
    'no_kd-r1-0002'
    """
    return search_trial(method, repeat, number)


def trial(method: str, number: int, value: float | None, *, repeat: int = 0, **values: Any) -> Row:
    """A search trial; its number 0 has the default settings."""
    alpha, beta, gamma, temperature = WEIGHTS[method]
    usual = {
        "origin": "sampled" if number else "default",
        "alpha": alpha,
        "beta": beta,
        "gamma": gamma,
        "temperature": temperature,
        "val_accuracy": value,
        "val_loss": 0.5,
        "config.lr": 0.1,
    }
    return row(
        method=method,
        repeat=repeat,
        number=number,
        trial=name(method, repeat, number),
        **(usual | values),
    )


def confirmation(
    source: str, origin: str, tests: Sequence[float | None], *, first: int | None = None
) -> list[Row]:
    """A search trial confirmed with seeds from `first` on; None is a failed run.

    Seeds begin at 800 for a recommended trial and at those of its repeat for others.
    """
    method, repeat, _ = parse_search_trial(source)
    usual_first = 800 if origin == "recommended" else 1000 * (repeat + 1)
    return [
        row(
            phase="confirm",
            method=method,
            repeat=repeat,
            trial=refit_trial("confirm", source=source, seed=seed),
            seed=seed,
            source=source,
            origin=origin,
            test_accuracy=test,
            status="failed" if test is None else "finished",
            reason="out of memory" if test is None else None,
        )
        for seed, test in enumerate(tests, usual_first if first is None else first)
    ]


def reevaluation(source: str, values: Sequence[float | None]) -> list[Row]:
    """A winner trained again with seeds 700, 701, ... and scored on validation."""
    method, repeat, _ = parse_search_trial(source)
    return [
        row(
            phase="reevaluate",
            method=method,
            repeat=repeat,
            trial=refit_trial("reevaluate", source=source, seed=seed),
            seed=seed,
            source=source,
            val_accuracy=value,
            status="failed" if value is None else "finished",
        )
        for seed, value in enumerate(values, 700)
    ]


def teacher_rows(*, val: float = 0.99, test: float | None = 0.985) -> list[Row]:
    """The teacher taught and measured, the student measured, and, with `test`, confirmed."""
    rows = [
        row(phase="teacher", trial="teacher", val_accuracy=val, epochs=8),
        row(
            phase="measure",
            trial="measure-teacher",
            num_params=500_000.0,
            latency_ms=2.0,
            latency_ms_sd=0.1,
        ),
        row(
            phase="measure",
            trial="measure-student",
            num_params=20_000.0,
            latency_ms=0.5,
            latency_ms_sd=0.02,
            size_mb=0.08,
            flops=1e6,
        ),
    ]
    confirm_row = row(phase="confirm", trial="confirm-teacher", test_accuracy=test)
    return rows if test is None else [*rows, confirm_row]


# Validation of the trials 0, 1, 2 of each repeat. Of combined only the trial with default settings of repeat 0 ends.
VALIDATION = {
    "no_kd": [(0.90, 0.92, 0.91), (0.90, 0.91, 0.93), (0.89, 0.92, 0.90)],
    "response": [(0.91, 0.95, 0.93), (0.91, 0.94, 0.92), (0.92, 0.93, 0.96)],
    "feature": [(0.92, 0.90, 0.91), (0.90, 0.91, 0.89), (0.91, 0.90, 0.92)],
}
# Of each repeat the trial that won, and the mean test accuracy of its two seeds (mean -+ 0.01).
TUNED = {
    "no_kd": [(1, 0.90), (2, 0.91), (1, 0.92)],
    "response": [(1, 0.92), (1, 0.935), (2, 0.94)],
    "feature": [(0, 0.89), (1, 0.92), (2, 0.91)],
}
DEFAULT = {
    "no_kd": [0.88, 0.89, 0.90],
    "response": [0.91, 0.92, 0.92],
    "feature": [0.89, 0.90, 0.90],
}
# Of the winners the validation of two fresh seeds: that of repeat 0 is recommended everywhere.
FRESH = {
    "no_kd": [(0.91, 0.92), (0.90, 0.91), (0.90, 0.90)],
    "response": [(0.94, 0.95), (0.92, 0.93), (0.93, 0.94)],
    "feature": [(0.91, 0.92), (0.90, 0.90), (0.90, 0.90)],
}
RECOMMENDED = {
    "no_kd": [0.90, 0.91, 0.92, 0.91, 0.91],
    "response": [0.93, 0.94, 0.94, 0.93, 0.935],
    "feature": [0.90, 0.91, 0.92, 0.91, 0.91],
}
UNFINISHED = [
    {"value": 0.99, "status": "stopped", "epochs": 2, "seconds": 10.0},
    {"value": None, "status": "failed", "epochs": 1, "seconds": 5.0, "reason": "NaN\nin the loss"},
]


def _search() -> list[Row]:
    rows = [
        trial(method, number, value, repeat=repeat)
        for method, repeats in VALIDATION.items()
        for repeat, values in enumerate(repeats)
        for number, value in enumerate(values)
    ]
    for repeat in range(3):
        ends = [*UNFINISHED, UNFINISHED[1]] if repeat else [{"value": 0.90}, *UNFINISHED]
        rows += [trial("combined", n, repeat=repeat, **end) for n, end in enumerate(ends)]
    return rows


def _confirm() -> list[Row]:
    rows = []
    for method, winners in TUNED.items():
        for repeat, (number, mean) in enumerate(winners):
            role = "best" if number else "best+default"
            rows += confirmation(name(method, repeat, number), role, [mean - 0.01, mean + 0.01])
            default = DEFAULT[method][repeat]
            if number:
                rows += confirmation(
                    name(method, repeat, 0), "default", [default - 0.01, default + 0.01]
                )
            rows += reevaluation(name(method, repeat, number), FRESH[method][repeat])
        rows += confirmation(name(method, 0, winners[0][0]), "recommended", RECOMMENDED[method])
    rows += confirmation(name("combined", 0, 0), "best+default", [0.88, None])
    return rows + confirmation(name("combined", 0, 0), "recommended", [0.88, *[None] * 4])


SEARCH, CONFIRM = _search(), _confirm()


def curves(rows: list[Row]) -> list[Row]:
    """Epoch rows that rise to each search trial's value, and falling losses where `train_loss` is."""
    epoch_rows = []
    for verdict in {
        row["trial"]: row for row in rows if row["phase"] in ("search", "teacher")
    }.values():
        for step in range(1, verdict["epochs"] + 1):
            rise = 1 - 0.5 ** (step + 1)
            names = ("phase", "method", "repeat", "trial", "number", "seed")
            epoch_row = {name: verdict[name] for name in names}
            for name in ("val_accuracy", "val_miou"):
                if name == "val_accuracy" or name in verdict:
                    epoch_row[name] = (verdict.get(name) or 0.3) * rise
            beta, gamma = verdict.get("beta") or 0.0, verdict.get("gamma") or 0.0
            epoch_row |= {
                "lr": 0.1 / step,
                "train_loss": 2 / step + beta + gamma,
                "hard_loss": 2 / step,
                "soft_loss": 1 / step if beta else 0.0,
                "feature_loss": 0.5 if gamma else 0.0,
                "val_loss": 1 / step,
            }
            epoch_rows.append(epoch_row | {"attempt": "0", "stage": 0, "epoch": step, "step": step})
    return epoch_rows


def put(folder: Path | str, rows: list[Row], *, looks: int | None = None, **changes: Any) -> str:
    """Write a study and give its address; its test split was looked at once if it is confirmed."""
    storage, content = Storage(folder), made_manifest.manifest(**changes)
    looks = any(row["phase"] == "confirm" for row in rows) if looks is None else looks
    for look in range(1, 1 + looks):
        design = {"repeats": [0, 1, 2], "seeds": 1 + look, "defaults": True}
        access = {"time": "", "command": "", "trials": [], "design": design}
        storage.write(f"test_access/{look:04d}.json", json.dumps(access).encode())
    manifest.write(storage, content)
    schema = results.trial_schema(content.config_types)
    storage.write("trials/all.parquet", results.encode(rows, schema))
    epochs = results.encode(curves(rows), results.epoch_schema())
    storage.write("epochs/all.parquet", epochs)
    return str(folder)


class MadeUp:
    """What tests write studies with."""

    search, confirm = SEARCH, CONFIRM
    trial, row, teacher = staticmethod(trial), staticmethod(row), staticmethod(teacher_rows)
    confirmation, reevaluation = staticmethod(confirmation), staticmethod(reevaluation)
    name = staticmethod(name)
    put: Callable[..., str] = staticmethod(put)

    @staticmethod
    def all_rows() -> list[Row]:
        """Teacher, search, re-evaluation and confirmation: three repeats, two seeds each."""
        return [*teacher_rows(), *SEARCH, *CONFIRM]


@pytest.fixture(scope="session")
def made_up() -> type[MadeUp]:
    """Rows and a writer of made-up studies."""
    return MadeUp


@pytest.fixture
def dense(made_up, tmp_path):
    rows, changes = kinds.dense(made_up)
    address = made_up.put(tmp_path / "dense", rows, **changes)
    for trial in (
        "confirm-teacher",
        "confirm-response-r0-0000-s800",
        "confirm-no_kd-r0-0000-s800",
    ):
        kinds.put_predictions(address, trial)
    return load(address)


@pytest.fixture
def compressed(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    return load(made_up.put(tmp_path / "compressed", rows, **changes))
