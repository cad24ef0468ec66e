"""Exceptions, NaN, dying workers and a full disk: each a row that says why, and the study goes on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.end_to_end import studies
from tests.end_to_end.studies import ALONE, Desk, Recorder
from tune_kd.study import results
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import search_trial

pytestmark = pytest.mark.slow
SHORT = ("--limit-train", "400")  # five batches an epoch


class DisturbedStudy(NamedTuple):
    """The study that has met every misfortune, the same one undisturbed, and what was recorded."""

    study: Path
    undisturbed: Path
    output: str  # with --quiet, on stdout and stderr
    notes: Path
    recorder: Recorder
    desk: Desk


@pytest.fixture(scope="module")
def disturbed(
    common_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DisturbedStudy]:
    folder = tmp_path_factory.mktemp("misfortune")
    space = folder / "mine.py"
    shutil.copy(Path(__file__).with_name("misbehaving.py"), space)
    words = ("--space", space, *SHORT, *ALONE, "--out", folder / "runs", "--name")
    notes = folder / "notes"
    notes.mkdir()
    study = folder / "runs" / "met"
    with (
        studies.desk(common_cache, folder / "desk") as desk,
        Recorder(study, folder / "kept") as recorder,
    ):
        desk.run("tune_kd.search", *words, "undisturbed")
        command = desk.run("tune_kd.search", *words, "met", "--quiet", MISFORTUNES=str(notes))
        undisturbed = folder / "runs" / "undisturbed"
        yield DisturbedStudy(
            study, undisturbed, command.stdout + command.stderr, notes, recorder, desk
        )


def test_failed_trials_count_and_the_study_goes_on(disturbed: DisturbedStudy) -> None:
    ends = {
        "well": ("finished", "finished"),
        "dies_once": ("finished", "finished"),
        "raises": ("failed", "failed"),
        "nan": ("failed", "failed"),
        "dies": ("failed", "finished"),
        "disk": ("failed", "finished"),
    }
    expected = {search_trial(m, 0, n): end for m, two in ends.items() for n, end in enumerate(two)}
    ended = studies.statuses(disturbed.study)
    stopped = {trial for trial, status in ended.items() if status == "stopped"}
    assert all(expected[trial] == "finished" and trial.endswith("1") for trial in stopped)
    assert ended == expected | dict.fromkeys(stopped, "stopped")


def reasons(disturbed: DisturbedStudy) -> dict[str, tuple[str, int]]:
    trials = results.read_trials(Storage(disturbed.study))
    return {r["trial"]: (r["reason"], r["epochs"]) for r in trials if r["status"] == "failed"}


def test_every_failure_says_why_after_how_many_epochs(disturbed: DisturbedStudy) -> None:
    raised = "ValueError: a mistake of the user"
    not_finite = "FloatingPointError: the loss is not finite in epoch 1"
    assert reasons(disturbed) == {
        "raises-r0-0000": (raised, 0),
        "raises-r0-0001": (raised, 0),
        "nan-r0-0000": (not_finite, 0),
        "nan-r0-0001": (not_finite, 0),
        "dies-r0-0000": ("its worker or its node died; tried three times", 1),
        "disk-r0-0000": ("OSError: [Errno 28] No space left on device; tried three times", 1),
    }


def test_a_dying_worker_is_tried_three_times_in_all(disturbed: DisturbedStudy) -> None:
    notes = {note.name: len(note.read_text()) for note in disturbed.notes.iterdir()}
    assert notes == {"dies_once": 1, "dies": 3, "disk": 3}


def test_a_worker_killed_once_goes_on_with_the_same_rows(disturbed: DisturbedStudy) -> None:
    def of(study: Path) -> studies.Rows:
        methods = ("well-", "dies_once-")
        return {k: v for k, v in studies.rows(study, "search").items() if k[1].startswith(methods)}

    assert studies.differences(of(disturbed.study), of(disturbed.undisturbed)) == []
    attempts = {r["trial"]: r["attempts"] for r in results.read_trials(Storage(disturbed.study))}
    assert attempts["dies_once-r0-0000"] == 2  # it really died
    assert disturbed.recorder.retrained_epochs() == []


def test_ray_says_nothing_of_its_dead_workers(disturbed: DisturbedStudy) -> None:
    words = [line.split(":")[0] for line in disturbed.output.splitlines()]
    few = "1 repeat of 2 trials for each method"
    assert words == ["well", "dies_once", "dies", "disk", few, "12 of 12 trials"]


def test_confirm_works_after_that_and_after_a_kill(
    disturbed: DisturbedStudy, tmp_path: Path
) -> None:
    killed = tmp_path / "met"
    shutil.copytree(disturbed.study, killed)
    words = ("--seeds", "1", *ALONE)
    disturbed.desk.run("tune_kd.confirm", disturbed.study, *words)
    with Recorder(killed, tmp_path / "kept") as recorder:
        command = disturbed.desk.start("tune_kd.confirm", killed, *words)
        command.until(lambda: any(killed.glob("epochs/confirm-*-s801.*")))
        command.kill()
        disturbed.desk.run("tune_kd.confirm", killed, *words)
    assert studies.differences(studies.rows(killed), studies.rows(disturbed.study)) == []
    assert recorder.retrained_epochs() == []
    confirmed = studies.statuses(disturbed.study, "confirm")
    assert set(confirmed.values()) == {"finished"}
    # the default settings of dies and of disk failed, so that their other trial alone is confirmed
    sources = {row["source"] for row in results.read_trials(Storage(disturbed.study))}
    assert not {"raises-r0-0000", "nan-r0-0000", "dies-r0-0000", "disk-r0-0000"} & sources
