"""Tables and pictures of studies with a label a pixel."""

import io

import numpy as np
import pytest

from analysis import confusion, report, summary
from analysis.advice import warnings
from analysis.comparison.verdicts import verdicts
from analysis.plots import confusion as plots_confusion
from analysis.plots import results, segmentation
from analysis.study import load
from analysis.tables import common, comparison
from tests.analysis import kinds
from tests.analysis.kinds import cells, headings
from tune_kd.study.trial_names import measure_trial

T1, T2 = 12.706205, 4.302653  # t(0.975, 1) and t(0.975, 2)


def test_a_dense_study_speaks_of_miou_everywhere(dense):
    title, frame = common.TABLES["main"](dense)
    assert title == "Test mIoU"
    assert frame["Test mIoU, %, mean ± sd (n repeats)"].to_list() == [
        "70.00 (n = 1)",
        "51.00 ± 1.41 (n = 2)",
        "63.00 ± 4.24 (n = 2)",
    ]
    assert verdicts(dense)[0].startswith(
        "**response: no verdict about the method**: the study has 2 "
    )
    assert "percentage points of test mIoU" in verdicts(dense)[0]
    title, frame = common.validation(dense)
    assert title.startswith("Validation mIoU of the search")
    assert frame.iloc[:, 1].to_list() == [
        "71.00 (n = 1)",
        "51.00 ± 0.00 (n = 2)",
        "61.00 ± 0.00 (n = 2)",
    ]
    raw = summary.raw(dense).set_index("method")
    assert raw["val_miou"].to_list() == [0.71, 0.51, 0.61]
    assert set(raw["metric"]) == {"test_miou"}
    assert list(report.accuracies([dense])["cnn"].values()) == pytest.approx([0.70, 0.51, 0.63])
    values = report.details(dense)["tuned_test_miou_by_seed"]["response"]
    assert values == {0: {1000: 0.60}, 1: {2000: 0.66}}
    axis = results.PLOTS["history"](dense).axes[0].get_ylabel()
    assert axis == "validation mIoU, %"
    assert results.PLOTS["kd_validation_accuracy"](dense) is None
    assert results.PLOTS["kd_validation_miou"](dense).axes[0].get_ylabel() == "validation mIoU, %"


def test_a_weak_teacher_is_judged_by_the_studys_metric(made_up, tmp_path):
    rows, changes = kinds.dense(made_up)
    rows[0]["val_miou"] = 0.40
    search_rows = [row for row in rows if row["phase"] != "confirm"]
    sentences = warnings(load(made_up.put(tmp_path / "x", search_rows, **changes)))
    assert (
        "validation mIoU, %: 40.00 (n = 1) against 51.00 ± 0.00 (n = 2) of the base" in sentences[0]
    )
    # once confirmed the tuned baseline is what the teacher is compared with: 0.70 against 0.51
    assert warnings(load(made_up.put(tmp_path / "y", rows, **changes))) == []


def test_the_comparison_file_is_the_labs_to_the_letter(made_up, tmp_path):
    foot = {"num_params": 2_812_345.0}
    rows = [
        made_up.row(
            phase="measure", trial="measure-student", latency_ms=45.23, latency_ms_sd=1.52, **foot
        )
    ]
    times = {"response": (45.67, 1.48), "feature": (45.89, 1.55)}
    for method, value in (("no_kd", 0.6245), ("response", 0.6387), ("feature", 0.6412)):
        rows.append(made_up.trial(method, 0, 0.9, val_miou=0.5, stage_name="Prune", **foot))
        source = made_up.name(method, 0, 0)
        (row,) = made_up.confirmation(source, "best", [0.9])
        rows.append(row | {"test_miou": value})
        if method in times:
            mean, sd = times[method]
            rows.append(
                made_up.row(
                    phase="measure",
                    method=method,
                    trial=measure_trial(source),
                    source=source,
                    latency_ms=mean,
                    latency_ms_sd=sd,
                    **foot,
                )
            )
    methods = {m: {} for m in ("no_kd", "response", "feature")}
    study = load(made_up.put(tmp_path / "x", rows, methods=methods, metric="val_miou", dense=True))
    assert comparison.text(study).decode() == (
        "Knowledge Distillation          mIoU         # Parameters       Inference Speed (ms)\n"
        "------------------------------------------------------------------------------------------\n"
        "Without KD (Baseline)           0.6245       2.81M              45.23 ± 1.52\n"
        "Response-Based                  0.6387       2.81M              45.67 ± 1.48\n"
        "Feature-Based                   0.6412       2.81M              45.89 ± 1.55\n"
        "\n"
        "IMPROVEMENTS OVER BASELINE:\n"
        "  Response-Based                  +0.0142 (+2.27%)\n"
        "  Feature-Based                   +0.0167 (+2.67%)\n"
    )


