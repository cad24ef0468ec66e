"""What Ray runs, run here: commits, resuming, misfortune."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.helpers import made_study
from tests.helpers.made_study import reopen, request
from tune_kd import errors, files
from tune_kd.execution import worker
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import from_json
from tune_kd.study import results
from tune_kd.study.storage import Storage
from tune_kd.workflows import checks, create_study

WHERE = ("seconds", "pid", "host", "attempt", "checkpoint")


@pytest.fixture
def study(tmp_path):
    """Digits for 3 epochs of 200 images, with proposals and no teacher yet."""
    options = request(
        tmp_path / "runs" / "s",
        epochs=3,
        trials=8,
        limit_train=200,
        methods={"no_kd": request(tmp_path).space.methods["no_kd"]},
    )
    dataset = checks.prepare_data(options)
    new_study = create_study.begin(
        options,
        dataset,
        session=made_study.FakeSession(),
        progress=made_study.Progress(quiet=True),
    )
    plan = made_study.plan(new_study, options)
    for _ in range(2):
        plan.next()
    return new_study


def config(study, trial: str = "no_kd-r0-0000", **changes) -> dict:
    from tune_kd.execution.resources import Resources
    from tune_kd.study.proposal import dump

    base = create_study.base_config(study, None, Resources())
    return {**base, "trial": trial, "proposal": dump(study.proposals[trial]), **changes}


def rows(reports) -> list[dict]:
    return [json.loads(report["row"]) for report in reports]


def comparable(rows: list[dict]) -> list[dict]:
    """Rows without when, where and by which attempt; nulls left out."""
    return [{k: v for k, v in r.items() if k not in WHERE and v is not None} for r in rows]


def without_trial(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "trial"} for r in comparable(rows)]


def test_an_attempt_commits_each_epoch_before_it_reports(study):
    commits = []
    for report in worker.attempt(config(study)):
        row = json.loads(report["row"])
        (on_disk,) = study.storage.names("epochs")
        stored = results.read_epochs_of(study.storage, "no_kd-r0-0000")
        assert comparable(stored)[-1] == comparable([row])[0]
        commits.append((row["step"], row["last"], study.storage.names("checkpoints/no_kd-r0-0000")))
        assert on_disk == f"no_kd-r0-0000.{row['attempt']}.parquet"
        if not row["last"]:
            assert row["checkpoint"] in commits[-1][2]
    assert [s[:2] for s in commits] == [(1, False), (2, False), (3, True)]
    assert max(len(s[2]) for s in commits) <= 2
    # the student's weights alone, with what made them
    path = study.storage.local / "students" / "no_kd-r0-0000.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    proposal = study.proposals["no_kd-r0-0000"]
    assert from_json(header["recipe"]) == proposal.recipe
    assert (header["network"], header["seed"]) == ("digits_student", "0")
    assert header["fingerprint"] == proposal.recipe_id
    model = registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))
    checkpoints.checked_load(model, checkpoints.load_weights(path), source="student")


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_attempt_is_gone_on_with_from_its_last_epoch(study, after):
    undisturbed = rows(worker.attempt(config(study, "no_kd-r0-0000")))
    first = worker.attempt(config(study, "no_kd-r0-0001"))
    before = rows(next(first) for _ in range(after))
    first.close()
    resumed = rows(worker.attempt(config(study, "no_kd-r0-0001")))
    assert resumed[0] == {**resumed[0], **before[-1]}  # the last row again, then new ones
    assert [r["step"] for r in resumed] == list(range(after, 4))
    stored = results.read_epochs_of(study.storage, "no_kd-r0-0001")
    assert [r["step"] for r in stored] == [1, 2, 3]
    attempts = [r["attempt"] for r in stored]
    assert len(set(attempts)) == 2
    assert attempts[-1].startswith("2-")
    assert len(undisturbed) == 3
    # the same recipe trained in one go gives the same numbers
    other = replace(study.proposals["no_kd-r0-0001"], trial="copy")
    study.add(other)
    copy = rows(worker.attempt(config(study, "copy")))
    assert without_trial(copy) == without_trial(stored)


def test_an_ended_trial_only_repeats_its_last_row(study):
    attempt_rows = rows(worker.attempt(config(study)))
    before = study.storage.names("epochs")
    assert comparable(rows(worker.attempt(config(study)))) == comparable(attempt_rows[-1:])
    assert study.storage.names("epochs") == before


def test_a_torn_newest_checkpoint_without_a_row_is_not_gone_on_from(study):
    """Killed between the checkpoint and the rows that commit it."""
    attempt = worker.attempt(config(study))
    next(attempt)
    attempt.close()
    study.storage.write("checkpoints/no_kd-r0-0000/00002.1-zzz.safetensors", b"torn")
    assert [r["step"] for r in rows(worker.attempt(config(study)))] == [1, 2, 3]


def test_a_node_that_does_not_see_the_study_is_told_by_its_marker(study, tmp_path):
    with pytest.raises(worker.MarkerMissingError, match="--out"):
        next(worker.attempt(config(study, marker="other")))
    with pytest.raises(worker.MarkerMissingError, match="--out"):
        worker.check_marker(Storage(tmp_path / "nowhere"), "x")
    worker.check_marker(study.storage, study.manifest.marker)


def test_reports_of_misfortune(study, monkeypatch):
    from ray import tune

    reports = []
    monkeypatch.setattr(tune, "report", reports.append)
    monkeypatch.setattr(worker, "PAUSE", 0.0)
    worker.run_trial(config(study, marker="other"))
    assert reports[-1]["fatal"]
    bad = replace(study.proposals["no_kd-r0-0001"].recipe, student="nothing")
    study.proposals["no_kd-r0-0001"] = replace(study.proposals["no_kd-r0-0001"], recipe=bad)
    worker.run_trial(config(study, "no_kd-r0-0001"))
    assert not reports[-1]["fatal"]
    assert "nothing" in reports[-1]["error"]

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(worker, "_commit", full)
    with pytest.raises(OSError, match="no space left"):
        worker.run_trial(config(study, "no_kd-r0-0000"))
    text = study.storage.read("checkpoints/no_kd-r0-0000/error.txt").decode()
    assert text == "OSError: no space left"


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(study):
    proposal = study.proposals["no_kd-r0-0001"]
    (stage,) = proposal.recipe.stages
    wild = replace(stage, optimizer=replace(stage.optimizer, lr=1e30))
    study.proposals["no_kd-r0-0001"] = replace(
        proposal, recipe=replace(proposal.recipe, stages=(wild,))
    )
    with pytest.raises(FloatingPointError, match="not finite in epoch 1") as caught:
        list(worker.attempt(config(study, "no_kd-r0-0001")))
    assert "\n" not in errors.explain(caught.value)


def test_other_images_than_the_studys_are_refused(study):
    proposal = study.proposals["no_kd-r0-0001"]
    images = replace(proposal.recipe.images, train_hash="other")
    study.proposals["no_kd-r0-0001"] = replace(
        proposal, recipe=replace(proposal.recipe, images=images)
    )
    with pytest.raises(ValueError, match="are not the study's"):
        list(worker.attempt(config(study, "no_kd-r0-0001")))


def test_rows_have_the_users_permissions(study):
    list(worker.attempt(config(study)))
    modes = {
        stat.S_IMODE(p.stat().st_mode)
        for p in study.storage.local.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }
    assert len(modes) == 1


def test_explanations_are_one_short_line():
    assert errors.explain(ValueError("x\n  y")) == "ValueError: x y"
    assert len(errors.explain(ValueError("x" * 9999))) < 400
    assert errors.explain(torch.OutOfMemoryError("CUDA out of memory.")).startswith("out of memory")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_KD_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("TUNE_KD_CACHE")
    assert files.cache_folder() == Path.home() / ".cache" / "tune_kd"


def test_the_worker_writes_what_the_study_reads(study):
    list(worker.attempt(config(study)))
    again = reopen(study)
    assert len(again.rows["no_kd-r0-0000"]) == 3
    assert again.judged_epochs["no_kd-r0-0000"] == 2  # the last one is judged by who hears it
    assert 0 <= again.score(again.rows["no_kd-r0-0000"][-1]) <= 1
