"""kill -9 in the middle, then --resume: the rows are those of the search that nothing disturbed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end import studies
from tests.end_to_end.studies import ALONE, TINY, Command, Recorder
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import parse_search_trial, search_trial

pytestmark = pytest.mark.slow

METHODS = ("no_kd", "response", "feature", "combined")  # they take turns in this order
Moment = Callable[[Command, Path], bool]


def file_appears(pattern: str) -> Moment:
    """When a file of the study appears."""
    return lambda command, study: any(study.glob(pattern))


def prints(words: str) -> Moment:
    """When a line is printed."""
    return lambda command, study: words in command.stderr


# In the order in which a search comes to them.
MOMENTS: dict[str, Moment] = {
    "measuring, no manifest yet": prints("benchmarking a training step"),
    "in the teacher": file_appears("epochs/teacher-*.parquet"),
    "after a first epoch": file_appears("epochs/combined-r0-0000.*.parquet"),
    "in the last trial": file_appears("epochs/combined-r0-0002.*.parquet"),
}


def kill_at(command: Command, study: Path, moment: Moment, *, tree: bool = False) -> None:
    command.until(lambda: moment(command, study))
    command.kill(tree=tree)
    assert command.process.returncode == -9, command.output


def starts_ray(command: Command) -> bool:
    """Whether a command that runs to its end has Ray's processes below it."""
    has_ray = False
    while command.process.poll() is None:
        for pid in command.tree():
            line = studies.command_line(pid)
            has_ray = has_ray or "gcs_server" in line or "raylet" in line
    return has_ray


def compare(study: Path, undisturbed: studies.Rows, recorder: Recorder) -> None:
    """The rows are the undisturbed ones, no finished epoch was trained twice, the folder is tidy."""
    assert studies.differences(studies.rows(study), undisturbed) == []
    assert recorder.retrained_epochs() == []
    assert recorder.attempts().keys() == studies.finished_epochs(study)
    storage = Storage(study)
    assert storage.names("trials") == storage.names("epochs") == ["merged-00001.parquet"]
    assert storage.names("checkpoints") == []
    assert len(storage.names("students")) == 4  # the best of each method


def test_killed_and_resumed(calm, desk, tmp_path: Path) -> None:
    study, words = tmp_path / "runs" / "digits_kd", (*TINY, *ALONE, "--out", tmp_path / "runs")
    with Recorder(study, tmp_path / "kept") as recorder:
        kill_at(desk.search(*words), study, MOMENTS["after a first epoch"])
        epochs = studies.finished_epochs(study)
        desk.run("tune_kd.search", *words, "--resume")
    assert epochs < studies.finished_epochs(study)  # it was in the middle
    compare(study, calm.rows, recorder)


@pytest.mark.parametrize("tree", [False, True], ids=["driver", "tree"])
def test_killed_again_and_again(calm, teacherless, tmp_path: Path, tree: bool) -> None:
    study, words = tmp_path / "runs" / "digits_kd", (*TINY, *ALONE, "--out", tmp_path / "runs")
    with Recorder(study, tmp_path / "kept") as recorder:
        for moment in MOMENTS.values():
            kill_at(teacherless.search(*words, "--resume"), study, moment, tree=tree)
        teacherless.run("tune_kd.search", *words, "--resume")
    compare(study, calm.rows, recorder)


def test_killed_before_and_after_exact_writes(calm, desk, tmp_path: Path) -> None:
    """Between any two writes: what one process has written and another has not heard of."""
    ended = studies.statuses(calm.study)
    trials = [search_trial(method, 0, number) for number in range(3) for method in METHODS]
    first, second = [trial for trial in trials if ended[trial] == "stopped"][:2]
    kills = (
        "before trials/no_kd-r0-0000.parquet",  # trained to the end, no verdict
        "after checkpoints/response-r0-0000/00002.*",  # a checkpoint that no row names
        "after epochs/feature-r0-0000.*",  # a row that nobody was told of
        "before proposals/combined-r0-0000.json",
        "after students/combined-r0-0000.safetensors",  # weights of a trial that has no last row
        f"before trials/{first}.parquet",  # below its rung, no verdict
        f"after trials/{second}.parquet",  # a stop that its trial was not told of
        "after trials/merged-00001.parquet",  # beside what it replaces
        "before epochs/merged-00001.parquet",
    )
    study, words = tmp_path / "runs" / "digits_kd", (*TINY, *ALONE, "--out", tmp_path / "runs")
    armed = {"PYTHONPATH": f"{Path(__file__).with_name('killer')}:{studies.ROOT}"}
    with Recorder(study, tmp_path / "kept") as recorder:
        for kill in sorted(kills, key=lambda kill: turn(kill, trials)):
            command = desk.search(*words, "--resume", **armed, KILL=kill)
            assert command.wait() == -9, (kill, command.output)
        desk.run("tune_kd.search", *words, "--resume")
    compare(study, calm.rows, recorder)


def turn(kill: str, trials: list[str]) -> int:
    """When a search comes to a kill: at its trial, or when all have ended."""
    return next((n for n, trial in enumerate(trials) if trial in kill), len(trials))


def test_two_workers_lose_nothing_and_train_nothing_twice(desk, tmp_path: Path) -> None:
    words = (*TINY, "--max-concurrent", "2", "--out", tmp_path / "runs")
    study = tmp_path / "runs" / "digits_kd"
    with Recorder(study, tmp_path / "kept") as recorder:
        for number, tree in enumerate((False, True)):
            moment = file_appears(f"epochs/feature-r0-000{number}.*.parquet")
            kill_at(desk.search(*words, "--resume"), study, moment, tree=tree)
        desk.run("tune_kd.search", *words, "--resume")
    ended = studies.statuses(study)
    assert Counter(parse_search_trial(trial)[0] for trial in ended) == dict.fromkeys(METHODS, 3)
    assert set(ended.values()) <= {"finished", "stopped"}
    assert recorder.retrained_epochs() == []
    # A trial that was let past a rung just before the kill is judged again, against more trials, and
    # may stop there now: the epoch beyond is not in its verdict. All others are.
    rows, attempts = studies.finished_epochs(study), recorder.attempts().keys()
    assert rows <= attempts
    assert {ended.get(trial) for trial, _ in attempts - rows} <= {"stopped"}


def test_resuming_what_is_done_trains_nothing_and_starts_no_ray(calm, desk) -> None:
    before = studies.files(calm.study)
    command = desk.search(*TINY, *ALONE, "--out", calm.study.parent, "--resume")
    assert not starts_ray(command)
    assert command.wait() == 0, command.output
    assert command.stdout == calm.stdout
    assert studies.files(calm.study) == before
