"""A made-up study, written with the project's own schema, whose numbers are known by heart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from tests.analysis import kinds
from tune_kd import results
from tune_kd.storage import Storage

METHODS = ("no_kd", "response", "feature", "combined")
WEIGHTS = {
    "no_kd": (1.0, 0.0, 0.0, None),
    "response": (0.5, 0.5, 0.0, 4.0),
    "feature": (1.0, 0.0, 0.5, None),
    "combined": (1.0, 0.7, 0.5, 4.0),
}
Row = dict[str, Any]


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest as `tune_kd.search` writes it."""
    lr = {"ranges": {"lr": "0.01 .. 1 log"}, "bounds": {"lr": [0.01, 1.0, True]}}
    known = {
        "schema": results.SCHEMA_VERSION, "study": "made_up", "space": "digits_kd", "family": "cnn",
        "task": "digits", "teacher": "digits_large", "student": "digits_small",
        "methods": {m: {**lr, "fixed": {}, "textbook": {"lr": 0.1}} for m in METHODS},
        "fields": {"epochs": 6, "batch_size": 64, "optimiser": {"name": "sgd", "momentum": 0.9}},
        "seed": 0, "epochs": 6, "teacher_epochs": 8, "limit_train": 0,
        "images": {"task": "digits", "train_hash": "feedbeef", "num_classes": 10},
        "num_train": 1300, "num_val": 140, "rungs": [2], "sampler": "tpe", "scheduler": "asha",
        "compute": {"precision": "float32", "layout": "contiguous"}, "random_start": 3,
        "metric": "val_accuracy", "tables": [], "config_types": {"lr": "float64"},
        "versions": {"python": "3.12", "torch": "2.15.0", "platform": "Linux 6.1"},
        "commit": "abc1234", "teacher_model": "f00d", "teacher_file": "", "device": "cpu",
        "command": "python -m tune_kd.search --space digits_kd",
    }  # fmt: skip
    return known | changes


def row(**values: Any) -> Row:
    """A finished row of the schema's usual columns."""
    usual = {
        "schema": results.SCHEMA_VERSION, "study": "made_up", "phase": "search", "method": "", "number": 0, "seed": 0,
        "stage": 0, "status": "finished", "epochs": 6, "seconds": 30.0, "device": "Some CPU",
        "host": "node", "started": "2026-11-21T10:00:00", "ended": "2026-11-21T10:01:00",
    }  # fmt: skip
    return usual | values


def trial(method: str, number: int, value: float | None, **values: Any) -> Row:
    """A search trial; its number 0 is the textbook setting."""
    alpha, beta, gamma, temperature = WEIGHTS[method]
    usual = {
        "origin": "sampled" if number else "textbook", "alpha": alpha, "beta": beta,
        "gamma": gamma, "temperature": temperature, "val_accuracy": value, "val_loss": 0.5,
        "config.lr": 0.1,
    }  # fmt: skip
    return row(method=method, number=number, trial=f"{method}-{number}", **(usual | values))


def confirmation(method: str, source: int, origin: str, tests: list[float | None]) -> list[Row]:
    """A search trial confirmed with seeds 1000, 1001, ...; None is a failed one."""
    return [
        row(
            phase="confirm", method=method, trial=f"confirm-{method}-{source}-{seed}", seed=seed,
            source=f"{method}-{source}", origin=origin, test_accuracy=test,
            status="failed" if test is None else "finished",
            reason="out of memory" if test is None else None,
        )
        for seed, test in enumerate(tests, 1000)
    ]  # fmt: skip


def teacher_rows(*, val: float = 0.99, test: float | None = 0.985) -> list[Row]:
    """The teacher taught and measured, the student measured, and, with `test`, confirmed."""
    rows = [
        row(phase="teach", trial="teach", val_accuracy=val, epochs=8),
        row(phase="measure", trial="measure-teacher", num_params=500_000.0, latency_ms=2.0,
            latency_ms_sd=0.1),
        row(phase="measure", trial="measure-student", num_params=20_000.0, latency_ms=0.5,
            latency_ms_sd=0.02, size_mb=0.08, flops=1e6),
    ]  # fmt: skip
    known = row(phase="confirm", trial="confirm-teacher", test_accuracy=test)
    return rows if test is None else [*rows, known]


