"""Rows in Parquet: one schema, whole files, few files, nothing twice."""

import json
import math

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tune_kd import metrics
from tune_kd.metrics import METRICS
from tune_kd.study import results
from tune_kd.study.results import decode, encode, epoch_schema, rank_trials, trial_schema
from tune_kd.study.storage import Storage

CONFIG = {"lr": "double", "depth": "int64", "kind": "string"}
SCHEMA = trial_schema(CONFIG)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path / "study")


def verdict(trial: str = "no_kd-r0-0000", **values) -> dict:
    defaults = {
        "schema": results.SCHEMA_VERSION,
        "study": "s",
        "phase": "search",
        "method": "no_kd",
        "repeat": 0,
        "trial": trial,
        "number": 0,
        "seed": 0,
        "stage": 0,
        "status": "finished",
        "reason": "",
        "val_accuracy": 0.5,
        "val_loss": 1.0,
        "epochs": 2,
        "config.lr": 0.1,
    }
    return defaults | values


def epoch(trial: str, step: int, attempt: str = "1", **values) -> dict:
    defaults = {
        "schema": results.SCHEMA_VERSION,
        "study": "s",
        "phase": "search",
        "method": "no_kd",
        "repeat": 0,
        "trial": trial,
        "step": step,
        "epoch": step,
        "stage": 0,
        "attempt": attempt,
        "seconds": 1.0,
        "last": False,
    }
    return defaults | values


def put(storage: Storage, name: str, rows: list[dict], schema: pa.Schema = SCHEMA, **metadata):
    storage.write(name, encode(rows, schema, metadata=metadata))


def bare(row: dict) -> dict:
    return {key: value for key, value in row.items() if value is not None}


# One file


def test_rows_come_back_with_nulls_for_what_they_lack():
    row = verdict(**{"config.depth": 3, "config.kind": "a", "test_accuracy": None})
    (decoded_row,), names = decode(encode([row], SCHEMA, metadata={"replaces": '["x"]'}))
    assert bare(decoded_row) == bare(row)
    assert list(decoded_row) == SCHEMA.names
    assert names == ["x"]
    assert decode(encode([], SCHEMA)) == ([], [])


def test_numbers_come_back_exactly():
    values = [0.1 + 0.2, 1e-300, math.pi, -0.0, math.inf]
    rows = [verdict(val_accuracy=value, num_params=11_173_962.0) for value in values]
    decoded_rows, _ = decode(encode(rows, SCHEMA))
    assert [r["val_accuracy"] for r in decoded_rows] == values
    assert str(decoded_rows[3]["val_accuracy"]) == "-0.0"


def test_what_single_test_images_gave_comes_back():
    """Of 20 images in 3 bytes, and of 2 images with 3 classes; of nothing measured nothing."""
    right = np.random.default_rng(0).random(20) < 0.5
    correct = np.packbits(right).tobytes()
    counts = list(range(18))
    rows = [
        verdict("a", test_correct=correct, repeat=3),
        verdict("b", test_counts=counts, test_confusion=[1, 0, 2, 3], repeat=0),
        verdict("c", test_correct=b"", test_counts=[]),
        verdict("d"),
    ]
    (first, second, third, fourth), _ = decode(encode(rows, SCHEMA))
    assert (first["test_correct"], first["repeat"]) == (correct, 3)
    bits = np.unpackbits(np.frombuffer(first["test_correct"], np.uint8), count=20)
    assert bits.astype(bool).tolist() == right.tolist()
    assert (second["test_counts"], second["test_confusion"]) == (counts, [1, 0, 2, 3])
    assert np.reshape(second["test_counts"], (2, 3, 3))[1, 2].tolist() == [15, 16, 17]
    assert (third["test_correct"], third["test_counts"]) == (b"", [])
    assert all(fourth[name] is None for name in results.TEST_ARRAYS)
    assert [first["test_counts"], second["test_correct"]] == [None, None]
    # the epochs' files have them as well: an attempt's last row is what the verdict is made from
    for schema in (SCHEMA, epoch_schema()):
        assert schema.field("test_correct").type == pa.binary()
        assert schema.field("repeat").type == pa.int64()
        assert schema.field("test_counts").type.value_type == pa.int64()


