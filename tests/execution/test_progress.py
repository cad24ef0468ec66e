"""What is shown while a run goes on."""

import io
import os
import time

import pytest
from rich.console import Console

from tests.helpers import made_study
from tests.helpers.made_study import Progress, begin, request, row
from tune_kd.execution.progress import duration_text


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path):
    options = request(tmp_path / "made", trials=8)
    new_study = begin(options)
    plan = made_study.plan(new_study, options)
    for _ in range(6):
        plan.next()
    return new_study


def end(study, trial: str, value: float, status: str = "finished", reason: str = "") -> None:
    proposal = study.proposals[trial]
    study.on_report(row(study, proposal, 1, value, seconds=30.0))
    study.judged_epochs[trial] = 1
    study.end(trial, status, reason)


def terminal() -> tuple[Console, io.StringIO]:
    """A console that believes it is a terminal, and what it is sent."""
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=120, color_system=None), output


def test_without_a_terminal_there_is_a_plain_line_a_trial(study, capsys):
    progress = Progress()
    progress.follow(study, "search", 8)
    progress.concurrent = 2
    with progress.live(None, every=30):
        progress.say("first")
        end(study, "no_kd-r0-0000", 0.98765)
        progress.update()
        progress.update()
        end(study, "response-r0-0000", 0.5, "stopped", "rung 1: made")
        end(study, "feature-r0-0000", 0.4, "failed", "ValueError: made")
        progress.update()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert err.splitlines() == [
        "first",
        "1/8 no_kd-r0-0000 finished val_accuracy 98.77 %, 1 epochs, 30 s; about 1 min 45 s left",
        "2/8 response-r0-0000 stopped val_accuracy 50.00 % (rung 1: made), 1 epochs, 30 s; about 1 min 15 s left",
        "3/8 feature-r0-0000 failed val_accuracy 40.00 % (ValueError: made), 1 epochs, 30 s; about 1 min 15 s left",
    ]


def test_each_line_counts_what_has_ended_by_then(study, capsys):
    progress = Progress()
    progress.follow(study, "search", 8)
    for number, trial in enumerate(["no_kd-r0-0000", "response-r0-0000"], 1):
        end(study, trial, 0.5)
        progress.update()
        assert capsys.readouterr().err.startswith(f"{number}/8 {trial} finished")


def test_what_ended_before_is_not_told_again(study, capsys):
    end(study, "no_kd-r0-0000", 0.5)
    progress = Progress()
    progress.follow(study, "search", 8)
    with progress.live(None, every=30):
        end(study, "response-r0-0000", 0.5)
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["2/8", "response-r0-0000"]
    ]


def test_on_a_terminal_there_is_one_table(study, capsys):
    progress = Progress()
    progress.console, output = terminal()
    progress.follow(study, "search", 8)
    progress.running = lambda: ["response-r0-0001", "no_kd-r0-0001"]
    with progress.live(None, every=30):
        end(study, "no_kd-r0-0000", 0.9)
        end(study, "response-r0-0000", 0.8)
        end(study, "feature-r0-0000", 0.7, "failed", "ValueError: made")
        end(study, "combined-r0-0000", 0.6, "stopped", "rung 1: made")
        progress.update()
        progress.say("a [line] above")
    assert capsys.readouterr() == ("", "")
    text = output.getvalue()
    assert "made: search, 4 of 8 trials" in text
    last = text[text.rindex("made: search") :]
    lines = {line.split()[1]: line.split() for line in last.splitlines() if line.startswith("│")}
    cells = {name: [c for c in words if c != "│"] for name, words in lines.items()}
    assert cells["no_kd"] == ["no_kd", "1", "0", "0", "1", "90.00", "%", "no_kd-r0-0000"]
    assert cells["response"] == ["response", "1", "0", "0", "1", "80.00", "%", "response-r0-0000"]
    assert cells["feature"] == ["feature", "0", "0", "1", "0"]
    assert cells["combined"] == ["combined", "0", "1", "0", "0"]
    assert list(cells) == ["no_kd", "response", "feature", "combined"]
    assert "a [line] above" in text
    assert "3/8 feature-r0-0000 failed" in text or "feature-r0-0000 failed" in text
    assert "no_kd-r0-0000 finished" not in text


def test_no_color_means_plain_lines(study, capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    progress = Progress()
    progress.console, output = terminal()
    progress.follow(study, "search", 8)
    with progress.live(None, every=30):
        end(study, "no_kd-r0-0000", 0.9)
        progress.update()
    assert "no_kd-r0-0000 finished" in output.getvalue()
    assert "Method" not in output.getvalue()


@pytest.mark.parametrize("on_terminal", [False, True])
def test_quiet_is_silent_but_warns(study, capsys, on_terminal):
    progress = Progress(quiet=True)
    if on_terminal:
        output = io.StringIO()
        progress.console = Console(file=output, force_terminal=True, quiet=True)
    progress.follow(study, "search", 8)
    with progress.live(lambda: "waiting", every=0.0):
        progress.say("words")
        end(study, "no_kd-r0-0000", 0.5)
        progress.update()
    assert capsys.readouterr() == ("", "")
    assert not on_terminal or output.getvalue() == ""
    progress.warn("mind this")
    assert capsys.readouterr().err == "warning: mind this\n"


def test_what_is_waited_for_is_said_while_nothing_runs(study, capsys):
    progress = Progress()
    progress.follow(study, "search", 8)
    with progress.live(lambda: "waiting for 1 GPU", every=0.0):
        deadline, output = time.monotonic() + 30, ""
        while "waiting" not in output and time.monotonic() < deadline:
            time.sleep(0.05)
            output += capsys.readouterr().err
    assert output.splitlines()[0] == "waiting for 1 GPU"
    progress = Progress()
    progress.running = lambda: ["no_kd-r0-0000"]
    with progress.live(lambda: "waiting for 1 GPU", every=0.0):
        time.sleep(2.5)
    assert capsys.readouterr().err == ""


def test_durations():
    assert [duration_text(s) for s in (0, 59.4, 59.6, 61)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "1 min 01 s",
    ]
    assert [duration_text(s) for s in (3599.4, 3600, 90061)] == [
        "59 min 59 s",
        "1 h 00 min",
        "25 h 01 min",
    ]
