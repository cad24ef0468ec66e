"""Several searches of each method: killed in a late one, broken off by a time budget, and made more."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import studies
from tests.end_to_end.studies import ALONE, Desk, Recorder
from tune_kd.study.trial_names import parse_search_trial, search_trial

pytestmark = pytest.mark.slow
METHODS = ("no_kd", "response")
SHORT = ("--space", "digits_kd", "--methods", *METHODS, "--epochs", "1", "--limit-train", "400")
THREE = (*SHORT, "--trials", "30", *ALONE)  # three repeats of five for each of two methods


@pytest.fixture(scope="module")
def undisturbed(common_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three repeats that nothing disturbed."""
    folder = tmp_path_factory.mktemp("repeats")
    with studies.desk(common_cache, folder / "desk") as desk:
        command = desk.run("tune_kd.search", *THREE, "--quiet", "--out", folder / "runs")
    assert command.stdout.splitlines()[-1].startswith("30 of 30 trials")
    return folder / "runs" / "digits_kd"


@pytest.fixture
def desk(undisturbed: Path, common_cache: Path, tmp_path: Path) -> Iterator[Desk]:
    """Commands over the common cache, in which the undisturbed study has left its teacher."""
    with studies.desk(common_cache, tmp_path / "desk") as desk:
        yield desk


def test_repeats_are_searched_in_order_and_each_has_its_winners(undisturbed: Path) -> None:
    ended = studies.statuses(undisturbed)
    names = [search_trial(m, r, n) for r in range(3) for n in range(5) for m in METHODS]
    assert sorted(ended) == sorted(names)
    rows = {
        key[1]: row for key, row in studies.rows(undisturbed, "search").items() if key[0] == "trial"
    }
    assert len({row["seed"] for row in rows.values()}) == 3
    winners = Counter(
        parse_search_trial(file.stem)[:2] for file in (undisturbed / "students").iterdir()
    )
    assert winners == {(method, repeat): 1 for method in METHODS for repeat in range(3)}


def test_killed_in_the_third_repeat_and_resumed(
    undisturbed: Path, desk: Desk, tmp_path: Path
) -> None:
    study, words = tmp_path / "runs" / "digits_kd", (*THREE, "--out", tmp_path / "runs")
    with Recorder(study, tmp_path / "kept") as recorder:
        command = desk.search(*words)
        command.until(lambda: any(study.glob("epochs/response-r2-0001.*")))
        command.kill()
        assert command.process.returncode == -9, command.output
        epochs = studies.finished_epochs(study)
        desk.run("tune_kd.search", *words, "--resume")
    assert epochs < studies.finished_epochs(study)  # it was in the middle
    assert studies.differences(studies.rows(study), studies.rows(undisturbed)) == []
    assert recorder.retrained_epochs() == []


def test_a_time_budget_ends_with_0_and_repeats_may_be_raised(
    undisturbed: Path, desk: Desk, tmp_path: Path
) -> None:
    study, out = tmp_path / "runs" / "digits_kd", tmp_path / "runs"
    shutil.copytree(undisturbed, study)
    before = studies.rows(undisturbed)
    words = (*THREE, "--out", out, "--resume")
    with Recorder(study, tmp_path / "kept") as recorder:
        command = desk.search(*words, "--repeats", "1000", "--time-budget", "15s")
        assert command.wait() == 0, command.output
        first = studies.statuses(study)
        assert 30 <= len(first) < 10_000
        last = command.stdout.splitlines()[-1]
        assert last.endswith("--repeats 1000 --time-budget 15s")  # --resume stands in it already
        trials = [path.stem for path in (study / "proposals").glob("*-r*")]
        repeats = max(5, *(parse_search_trial(trial)[1] + 1 for trial in trials))
        desk.run("tune_kd.search", *words, "--repeats", repeats)
    ended = studies.statuses(study)
    assert len(ended) == 10 * repeats
    assert {trial: ended[trial] for trial in first} == first
    assert recorder.retrained_epochs() == []
    # what was there is as it was
    now = studies.rows(study)
    assert studies.differences({key: now[key] for key in before}, before) == []
    # the command that began it has nothing left to do
    command = desk.run("tune_kd.search", *words)
    assert command.stdout.splitlines()[-1].startswith(f"{10 * repeats} of {10 * repeats} trials")
