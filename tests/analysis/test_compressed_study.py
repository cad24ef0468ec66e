"""Tables and pictures of studies with pruning and int8, and of several objectives."""

import csv
import io

import pytest

from analysis import compression, report, summary
from analysis.advice import advice, warnings
from analysis.plots import results
from analysis.study import load
from analysis.tables import common
from analysis.tables import compression as tables_compression
from tests.analysis import kinds
from tests.analysis.kinds import cells, headings

T1, T2 = 12.706205, 4.302653  # t(0.975, 1) and t(0.975, 2)


# ---------------------------------------------------------------- pruning and int8


def test_pruning_before_and_after_by_hand(compressed):
    _, text = common.TABLES["pruning"](compressed)
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
    change = compression.change(compressed, "static", "Quantize")
    assert change.difference.mean == pytest.approx(-0.10)
    assert change.difference.n == 3
    assert compression.change(compressed, "response", "Prune") is None
    assert [compression.quantization_kind(compressed, m) for m in ("zeros", "static", "qat")] == [
        "",
        "static",
        "QAT",
    ]


def test_pruned_then_quantized_counts_what_pruning_alone_did(made_up, tmp_path):
    names = ("Distill", "Prune", "Distill", "Quantize")
    sizes = (kinds.PLAIN, kinds.CUT, {}, kinds.INT8 | {"num_params": 5_000.0})
    tests = (0.95, 0.60, 0.92, 0.90)
    (base,) = made_up.confirmation("response-r0-0000", "recommended", [0.9])
    rows = [made_up.trial("response", 0, 0.9, stage=3, stage_name="Quantize")]
    rows += [made_up.trial("response", 0, 0.9, stage=at, stage_name=names[at]) for at in range(3)]
    rows += [
        base | {"stage": at, "stage_name": names[at], "test_accuracy": tests[at]} | sizes[at]
        for at in range(4)
    ]
    study = load(made_up.put(tmp_path / "x", rows))
    change = compression.change(study, "response", "Prune")
    assert (change.before.mean, change.after.mean) == (0.95, 0.92)
    assert change.sizes_after["size_mb"] == 0.02
    change = compression.change(study, "response", "Quantize")
    assert (change.before.mean, change.after.mean) == (0.92, 0.90)
    assert (change.sizes_before["size_mb"], change.sizes_after["size_mb"]) == (0.02, 0.025)


def test_shared_first_stages_are_what_was_before(made_up, tmp_path):
    shared = made_up.row(
        phase="teacher",
        method="response",
        origin="shared",
        trial="shared-response",
        stage_name="Distill",
        val_accuracy=0.93,
        **kinds.PLAIN,
    )
    pruned = made_up.trial("response", 0, 0.9, stage_name="Prune", **kinds.CUT)
    study = load(made_up.put(tmp_path / "x", [shared, pruned]))
    (row,) = csv.DictReader(io.StringIO(tables_compression.pruning_csv(study).decode()))
    assert (row["top1_before"], row["top1_after"], row["params_before"]) == ("0.93", "0.9", "20000")
    assert row["inference_ms_after"] == row["prune_ratio"] == ""
    names = common.search_summary(study)[1]["Method"].to_list()
    assert names[1:3] == ["response: first stages, shared", "response"]


def test_a_student_that_was_given_is_what_was_before(made_up, tmp_path):
    """Its training cannot be repeated: one measurement stands before every seed's pruning."""
    columns = {"stage_name": "Measure", **kinds.PLAIN, "num_params": 15_000.0}
    rows = [
        made_up.row(
            phase="teacher",
            method="response",
            origin="file",
            trial="start-f00d",
            val_accuracy=0.93,
            **columns,
        ),
        made_up.row(
            phase="confirm", trial="confirm-start", origin="best", test_accuracy=0.91, **columns
        ),
        made_up.trial("response", 0, 0.9, stage_name="Prune", **kinds.CUT),
        *(
            row | {"stage_name": "Prune"} | kinds.CUT
            for row in made_up.confirmation("response-r0-0000", "recommended", [0.85, 0.87])
        ),
    ]
    study = load(made_up.put(tmp_path / "x", rows, start_file="mine.pt"))
    change = compression.change(study, "response", "Prune")
    assert (change.before.mean, change.before.n) == (0.91, 1)
    assert (change.after.mean, change.after.n) == (pytest.approx(0.86), 2)
    assert change.difference.mean == pytest.approx(-0.05)
    assert change.sizes_before["num_params"] == 15_000
    search_row, *confirm_rows = csv.DictReader(
        io.StringIO(tables_compression.pruning_csv(study).decode())
    )
    assert (search_row["top1_before"], search_row["params_before"]) == ("0.93", "15000")
    assert {(row["top1_before"], row["params_before"]) for row in confirm_rows} == {
        ("0.91", "15000")
    }
    assert any("began from the file mine.pt" in text for text in warnings(study))


