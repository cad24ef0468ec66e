from analysis.hyperparameters.importance import Importances, importances
from analysis.hyperparameters.slices import pair, parallel_rows, slices
from tests.analysis.surfaces import random_rows, row, study


def few():
    outcome = {"status": "stopped", "epochs": 5}
    return study(
        [
            row("response", 0, 0, 0.9, lr=0.1, dropout=0.0, temperature=4.0),
            row("response", 1, 1, 0.7, lr=0.5, dropout=0.2, temperature=2.0) | outcome,
            row("response", 1, 2, None, lr=0.9, dropout=0.1, temperature=9.0)
            | {"status": "failed"},
            row("feature", 0, 0, 0.8, lr=0.2, dropout=0.1, temperature=1.0),
        ]
    )


def test_a_slice_has_all_trials_that_have_a_value_with_status_and_repeat():
    points = slices(few(), "response")
    assert list(points) == ["lr", "dropout", "temperature"]
    assert [(p.trial, p.repeat, p.status, p.x, p.value) for p in points["dropout"]] == [
        ("response-r0-0000", 0, "finished", 0.0, 0.9),
        ("response-r1-0001", 1, "stopped", 0.2, 0.7),
    ]


def test_parallel_rows_have_all_parameters_in_the_order_of_the_ranges():
    assert [
        (r.trial, r.repeat, r.status, r.values, r.value) for r in parallel_rows(few(), "response")
    ] == [
        ("response-r0-0000", 0, "finished", (0.1, 0.0, 4.0), 0.9),
        ("response-r1-0001", 1, "stopped", (0.5, 0.2, 2.0), 0.7),
    ]


def test_a_pair_is_the_plane_of_the_two_parameters_that_matter_most():
    searched_study = study(random_rows(lambda p: 0.9 + 0.1 * p[2] - 0.05 * p[0]))
    plane = pair(searched_study, importances(searched_study, "response"))
    assert (plane.method, plane.x, plane.y) == ("response", "temperature", "lr")
    first = searched_study.rows[0]
    assert len(plane.points) == 40
    assert (plane.points[0].x, plane.points[0].y, plane.points[0].value) == (
        first["config.temperature"],
        first["config.lr"],
        first["val_accuracy"],
    )


def test_without_importances_there_is_no_pair():
    assert pair(few(), Importances(method="response", reason="too few")) is None


def test_a_study_that_has_searched_nothing_has_empty_slices():
    empty = study([])
    assert slices(empty, "response") == {"lr": (), "dropout": (), "temperature": ()}
    assert parallel_rows(empty, "response") == []
