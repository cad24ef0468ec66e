"""What pruning and quantizing did: two tables, and a file with every pruned trial."""

import csv
import io
import math

import pandas as pd

from analysis import escaping, selection
from analysis.comparison import stats
from analysis.compression import Change, change, quantization_kind, sizes, stages_of
from analysis.formatting import (
    NONE,
    Table,
    latency,
    mean_sd,
    metric,
    metric_name,
    ratio,
    times,
    with_notes,
)
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import is_compressed, kd_winner
from tune_kd.metrics import number
from tune_kd.recipe import Prune
from tune_kd.study.results import Row

CSV_COLUMNS = (
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
)
COMPILED = "compiled_latency_ms"
STUDENTS = "Of each method the recommended student, mean ± sd over n seeds."


def quantization(study: Study) -> Table:
    """Teacher, float and int8 students as recommended: accuracy, size, compiled latency; test split."""
    title = "Quantization (test split)"
    kinds = {method: kind for method in study.methods if (kind := quantization_kind(study, method))}
    if not kinds:
        return title, ""
    teacher_sizes = selection.teacher(study.rows, "measure")
    rows = [_teacher(study, teacher_sizes)]
    best = kd_winner(study)
    if best and not is_compressed(study, best):
        rows.append(
            (f"Student, distilled ({best})", _test_summary(study, best), _foot(study, best))
        )
    else:
        method = next(iter(kinds))
        effect = change(study, method, "Quantize")
        before = effect.before if effect else None
        student_sizes = selection.student_footprint(study.rows)
        rows.append((f"Student, before quantizing ({method})", before, student_sizes))
    if BASELINE in study.methods and BASELINE not in kinds:
        rows.append(
            ("Baseline (no distillation)", _test_summary(study, BASELINE), _foot(study, BASELINE))
        )
    for kind in ("static", "QAT"):
        rows += [
            (
                f"Quantized student, {kind} ({method})",
                _test_summary(study, method),
                _foot(study, method),
            )
            for method in kinds
            if kinds[method] == kind
        ]
    cells = [
        {
            "Model Type": name,
            "Parameters": metric(foot, "num_params"),
            metric_name(study.test_metric): mean_sd(test),
            "Size (MB)": metric(foot, "size_mb"),
            "Inference Time": _time(teacher_sizes, foot),
            "Compression": times(ratio(number(teacher_sizes, "size_mb"), number(foot, "size_mb"))),
        }
        for name, test, foot in rows
    ]
    about = _about_time(study, [foot for *_, foot in rows])
    return title, with_notes(pd.DataFrame(cells), about)


def _teacher(study: Study, foot: Row | None) -> tuple[str, stats.Summary | None, Row | None]:
    value = number(selection.teacher(study.rows, "confirm"), study.test_metric)
    name = f"Teacher ({study.manifest.teacher})"
    return name, stats.summarise([] if value is None else [value]), foot


def _test_summary(study: Study, method: str) -> stats.Summary | None:
    """Return the recommended student over the seeds that all have in common."""
    return stats.summarise(study.confirmed_values(study.recommended_trial(method)).values())


def _foot(study: Study, method: str) -> Row | None:
    return study.footprint(study.recommended_trial(method))


def _time(teacher_sizes: Row | None, foot: Row | None) -> str:
    """Compiled latency with the speed-up against the teacher's, compiled as well."""
    milliseconds = number(foot, COMPILED)
    if milliseconds is None:
        return NONE
    gain = ratio(number(teacher_sizes, COMPILED), milliseconds)
    if gain is None or foot is teacher_sizes:
        return f"{latency(foot, COMPILED)} ms"
    speedup = f"{gain:.1f}x faster" if gain >= 1 else f"{1 / gain:.1f}x slower"
    return f"{latency(foot, COMPILED)} ms ({speedup})"


def _about_time(study: Study, feet: list[Row | None]) -> str:
    """Return what the times are of, and why some are missing; int8 runs on CPUs alone, so all are compiled for one."""
    untimed = [foot for foot in feet if number(foot, COMPILED) is None]
    reasons = sorted({foot["reason"] for foot in untimed if foot and foot.get("reason")})
    device_names = {foot["device"] for foot in feet if foot and foot.get("device")}
    cpu = str(study.manifest.hardware.get("cpu") or "the CPU of a worker")
    devices = sorted({name if name.startswith("cpu") else cpu for name in device_names})
    text = f"{STUDENTS} Inference time: one image, every network compiled" + (
        f", on {', '.join(devices)}." if devices else "."
    )
    if untimed:
        reason = "; ".join(reasons) or "not measured"
        text += f" Where there is none: {reason}."
    return f"{text} Compression: the teacher's size divided by the model's."


