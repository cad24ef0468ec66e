"""Which trial stands for a method: on validation, among finished trials, never on test."""

import pytest

from analysis import select


def names(rows):
    return [row["trial"] for row in rows]


def test_only_finished_trials_are_ranked_and_the_best_comes_first(made_up):
    assert names(select.best(made_up.search, "response", top=9)) == [
        "response-1",
        "response-2",
        "response-0",
    ]
    # combined-1 was stopped with a higher value than any, combined-2 failed
    assert names(select.best(made_up.search, "combined", top=9)) == ["combined-0"]


def test_ties_go_to_the_lower_loss_then_to_the_earlier_trial(made_up):
    rows = [
        made_up.trial("feature", 3, 0.9, val_loss=0.4),
        made_up.trial("feature", 2, 0.9, val_loss=None),
        made_up.trial("feature", 5, 0.9, val_loss=0.3),
        made_up.trial("feature", 4, 0.9, val_loss=0.3),
        made_up.trial("feature", 1, float("nan")),
    ]
    assert names(select.best(rows, "feature", top=9)) == [f"feature-{n}" for n in (4, 5, 3, 2)]


def test_a_trial_of_two_stages_is_judged_by_its_last(made_up):
    rows = [
        made_up.trial("feature", 1, 0.7, stage=1, status="failed"),
        made_up.trial("feature", 1, 0.99, stage=0),
        made_up.trial("feature", 2, 0.8),
    ]
    assert names(select.best(rows, "feature", top=9)) == ["feature-2"]


def test_the_textbook_trial_counts_only_when_finished(made_up):
    found = select.textbook(made_up.search, "response")
    assert found is not None
    assert found["trial"] == "response-0"
    failed = [made_up.trial("response", 0, None, status="failed")]
    assert select.textbook(failed, "response") is None


def test_the_winner_is_the_best_of_several_methods_on_validation(made_up):
    firsts = [select.chosen(made_up.search, m) for m in ("feature", "response", "combined")]
    assert select.winner(firsts)["trial"] == "response-1"
    assert select.winner(firsts, barred={"response-1"})["trial"] == "feature-0"
    assert select.winner(firsts[1:2], barred={"response-1"})["trial"] == "response-1"
    assert select.winner([]) is None


def test_confirmed_values_by_seed_leave_failures_out(made_up):
    rows = made_up.all_rows()
    assert select.confirmed(rows, "response-1") == {1000: 0.92, 1001: 0.935, 1002: 0.94}
    assert select.confirmed(rows, "combined-0") == {1000: 0.88}
    assert select.confirmed(rows, "response-2") == {}


def test_of_several_confirmed_trials_one_that_keeps_the_constraints_is_chosen(made_up):
    rows = [*made_up.all_rows(), *made_up.confirmation("response", 2, "best", [0.9, 0.9, 0.9])]
    assert select.chosen(rows, "response")["trial"] == "response-1"
    assert select.chosen(rows, "response", barred={"response-1"})["trial"] == "response-2"
    assert (
        select.chosen(rows, "response", barred={"response-1", "response-2"})["trial"]
        == "response-1"
    )


def test_of_several_confirmed_trials_validation_chooses_not_test(made_up):
    rows = [*made_up.all_rows(), *made_up.confirmation("response", 2, "best", [1.0, 1.0, 1.0])]
    assert select.chosen(rows, "response")["trial"] == "response-1"


def test_a_confirmed_trial_stands_for_its_method_until_the_better_one_is_confirmed(made_up):
    rows = [*made_up.all_rows(), made_up.trial("response", 3, 0.97)]
    assert select.chosen(rows, "response")["trial"] == "response-1"
    assert select.chosen(made_up.search, "response")["trial"] == "response-1"
    assert select.chosen([], "response") is None


def test_confirming_the_textbook_alone_chooses_nothing(made_up):
    rows = [*made_up.search, *made_up.confirmation("response", 0, "textbook", [0.9])]
    assert select.chosen(rows, "response")["trial"] == "response-1"


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