SEARCH = [
    *(trial("no_kd", n, v) for n, v in enumerate((0.90, 0.92, 0.91))),
    *(trial("response", n, v) for n, v in enumerate((0.91, 0.95, 0.93))),
    *(trial("feature", n, v) for n, v in enumerate((0.92, 0.90, 0.91))),
    trial("combined", 0, 0.90),
    trial("combined", 1, 0.99, status="stopped", epochs=2, seconds=10.0),
    trial("combined", 2, None, status="failed", epochs=1, seconds=5.0, reason="NaN\nin the loss"),
]
CONFIRM = [
    *confirmation("no_kd", 1, "best", [0.90, 0.91, 0.92]),
    *confirmation("no_kd", 0, "textbook", [0.88, 0.89, 0.90]),
    *confirmation("response", 1, "best", [0.92, 0.935, 0.94]),
    *confirmation("response", 0, "textbook", [0.91, 0.92, 0.92]),
    *confirmation("feature", 0, "best+textbook", [0.89, 0.92, 0.91]),
    *confirmation("combined", 0, "best+textbook", [0.88, None, None]),
]


def curves(rows: list[Row]) -> list[Row]:
    """Epoch rows that rise to each search trial's value, and falling losses where `train_loss` is."""
    found = []
    for verdict in {
        row["trial"]: row for row in rows if row["phase"] in ("search", "teach")
    }.values():
        for step in range(1, verdict["epochs"] + 1):
            rise = 1 - 0.5 ** (step + 1)
            who = ("phase", "method", "trial", "number", "seed")
            known = {name: verdict[name] for name in who}
            for name in ("val_accuracy", "val_miou"):
                if name == "val_accuracy" or name in verdict:
                    known[name] = (verdict.get(name) or 0.3) * rise
            beta, gamma = verdict.get("beta") or 0.0, verdict.get("gamma") or 0.0
            known |= {
                "lr": 0.1 / step, "train_loss": 2 / step + beta + gamma, "hard_loss": 2 / step,
                "soft_loss": 1 / step if beta else 0.0, "feature_loss": 0.5 if gamma else 0.0,
                "val_loss": 1 / step,
            }  # fmt: skip
            found.append(known | {"attempt": "0", "stage": 0, "epoch": step, "step": step})
    return found


def put(folder: Path | str, rows: list[Row], **changes: Any) -> str:
    """Write a study and give its address."""
    storage, known = Storage(folder), manifest(**changes)
    storage.write("manifest.json", json.dumps(known).encode())
    schema = results.trial_schema(known["config_types"])
    storage.write("trials/all.parquet", results.encode(rows, schema))
    epochs = results.encode(curves(rows), results.epoch_schema())
    storage.write("epochs/all.parquet", epochs)
    return str(folder)


class MadeUp:
    """What tests write studies with."""

    search, confirm = SEARCH, CONFIRM
    trial, row, teacher = staticmethod(trial), staticmethod(row), staticmethod(teacher_rows)
    confirmation, manifest = staticmethod(confirmation), staticmethod(manifest)
    put: Callable[..., str] = staticmethod(put)

    @staticmethod
    def all_rows() -> list[Row]:
        """Teacher, search and confirmation."""
        return [*teacher_rows(), *SEARCH, *CONFIRM]


@pytest.fixture(scope="session")
def made_up() -> type[MadeUp]:
    """Rows and a writer of made-up studies."""
    return MadeUp


@pytest.fixture
def dense(made_up, tmp_path):
    rows, changes = kinds.dense(made_up)
    address = made_up.put(tmp_path / "dense", rows, **changes)
    for trial in ("confirm-teacher", "confirm-response-0-1000", "confirm-no_kd-0-1000"):
        kinds.put_predictions(address, trial)
    return load(address)


@pytest.fixture
def compressed(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    return load(made_up.put(tmp_path / "compressed", rows, **changes))
