"""Tables and pictures of studies with a label a pixel, with pruning and int8, with several objectives."""

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis import (
    compressing,
    confusion,
    drawing,
    lines,
    page,
    plots,
    plots_confusion,
    plots_pixels,
    report,
    tables,
    tables_comparison,
    tables_compression,
)
from analysis.advice import advice, verdicts, warnings
from analysis.load import load
from analysis.logs import logs
from tests.analysis import kinds
from tune_kd.storage import Storage

T1, T2 = 12.706205, 4.302653  # t(0.975, 1) and t(0.975, 2)


@pytest.fixture
def dense(made_up, tmp_path):
    rows, changes = kinds.dense(made_up)
    address = made_up.put(tmp_path / "dense", rows, **changes)
    for trial in ("confirm-teacher", "confirm-response-0-1000", "confirm-no_kd-0-1000"):
        kinds.put_predictions(address, trial)
    return load(address)


@pytest.fixture
def compressed(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    return load(made_up.put(tmp_path / "compressed", rows, **changes))


def cells(text):
    """The body of the first Markdown table in a text, stripped."""
    table = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def headings(text):
    return [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]


# ---------------------------------------------------------------- contract


@pytest.mark.parametrize("kind", ["usual", "dense", "compressed", "empty", "begun", "torn"])
def test_every_table_and_picture_takes_every_study(made_up, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(drawing, "DPI", 30)
    rows, changes = {"dense": kinds.dense, "compressed": kinds.compressed}.get(
        kind, lambda made: (made.all_rows(), {})
    )(made_up)
    if kind == "empty":
        rows, changes = (
            [],
            {"metric": "val_miou", "dense": True, "objectives": ["val_miou", "flops"]},
        )
    if kind == "begun":
        rows = [r for r in rows if r["phase"] in ("teach", "measure")]
    address = made_up.put(tmp_path / "x", rows, **changes)
    if kind == "dense":
        kinds.put_predictions(address, "confirm-teacher")
    if kind == "torn":
        Storage(address).write("predictions/confirm-teacher.npz", b"PK not really")
    study = load(address)
    for make in tables.TABLES.values():
        title, table = make(study)
        assert title
        assert isinstance(table, pd.DataFrame | str)
    for draw in plots.PLOTS.values():
        drawn = draw(study)
        several = drawn.values() if isinstance(drawn, dict) else [drawn] if drawn else []
        for figure in several:
            assert drawing.png(figure).startswith(b"\x89PNG")
    assert page.section(study, pictures=[])
    assert isinstance(logs(study), dict)


# ---------------------------------------------------------------- a label a pixel


def test_a_dense_study_speaks_of_miou_everywhere(dense):
    title, frame = tables.main_table(dense)
    assert title == "Test mIoU"
    assert frame["Test mIoU, %, mean ± sd (n)"].to_list() == [
        "70.00 (n = 1)",
        "51.00 ± 1.41 (n = 2)",
        "63.00 ± 4.24 (n = 2)",
    ]
    assert verdicts(dense)[0].startswith("**response: too few seeds** to say: +12.00 [")
    assert "percentage points of test mIoU" in verdicts(dense)[0]
    title, frame = tables.validation(dense)
    assert title.startswith("Validation mIoU of the search")
    assert frame.iloc[:, 1].to_list() == ["71.00", "51.00", "61.00"]
    raw = lines.raw(dense).set_index("method")
    assert raw["val_miou"].to_list() == [0.71, 0.51, 0.61]
    assert set(raw["metric"]) == {"test_miou"}
    assert list(report.accuracies([dense])["cnn"].values()) == pytest.approx([0.70, 0.51, 0.63])
    assert report.details(dense)["test_miou_by_seed"]["response"] == {1000: 0.60, 1001: 0.66}
    axis = plots.PLOTS["history"](dense).axes[0].get_ylabel()
    assert axis == "validation mIoU, %"
    assert plots.PLOTS["kd_validation_accuracy"](dense) is None
    assert plots.PLOTS["kd_validation_miou"](dense).axes[0].get_ylabel() == "validation mIoU, %"


def test_a_weak_teacher_is_judged_by_the_studys_metric(made_up, tmp_path):
    rows, changes = kinds.dense(made_up)
    rows[0]["val_miou"] = 0.40
    said = warnings(load(made_up.put(tmp_path / "x", rows, **changes)))
    assert "validation mIoU 40.00 % (n = 1) against 51.00 % (n = 1)" in said[0]


def test_the_comparison_file_is_the_seeds_to_the_letter(made_up, tmp_path):
    foot = {"num_params": 2_812_345.0}
    rows = [made_up.row(phase="measure", trial="measure-student", latency_ms=45.23,
                        latency_ms_sd=1.52, **foot)]  # fmt: skip
    times = {"response": (45.67, 1.48), "feature": (45.89, 1.55)}
    for method, value in (("no_kd", 0.6245), ("response", 0.6387), ("feature", 0.6412)):
        rows.append(made_up.trial(method, 0, 0.9, val_miou=0.5, stage_name="Prune", **foot))
        (row,) = made_up.confirmation(method, 0, "best", [0.9])
        rows.append(row | {"test_miou": value})
        if method in times:
            mean, sd = times[method]
            rows.append(made_up.row(phase="measure", method=method, trial=f"measure-{method}-0",
                                    source=f"{method}-0", latency_ms=mean, latency_ms_sd=sd,
                                    **foot))  # fmt: skip
    methods = {m: {} for m in ("no_kd", "response", "feature")}
    study = load(made_up.put(tmp_path / "x", rows, methods=methods, metric="val_miou", dense=True))
    assert tables_comparison.text(study).decode() == (
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


def test_the_comparison_with_several_seeds_has_spread_and_n(dense):
    title, text = tables.TABLES["comparison"](dense)
    assert "test split" in title
    assert headings(text) == [
        "Knowledge Distillation", "mIoU", "# Parameters", "Inference Speed (ms)",
    ]  # fmt: skip
    assert cells(text)[0][1:3] == ["0.5100 ± 0.0141 (n = 2)", "2.81M"]
    # differences 0.10 and 0.14: mean 0.12, sd 0.02 sqrt 2, half T1 * 0.02; 0.12 / 0.51 = 23.53 %
    low, high = 0.12 - T1 * 0.02, 0.12 + T1 * 0.02
    assert f"- Response-Based: +0.1200 (+23.53%) [{low:+.4f}, {high:+.4f}] (n = 2)" in text
    lined = tables_comparison.text(dense).decode().splitlines()
    assert lined[0].index("# Parameters") == lined[2].index("2.81M")
    assert len({line.index("45.23") for line in lined[2:4]} | {lined[0].index("Inference")}) == 1


def test_classes_are_means_over_seeds_of_iou_by_hand(dense):
    title, text = tables.TABLES["classes"](dense)
    assert title == "Classes: IoU, % (test split)"
    # background of no_kd: 80 / (100 + 10) and 80 / 100; of response: 90 / 100 and 90 / 102
    base, kd = (80 / 110 + 0.8) / 2 * 100, (0.9 + 90 / 102) / 2 * 100
    assert cells(text)[0] == [
        "background", "90.00", f"{base:.2f}", f"{kd:.2f}", f"{kd - base:+.2f}",
    ]  # fmt: skip
    assert cells(text)[2] == ["dog", "100.00", "75.00", "100.00", "+25.00"]


def test_calibration_agreement_and_likeness_with_differences(dense):
    _, text = tables.TABLES["calibration"](dense)
    rows = {row[0]: row for row in cells(text)}
    assert rows["teacher"][1:3] == ["70.00 (n = 1)", "2.00 (n = 1)"]
    assert rows["response"][2:4] == ["5.50 ± 0.71 (n = 2)", "+0.00 [+0.00, +0.00] (n = 2)"]
    assert rows["response"][4] == "80.00 ± 0.00 (n = 2)"
    assert rows["baseline (no_kd)"][3] == "-"
    assert "not why" in text
    assert "class similarity: too few seeds to say." in text


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
    assert cells(tables.TABLES["classes"](study)[1])[2] == ["2", "-"]
    assert confusion.matrix({"test_confusion": [1, 2, 3]}) is None


def test_of_many_classes_the_ten_best_and_ten_worst_changes(made_up, tmp_path):
    count = 30
    rows = [made_up.trial(m, 0, 0.9 + 0.01 * (m == "response")) for m in ("no_kd", "response")]
    for method in ("no_kd", "response"):
        right = [50 + (at if method == "response" else 15) for at in range(count)]
        cells_ = np.diag(right) + np.roll(np.diag([100 - r for r in right]), 1, axis=1)
        (row,) = made_up.confirmation(method, 0, "best", [0.9])
        rows.append(row | {"test_confusion": cells_.ravel().tolist()})
    methods = {"no_kd": {}, "response": {}}
    title, text = tables.TABLES["classes"](load(made_up.put(tmp_path / "x", rows, methods=methods)))
    assert "of 30 the 10 best and the 10 worst" in title
    kept = [row[0] for row in cells(text)]
    assert kept == [str(at) for at in (*range(29, 19, -1), *range(9, -1, -1))]
    assert cells(text)[0][-1] == "+14.00"


def test_confusion_pictures_add_seeds_up(dense):
    found = plots_confusion.matrices(dense)
    assert list(found) == ["teacher (n = 1)", "baseline (no_kd) (n = 2)", "response (n = 2)"]
    assert found["response (n = 2)"].tolist() == [[180, 20, 0], [2, 38, 0], [0, 0, 40]]


def test_predictions_are_read_by_method_and_drawn_worst_and_best(dense):
    found = plots_pixels.predictions(dense)
    assert list(found) == ["teacher", "no_kd", "response"]
    assert found["response"].images.shape == (20, 24, 24, 3)
    drawn = plots.PLOTS["predictions"](dense)
    assert list(drawn) == ["teacher", "no_kd", "response"]
    left, right = drawn["response"].subfigs
    assert left.axes[0].get_title(loc="left") == "test image 0"
    assert left.axes[2].get_title(loc="right") == "IoU 10.0 %"
    assert right.axes[2].get_title(loc="right") == "IoU 95.0 %"
    assert len(left.axes) == len(right.axes) == 30
    truth = left.axes[1].images[0].get_array()
    assert truth[12, 12].tolist() == [128, 0, 0]  # the first class of VOC
    assert truth[0, 0].tolist() == [224, 224, 224]  # void
    assert "only the worst and the best" in plots.PLOTS["iou_distribution"](dense).get_suptitle()


def test_all_ious_of_the_test_split_are_drawn_where_the_file_has_them(dense):
    name = "predictions/confirm-{}.npz"
    for trial in ("teacher", "no_kd-0-1000", "response-0-1000"):
        with np.load(io.BytesIO(dense.storage.read(name.format(trial)))) as arrays:
            kept = dict(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, **kept, all_iou=np.array([0.5, 0.6, 0.7, np.nan]))
        dense.storage.write(name.format(trial), buffer.getvalue())
    figure = plots.PLOTS["iou_distribution"](dense)
    assert "all test images" in figure.get_suptitle()
    assert figure.axes[0].get_title(loc="left") == "teacher, mean 60.0"
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 3


# ---------------------------------------------------------------- pruning and int8


def test_pruning_before_and_after_by_hand(compressed):
    _, text = tables.TABLES["pruning"](compressed)
    assert headings(text) == ["Model", "Accuracy", "Parameters", "Compression", "FLOPs"]
    assert cells(text) == [
        ["Teacher (digits_large)", "98.50 (n = 1)", "500,000", "1.0x", "10,000,000"],
        ["Student baseline (no_kd)", "91.00 ± 1.00 (n = 3)", "20,000", "25.0x", "1,000,000"],
        ["Student + KD (response)", "94.00 ± 1.00 (n = 3)", "20,000", "25.0x", "1,000,000"],
        ["channels, before pruning", "94.00 ± 1.00 (n = 3)", "20,000", "25.0x", "1,000,000"],
        ["channels, after", "92.00 ± 1.00 (n = 3)", "5,000", "100.0x", "400,000"],
        ["zeros, before pruning", "94.00 ± 1.00 (n = 3)", "20,000", "25.0x", "1,000,000"],
        ["zeros, after", "93.00 ± 1.00 (n = 3)", "10,000 nonzero", "50.0x", "1,000,000"],
    ]
    assert "those that are not zero" in text


def test_the_change_of_a_stage_is_paired_by_seed(compressed):
    found = compressing.change(compressed, "static", "Quantize")
    assert found.difference.mean == pytest.approx(-0.10)
    assert found.difference.n == 3
    assert compressing.change(compressed, "response", "Prune") is None
    assert [compressing.quantised(compressed, m) for m in ("zeros", "static", "qat")] == [
        "",
        "static",
        "QAT",
    ]


def test_pruned_then_quantised_counts_what_pruning_alone_did(made_up, tmp_path):
    names = ("Distill", "Prune", "Distill", "Quantize")
    sizes = (kinds.PLAIN, kinds.CUT, {}, kinds.INT8 | {"num_params": 5_000.0})
    tests = (0.95, 0.60, 0.92, 0.90)
    (base,) = made_up.confirmation("response", 0, "best", [0.9])
    rows = [made_up.trial("response", 0, 0.9, stage=3, stage_name="Quantize")]
    rows += [made_up.trial("response", 0, 0.9, stage=at, stage_name=names[at]) for at in range(3)]
    rows += [
        base | {"stage": at, "stage_name": names[at], "test_accuracy": tests[at]} | sizes[at]
        for at in range(4)
    ]
    study = load(made_up.put(tmp_path / "x", rows))
    found = compressing.change(study, "response", "Prune")
    assert (found.before.mean, found.after.mean) == (0.95, 0.92)
    assert found.sizes_after["size_mb"] == 0.02
    found = compressing.change(study, "response", "Quantize")
    assert (found.before.mean, found.after.mean) == (0.92, 0.90)
    assert (found.sizes_before["size_mb"], found.sizes_after["size_mb"]) == (0.02, 0.025)


def test_shared_first_stages_are_what_was_before(made_up, tmp_path):
    shared = made_up.row(phase="teach", method="response", origin="shared", trial="shared-response",
                         stage_name="Distill", val_accuracy=0.93, **kinds.PLAIN)  # fmt: skip
    pruned = made_up.trial("response", 0, 0.9, stage_name="Prune", **kinds.CUT)
    study = load(made_up.put(tmp_path / "x", [shared, pruned]))
    (row,) = csv.DictReader(io.StringIO(tables_compression.pruning_csv(study).decode()))
    assert (row["top1_before"], row["top1_after"], row["params_before"]) == ("0.93", "0.9", "20000")
    assert row["inference_ms_after"] == row["prune_ratio"] == ""
    names = tables.search_summary(study)[1]["Method"].to_list()
    assert names[1:3] == ["response: first stages, shared", "response"]


def test_the_pruning_file_has_every_trial_and_says_its_split(compressed):
    rows = list(csv.DictReader(io.StringIO(tables_compression.pruning_csv(compressed).decode())))
    assert list(rows[0]) == [
        "experiment", "prune_method", "prune_ratio", "params_before", "params_after",
        "size_mb_before", "size_mb_after", "top1_before", "top1_after", "inference_ms_after", "split",
    ]  # fmt: skip
    assert [(row["experiment"], row["split"]) for row in rows[:5]] == [
        ("channels-0", "val"),
        *((f"confirm-channels-0-{seed}", "test") for seed in (1000, 1001, 1002)),
        ("zeros-0", "val"),
    ]
    assert list(rows[0].values()) == [
        "channels-0", "channel", "0.5", "20000", "5000", "0.08", "0.02", "0.94", "0.91", "0.4", "val",
    ]  # fmt: skip
    assert list(rows[5].values())[1:9] == [
        "magnitude", "0.5", "20000", "10000", "0.08", "0.08", "0.93", "0.92",
    ]  # fmt: skip


def test_quantisation_by_hand(compressed):
    _, text = tables.TABLES["quantisation"](compressed)
    assert headings(text) == [
        "Model Type", "Parameters", "Accuracy", "Size (MB)", "Inference Time", "Compression",
    ]  # fmt: skip
    found = {row[0]: row[1:] for row in cells(text)}
    assert list(found) == [
        "Teacher (digits_large)",
        "Student, distilled (response)",
        "Baseline (no distillation)",
        "Quantised student, static (static)",
        "Quantised student, QAT (qat)",
    ]
    assert found["Teacher (digits_large)"][2:] == ["2.000", "1.000 ± 0.020 ms", "1.0x"]
    assert found["Student, distilled (response)"][3:] == [
        "0.250 ± 0.020 ms (4.0x faster)",
        "25.0x",
    ]
    assert found["Quantised student, static (static)"] == [
        "20,000", "84.00 ± 1.00 (n = 3)", "0.025", "0.100 ± 0.020 ms (10.0x faster)", "80.0x",
    ]  # fmt: skip
    assert "(2.0x slower)" in found["Quantised student, QAT (qat)"][3]


def test_without_a_compiler_the_times_are_empty_and_the_reason_is_said(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up, compiler=False)
    _, text = tables.TABLES["quantisation"](load(made_up.put(tmp_path / "x", rows, **changes)))
    assert {row[4] for row in cells(text)} == {"-"}
    assert "Where there is none: no C++ compiler." in text


def test_without_a_float_method_the_student_before_quantising_stands_for_it(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    changes["methods"] = {"static": {}}
    _, text = tables.TABLES["quantisation"](load(made_up.put(tmp_path / "x", rows, **changes)))
    assert cells(text)[1][:4] == [
        "Student, before quantising (static)", "20,000", "94.00 ± 1.00 (n = 3)", "0.080",
    ]  # fmt: skip


def test_the_main_table_has_each_methods_own_footprint(compressed):
    found = tables.main_table(compressed)[1].set_index("Method")
    assert found["Parameters"]["channels"] == "5,000"
    assert found["Latency, ms"].to_list() == [
        f"{mean:.3f} ± 0.010" for mean in (2.0, 0.5, 0.5, 0.4, 0.5, 0.9, 0.9)
    ]


def test_a_cut_student_that_was_not_timed_has_no_latency(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    rows = [r for r in rows if r["trial"] != "measure-channels-0"]
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    line = next(line for line in lines.lines(study) if line.method == "channels")
    assert line.footprint["num_params"] == 5_000
    assert "latency_ms" not in line.footprint


def test_results_in_the_seeds_columns(compressed):
    _, frame = tables.TABLES["results"](compressed)
    assert frame.to_numpy().tolist() == [
        ["Teacher (digits_large)", "98.50 (n = 1)", "500,000", "1.0x"],
        ["Student baseline", "91.00 ± 1.00 (n = 3)", "20,000", "25.0x"],
        ["Student + KD (response)", "94.00 ± 1.00 (n = 3)", "20,000", "25.0x"],
    ]
    assert list(frame.columns) == ["Model", "Accuracy", "Parameters", "Compression"]


def test_a_method_that_prunes_does_not_stand_for_plain_distillation(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    for row in rows:
        if row["trial"] == "zeros-0":
            row["val_accuracy"] = 0.99  # more than any other
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    assert lines.kd_winner(study) == "response"
    found = report.accuracies([study])["cnn"]["student_accuracy_with_kd"]
    assert found == pytest.approx(0.94)
    changes["methods"] = {m: {} for m in ("no_kd", "zeros", "qat")}
    assert lines.kd_winner(load(made_up.put(tmp_path / "y", rows, **changes))) == "zeros"


def test_advice_on_int8_that_costs_much_or_is_slow(compressed):
    said = " ".join(advice(compressed))
    assert "**static**: quantising changes test accuracy by -10.00 [-10.00, -10.00] (n = 3)" in said
    assert "**qat**: int8 is no faster here than the float student (2.000 against 0.250 ms" in said
    assert "**qat**: quantising" not in said


# ---------------------------------------------------------------- several objectives


def test_the_front_keeps_the_constraints_and_marks_what_breaks_them(compressed):
    title, text = tables.TABLES["front"](compressed)
    assert title == "Front of validation accuracy, size (validation, n = 1)"
    assert [(row[0], row[2], row[3], row[5]) for row in cells(text)] == [
        ("qat", "93.00", "0.025", "yes"),
        ("channels", "91.00", "0.020", "yes"),
        ("response", "95.00", "0.080", "no: size_mb <= 0.07"),
    ]
    assert cells(text)[1][4] == "0.400 ± 0.010"


def test_the_front_picture_has_all_trials_the_front_and_the_bound(compressed):
    axes = plots.PLOTS["front"](compressed).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Size, MB", "Validation accuracy, %")
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert sum(line.get_marker() == "x" for line in points) == 3  # no_kd, response, zeros
    assert sum(line.get_markersize() == 11 for line in points) == 2
    assert any(list(line.get_xdata()) == [0.07, 0.07] for line in axes.lines)


def test_one_objective_is_no_front(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows(), objectives=["val_accuracy"]))
    assert tables.TABLES["front"](study)[1] == ""
    assert plots.PLOTS["front"](study) is None


def test_before_confirming_the_best_that_keeps_the_constraints_is_chosen(made_up, tmp_path):
    rows = [
        made_up.trial("response", 0, 0.95, **kinds.PLAIN),
        made_up.trial("response", 1, 0.90, **kinds.CUT),
    ]
    changes = {"methods": {"response": {}}, "constraints": ["size_mb <= 0.07"]}
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    assert study.chosen("response")["trial"] == "response-1"
    rows += made_up.confirmation("response", 0, "best", [0.9])  # what was confirmed stands
    study = load(made_up.put(tmp_path / "y", rows, **changes))
    assert study.chosen("response")["trial"] == "response-0"


# ---------------------------------------------------------------- logs


def test_logs_have_the_labs_columns(made_up, tmp_path):
    found = logs(load(made_up.put(tmp_path / "x", made_up.all_rows())))
    trials = ["teach", "no_kd-1", "response-1", "feature-0", "combined-0"]
    assert list(found) == [f"{t}.{end}" for t in trials for end in ("csv", "json")]
    frame = pd.read_csv(io.BytesIO(found["response-1.csv"]))
    assert list(frame.columns) == [
        "epoch", "lr", "train_loss", "train_ce", "train_kd", "train_feature", "val_loss", "val_acc",
        "alpha", "T",
    ]  # fmt: skip
    assert frame.iloc[1].to_list() == pytest.approx(
        [2, 0.05, 1.5, 1.0, 0.5, 0.0, 0.5, 0.95 * 0.875, 0.5, 4.0]
    )
    told = json.loads(found["response-1.json"])
    assert (told["method"], told["status"], len(told["epochs"])) == ("response", "finished", 6)
    assert told["epochs"][1]["train_ce"] == 1.0
    assert math.isnan(pd.read_csv(io.BytesIO(found["no_kd-1.csv"]))["T"][0])


def test_logs_take_the_weights_of_the_epochs_own_stage(compressed):
    rows = compressed.curves["channels-0"]
    for at, row in enumerate(rows):
        row["stage"] = min(at // 2, 2)
    frame = pd.read_csv(io.BytesIO(logs(compressed)["channels-0.csv"]))
    assert frame["alpha"].to_list()[:2] == [0.5, 0.5]
    assert frame["alpha"].isna().to_list()[2:4] == [True, True]
    assert frame["alpha"].to_list()[4:] == [1.0, 1.0]
    assert frame["T"].isna().to_list() == [False, False, True, True, True, True]


def test_a_dense_log_has_miou_as_well(dense):
    assert "val_miou" in logs(dense)["response-0.csv"].decode().splitlines()[0]