def test_the_comparison_with_several_repeats_has_spread_and_n(dense):
    title, text = common.TABLES["comparison"](dense)
    assert "test split" in title
    assert headings(text) == [
        "Knowledge Distillation",
        "mIoU",
        "# Parameters",
        "Inference Speed (ms)",
    ]
    assert cells(text)[0][1:3] == ["0.5100 ± 0.0141 (n = 2)", "2.81M"]
    # differences 0.10 and 0.14: mean 0.12, sd 0.02 sqrt 2, half T1 * 0.02; 0.12 / 0.51 = 23.53 %
    low, high = 0.12 - T1 * 0.02, 0.12 + T1 * 0.02
    assert f"- Response-Based: +0.1200 (+23.53%) [{low:+.4f}, {high:+.4f}] (n = 2)" in text
    lines = comparison.text(dense).decode().splitlines()
    assert lines[0].index("# Parameters") == lines[2].index("2.81M")
    assert len({line.index("45.23") for line in lines[2:4]} | {lines[0].index("Inference")}) == 1


def test_classes_are_means_over_seeds_of_iou_by_hand(dense):
    title, text = common.TABLES["classes"](dense)
    assert title == "Classes: IoU, % (test split)"
    # background of no_kd: 80 / (100 + 10) and 80 / 100; of response: 90 / 100 and 90 / 102
    base, kd = (80 / 110 + 0.8) / 2 * 100, (0.9 + 90 / 102) / 2 * 100
    assert cells(text)[0] == [
        "background",
        "90.00",
        f"{base:.2f}",
        f"{kd:.2f}",
        f"{kd - base:+.2f}",
    ]
    assert cells(text)[2] == ["dog", "100.00", "75.00", "100.00", "+25.00"]


def test_calibration_agreement_and_likeness_with_differences(dense):
    _, text = common.TABLES["calibration"](dense)
    rows = {row[0]: row for row in cells(text)}
    assert rows["teacher"][1:3] == ["70.00 (n = 1)", "2.00 (n = 1)"]
    assert rows["response"][2:4] == ["5.50 ± 0.71 (n = 2)", "+0.00 [+0.00, +0.00] (n = 2)"]
    assert rows["response"][4] == "80.00 ± 0.00 (n = 2)"
    assert rows["baseline (no_kd)"][3] == "-"
    assert "not why" in text
    assert "class similarity: too few repeats to say." in text


def test_class_similarity_is_spearmans_of_the_mistakes_by_hand():
    teacher = np.array([[7, 2, 1], [0, 10, 0], [3, 0, 7]])
    student = np.array([[70, 20, 10], [0, 100, 0], [5, 0, 95]])
    # off the diagonal by row: teacher .2 .1 0 0 .3 0, student .2 .1 0 0 .05 0
    # ranks: 5 4 2 2 6 2 and 6 5 2 2 4 2; about their mean 3.5: 15.5 is each sum of squares,
    # products 3.75 + .75 + 2.25 * 3 + 1.25 = 12.5
    assert confusion.similarity(teacher, student) == pytest.approx(12.5 / 15.5)
    assert confusion.similarity(teacher, np.diag([9, 9, 9])) is None
    assert confusion.similarity(teacher, np.eye(2, dtype=int)) is None


