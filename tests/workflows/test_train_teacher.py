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
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**environ, "PYTHONPATH": ROOT, "TUNE_KD_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def opened(folder: Path) -> Study:
    return Study(storage.Storage(folder))


def teacher_rows(found: Study) -> list[dict]:
    trial = f"teacher-{found.manifest.teacher_model[:8]}"
    return found.rows[trial]


@pytest.mark.slow
def test_a_teacher_is_trained_once_and_found_in_the_cache_and_beside(tmp_path):
    cache, first = tmp_path / "cache", tmp_path / "first"
    where = {"folder": tmp_path, "cache": cache}
    done = run("tune_kd.train_teacher", *SAME, "--out", "first", **where)
    known = opened(first / "digits_kd_teacher")
    model = known.manifest.teacher_model
    rows = teacher_rows(known)
    assert [r["step"] for r in rows] == [1, 2]
    assert re.fullmatch(
        rf"teacher digits_teacher: val_accuracy \d+\.\d\d %, 2 epochs, {known.storage.uri}/models/{model}.safetensors\n",
        done.stdout,
    )
    assert (first / "digits_kd_teacher" / "models" / f"{model}.safetensors").is_file()
    assert known.counts("search").total() == 0

    # again: nothing is trained, the same is said
    again = run("tune_kd.train_teacher", *SAME, "--out", "first", **where)
    assert again.stdout == done.stdout
    assert teacher_rows(opened(first / "digits_kd_teacher")) == rows

    # a search in another --out finds it in the cache
    searched = run("tune_kd.search", *SAME, *SEARCH, "--out", "second", **where)
    found = opened(tmp_path / "second" / "digits_kd")
    assert f"teacher {model} reused from study digits_kd_teacher" in searched.stderr
    assert "training the teacher" not in searched.stderr

    # one beside it finds it in --out when the cache has forgotten it
    shutil.rmtree(cache / "models")
    beside = run("tune_kd.search", *SAME, *SEARCH, "--out", "first", **where)
    near = opened(first / "digits_kd")
    assert f"teacher {model} reused from study digits_kd_teacher" in beside.stderr

    for one in (found, near):
        assert one.manifest.teacher_model == model
        taken = {"study": "digits_kd"}
        assert teacher_rows(one) == [{**row, **taken} for row in rows]
        (verdict,) = one.outcomes[teacher_trial(model)]
        assert verdict["reason"] == "trained by study digits_kd_teacher"
        assert (verdict["phase"], verdict["method"], verdict["epochs"]) == ("teacher", "", 2)
        copies = {
            (folder / "models" / f"{model}.safetensors").read_bytes()
            for folder in (one.storage.local, first / "digits_kd_teacher", cache)
        }
        assert len(copies) == 1
    # the same teacher, seed and setting: the same student
    accuracy = [one.outcomes["response-r0-0000"][0]["val_loss"] for one in (found, near)]
    assert accuracy[0] == accuracy[1]


def test_what_it_says_is_of_the_last_epoch(tmp_path):
    from dataclasses import replace

    from tests.helpers import made_study

    asked = made_study.request(tmp_path / "s")
    begun = made_study.begin(asked)
    plan = made_study.plan(begun, asked)
    trial = f"teacher-{begun.manifest.teacher_model[:8]}"
    begun.add(replace(plan.next(), trial=trial, phase="teacher", method="", number=0))
    for step in (1, 2):
        row = made_study.row(begun, begun.proposals[trial], step, 0.4 * step)
        begun.hear(row)
    begun.end(trial, "finished")
    said = train_teacher.summary(begun)
    assert said.startswith("teacher digits_teacher: val_accuracy 80.00 %, 2 epochs, ")
    assert said.endswith(f"/models/{begun.manifest.teacher_model}.safetensors")
