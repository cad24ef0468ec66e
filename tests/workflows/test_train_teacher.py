"""A teacher that is trained ahead of time, and who finds it: each test starts a Ray or three."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune_kd.study import storage
from tune_kd.study.study import Study
from tune_kd.study.trial_names import teacher_trial
from tune_kd.workflows import train_teacher

ROOT = str(Path(storage.__file__).parents[2])
SAME = [
    "--space",
    "digits_kd",
    "--limit-train",
    "200",
    "--epochs",
    "1",
    "--set",
    "teacher.epochs=2",
]
SEARCH = ["--trials", "1", "--methods", "response", "--max-concurrent", "1"]


def run(module: str, *arguments: str, folder: Path, cache: Path) -> subprocess.CompletedProcess:
    environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**environ, "PYTHONPATH": ROOT, "TUNE_KD_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process


def open_study(folder: Path) -> Study:
    return Study(storage.Storage(folder))


def teacher_rows(study: Study) -> list[dict]:
    trial = f"teacher-{study.manifest.teacher_model[:8]}"
    return study.rows[trial]


@pytest.mark.slow
def test_a_teacher_is_trained_once_and_found_in_the_cache_and_beside(tmp_path):
    cache, first = tmp_path / "cache", tmp_path / "first"
    where = {"folder": tmp_path, "cache": cache}
    process = run("tune_kd.train_teacher", *SAME, "--out", "first", **where)
    study = open_study(first / "digits_kd_teacher")
    model = study.manifest.teacher_model
    rows = teacher_rows(study)
    assert [r["step"] for r in rows] == [1, 2]
    assert re.fullmatch(
        rf"teacher digits_teacher: val_accuracy \d+\.\d\d %, 2 epochs, {study.storage.uri}/models/{model}.safetensors\n",
        process.stdout,
    )
    assert (first / "digits_kd_teacher" / "models" / f"{model}.safetensors").is_file()
    assert study.counts("search").total() == 0

    # again: nothing is trained, the same is said
    again = run("tune_kd.train_teacher", *SAME, "--out", "first", **where)
    assert again.stdout == process.stdout
    assert teacher_rows(open_study(first / "digits_kd_teacher")) == rows

    # a search in another --out finds it in the cache
    search_process = run("tune_kd.search", *SAME, *SEARCH, "--out", "second", **where)
    far_study = open_study(tmp_path / "second" / "digits_kd")
    assert f"teacher {model} reused from study digits_kd_teacher" in search_process.stderr
    assert "training the teacher" not in search_process.stderr

    # one beside it finds it in --out when the cache has forgotten it
    shutil.rmtree(cache / "models")
    near_process = run("tune_kd.search", *SAME, *SEARCH, "--out", "first", **where)
    near_study = open_study(first / "digits_kd")
    assert f"teacher {model} reused from study digits_kd_teacher" in near_process.stderr

    for search_study in (far_study, near_study):
        assert search_study.manifest.teacher_model == model
        changes = {"study": "digits_kd"}
        assert teacher_rows(search_study) == [{**row, **changes} for row in rows]
        (verdict,) = search_study.outcomes[teacher_trial(model)]
        assert verdict["reason"] == "trained by study digits_kd_teacher"
        assert (verdict["phase"], verdict["method"], verdict["epochs"]) == ("teacher", "", 2)
        copies = {
            (folder / "models" / f"{model}.safetensors").read_bytes()
            for folder in (search_study.storage.local, first / "digits_kd_teacher", cache)
        }
        assert len(copies) == 1
    # the same teacher, seed and setting: the same student
    accuracy = [
        search_study.outcomes["response-r0-0000"][0]["val_loss"]
        for search_study in (far_study, near_study)
    ]
    assert accuracy[0] == accuracy[1]


def test_what_it_says_is_of_the_last_epoch(tmp_path):
    from dataclasses import replace

    from tests.helpers import made_study

    request = made_study.request(tmp_path / "s")
    study = made_study.begin(request)
    plan = made_study.plan(study, request)
    trial = f"teacher-{study.manifest.teacher_model[:8]}"
    study.add(replace(plan.next(), trial=trial, phase="teacher", method="", number=0))
    for step in (1, 2):
        row = made_study.row(study, study.proposals[trial], step, 0.4 * step)
        study.on_report(row)
    study.end(trial, "finished")
    line = train_teacher.summary(study)
    assert line.startswith("teacher digits_teacher: val_accuracy 80.00 %, 2 epochs, ")
    assert line.endswith(f"/models/{study.manifest.teacher_model}.safetensors")
