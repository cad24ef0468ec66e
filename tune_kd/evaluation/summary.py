"""An evaluation for people: text for a terminal, and the picture of its confusion matrix."""

import io
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tune_kd.metrics import METRICS, SHARES, format_value

FEW = 20  # up to so many classes all are listed, of more the WORST and the best
WORST = 10
PROFILE = ("size_mb", "flops", "latency_ms", "throughput_per_s", "compiled_latency_ms")


def text(evaluation: Mapping[str, Any]) -> str:
    """All of an evaluation but its matrix and its single batches."""
    parts = (_heading, _overall, _classes, _confused, _batches, _profile, _against, _alarms)
    blocks = ["\n".join(part(evaluation)) for part in parts]
    return "\n\n".join(block for block in blocks if block)


def _percent(share: float | None) -> str:
    return "-" if share is None else format_value("test_accuracy", share)


def _heading(evaluation: Mapping[str, Any]) -> Iterator[str]:
    stages = " + ".join(evaluation["stages"]) or "training unknown"
    role = (
        f", the {evaluation['role']} of space {evaluation['space']}" if evaluation["role"] else ""
    )
    yield f"{evaluation['weights']}: {evaluation['network']}{role}; {stages}"
    yield f"test split of {evaluation['task']}: {evaluation['images']:,} images, {len(evaluation['classes'])} classes; {evaluation['profile']['device']}"


def _overall(evaluation: Mapping[str, Any]) -> Iterator[str]:
    overall = evaluation["overall"]
    spread = f" ± {_percent(overall['accuracy_se'])}" if overall["accuracy_se"] is not None else ""
    yield f"{'accuracy':<20}{_percent(overall['accuracy'])}{spread} % (standard error over n = {evaluation['images']:,} images)"
    yield f"{'mean over classes':<20}{_percent(overall['mean_class_accuracy'])} %"
    for name in SHARES:
        if name in overall and name != "accuracy":
            heading = METRICS[f"test_{name}"].heading.removeprefix("Test ")
            yield f"{heading:<20}{_percent(overall[name])} %"
    loss = overall["loss"]
    yield f"{'loss':<20}{'not a number' if loss is None else format_value('test_loss', loss)}"
    yield f"{'calibration error':<20}{_percent(overall['ece'])} %"


def _classes(evaluation: Mapping[str, Any]) -> Iterator[str]:
    key, title = (
        ("iou", "IoU %") if "miou" in evaluation["overall"] else ("precision", "precision %")
    )
    rows = list(evaluation["classes"])
    if len(rows) > FEW:
        ranking = sorted((one for one in rows if one["count"]), key=lambda one: one["accuracy"])
        rows = ranking[:WORST] + ranking[max(WORST, len(ranking) - WORST) :]
        yield f"the {WORST} worst and the {len(rows) - WORST} best of {len(evaluation['classes'])} classes"
    unit = "pixels" if "miou" in evaluation["overall"] else "images"
    width = max(len("class"), *(len(one["name"]) for one in rows))
    yield f"{'class':<{width}}  {unit:>12}  {'accuracy %':>11}  {title:>11}"
    for one in rows:
        yield f"{one['name']:<{width}}  {one['count']:>12,}  {_percent(one['accuracy']):>11}  {_percent(one[key]):>11}"


def _confused(evaluation: Mapping[str, Any]) -> Iterator[str]:
    for number, pair in enumerate(evaluation["confused"]):
        lead = "most confused" if number == 0 else ""
        yield f"{lead:<20}{pair['true']} predicted as {pair['predicted']}: {pair['count']:,} times, {_percent(pair['share'])} % of {pair['true']}"


def _batches(evaluation: Mapping[str, Any]) -> Iterator[str]:
    valid = [one for one in evaluation["batches"] if one["accuracy"] is not None]
    accuracies = [one["accuracy"] for one in valid]
    worst = min(valid, key=lambda one: one["accuracy"])
    middle = statistics.median(accuracies)
    lead = f"batches of {evaluation['batch_size']}"
    yield f"{lead:<20}{_percent(worst['accuracy'])} % in the worst, number {worst['number']} of {len(evaluation['batches'])} ({worst['images']} images); median {_percent(middle)} %, best {_percent(max(accuracies))} %"


def _profile(evaluation: Mapping[str, Any]) -> Iterator[str]:
    profile = evaluation["profile"]
    zeros = 1 - profile.get("nonzero_params", profile["num_params"]) / profile["num_params"]
    sparse = f", {_percent(zeros)} % of them zero" if zeros >= 0.0001 else ""
    yield f"{'parameters':<20}{profile['num_params']:,}{sparse}"
    for name in PROFILE:
        if name in profile:
            one = " (one image at a time)" if name.endswith("latency_ms") else ""
            yield f"{_label(name):<20}{_measured(profile, name)} {METRICS[name].unit}{one}".rstrip()
    if "int8_operators" in profile:
        total = profile["int8_operators"] + profile.get("float_operators", 0)
        yield f"{'int8':<20}{profile['int8_operators']} of {total} convolutions and linear layers"
    if "reason" in profile:
        yield f"{'latency, compiled':<20}not measured: {profile['reason']}"


def _label(name: str) -> str:
    heading = METRICS[name].heading
    return heading if heading == "FLOPs" else heading[0].lower() + heading[1:]


def _measured(profile: Mapping[str, Any], name: str) -> str:
    spread = f" ± {format_value(name, profile[f'{name}_sd'])}" if f"{name}_sd" in profile else ""
    if name == "size_mb" and profile[name] < 0.1:  # two digits of a MB are none of a small network
        return f"{profile[name]:.4f}"
    return f"{format_value(name, profile[name])}{spread}"


def _against(evaluation: Mapping[str, Any]) -> Iterator[str]:
    against = evaluation.get("against")
    if not against:
        return
    yield f"against {against['weights']}: {against['network']}; {' + '.join(against['stages']) or 'not known how trained'}"
    for name in SHARES:
        if name in against["difference"]:
            change = 100 * against["difference"][name]
            spread = ""
            if name == "accuracy" and against["difference"]["accuracy_se"] is not None:
                spread = f" ± {100 * against['difference']['accuracy_se']:.2f}"
            yield f"{name:<20}{change:+.2f}{spread} points, from {_percent(against['overall'][name])} %"
    for name in ("num_params", "size_mb", "latency_ms", "throughput_per_s", "compiled_latency_ms"):
        if name in against["ratio"]:
            before = _measured(against["profile"], name)
            unit = f" {METRICS[name].unit}".rstrip()
            yield f"{_label(name):<20}{against['ratio'][name]:.2f} times {before}{unit}"


def _alarms(evaluation: Mapping[str, Any]) -> Iterator[str]:
    if not evaluation["alarms"]:
        yield "no alarms"
    for alarm in evaluation["alarms"]:
        yield f"ALARM {alarm['text']}\n      {alarm['advice']}"


def picture(evaluation: Mapping[str, Any]) -> bytes:
    """Return the confusion matrix as a PNG, rows divided by their sums."""
    import matplotlib

    from tune_kd.evaluation import confusion_matrix

    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a name is a dollar
        figure = confusion_matrix.draw(
            {evaluation["network"]: np.asarray(evaluation["confusion"])},
            names=[one["name"] for one in evaluation["classes"]],
            title="Confusion on the test split, % of the true class",
            side=6.0,
        )
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
