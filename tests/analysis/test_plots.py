"""What the pictures show, as data; and that they can be drawn for every kind of study."""

import pytest

from analysis.plots import results, style
from analysis.study import load


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def test_the_history_has_all_trials_and_the_best_of_the_finished(study):
    points = [p for p in results.history(study) if p.method in ("response", "combined")]
    assert [tuple(p) for p in points if p.repeat < 2] == [
        ("response", 0, 0, "finished", 0.91, 0.91),
        ("response", 0, 1, "finished", 0.95, 0.95),
        ("response", 0, 2, "finished", 0.93, 0.95),
        ("response", 1, 0, "finished", 0.91, 0.91),  # each repeat begins anew
        ("response", 1, 1, "finished", 0.94, 0.94),
        ("response", 1, 2, "finished", 0.92, 0.94),
        ("combined", 0, 0, "finished", 0.90, 0.90),
        ("combined", 0, 1, "stopped", 0.99, 0.90),
        ("combined", 0, 2, "failed", None, 0.90),
        ("combined", 1, 0, "stopped", 0.99, None),
        ("combined", 1, 1, "failed", None, None),
        ("combined", 1, 2, "failed", None, None),
    ]
    assert len(points) == 18


def test_repeats_stand_one_after_another_in_the_history(study):
    panel = results.draw_history(study).axes[1]
    assert panel.get_title(loc="left") == "response"
    assert panel.get_xlabel() == "trial, repeats one after another"
    steps = [list(line.get_xdata()) for line in panel.lines if line.get_drawstyle() == "steps-post"]
    assert steps == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_curves_are_of_search_trials_and_know_which_one_is_chosen(study):
    curves = results.learning_curves(study)
    assert len(curves) == 36
    assert [c.trial for c in curves if c.is_recommended] == [
        "no_kd-r0-0001",
        "response-r0-0001",
        "feature-r0-0000",
        "combined-r0-0000",
    ]
    curve = next(c for c in curves if c.status == "stopped")
    assert (curve.epochs, curve.values) == ([1, 2], [0.99 * 0.75, 0.99 * 0.875])


def test_effects_are_differences_by_repeat(study):
    effects = results.effects(study)
    assert [e.method for e in effects] == ["response", "feature", "combined"]
    assert effects[0].by_repeat == pytest.approx([0.02, 0.025, 0.02])
    assert effects[0].verdict.label == "helps"
    assert effects[2].difference.low is None


def test_the_picture_of_differences_has_a_point_a_repeat(study):
    axes = results.draw_differences(study).axes[0]
    small = [list(line.get_xdata()) for line in axes.lines if line.get_markersize() == 5]
    assert small[0] == pytest.approx([2.0, 2.5, 2.0])
    assert [len(points) for points in small] == [3, 3, 1]
    assert any("no verdict: too few repeats" in text.get_text() for text in axes.texts)


def test_an_empty_study_has_no_pictures(made_up, tmp_path):
    empty = load(made_up.put(tmp_path / "x", []))
    assert {draw(empty) for draw in results.PLOTS.values()} == {None}


def test_a_picture_is_drawn_where_its_data_are_there(study):
    names = {name for name, draw in results.PLOTS.items() if draw(study)}
    usual = {"differences", "learning_curves", "history"}
    training = {"loss_components", "validation_accuracy", "all_losses", "learning_rate"}
    assert names == usual | {f"kd_{name}" for name in training}


def test_every_method_has_its_colour_and_every_panel_its_method(study):
    figure = results.PLOTS["kd_loss_components"](study)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["baseline (no_kd)", "response", "feature", "combined"]
    # the weighted sum and CE; KD in response and combined; features in feature and combined
    line_counts = [sum(len(line.get_xdata()) > 0 for line in axes.lines) for axes in figure.axes]
    assert line_counts == [2, 3, 3, 4]


def test_a_study_of_one_failed_trial_can_be_drawn(made_up, tmp_path):
    rows = [made_up.trial("no_kd", 0, None, status="failed", epochs=1)]
    study = load(made_up.put(tmp_path / "x", rows, methods={"no_kd": {}}))
    assert results.draw_differences(study) is None
    assert style.png(results.draw_history(study)).startswith(b"\x89PNG")
    assert style.png(results.draw_learning_curves(study)).startswith(b"\x89PNG")
