"""Each method against the baseline: over repeats, over seeds, and with the choice of test images."""

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis import costs
from analysis.comparison import images, methods, stats
from analysis.study import load

T2 = 4.302653  # t(0.975, 2)
BITS = 16  # test images of a made-up run


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def test_the_three_comparisons_have_each_their_own_n(study):
    result = methods.results(study)["response"]
    assert result.by_repeat == pytest.approx({0: 0.02, 1: 0.025, 2: 0.02})
    counts = {
        "difference": result.difference.n,
        "default": result.default_difference.n,
        "bought": result.bought.n,
        "student": result.student.n,
        "curse": result.curse.difference.n,
    }
    assert counts == {"difference": 3, "default": 6, "bought": 3, "student": 5, "curse": 3}
    assert (result.verdict.label, result.student_verdict.label) == ("helps", "helps")


def test_verdicts_are_those_of_all_methods_judged_together(study):
    results = methods.results(study)
    differences = {m: results[m].difference for m in ("response", "feature", "combined")}
    verdicts = stats.rule(differences, margin=0.005, level=0.04)
    assert {method: results[method].verdict for method in differences} == verdicts
    holm_over_two = 2 * differences["response"].p_value()
    assert verdicts["response"].p == pytest.approx(holm_over_two)


def test_a_later_look_is_judged_more_strictly(made_up, tmp_path):
    first_look = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    second_look = load(made_up.put(tmp_path / "y", made_up.all_rows(), looks=2))
    assert (methods.level(first_look), methods.level(second_look)) == (0.04, 0.005)
    labels = [methods.results(s)["response"].verdict.label for s in (first_look, second_look)]
    assert labels == ["helps", "not settled"]  # p is 0.012


def test_the_baseline_has_no_difference_to_itself(study):
    result = methods.results(study)["no_kd"]
    differences = (result.difference, result.default_difference, result.student, result.verdict)
    assert differences == (None,) * 4
    assert result.bought.mean == pytest.approx(0.02)


def test_a_wider_margin_makes_a_small_effect_of_it(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows(), margin=0.05))
    assert methods.results(study)["response"].verdict.label == stats.SMALL_HELP


def with_images(rows, right):
    """Rows whose confirming runs got `right(row)`, bool [N], of N test images."""
    image_rows = []
    for row in rows:
        if row["phase"] == "confirm" and row["method"] and row["status"] == "finished":
            bits = right(row)
            columns = {"test_correct": np.packbits(bits).tobytes()}
            row = row | columns | {"test_confusion": [int(bits.sum()), int((~bits).sum()), 0, 0]}
        image_rows.append(row)
    return image_rows


def first(count, size=BITS):
    return np.arange(size) < count


def test_the_choice_of_test_images_widens_the_interval_by_hand(made_up, tmp_path):
    """Response gets the same 4 of 16 images more in every run: only the images are luck."""
    rows = with_images(made_up.all_rows(), lambda r: first(12 if r["method"] == "response" else 8))
    difference = methods.results(load(made_up.put(tmp_path / "x", rows)))["response"].difference
    # of 16 differences 4 are 1: variance 16 / 15 * 0.25 * 0.75
    error = math.sqrt(0.2 / 16)
    half = math.hypot(T2 * 0.005 / 3, 1.959964 * error)
    assert difference.image_se == pytest.approx(error)
    assert difference.high - difference.mean == pytest.approx(half, abs=1e-7)
    assert images.has_predictions(load(tmp_path / "x"))


def test_images_that_a_run_did_not_keep_are_not_guessed(made_up, tmp_path):
    rows = with_images(made_up.all_rows(), lambda r: first(12 if r["method"] == "response" else 8))
    trial = "confirm-response-r1-0001-s2000"
    rows = [r | {"test_correct": None} if r["trial"] == trial else r for r in rows]
    study = load(made_up.put(tmp_path / "x", rows))
    result = methods.results(study)["response"]
    assert result.difference.image_se == 0.0
    assert result.student.image_se > 0
    assert not images.has_predictions(study)