def test_a_row_that_is_reported_is_the_row():
    every = bytes(range(256))
    row = epoch(
        "confirm-x",
        2,
        test_correct=every,
        test_counts=[3, 1, 2],
        test_confusion=[],
        repeat=2,
        last=True,
        lr=0.1 + 0.2,
        val_loss=None,
        test_accuracy=1.0,
        stage_name='Größe {"base64": 1}',
    )
    text = results.dump_row(row)
    assert results.parse_row(text) == row
    assert json.loads(text)["test_accuracy"] == 1.0  # any JSON reader takes it
    nan = results.parse_row(results.dump_row(epoch("x", 1, val_accuracy=math.nan)))
    assert math.isnan(nan["val_accuracy"])
    with pytest.raises(TypeError):
        results.dump_row(epoch("x", 1, val_accuracy=object()))


def test_a_column_outside_the_schema_is_a_bug():
    with pytest.raises(AssertionError, match="accuracy"):
        encode([verdict(accuracy=1.0)], SCHEMA)


def test_the_schema_has_what_rows_promise():
    names = set(SCHEMA.names)
    assert set(METRICS) <= names
    assert {
        "method", "trial", "seed", "stage", "phase", "status", "reason", "alpha", "beta", "gamma",
        "temperature", "epochs", "seconds", "device", "versions", "commit", "fingerprint", "recipe",
        "schema", "study", "config.lr", "config.depth",
    } <= names  # fmt: skip
    assert SCHEMA.field("config.depth").type == pa.int64()
    assert trial_schema({"b": "double", "a": "double"}) == trial_schema(
        {"a": "double", "b": "double"}
    )


# Folders


