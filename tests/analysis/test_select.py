"""Rows by what they are, the best of them on validation among finished trials, edges of ranges."""

import pytest

from analysis import select


def names(rows):
    return [row["trial"] for row in rows]


def test_only_finished_trials_are_ranked_and_the_best_comes_first(made_up):
    found = names(select.best(made_up.search, "response", top=4))
    assert found == [f"response-{end}" for end in ("r2-0002", "r0-0001", "r1-0001", "r0-0002")]
    # of combined others were stopped with higher values, or failed
    assert names(select.best(made_up.search, "combined", top=9)) == ["combined-r0-0000"]


def test_ties_go_to_the_lower_loss_then_to_the_earlier_trial(made_up):
    rows = [
        made_up.trial("feature", 3, 0.9, val_loss=0.4),
        made_up.trial("feature", 2, 0.9, val_loss=None),
        made_up.trial("feature", 5, 0.9, val_loss=0.3),
        made_up.trial("feature", 4, 0.9, val_loss=0.3),
        made_up.trial("feature", 1, float("nan")),
    ]
    assert names(select.best(rows, "feature", top=9)) == [
        f"feature-r0-000{n}" for n in (4, 5, 3, 2)
    ]


def test_a_trial_of_two_stages_is_judged_by_its_last(made_up):
    rows = [
        made_up.trial("feature", 1, 0.7, stage=1, status="failed"),
        made_up.trial("feature", 1, 0.99, stage=0),
        made_up.trial("feature", 2, 0.8),
    ]
    assert names(select.best(rows, "feature", top=9)) == ["feature-r0-0002"]


def test_the_textbook_trial_of_a_repeat_counts_only_when_finished(made_up):
    found = select.textbooks(made_up.search, "response")
    assert {repeat: row["trial"] for repeat, row in found.items()} == {
        repeat: f"response-r{repeat}-0000" for repeat in range(3)
    }
    # of combined the textbook trials of repeats 1 and 2 were stopped
    assert list(select.textbooks(made_up.search, "combined")) == [0]


def test_values_leave_out_what_is_not_a_number():
    runs = {1: {"x": 0.5}, 2: {"x": None}, 3: {"x": float("nan")}, 4: {}}
    assert select.values(runs, "x") == {1: 0.5}


@pytest.mark.parametrize(
    ("value", "low", "high", "log", "end"),
    [
        (0.05, 0.0, 1.0, False, ""),  # nothing below 0 to widen to
        (1.05, 1.0, 2.0, False, "lower"),
        (1.06, 1.0, 2.0, False, ""),
        (1.95, 1.0, 2.0, False, "upper"),
        (0.9, 0.01, 1.0, True, "upper"),  # 97.7 % of the way in log space
        (0.9, 0.01, 1.0, False, ""),  # 89.9 % of the way otherwise
        (0.012, 0.01, 1.0, True, "lower"),  # 4.0 %
        (0.013, 0.01, 1.0, True, ""),  # 5.7 %
        (4.0, 4.0, 4.0, False, ""),  # pinned
    ],
)
def test_edges_of_ranges(value, low, high, log, end):
    assert select.edge(value, low, high, log=log) == end
