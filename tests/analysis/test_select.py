"""Rows by what they are, the best of them on validation among finished trials, edges of ranges."""

from analysis import selection


def names(rows):
    return [row["trial"] for row in rows]


def test_only_finished_trials_are_ranked_and_the_best_comes_first(made_up):
    trials = names(selection.best(made_up.search, "response", top=4))
    assert trials == [f"response-{end}" for end in ("r2-0002", "r0-0001", "r1-0001", "r0-0002")]
    # of combined others were stopped with higher values, or failed
    assert names(selection.best(made_up.search, "combined", top=9)) == ["combined-r0-0000"]


def test_ties_go_to_the_lower_loss_then_to_the_earlier_trial(made_up):
    rows = [
        made_up.trial("feature", 3, 0.9, val_loss=0.4),
        made_up.trial("feature", 2, 0.9, val_loss=None),
        made_up.trial("feature", 5, 0.9, val_loss=0.3),
        made_up.trial("feature", 4, 0.9, val_loss=0.3),
        made_up.trial("feature", 1, float("nan")),
    ]
    assert names(selection.best(rows, "feature", top=9)) == [
        f"feature-r0-000{n}" for n in (4, 5, 3, 2)
    ]


def test_a_trial_of_two_stages_is_judged_by_its_last(made_up):
    rows = [
        made_up.trial("feature", 1, 0.7, stage=1, status="failed"),
        made_up.trial("feature", 1, 0.99, stage=0),
        made_up.trial("feature", 2, 0.8),
    ]
    assert names(selection.best(rows, "feature", top=9)) == ["feature-r0-0002"]


def test_the_default_settings_of_a_repeat_count_only_when_finished(made_up):
    rows = selection.default_trials(made_up.search, "response")
    assert {repeat: row["trial"] for repeat, row in rows.items()} == {
        repeat: f"response-r{repeat}-0000" for repeat in range(3)
    }
    # of combined the trials with default settings of repeats 1 and 2 were stopped
    assert list(selection.default_trials(made_up.search, "combined")) == [0]


def test_values_leave_out_what_is_not_a_number():
    runs = {1: {"x": 0.5}, 2: {"x": None}, 3: {"x": float("nan")}, 4: {}}
    assert selection.values(runs, "x") == {1: 0.5}
