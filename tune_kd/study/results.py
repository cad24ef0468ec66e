"""Rows, the only memory: one an epoch and one a finished stage, in Parquet with one schema a study.

`epochs/<trial>.<attempt>.parquet` is written by a worker, `trials/<trial>.parquet` by the driver.
Merged files name in their metadata those that they replace; readers here ignore these, and whoever
opens the study next deletes them. pandas, pyarrow and DuckDB read a folder as one table.
"""

import base64
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tune_kd import objectives
from tune_kd.metrics import METRICS, number
from tune_kd.study.storage import Storage

SCHEMA_VERSION = 4  # raised where rows of before cannot be read; a column more is no reason
PHASES = ("teacher", "search", "reevaluate", "confirm", "measure")
STATUSES = ("finished", "stopped", "failed")

TEXT, WHOLE, NUMBER, BITS = pa.string(), pa.int64(), pa.float64(), pa.binary()
Row = dict[str, Any]

_WHO = {
    "schema": WHOLE,
    "study": TEXT,
    "phase": TEXT,  # one of PHASES
    "method": TEXT,  # empty for a teacher
    "repeat": WHOLE,  # which of the study's independent searches, from 0
    "trial": TEXT,
    "number": WHOLE,  # of the trial within its method and repeat
    "seed": WHOLE,
}
_MEASURED = {
    **dict.fromkeys(METRICS, NUMBER),
    # [true * K + predicted] of the K classes on the test split: images, or pixels that count
    "test_confusion": pa.list_(pa.field("element", WHOLE)),  # the name that Parquet gives back
    # a bit for each test image in order, 1 where it was predicted right (np.packbits)
    "test_correct": BITS,
    # where every pixel has a label: [image, class, (both, predicted, labelled)] pixels that count
    "test_counts": pa.list_(pa.field("element", WHOLE)),
}
TEST_ARRAYS = ("test_confusion", "test_correct", "test_counts")  # beside METRICS in a verdict

EPOCH_COLUMNS = {
    **_WHO,
    "attempt": TEXT,  # which process trained this epoch, not which file it stands in
    "stage": WHOLE,
    "stage_name": TEXT,
    "epoch": WHOLE,  # within the stage, from 1; 0 where the stage does not train
    "step": WHOLE,  # rows of the trial so far, this one included
    "last": pa.bool_(),  # of the recipe
    "lr": NUMBER,
    "train_loss": NUMBER,  # the weighted sum, then its three terms unweighted
    "hard_loss": NUMBER,
    "soft_loss": NUMBER,
    "feature_loss": NUMBER,
    **_MEASURED,
    "seconds": NUMBER,
    "device": TEXT,
    "host": TEXT,
    "pid": WHOLE,
    "checkpoint": TEXT,  # from which the next epoch goes on
}

TRIAL_COLUMNS = {
    **_WHO,
    "space": TEXT,
    "family": TEXT,
    "origin": TEXT,  # default, published, random, sampled; in phase confirm the roles best,
    # default and recommended, joined by +; shared in phase teacher: the first stages of a method;
    # file: what began from somebody's weights
    "source": TEXT,  # in phases reevaluate and confirm: the search trial that is trained again
    "stage": WHOLE,
    "stage_name": TEXT,
    "status": TEXT,  # finished, stopped, failed
    "reason": TEXT,
    "alpha": NUMBER,  # canonical, of the last training stage
    "beta": NUMBER,
    "gamma": NUMBER,
    "temperature": NUMBER,  # null where beta is 0
    **_MEASURED,
    "epochs": WHOLE,  # trained so far, over all stages
    "seconds": NUMBER,
    "attempts": WHOLE,
    "device": TEXT,
    "host": TEXT,
    "versions": TEXT,  # JSON: python, torch, torchvision, ray, optuna, tune_kd
    "commit": TEXT,
    "fingerprint": TEXT,  # the recipe_id, of the recipe and the seed
    "teacher_model": TEXT,
    "recipe": TEXT,  # JSON
    "started": TEXT,  # ISO 8601, UTC
    "ended": TEXT,
}


def epoch_schema() -> pa.Schema:
    """Columns of `epochs/`."""
    return pa.schema(EPOCH_COLUMNS)


def trial_schema(config_types: Mapping[str, str]) -> pa.Schema:
    """Columns of `trials/`: the fixed ones and `config.<name>` of the study's sampled values."""
    config = {f"config.{k}": pa.type_for_alias(v) for k, v in sorted(config_types.items())}
    return pa.schema({**TRIAL_COLUMNS, **config})