def test_int8_is_timed_on_a_cpu_whatever_the_study_ran_on(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    rows = [row | {"device": "cuda: NVIDIA H200"} for row in rows]
    changes["hardware"] = {"cpu": "cpu: Some EPYC", "cores": 16}
    _, text = common.TABLES["quantization"](load(made_up.put(tmp_path / "x", rows, **changes)))
    assert "every network compiled, on cpu: Some EPYC." in text


def test_the_pruning_file_has_every_trial_and_says_its_split(compressed):
    rows = list(csv.DictReader(io.StringIO(tables_compression.pruning_csv(compressed).decode())))
    assert list(rows[0]) == [
        "experiment",
        "prune_method",
        "prune_ratio",
        "params_before",
        "params_after",
        "size_mb_before",
        "size_mb_after",
        "top1_before",
        "top1_after",
        "inference_ms_after",
        "split",
    ]
    assert [(row["experiment"], row["split"]) for row in rows[:8]] == [
        ("channels-r0-0000", "val"),
        *((f"confirm-channels-r0-0000-s{seed}", "test") for seed in (800, 801, 802, 1000)),
        ("channels-r1-0000", "val"),
        ("confirm-channels-r1-0000-s2000", "test"),
        ("channels-r2-0000", "val"),
    ]
    assert list(rows[0].values()) == [
        "channels-r0-0000",
        "channel",
        "0.5",
        "20000",
        "5000",
        "0.08",
        "0.02",
        "0.94",
        "0.91",
        "0.4",
        "val",
    ]
    zeros = next(row for row in rows if row["experiment"] == "confirm-zeros-r0-0000-s800")
    assert list(zeros.values())[1:9] == [
        "magnitude",
        "0.5",
        "20000",
        "10000",
        "0.08",
        "0.08",
        "0.93",
        "0.92",
    ]


def test_quantization_by_hand(compressed):
    _, text = common.TABLES["quantization"](compressed)
    assert headings(text) == [
        "Model Type",
        "Parameters",
        "Accuracy",
        "Size (MB)",
        "Inference Time",
        "Compression",
    ]
    rows = {row[0]: row[1:] for row in cells(text)}
    assert list(rows) == [
        "Teacher (digits_large)",
        "Student, distilled (response)",
        "Baseline (no distillation)",
        "Quantized student, static (static)",
        "Quantized student, QAT (qat)",
    ]
    assert rows["Teacher (digits_large)"][2:] == ["2.000", "1.000 ± 0.020 ms", "1.0x"]
    assert rows["Student, distilled (response)"][3:] == [
        "0.250 ± 0.020 ms (4.0x faster)",
        "25.0x",
    ]
    assert rows["Quantized student, static (static)"] == [
        "20,000",
        "84.00 ± 1.00 (n = 3)",
        "0.025",
        "0.100 ± 0.020 ms (10.0x faster)",
        "80.0x",
    ]
    assert "(2.0x slower)" in rows["Quantized student, QAT (qat)"][3]


def test_without_a_compiler_the_times_are_empty_and_the_reason_is_said(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up, compiler=False)
    _, text = common.TABLES["quantization"](load(made_up.put(tmp_path / "x", rows, **changes)))
    assert {row[4] for row in cells(text)} == {"-"}
    assert "Where there is none: no C++ compiler." in text


def test_without_a_float_method_the_student_before_quantizing_stands_for_it(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    changes["methods"] = {"static": {}}
    _, text = common.TABLES["quantization"](load(made_up.put(tmp_path / "x", rows, **changes)))
    assert cells(text)[1][:4] == [
        "Student, before quantizing (static)",
        "20,000",
        "94.00 ± 1.00 (n = 3)",
        "0.080",
    ]


def test_the_main_table_has_each_methods_own_footprint(compressed):
    frame = common.TABLES["main"](compressed)[1].set_index("Method")
    assert frame["Parameters"]["channels"] == "5,000"
    assert frame["Latency, ms"].to_list() == [
        f"{mean:.3f} ± 0.010" for mean in (2.0, 0.5, 0.5, 0.4, 0.5, 0.9, 0.9)
    ]


def test_a_cut_student_that_was_not_timed_has_no_latency(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    rows = [r for r in rows if r["trial"] != "measure-channels-r0-0000"]
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    line = next(line for line in summary.lines(study) if line.method == "channels")
    assert line.footprint["num_params"] == 5_000
    assert "latency_ms" not in line.footprint


def test_results_in_the_labs_columns(compressed):
    _, frame = common.TABLES["results"](compressed)
    assert frame.to_numpy().tolist() == [
        ["Teacher (digits_large)", "98.50 (n = 1)", "500,000", "1.0x"],
        ["Student baseline", "91.00 ± 1.00 (n = 3)", "20,000", "25.0x"],
        ["Student + KD (response)", "94.00 ± 1.00 (n = 3)", "20,000", "25.0x"],
    ]
    assert list(frame.columns) == ["Model", "Accuracy", "Parameters", "Compression"]


def test_a_method_that_prunes_does_not_stand_for_plain_distillation(made_up, tmp_path):
    rows, changes = kinds.compressed(made_up)
    for row in rows:
        if row["phase"] == "search" and row["method"] == "zeros":
            row["val_accuracy"] = 0.99  # more than any other
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    assert summary.kd_winner(study) == "response"
    accuracy = report.accuracies([study])["cnn"]["student_accuracy_with_kd"]
    assert accuracy == pytest.approx(0.94)
    changes["methods"] = {m: {} for m in ("no_kd", "zeros", "qat")}
    constrained = load(made_up.put(tmp_path / "y", rows, **changes))
    assert summary.kd_winner(constrained) == "qat"  # zeros breaks the constraint
    unconstrained = load(made_up.put(tmp_path / "z", rows, **changes | {"constraints": []}))
    assert summary.kd_winner(unconstrained) == "zeros"


def test_advice_on_int8_that_costs_much_or_is_slow(compressed):
    text = " ".join(advice(compressed))
    assert "**static**: quantizing changes test accuracy by -10.00 [-10.00, -10.00] (n = 3)" in text
    assert "**qat**: int8 is no faster here than the float student (2.000 against 0.250 ms" in text
    assert "**qat**: quantizing" not in text


# ---------------------------------------------------------------- several objectives


def test_the_front_keeps_the_constraints_and_marks_what_breaks_them(compressed):
    title, text = common.TABLES["front"](compressed)
    assert title == "Front of validation accuracy, size (validation, n = 1)"
    assert [(row[1], row[2], row[3], row[5]) for row in cells(text) if "-r0-" in row[1]] == [
        ("qat-r0-0000", "93.00", "0.025", "yes"),
        ("channels-r0-0000", "91.00", "0.020", "yes"),
        ("response-r0-0000", "95.00", "0.080", "no: size_mb <= 0.07"),
    ]
    assert len(cells(text)) == 9  # the trials of the other repeats are as good
    (channels,) = [row for row in cells(text) if row[1] == "channels-r0-0000"]
    # seeds 800 to 802 and, of repeat 0, seed 1000: 91, 92, 93 and 91
    assert channels[4:] == ["0.400 ± 0.010", "yes", "91.75 ± 0.96 (n = 4)"]


def test_the_front_picture_has_all_trials_the_front_and_the_bound(compressed):
    axes = results.PLOTS["front"](compressed).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Size, MB", "Validation accuracy, %")
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert sum(line.get_marker() == "x" for line in points) == 9  # no_kd, response, zeros
    assert sum(line.get_markersize() == 11 for line in points) == 6
    assert any(list(line.get_xdata()) == [0.07, 0.07] for line in axes.lines)


def test_one_objective_is_no_front(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows(), objectives=["val_accuracy"]))
    assert common.TABLES["front"](study)[1] == ""
    assert results.PLOTS["front"](study) is None


def test_before_confirming_the_best_that_keeps_the_constraints_is_chosen(made_up, tmp_path):
    rows = [
        made_up.trial("response", 0, 0.95, **kinds.PLAIN),
        made_up.trial("response", 1, 0.90, **kinds.CUT),
    ]
    changes = {"methods": {"response": {}}, "constraints": ["size_mb <= 0.07"]}
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    assert study.recommended_trial("response")["trial"] == "response-r0-0001"
    assert study.winner("response", 0)["trial"] == "response-r0-0001"