def test_a_class_without_images_is_left_out_and_shown_as_nothing(made_up, tmp_path):
    cells_ = np.array([[9, 1, 0], [1, 9, 0], [0, 0, 0]])
    assert np.isnan(confusion.by_class(cells_)).tolist() == [False, False, True]
    assert confusion.similarity(cells_, np.array([[9, 1, 0], [0, 9, 1], [0, 0, 0]])) is not None
    row = made_up.row(
        phase="confirm", trial="confirm-teacher", test_confusion=cells_.ravel().tolist()
    )
    study = load(made_up.put(tmp_path / "x", [row]))
    assert cells(common.TABLES["classes"](study)[1])[2] == ["2", "-"]
    assert confusion.matrix({"test_confusion": [1, 2, 3]}) is None


def test_of_many_classes_the_ten_best_and_ten_worst_changes(made_up, tmp_path):
    count = 30
    rows = [made_up.trial(m, 0, 0.9 + 0.01 * (m == "response")) for m in ("no_kd", "response")]
    for method in ("no_kd", "response"):
        right = [50 + (at if method == "response" else 15) for at in range(count)]
        cells_ = np.diag(right) + np.roll(np.diag([100 - r for r in right]), 1, axis=1)
        (row,) = made_up.confirmation(made_up.name(method, 0, 0), "recommended", [0.9])
        rows.append(row | {"test_confusion": cells_.ravel().tolist()})
    methods = {"no_kd": {}, "response": {}}
    title, text = common.TABLES["classes"](load(made_up.put(tmp_path / "x", rows, methods=methods)))
    assert "of 30 the 10 best and the 10 worst" in title
    names = [row[0] for row in cells(text)]
    assert names == [str(at) for at in (*range(29, 19, -1), *range(9, -1, -1))]
    assert cells(text)[0][-1] == "+14.00"


def test_confusion_pictures_add_seeds_up(dense):
    matrices = plots_confusion.matrices(dense)
    assert list(matrices) == ["teacher (n = 1)", "baseline (no_kd) (n = 2)", "response (n = 2)"]
    assert matrices["response (n = 2)"].tolist() == [[180, 20, 0], [2, 38, 0], [0, 0, 40]]


def test_predictions_are_read_by_method_and_drawn_worst_and_best(dense):
    predictions = segmentation.predictions(dense)
    assert list(predictions) == ["teacher", "no_kd", "response"]
    assert predictions["response"].images.shape == (20, 24, 24, 3)
    figures = results.PLOTS["predictions"](dense)
    assert list(figures) == ["teacher", "no_kd", "response"]
    worst_figure, best_figure = figures["response"].subfigs
    assert worst_figure.axes[0].get_title(loc="left") == "test image 0"
    assert worst_figure.axes[2].get_title(loc="right") == "IoU 10.0 %"
    assert best_figure.axes[2].get_title(loc="right") == "IoU 95.0 %"
    assert len(worst_figure.axes) == len(best_figure.axes) == 30
    truth = worst_figure.axes[1].images[0].get_array()
    assert truth[12, 12].tolist() == [128, 0, 0]  # the first class of VOC
    assert truth[0, 0].tolist() == [224, 224, 224]  # void
    assert "only the worst and the best" in results.PLOTS["iou_distribution"](dense).get_suptitle()


def test_all_ious_of_the_test_split_are_drawn_where_the_file_has_them(dense):
    name = "predictions/confirm-{}.npz"
    for trial in ("teacher", "no_kd-r0-0000-s800", "response-r0-0000-s800"):
        with np.load(io.BytesIO(dense.storage.read(name.format(trial)))) as arrays:
            content = dict(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, **content, all_iou=np.array([0.5, 0.6, 0.7, np.nan]))
        dense.storage.write(name.format(trial), buffer.getvalue())
    figure = results.PLOTS["iou_distribution"](dense)
    assert "all test images" in figure.get_suptitle()
    assert figure.axes[0].get_title(loc="left") == "teacher, mean 60.0"
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 3