def pruning(study: Study) -> Table:
    """Teacher, and the recommended students: plain, distilled, and around pruning; test split."""
    title = "Pruning (test split)"
    changes = {m: effect for m in study.methods if (effect := change(study, m, "Prune"))}
    if not changes:
        return title, ""
    teacher_sizes = selection.teacher(study.rows, "measure")
    name, test, _ = _teacher(study, teacher_sizes)
    rows = [_line(study, name, test, teacher_sizes or {})]
    best = kd_winner(study)
    models = {"Student baseline": BASELINE, "Student + KD": best}
    for model_name, method in models.items():
        if method in study.methods and not is_compressed(study, method):
            foot = _foot(study, method) or {}
            rows.append(
                _line(study, f"{model_name} ({method})", _test_summary(study, method), foot)
            )
    for method, effect in changes.items():
        rows.append(_line(study, f"{method}, before pruning", effect.before, effect.sizes_before))
        foot = effect.sizes_after
        rows.append(
            _line(study, f"{method}, after", effect.after, foot, only_zeros=effect.only_zeros)
        )
    note = f"{STUDENTS} Compression: the teacher's parameters divided by the model's."
    if any(effect.only_zeros for effect in changes.values()):
        note += (
            " Magnitude pruning sets weights to zero and keeps the shape: there parameters are those "
            "that are not zero, and FLOPs count the zeros."
        )
    return title, with_notes(pd.DataFrame(rows), note)


def _line(
    study: Study, name: str, test: stats.Summary | None, foot: Row, *, only_zeros: bool = False
) -> dict[str, str]:
    column = "nonzero_params" if only_zeros else "num_params"
    teacher_params = number(selection.teacher(study.rows, "measure"), "num_params")
    params = number(foot, column)
    return {
        "Model": name,
        metric_name(study.test_metric): mean_sd(test),
        "Parameters": metric(foot, column) + (" nonzero" if only_zeros else ""),
        "Compression": times(ratio(teacher_params, params)),
        "FLOPs": metric(foot, "flops"),
    }


def pruning_csv(study: Study) -> bytes | None:
    """pruning_comparison.csv: every finished trial with a pruning stage, then every confirming run.

    Accuracies are fractions of the split in the last column (val: of the search; test: of confirm).
    Parameters after magnitude pruning are those that are not zero. None where nothing was pruned.
    """
    experiments = []
    for method in study.methods:
        trials = selection.trials(study.rows, "search", method)
        for trial in sorted(trials, key=lambda row: (row["repeat"], row["number"])):
            rows = study.stages[trial["trial"]]
            if trial["status"] != "finished" or not selection.compresses(rows, "Prune"):
                continue
            around = selection.before_and_after(rows, "Prune", shared=study.shared(method))
            experiments.append(_experiment(study, trial, around, split="val"))
            for stages in study.runs(trial).values():
                around = selection.before_and_after(
                    stages, "Prune", shared=study.initial_student("confirm")
                )
                experiments.append(_experiment(study, trial, around, split="test"))
    if not experiments:
        return None
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: escaping.csv(v) for k, v in row.items()} for row in experiments])
    return buffer.getvalue().encode()


def _experiment(
    study: Study, trial: Row, around: tuple[Row | None, Row | None], *, split: str
) -> dict[str, object]:
    before, after = around
    assert after is not None
    stages = [stage for stage in stages_of(trial) if isinstance(stage, Prune)]
    first = sizes(study, before)
    last = selection.latest_sizes([after])
    zeros = Change(
        before=None, after=None, difference=None, sizes_before=first, sizes_after=last
    ).only_zeros
    remaining = math.prod(1 - stage.ratio for stage in stages)
    return {
        "experiment": after["trial"],
        "prune_method": "+".join(dict.fromkeys(stage.method for stage in stages)),
        "prune_ratio": round(1 - remaining, 6) if stages else None,
        "params_before": _integer(first, "num_params"),
        "params_after": _integer(last, "nonzero_params" if zeros else "num_params"),
        "size_mb_before": number(first, "size_mb"),
        "size_mb_after": number(last, "size_mb"),
        "top1_before": number(before, f"{split}_accuracy"),
        "top1_after": number(after, f"{split}_accuracy"),
        "inference_ms_after": number(study.footprint(trial), "latency_ms"),
        "split": split,
    }


def _integer(row: Row, name: str) -> int | None:
    value = number(row, name)
    return None if value is None else int(value)
