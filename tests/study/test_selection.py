"""Who is chosen: hand-made rows of search and re-evaluation."""

from tune_kd.study import selection
from tune_kd.study.trial_names import refit_trial, search_trial

METRIC = "val_accuracy"


def row(repeat, number, value, *, status="finished", method="response", **columns):
    return {
        "phase": "search",
        "method": method,
        "repeat": repeat,
        "number": number,
        "stage": 0,
        "trial": search_trial(method, repeat, number),
        "status": status,
        METRIC: value,
        "val_loss": 0.5,
    } | columns


def refit_row(source, seed, value, *, status="finished", method="response"):
    return row(0, 0, value, method=method) | {
        "phase": "reevaluate",
        "source": source,
        "seed": seed,
        "status": status,
        "trial": refit_trial("reevaluate", source=source, seed=seed),
    }


ROWS = [
    row(0, 0, 0.80), row(0, 1, 0.95), row(0, 2, 0.99, status="stopped"),
    row(1, 0, 0.94), row(1, 1, 0.70),
    row(2, 0, 0.93), row(3, 0, 0.92), row(3, 1, 0.99, method="no_kd"),
    row(4, 0, 0.99, status="failed"),
]  # fmt: skip


def test_each_repeat_has_the_winner_of_its_own_finished_trials():
    winners = selection.winners(ROWS, "response", metric=METRIC)
    assert {repeat: r["number"] for repeat, r in winners.items()} == {0: 1, 1: 0, 2: 0, 3: 0}


def test_the_three_best_winners_are_evaluated_again_and_a_lone_one_is_not():
    candidates = selection.candidates(ROWS, "response", metric=METRIC)
    assert [r["repeat"] for r in candidates] == [0, 1, 2]
    assert selection.candidates(ROWS, "no_kd", metric=METRIC) == []


def test_the_value_that_chose_a_winner_does_not_recommend_it():
    refits = [
        refit_row("response-r0-0001", 700, 0.90), refit_row("response-r0-0001", 701, 0.88),
        refit_row("response-r1-0000", 700, 0.86), refit_row("response-r1-0000", 701, 0.87),
        refit_row("response-r2-0000", 700, 0.92), refit_row("response-r2-0000", 701, 0.91),
    ]  # fmt: skip
    recommendation = selection.recommend(ROWS + refits, "response", metric=METRIC)
    assert recommendation is not None
    assert recommendation["trial"] == "response-r2-0000"


def test_without_fresh_values_the_best_on_validation_is_recommended():
    refits = [refit_row("response-r2-0000", 700, 0.99, status="failed")]
    recommendation = selection.recommend(ROWS + refits, "response", metric=METRIC)
    assert recommendation is not None
    assert recommendation["trial"] == "response-r0-0001"
    assert selection.recommend(ROWS, "feature", metric=METRIC) is None


def test_a_winner_that_breaks_a_constraint_is_no_candidate_where_another_keeps_it():
    rows = [row(0, 0, 0.9, size_mb=5.0), row(1, 0, 0.8, size_mb=2.0), row(2, 0, 0.7, size_mb=1.0)]
    limits = ["size_mb <= 3"]
    candidates = selection.candidates(rows, "response", metric=METRIC, constraints=limits)
    assert [r["repeat"] for r in candidates] == [1, 2]
    recommendation = selection.recommend(rows, "response", metric=METRIC, constraints=limits)
    assert recommendation is not None
    assert recommendation["repeat"] == 1