def test_torn_and_foreign_files_are_left_out(storage):
    put(storage, "trials/no_kd-r0-0000.parquet", [verdict()])
    data = storage.read("trials/no_kd-r0-0000.parquet")
    storage.write("trials/torn.parquet", data[: len(data) // 2])
    storage.write("trials/empty.parquet", b"")
    storage.write("trials/text.parquet", b"this is text and no Parquet at all")
    storage.write("trials/.no_kd-r0-0001.parquet.12", data)
    storage.write("trials/notes.txt", b"x")
    (row,) = results.read_trials(storage)
    assert bare(row) == verdict()


def test_a_parquet_file_of_other_columns_is_left_out(storage):
    put(storage, "trials/no_kd-r0-0000.parquet", [verdict()])
    put(storage, "trials/other.parquet", [{"x": 1}], pa.schema({"x": pa.int64()}))
    assert len(results.read_trials(storage)) == 1


def test_an_empty_study_has_no_rows(storage):
    assert results.read_trials(storage) == []
    assert results.read_epochs(storage) == {}
    assert results.read_epochs_of(storage, "x") == []


def test_verdicts_come_in_the_order_of_phase_number_and_method(storage):
    rows = [
        verdict("c", phase="confirm"),
        verdict("b1", number=1, method="a"),
        verdict("b0", number=0, method="b"),
        verdict("a0", number=0, method="a", stage=1),
        verdict("a0", number=0, method="a", stage=0),
        verdict("t", phase="teacher", method=""),
        verdict("m", phase="measure", method=""),
    ]
    for number, row in enumerate(rows):
        put(storage, f"trials/{number}.parquet", [row])
    order = [(r["trial"], r["stage"]) for r in results.read_trials(storage)]
    assert order == [("t", 0), ("a0", 0), ("a0", 1), ("b0", 0), ("b1", 0), ("c", 0), ("m", 0)]


def test_the_longest_attempt_wins_and_is_in_order(storage):
    schema = epoch_schema()
    put(storage, "epochs/a.1-x.parquet", [epoch("a", n, "1") for n in (1, 2)], schema)
    longest = [epoch("a", n, "2") for n in (3, 1, 2)]
    put(storage, "epochs/a.2-y.parquet", longest, schema)
    put(storage, "epochs/a.3-z.parquet", [epoch("a", n, "3") for n in (1, 2)], schema)
    put(storage, "epochs/ab.1-x.parquet", [epoch("ab", n, "9") for n in range(1, 6)], schema)
    rows = results.read_epochs(storage)
    assert [(r["step"], r["attempt"]) for r in rows["a"]] == [(1, "2"), (2, "2"), (3, "2")]
    assert len(rows["ab"]) == 5
    assert {r["attempt"] for r in results.read_epochs_of(storage, "a")} == {"2"}
    assert len(results.read_epochs_of(storage, "ab")) == 5


# Merging


def fill(storage: Storage, count: int = 5) -> list[dict]:
    rows = [verdict(f"t{n}", number=n, val_accuracy=0.1 * n) for n in range(count)]
    for row in rows:
        put(storage, f"trials/{row['trial']}.parquet", [row])
    return rows


def merge(storage: Storage) -> None:
    rows, names = results.read_trials(storage), storage.names("trials", ".parquet")
    results.merge(storage, "trials", rows, schema=SCHEMA, replaces=names)


def test_merging_keeps_every_row_once_in_one_file(storage):
    rows = fill(storage)
    merge(storage)
    assert storage.names("trials") == ["merged-00001.parquet"]
    assert [bare(r) for r in results.read_trials(storage)] == rows
    row = verdict("t9", number=9)
    put(storage, "trials/t9.parquet", [row])
    merge(storage)
    assert storage.names("trials") == ["merged-00002.parquet"]
    assert [bare(r) for r in results.read_trials(storage)] == [*rows, row]
    merge(storage)  # one file alone is not written again
    assert storage.names("trials") == ["merged-00002.parquet"]


def test_files_that_a_merged_one_replaces_are_not_read_and_then_deleted(storage):
    rows = fill(storage)
    files = {name: storage.read(f"trials/{name}") for name in storage.names("trials")}
    merge(storage)
    for name, data in files.items():  # killed before they were deleted
        storage.write(f"trials/{name}", data)
    assert list(results.read_folder(storage, "trials")) == ["merged-00001.parquet"]
    assert [bare(r) for r in results.read_trials(storage)] == rows
    results.delete_replaced(storage, "trials")
    assert storage.names("trials") == ["merged-00001.parquet"]
    assert [bare(r) for r in results.read_trials(storage)] == rows


@pytest.mark.parametrize("deleted", range(4))
def test_a_merge_that_was_killed_at_any_file_loses_and_doubles_nothing(
    storage, deleted, monkeypatch
):
    rows = fill(storage, 4)
    remove, count = Storage.remove, 0

    def remove_or_raise(self, name):
        nonlocal count
        if count == deleted:
            raise KeyboardInterrupt
        count += 1
        remove(self, name)

    monkeypatch.setattr(Storage, "remove", remove_or_raise)
    with pytest.raises(KeyboardInterrupt):
        merge(storage)
    monkeypatch.undo()
    assert len(storage.names("trials")) == 5 - deleted
    assert [bare(r) for r in results.read_trials(storage)] == rows
    merge(storage)  # without cleaning first
    assert storage.names("trials") == ["merged-00002.parquet"]
    assert [bare(r) for r in results.read_trials(storage)] == rows


# Others read the folders as one table


def test_pandas_pyarrow_and_duckdb_read_a_folder_as_one_table(storage):
    fill(storage)
    merge(storage)
    row = verdict("t7", number=7, method="feature", **{"config.depth": 2, "config.lr": None})
    put(storage, "trials/t7.parquet", [row])
    put(storage, "trials/t8.parquet", [verdict("t8", number=8, reason="x", test_accuracy=0.25)])
    folder = str(storage.local / "trials")
    names = [r["trial"] for r in results.read_trials(storage)]
    assert names == [*(f"t{n}" for n in range(5)), "t7", "t8"]

    frame = pd.read_parquet(folder)
    assert sorted(frame["trial"]) == names
    assert frame.columns.tolist() == SCHEMA.names
    assert frame.set_index("trial").loc["t8", "test_accuracy"] == 0.25

    table = pq.read_table(folder)
    assert table.schema.remove_metadata() == SCHEMA
    assert table.num_rows == len(names)
    assert pa.dataset.dataset(folder).schema.remove_metadata() == SCHEMA

    records = duckdb.sql(
        f"select trial, \"config.depth\", val_accuracy from '{folder}/*.parquet' order by number"
    ).fetchall()
    assert [row[0] for row in records] == names
    assert records[5] == ("t7", 2, 0.5)


def test_all_null_columns_have_their_type_in_every_file(storage):
    put(storage, "epochs/a.1.parquet", [epoch("a", 1)], epoch_schema())
    put(storage, "epochs/b.1.parquet", [epoch("b", 1, val_accuracy=0.5, lr=0.1)], epoch_schema())
    folder = storage.local / "epochs"
    assert {str(pq.read_schema(f)) for f in folder.iterdir()} == {str(epoch_schema())}
    assert duckdb.sql(f"select sum(lr) from '{folder}/*.parquet'").fetchall() == [(0.1,)]


# Ranking


def test_ranking_is_of_finished_search_trials_with_a_number():
    rows = [
        verdict("worse", number=0, val_accuracy=0.5),
        verdict("stopped", number=1, val_accuracy=0.9, status="stopped"),
        verdict("failed", number=2, val_accuracy=0.9, status="failed"),
        verdict("confirmed", number=3, val_accuracy=0.9, phase="confirm"),
        verdict("other", number=4, val_accuracy=0.9, method="feature"),
        verdict("none", number=5, val_accuracy=None),
        verdict("nan", number=6, val_accuracy=math.nan),
        verdict("best", number=7, val_accuracy=0.7),
    ]
    assert [r["trial"] for r in rank_trials(rows, "no_kd", metric="val_accuracy")] == [
        "best",
        "worse",
    ]
    assert [r["trial"] for r in rank_trials(rows[::-1], "no_kd", metric="val_accuracy")] == [
        "best",
        "worse",
    ]
    assert rank_trials(rows, "combined", metric="val_accuracy") == []


def test_ties_go_to_the_lower_loss_then_to_the_earlier_trial():
    rows = [
        verdict("late", number=3, val_loss=0.2),
        verdict("early", number=2, val_loss=0.2),
        verdict("later search", number=1, repeat=1, val_loss=0.2),
        verdict("lossless", number=0, val_loss=None),
        verdict("high", number=1, val_loss=0.9),
    ]
    order = [r["trial"] for r in rank_trials(rows, "no_kd", metric="val_accuracy")]
    assert order == ["early", "late", "later search", "high", "lossless"]


def test_the_last_stage_of_a_trial_counts():
    rows = [
        verdict("a", stage=0, val_accuracy=0.9),
        verdict("a", stage=1, val_accuracy=0.4),
        verdict("b", number=1, stage=0, val_accuracy=0.5),
        verdict("c", number=2, stage=0, val_accuracy=0.95),
        verdict("c", number=2, stage=1, val_accuracy=0.96, status="failed"),
    ]
    order = [r["trial"] for r in rank_trials(rows, "no_kd", metric="val_accuracy")]
    assert order == ["b", "a"]


def test_finite():
    values = [(0.5, 0.5), (3, 3.0), (None, None), (math.nan, None), (math.inf, None)]
    assert [metrics.number({"x": value}, "x") for value, _ in values] == [w for _, w in values]
    assert metrics.number({}, "x") is None
    assert json.dumps(metrics.number({"x": 1}, "x")) == "1.0"
