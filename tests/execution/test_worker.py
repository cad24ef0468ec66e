"""What Ray runs, run here: commits, resuming, misfortune."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.helpers import made_study
from tests.helpers.made_study import reopened, request
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
    asked = request(
        tmp_path / "runs" / "s",
        epochs=3,
        trials=8,
        limit_train=200,
        methods={"no_kd": request(tmp_path).space.methods["no_kd"]},
    )
    material = checks.look_at_data(asked)
    begun = create_study.begin(
        asked, material, session=made_study.Here(), progress=made_study.Progress(quiet=True)
    )
    plan = made_study.plan(begun, asked)
    for _ in range(2):
        plan.next()
    return begun


def config(study, trial: str = "no_kd-r0-0000", **changes) -> dict:
    from tune_kd.execution.resources import Resources
    from tune_kd.study.proposal import dump

    base = create_study.base_config(study, None, Resources())
    return {**base, "trial": trial, "proposal": dump(study.proposals[trial]), **changes}


def rows(reports) -> list[dict]:
    return [json.loads(report["row"]) for report in reports]


def what(rows: list[dict]) -> list[dict]:
    """Rows without when, where and by which attempt; nulls left out."""
    return [{k: v for k, v in r.items() if k not in WHERE and v is not None} for r in rows]


def test_an_attempt_commits_each_epoch_before_it_reports(study):
    seen = []
    for report in worker.attempt(config(study)):
        row = json.loads(report["row"])
        (on_disk,) = study.storage.names("epochs")
        found = results.read_epochs_of(study.storage, "no_kd-r0-0000")
        assert what(found)[-1] == what([row])[0]
        seen.append((row["step"], row["last"], study.storage.names("checkpoints/no_kd-r0-0000")))
        assert on_disk == f"no_kd-r0-0000.{row['attempt']}.parquet"
        if not row["last"]:
            assert row["checkpoint"] in seen[-1][2]
    assert [s[:2] for s in seen] == [(1, False), (2, False), (3, True)]
    assert max(len(s[2]) for s in seen) <= 2
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
    whole = rows(worker.attempt(config(study, "no_kd-r0-0000")))
    first = worker.attempt(config(study, "no_kd-r0-0001"))
    begun = rows(next(first) for _ in range(after))
    first.close()
    again = rows(worker.attempt(config(study, "no_kd-r0-0001")))
    assert again[0] == {**again[0], **begun[-1]}  # the last row again, then new ones
    assert [r["step"] for r in again] == list(range(after, 4))
    stored = results.read_epochs_of(study.storage, "no_kd-r0-0001")
    assert [r["step"] for r in stored] == [1, 2, 3]
    attempts = [r["attempt"] for r in stored]
    assert len(set(attempts)) == 2
    assert attempts[-1].startswith("2-")
    assert len(whole) == 3
    # the same recipe trained in one go gives the same numbers
    other = replace(study.proposals["no_kd-r0-0001"], trial="copy")
    study.add(other)
    assert [
        {k: v for k, v in r.items() if k != "trial"} for r in what(rows(worker.attempt(config(study, "copy"))))
    ] == [{k: v for k, v in r.items() if k != "trial"} for r in what(stored)]  # fmt: skip


def test_an_ended_trial_only_repeats_its_last_row(study):
    whole = rows(worker.attempt(config(study)))
    before = study.storage.names("epochs")
    assert what(rows(worker.attempt(config(study)))) == what(whole[-1:])
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

    told = []
    monkeypatch.setattr(tune, "report", told.append)
    monkeypatch.setattr(worker, "PAUSE", 0.0)
    worker.run_trial(config(study, marker="other"))
    assert told[-1]["fatal"]
    bad = replace(study.proposals["no_kd-r0-0001"].recipe, student="nothing")
    study.proposals["no_kd-r0-0001"] = replace(study.proposals["no_kd-r0-0001"], recipe=bad)
    worker.run_trial(config(study, "no_kd-r0-0001"))
    assert not told[-1]["fatal"]
    assert "nothing" in told[-1]["error"]

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(worker, "_commit", full)
    with pytest.raises(OSError, match="no space left"):
        worker.run_trial(config(study, "no_kd-r0-0000"))
    word = study.storage.read("checkpoints/no_kd-r0-0000/error.txt").decode()
    assert word == "OSError: no space left"


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
    again = reopened(study)
    assert len(again.rows["no_kd-r0-0000"]) == 3
    assert again.judged["no_kd-r0-0000"] == 2  # the last one is judged by who hears it
    assert 0 <= again.score(again.rows["no_kd-r0-0000"][-1]) <= 1
