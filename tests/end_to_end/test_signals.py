"""Signals, and what a study refuses."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end import studies
from tests.end_to_end.studies import ALONE, TINY, Command, Desk, Recorder

pytestmark = pytest.mark.slow


def test_signals_leave_with_130_and_say_how_to_go_on(calm, desk, tmp_path: Path) -> None:
    study, words = tmp_path / "runs" / "digits_kd", (*TINY, *ALONE, "--out", tmp_path / "runs")
    legs = (
        (signal.SIGINT, False, "epochs/response-r0-0000.*"),
        (signal.SIGTERM, True, "epochs/combined-r0-0000.*"),
        (signal.SIGTERM, False, "epochs/feature-r0-0001.*"),
        (signal.SIGINT, True, "epochs/no_kd-r0-0002.*"),
    )
    with Recorder(study, tmp_path / "kept") as recorder:
        for leg, (number, group, moment) in enumerate(legs):
            command = desk.search(*words, "--resume")
            command.until(lambda moment=moment: any(study.glob(moment)))
            if leg == 0:
                assert_refused(desk, command, words, study)
            command.signal(number, group=group)
            assert command.wait() == 130, (number, group, command.output)
            # the counts, or where Ray died of the same signal only how to go on
            last = (command.stdout.splitlines() or command.stderr.splitlines())[-1]
            again = f"resume with: python -m tune_kd.search {' '.join(map(str, words))} --resume"
            assert last.endswith(again), command.output
        desk.run("tune_kd.search", *words, "--resume")
    assert studies.differences(studies.rows(study), calm.rows) == []
    assert recorder.retrained_epochs() == []
    assert recorder.attempts().keys() == studies.finished_epochs(study)


def assert_refused(desk: Desk, first: Command, words: tuple[object, ...], study: Path) -> None:
    """A second search and a confirmation at the same time are errors, and leave the first alone."""
    os.kill(first.pid, signal.SIGSTOP)  # so that it is there for as long as this takes
    try:
        for module, *second in (("tune_kd.search", *words, "--resume"), ("tune_kd.confirm", study)):
            command = desk.start(module, *second)
            assert command.wait() == 2, command.output
            assert "another search or confirmation is running in" in command.stderr
    finally:
        os.kill(first.pid, signal.SIGCONT)


def test_a_signal_before_the_manifest(desk, tmp_path: Path) -> None:
    command = desk.search(*TINY, *ALONE, "--out", tmp_path / "runs")
    command.until(lambda: "benchmarking a training step" in command.stderr)
    command.signal(signal.SIGINT)
    assert command.wait() == 130, command.output
    assert command.stderr.splitlines()[-1].endswith("--resume")


CHANGED = {
    "a forgotten --resume": ((), "add --resume to continue it, or --name for another study"),
    "another seed": (("--resume", "--seed", "1"), "seed is 0 in the existing study, 1 requested"),
    "other epochs": (
        ("--resume", "--epochs", "7"),
        "epochs is 6 in the existing study, 7 requested",
    ),
    "fewer images": (
        ("--resume", "--limit-train", "200"),
        "limit_train is 400 in the existing study, 200",
    ),
    "a pinned range": (("--resume", "--set", "temperature=4"), "temperature"),
    "a subset of the methods": (("--resume", "--methods", "no_kd"), "methods.combined"),
    "another sampler": (
        ("--resume", "--sampler", "random"),
        "sampler is 'tpe' in the existing study, 'random'",
    ),
    "fewer trials": (("--resume", "--trials", "8"), "may only be raised"),
    "repeats of a quick look": (("--resume", "--repeats", "3"), "a repeat needs 5"),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_refused_with_the_difference_and_untouched(calm, desk, changed: str) -> None:
    arguments, message = CHANGED[changed]
    before = studies.files(calm.study)
    command = desk.search(*TINY, *ALONE, "--out", calm.study.parent, *arguments)
    assert command.wait() == 2, command.output
    assert message in command.stderr
    assert command.stderr.startswith("error: ")
    assert len(command.stderr.splitlines()) <= 2
    assert command.stdout == ""
    assert studies.files(calm.study) == before


def test_another_space_is_refused(calm, desk, tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    shutil.copy(Path(__file__).with_name("misbehaving.py"), space)
    words = ("--space", space, "--out", calm.study.parent, "--name", "digits_kd", "--resume")
    command = desk.search(*words)
    assert command.wait() == 2, command.output
    assert "space is 'digits_kd' in the existing study, 'misbehaving' requested" in command.stderr
