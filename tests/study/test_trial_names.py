"""Names of trials: they are names of files of existing studies, so each is stated here."""

import pytest

from tune_kd.study import trial_names

ID = "0123456789abcdef"


def test_every_name_is_what_studies_on_disk_have() -> None:
    assert trial_names.search_trial("no_kd", 2, 7) == "no_kd-r2-0007"
    assert trial_names.search_trial("no_kd", 10, 12345) == "no_kd-r10-12345"
    source = "no_kd-r2-0007"
    reevaluated = trial_names.refit_trial("reevaluate", source=source, seed=700)
    assert reevaluated == "reevaluate-no_kd-r2-0007-s700"
    confirmed = trial_names.refit_trial("confirm", source=source, seed=3001)
    assert confirmed == "confirm-no_kd-r2-0007-s3001"
    assert trial_names.confirm_trial("teacher") == "confirm-teacher"
    assert trial_names.confirm_trial("start") == "confirm-start"
    assert trial_names.measure_trial("teacher") == "measure-teacher"
    assert trial_names.measure_trial("student") == "measure-student"
    assert trial_names.measure_trial(source) == "measure-no_kd-r2-0007"
    assert trial_names.teacher_trial(ID) == "teacher-01234567"
    assert trial_names.shared_trial(ID) == "shared-01234567"
    assert trial_names.start_trial(ID) == "start-01234567"
    assert trial_names.retry_trial("shared-01234567", 3) == "shared-01234567-3"


@pytest.mark.parametrize("method", ["no_kd", "low-rank", "x-r1-0002", "measure-x", "é 1"])
@pytest.mark.parametrize(("repeat", "number"), [(0, 0), (2, 7), (12, 9999), (0, 10000)])
def test_a_search_trial_is_read_as_it_was_named(method: str, repeat: int, number: int) -> None:
    name = trial_names.search_trial(method, repeat, number)
    assert trial_names.parse_search_trial(name) == (method, repeat, number)


@pytest.mark.parametrize(
    "name",
    [
        trial_names.refit_trial("confirm", source="no_kd-r2-0007", seed=3001),
        trial_names.confirm_trial("teacher"),
        trial_names.measure_trial("student"),
        trial_names.teacher_trial(ID),
        trial_names.retry_trial(trial_names.shared_trial(ID), 2),
        "no_kd-r0-007",
        "-r0-0000",
    ],
)
def test_other_names_are_no_search_trials(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a search trial"):
        trial_names.parse_search_trial(name)


@pytest.mark.parametrize("number", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("make", [trial_names.teacher_trial, trial_names.start_trial])
def test_a_try_is_read_as_it_was_named(make, number: int) -> None:
    trial = make(ID)
    name = trial_names.retry_trial(trial, number)
    assert trial_names.retry_number(name, trial=trial) == number
    assert trial_names.is_start_trial(name) == (make is trial_names.start_trial)


def test_other_names_are_no_tries() -> None:
    trial = trial_names.teacher_trial(ID)
    others = [f"{trial}-r0-0000", f"{trial}-", f"{trial}0", trial[:-1], trial_names.start_trial(ID)]
    assert [trial_names.retry_number(name, trial=trial) for name in others] == [None] * len(others)
