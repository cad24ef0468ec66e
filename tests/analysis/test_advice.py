"""Warnings before the numbers, and what to do next."""

import pytest

from analysis.advice import advice, warnings
from analysis.commands import confirm_command, search_command
from analysis.study import load


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def test_a_weak_teacher_is_said_loudly_and_a_good_one_not(made_up, tmp_path, study):
    assert warnings(study) == []
    rows = [*made_up.teacher(val=0.89, test=None), *made_up.search]
    weak = load(made_up.put(tmp_path / "weak", rows))
    # the baseline's trials with default settings: 0.90, 0.90, 0.89; never the best trial, which has 0.93
    assert warnings(weak)[0].startswith("THE TEACHER IS WORSE")
    assert (
        "validation accuracy, %: 89.00 (n = 1) against 89.67 ± 0.58 (n = 3) of the baseline with its default"
        in warnings(weak)[0]
    )
    rows = [*made_up.teacher(val=0.92, test=None), *made_up.search]
    assert warnings(load(made_up.put(tmp_path / "fair", rows))) == []


def test_once_confirmed_the_teacher_is_compared_on_test_with_the_tuned_baseline(made_up, tmp_path):
    rows = [*made_up.teacher(val=0.5, test=0.905), *made_up.search, *made_up.confirm]
    (text,) = warnings(load(made_up.put(tmp_path / "x", rows)))
    assert "test accuracy, %: 90.50 (n = 1) against 91.00 ± 1.00 (n = 3) of the tuned base" in text
    rows = [*made_up.teacher(val=0.5, test=0.915), *made_up.search, *made_up.confirm]
    assert warnings(load(made_up.put(tmp_path / "y", rows))) == []


def test_a_foreign_teacher_and_a_missing_baseline_are_said(made_up, tmp_path):
    changes = {"teacher_file": "mine.pt", "methods": {"response": {}}}
    sentences = warnings(load(made_up.put(tmp_path / "x", made_up.search, **changes)))
    assert "mine.pt" in sentences[0]
    assert "may have seen" in sentences[0]
    assert "no baseline" in sentences[1]


def test_advice_on_lost_repeats_and_failed_trials(study):
    assert advice(study) == [
        "**combined**: no trial has finished in repeats 1, 2: it counts for nothing there, so that n = 1 of "
        "3 repeats.",
        "**combined**: of 9 trials 5 failed, 3 stopped early, 1 finished; only these are ranked.",
    ]


def test_a_value_near_the_end_of_its_range_is_no_reason_to_widen_it(made_up, tmp_path):
    """One value in twenty lies there by chance."""
    rows = [r | {"config.lr": 0.99} if r["phase"] == "search" else r for r in made_up.all_rows()]
    assert not any("widen" in text for text in advice(load(made_up.put(tmp_path / "x", rows))))


def test_advice_to_confirm_again_when_the_search_went_on(made_up, tmp_path):
    rows = [*made_up.all_rows(), made_up.trial("response", 3, 0.97)]
    address = made_up.put(tmp_path / "x", rows)
    assert advice(load(address))[0] == (
        "**response**: trial response-r0-0003 is now better on validation than trial response-r0-0001, "
        "which was confirmed."
    )
    assert f"`python -m tune_kd.confirm {address} --seeds 2`" in advice(load(address))[1]


def test_advice_to_confirm_repeats_that_were_added(made_up, tmp_path):
    rows = [*made_up.all_rows(), made_up.trial("feature", 0, 0.97, repeat=3)]
    address = made_up.put(tmp_path / "x", rows)
    assert advice(load(address))[0] == (
        f"**feature**: not confirmed in repeat 3. Type `python -m tune_kd.confirm {address} --seeds 2`."
    )


def test_the_commands_keep_what_was_typed(made_up, tmp_path):
    command = (
        "python -m tune_kd.search --space digits_kd --trials 64 --repeats=4 --data 'my images'"
    )
    study = load(made_up.put(tmp_path / "x", [], command=command))
    assert search_command(study, repeats=9) == (
        "python -m tune_kd.search --space digits_kd --data 'my images' --resume --repeats 9"
    )
    assert search_command(study).endswith("--data 'my images' --resume")
    assert confirm_command(study) == f"python -m tune_kd.confirm {tmp_path / 'x'}"
    study = load(made_up.put(tmp_path / "y", [], command=""))
    assert search_command(study) == "python -m tune_kd.search --space digits_kd --resume"
    access = b'{"design": {"repeats": [0], "seeds": 1, "defaults": false}}'
    study.storage.write("test_access/0001.json", access)
    assert confirm_command(load(str(tmp_path / "y"))).endswith("y --seeds 1 --no-defaults")