def test_runs_on_other_images_are_not_compared_image_by_image(made_up, tmp_path):
    rows = with_images(
        made_up.all_rows(), lambda r: first(8, 24 if r["method"] == "response" else BITS)
    )
    study = load(made_up.put(tmp_path / "x", rows))
    assert methods.results(study)["response"].difference.image_se == 0.0


def test_packed_images_are_read_back_without_the_padding():
    right = np.array([True, False, True, True, False])
    row = {"test_correct": np.packbits(right).tobytes(), "test_confusion": [3, 2, 0, 0]}
    assert images.correct(row).tolist() == right.tolist()
    assert images.correct({"test_correct": None}) is None


def test_counts_of_a_segmented_image_have_their_shape():
    assert images.counts({"test_counts": list(range(12))}, 2).tolist() == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7, 8], [9, 10, 11]],
    ]
    assert images.counts({"test_counts": [1, 2, 3, 4]}, 2) is None


def test_the_images_of_a_dense_study_count(made_up, dense, tmp_path):
    """Response finds all of the class in one image more, in every run, of three images."""

    def counts(row):
        pixels = 4 if row["method"] == "response" else 0
        return [*(4, 4, 4) * 2, *(4, 4, 4), *(pixels, pixels, 4), *(4, 4, 4) * 2]

    rows = [
        r | {"test_counts": counts(r)} if r["phase"] == "confirm" and r["method"] else r
        for r in dense.rows
    ]
    manifest = replace(dense.manifest, images=replace(dense.manifest.images, num_classes=2))
    study = load(made_up.put(tmp_path / "y", rows, **vars(manifest)))
    assert images.has_predictions(study)
    assert methods.results(study)["response"].difference.image_se > 0.01


def test_the_first_rung_against_the_end_by_hand(made_up, tmp_path):
    values = {0: 0.90, 1: 0.92, 2: 0.91, 3: 0.93}
    rows = [made_up.trial("no_kd", n, v) for n, v in values.items()]
    study = load(made_up.put(tmp_path / "x", rows))
    early = dict(zip(values, (0.5, 0.4, 0.6, 0.7), strict=True))
    for trial, epochs in study.curves.items():
        epochs[1]["val_accuracy"] = early[int(trial[-4:])]
    # ranks at epoch 2: 2 1 3 4, at the end: 1 3 2 4: 1 - 6 * (1 + 4 + 1 + 0) / (4 * 15)
    correlation = methods.rung_correlation(study, "no_kd")
    assert (correlation.epoch, correlation.n, correlation.value) == (2, 4, pytest.approx(0.4))


def test_two_trials_or_no_rungs_have_no_rank_correlation(made_up, tmp_path):
    rows = [made_up.trial("no_kd", n, 0.9 + n / 100) for n in range(2)]
    assert methods.rung_correlation(load(made_up.put(tmp_path / "x", rows)), "no_kd") is None
    study = load(made_up.put(tmp_path / "y", made_up.search, rungs=[]))
    assert methods.rung_correlation(study, "no_kd") is None


def test_the_teachers_cost_needs_a_teacher_that_was_trained_here(made_up, tmp_path, study):
    cost = costs.teacher_cost(study)
    assert cost == costs.TeacherCost(teacher_s=30, student_s=30, search_s=90, default_s=30)
    assert (cost.students, cost.pays_from) == (1.0, 1)
    assert replace(cost, search_s=30.0).pays_from is None  # a search is no dearer than one training
    assert replace(cost, default_s=None).pays_from is None
    rows = [r | {"origin": "file"} if r["phase"] == "teacher" else r for r in made_up.all_rows()]
    assert costs.teacher_cost(load(made_up.put(tmp_path / "y", rows))) is None
    assert costs.teacher_cost(load(made_up.put(tmp_path / "z", []))) is None


def test_only_whole_searches_say_what_a_search_costs(made_up, tmp_path):
    names = ("no_kd-r1-0002", "no_kd-r2-0002")
    rows = [r for r in made_up.all_rows() if r["trial"] not in names]
    rows = [r | {"seconds": 50.0} if r["trial"] == "no_kd-r0-0002" else r for r in rows]
    assert costs.teacher_cost(load(made_up.put(tmp_path / "x", rows))).search_s == 110