def encode(
    rows: Iterable[Row], schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Rows as one Parquet file; columns that a row lacks are null, unknown ones are a bug."""
    rows = list(rows)
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns outside the schema: {sorted(unknown)}"
    table = pa.Table.from_pylist(rows, schema.with_metadata(dict(metadata or {})))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def known_columns(row: Row, columns: Iterable[str]) -> Row:
    """Return a row without the columns that only another version of this program, or another study, has."""
    return {name: row[name] for name in columns if name in row}


def decode(data: bytes) -> tuple[list[Row], list[str]]:
    """Return the rows of a Parquet file, and the names of the files that it replaces."""
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    metadata = table.schema.metadata or {}
    names = json.loads(metadata.get(b"replaces", b"[]"))
    rows: list[Row] = table.to_pylist()
    return rows, names


def read_folder(storage: Storage, folder: str) -> dict[str, list[Row]]:
    """Rows by file name, replaced files left out. A torn or foreign file is left out as well."""
    files: dict[str, list[Row]] = {}
    replaced_names: set[str] = set()
    # columns that are younger than a file are null there
    missing = dict.fromkeys(EPOCH_COLUMNS if folder == "epochs" else TRIAL_COLUMNS)
    for name in storage.names(folder, ".parquet"):
        try:
            rows, names = decode(storage.read(f"{folder}/{name}"))
        except (FileNotFoundError, pa.ArrowInvalid):
            continue  # deleted since it was listed, or not ours: our own are written whole
        if all(row.keys() >= _WHO.keys() for row in rows):
            files[name] = [{**missing, **row} for row in rows]
            replaced_names.update(names)
    return {name: rows for name, rows in files.items() if name not in replaced_names}


def read_trials(storage: Storage) -> list[Row]:
    """All verdicts, each once, in the order of phase, repeat, number and method."""
    unique: dict[tuple[str, int], Row] = {}
    for rows in read_folder(storage, "trials").values():
        unique.update({(row["trial"], row["stage"]): row for row in rows})
    order = ("repeat", "number", "method", "trial", "stage")
    return sorted(
        unique.values(),
        key=lambda row: (PHASES.index(row["phase"]), *(row[name] for name in order)),
    )


def read_epochs(storage: Storage) -> dict[str, list[Row]]:
    """Return the rows of each trial in order: of its attempts' files, the longest."""
    longest: dict[str, list[Row]] = {}
    for rows in read_folder(storage, "epochs").values():
        by_trial: dict[str, list[Row]] = {}
        for row in rows:
            by_trial.setdefault(row["trial"], []).append(row)
        for trial, trial_rows in by_trial.items():
            if len(trial_rows) > len(longest.get(trial, [])):
                longest[trial] = sorted(trial_rows, key=lambda r: r["step"])
    return longest


def rank_trials(
    rows: Iterable[Row], method: str, *, metric: str, constraints: Sequence[str] = ()
) -> list[Row]:
    """Return a method's finished search trials, the highest metric first; ties by validation loss, then in order.

    Those that keep the constraints come before those that do not. Of a trial with several stages
    the last counts. Stopped trials are never ranked: their numbers come from fewer epochs.
    """
    limits = [objectives.parse(text) for text in constraints]
    last: dict[str, Row] = {}
    for row in rows:
        if row["phase"] == "search" and row["method"] == method:
            previous = last.get(row["trial"])
            if previous is None or row["stage"] >= previous["stage"]:
                last[row["trial"]] = row

    def rank(row: Row) -> tuple[bool, float, float, int, int]:
        loss = number(row, "val_loss")
        return (
            bool(objectives.violations(row, limits)),
            -row[metric],
            math.inf if loss is None else loss,
            row["repeat"],
            row["number"],
        )

    trials = (row for row in last.values() if row["status"] == "finished")
    return sorted((row for row in trials if number(row, metric) is not None), key=rank)


def dump_row(row: Row) -> str:
    r"""Return a row as JSON, bytes as base64: how a worker reports it.

    >>> parse_row(dump_row({"trial": "x", "test_correct": bytes([255, 1])}))
    {'trial': 'x', 'test_correct': b'\xff\x01'}
    """
    return json.dumps(row, default=lambda value: {"base64": base64.b64encode(value).decode()})


def parse_row(text: str) -> Row:
    """Return the row that `dump_row` wrote."""
    row: Row = json.loads(
        text, object_hook=lambda v: base64.b64decode(v["base64"]) if v.keys() == {"base64"} else v
    )
    return row


def now() -> str:
    """Return the time for people to read; durations are measured by monotonic clocks elsewhere."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_epochs_of(storage: Storage, trial: str) -> list[Row]:
    """Return the rows of one open trial in order: of its attempts' files, the longest."""
    longest: list[Row] = []
    for name in storage.names("epochs", ".parquet"):
        if name.rsplit(".", 2)[0] == trial:
            rows, _ = decode(storage.read(f"epochs/{name}"))
            longest = max(longest, rows, key=len)
    return longest


def merge(
    storage: Storage, folder: str, rows: list[Row], *, schema: pa.Schema, replaces: list[str]
) -> None:
    """Write `rows` as one file in place of the files `replaces`, then delete these.

    Columns that only another version of this program knows are kept as they are.
    """
    if len(replaces) < 2:
        return
    for name in sorted({name for row in rows for name in row} - set(schema.names)):
        values = [row.get(name) for row in rows]
        schema = schema.append(pa.field(name, pa.infer_type(values)))
    merged_names = [name for name in replaces if name.startswith("merged-")]
    number = 1 + max((int(name[7:-8]) for name in merged_names), default=0)
    data = encode(rows, schema, metadata={"replaces": json.dumps(replaces)})
    storage.write(f"{folder}/merged-{number:05d}.parquet", data)
    for name in replaces:
        storage.remove(f"{folder}/{name}")


def delete_replaced(storage: Storage, folder: str) -> None:
    """Delete what merged files replace, where a kill came between the two."""
    for file in storage.names(folder, ".parquet"):
        if file.startswith("merged-"):
            for name in decode(storage.read(f"{folder}/{file}"))[1]:
                storage.remove(f"{folder}/{name}")
