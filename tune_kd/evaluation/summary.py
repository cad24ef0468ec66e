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


def text(found: Mapping[str, Any]) -> str:
    """All of an evaluation but its matrix and its single batches."""
    parts = (_heading, _overall, _classes, _confused, _batches, _profile, _against, _alarms)
    blocks = ["\n".join(part(found)) for part in parts]
    return "\n\n".join(block for block in blocks if block)


def _percent(share: float | None) -> str:
    return "-" if share is None else format_value("test_accuracy", share)


def _heading(found: Mapping[str, Any]) -> Iterator[str]:
    made = " + ".join(found["stages"]) or "training unknown"
    role = f", the {found['role']} of space {found['space']}" if found["role"] else ""
    yield f"{found['weights']}: {found['network']}{role}; {made}"
    yield f"test split of {found['task']}: {found['images']:,} images, {len(found['classes'])} classes; {found['profile']['device']}"


def _overall(found: Mapping[str, Any]) -> Iterator[str]:
    overall = found["overall"]
    spread = f" ± {_percent(overall['accuracy_se'])}" if overall["accuracy_se"] is not None else ""
    yield f"{'accuracy':<20}{_percent(overall['accuracy'])}{spread} % (standard error over n = {found['images']:,} images)"
    yield f"{'mean over classes':<20}{_percent(overall['mean_class_accuracy'])} %"
    for name in SHARES:
        if name in overall and name != "accuracy":
            heading = METRICS[f"test_{name}"].heading.removeprefix("Test ")
            yield f"{heading:<20}{_percent(overall[name])} %"
    loss = overall["loss"]
    yield f"{'loss':<20}{'not a number' if loss is None else format_value('test_loss', loss)}"
    yield f"{'calibration error':<20}{_percent(overall['ece'])} %"


def _classes(found: Mapping[str, Any]) -> Iterator[str]:
    key, title = ("iou", "IoU %") if "miou" in found["overall"] else ("precision", "precision %")
    listed = list(found["classes"])
    if len(listed) > FEW:
        known = sorted((one for one in listed if one["count"]), key=lambda one: one["accuracy"])
        listed = known[:WORST] + known[max(WORST, len(known) - WORST) :]
        yield f"the {WORST} worst and the {len(listed) - WORST} best of {len(found['classes'])} classes"
    counted = "pixels" if "miou" in found["overall"] else "images"
    width = max(len("class"), *(len(one["name"]) for one in listed))
    yield f"{'class':<{width}}  {counted:>12}  {'accuracy %':>11}  {title:>11}"
    for one in listed:
        yield f"{one['name']:<{width}}  {one['count']:>12,}  {_percent(one['accuracy']):>11}  {_percent(one[key]):>11}"


def _confused(found: Mapping[str, Any]) -> Iterator[str]:
    for number, pair in enumerate(found["confused"]):
        lead = "most confused" if number == 0 else ""
        yield f"{lead:<20}{pair['true']} predicted as {pair['predicted']}: {pair['count']:,} times, {_percent(pair['share'])} % of {pair['true']}"


def _batches(found: Mapping[str, Any]) -> Iterator[str]:
    known = [one for one in found["batches"] if one["accuracy"] is not None]
    accuracies = [one["accuracy"] for one in known]
    worst = min(known, key=lambda one: one["accuracy"])
    middle = statistics.median(accuracies)
    lead = f"batches of {found['batch_size']}"
    yield f"{lead:<20}{_percent(worst['accuracy'])} % in the worst, number {worst['number']} of {len(found['batches'])} ({worst['images']} images); median {_percent(middle)} %, best {_percent(max(accuracies))} %"


def _profile(found: Mapping[str, Any]) -> Iterator[str]:
    own = found["profile"]
    zeros = 1 - own.get("nonzero_params", own["num_params"]) / own["num_params"]
    sparse = f", {_percent(zeros)} % of them zero" if zeros >= 0.0001 else ""
    yield f"{'parameters':<20}{own['num_params']:,}{sparse}"
    for name in PROFILE:
        if name in own:
            one = " (one image at a time)" if name.endswith("latency_ms") else ""
            yield f"{_label(name):<20}{_measured(own, name)} {METRICS[name].unit}{one}".rstrip()
    if "int8_operators" in own:
        whole = own["int8_operators"] + own.get("float_operators", 0)
        yield f"{'int8':<20}{own['int8_operators']} of {whole} convolutions and linear layers"
    if "reason" in own:
        yield f"{'latency, compiled':<20}not measured: {own['reason']}"


def _label(name: str) -> str:
    heading = METRICS[name].heading
    return heading if heading == "FLOPs" else heading[0].lower() + heading[1:]


def _measured(own: Mapping[str, Any], name: str) -> str:
    spread = f" ± {format_value(name, own[f'{name}_sd'])}" if f"{name}_sd" in own else ""
    if name == "size_mb" and own[name] < 0.1:  # two digits of a MB are none of a small network
        return f"{own[name]:.4f}"
    return f"{format_value(name, own[name])}{spread}"


def _against(found: Mapping[str, Any]) -> Iterator[str]:
    against = found.get("against")
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


def _alarms(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["alarms"]:
        yield "no alarms"
    for alarm in found["alarms"]:
        yield f"ALARM {alarm['text']}\n      {alarm['advice']}"


def picture(found: Mapping[str, Any]) -> bytes:
    """Return the confusion matrix as a PNG, rows divided by their sums."""
    import matplotlib

    from tune_kd.evaluation import confusion_matrix

    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a name is a dollar
        figure = confusion_matrix.draw(
            {found["network"]: np.asarray(found["confusion"])},
            names=[one["name"] for one in found["classes"]],
            title="Confusion on the test split, % of the true class",
            side=6.0,
        )
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
