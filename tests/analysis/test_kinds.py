"""Every table, picture and log takes every kind of study."""

import io
import json
import math

import pandas as pd
import pytest

from analysis import page
from analysis.plots import results, style
from analysis.study import load
from analysis.tables import common
from analysis.training_logs import logs
from tests.analysis import kinds
from tune_kd.study.storage import Storage

T1, T2 = 12.706205, 4.302653  # t(0.975, 1) and t(0.975, 2)


# ---------------------------------------------------------------- contract


@pytest.mark.parametrize("kind", ["usual", "dense", "compressed", "empty", "begun", "torn"])
def test_every_table_and_picture_takes_every_study(made_up, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(style, "DPI", 30)
    rows, changes = {"dense": kinds.dense, "compressed": kinds.compressed}.get(
        kind, lambda maker: (maker.all_rows(), {})
    )(made_up)
    if kind == "empty":
        rows, changes = (
            [],
            {"metric": "val_miou", "dense": True, "objectives": ["val_miou", "flops"]},
        )
    if kind == "begun":
        rows = [r for r in rows if r["phase"] in ("teacher", "measure")]
    address = made_up.put(tmp_path / "x", rows, **changes)
    if kind == "dense":
        kinds.put_predictions(address, "confirm-teacher")
    if kind == "torn":
        Storage(address).write("predictions/confirm-teacher.npz", b"PK not really")
    study = load(address)
    for make in common.TABLES.values():
        title, table = make(study)
        assert title
        assert isinstance(table, pd.DataFrame | str)
    for draw in results.PLOTS.values():
        result = draw(study)
        figures = result.values() if isinstance(result, dict) else [result] if result else []
        for figure in figures:
            assert style.png(figure).startswith(b"\x89PNG")
    assert page.section(study, pictures=[])
    assert isinstance(logs(study), dict)


# ---------------------------------------------------------------- logs


def test_logs_have_the_labs_columns(made_up, tmp_path):
    files = logs(load(made_up.put(tmp_path / "x", made_up.all_rows())))
    trials = ["teacher", "no_kd-r0-0001", "response-r0-0001", "feature-r0-0000", "combined-r0-0000"]
    assert list(files) == [f"{t}.{end}" for t in trials for end in ("csv", "json")]
    frame = pd.read_csv(io.BytesIO(files["response-r0-0001.csv"]))
    assert list(frame.columns) == [
        "epoch",
        "lr",
        "train_loss",
        "train_ce",
        "train_kd",
        "train_feature",
        "val_loss",
        "val_acc",
        "alpha",
        "T",
    ]
    assert frame.iloc[1].to_list() == pytest.approx(
        [2, 0.05, 1.5, 1.0, 0.5, 0.0, 0.5, 0.95 * 0.875, 0.5, 4.0]
    )
    log = json.loads(files["response-r0-0001.json"])
    assert (log["method"], log["status"], len(log["epochs"])) == ("response", "finished", 6)
    assert log["epochs"][1]["train_ce"] == 1.0
    assert math.isnan(pd.read_csv(io.BytesIO(files["no_kd-r0-0001.csv"]))["T"][0])


def test_logs_take_the_weights_of_the_epochs_own_stage(compressed):
    rows = compressed.curves["channels-r0-0000"]
    for at, row in enumerate(rows):
        row["stage"] = min(at // 2, 2)
    frame = pd.read_csv(io.BytesIO(logs(compressed)["channels-r0-0000.csv"]))
    assert frame["alpha"].to_list()[:2] == [0.5, 0.5]
    assert frame["alpha"].isna().to_list()[2:4] == [True, True]
    assert frame["alpha"].to_list()[4:] == [1.0, 1.0]
    assert frame["T"].isna().to_list() == [False, False, True, True, True, True]


def test_a_dense_log_has_miou_as_well(dense):
    assert "val_miou" in logs(dense)["response-r0-0000.csv"].decode().splitlines()[0]
