"""What an evaluation's numbers say: each class, the confused pairs, and the alarms with advice.

An evaluation is plain data, as evaluation.json holds it: shares as fractions, None where a number is
not known or not finite.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tune_kd.metrics import format_value

Evaluation = Mapping[str, Any]
MOST_ECE = 0.10
MOST_DROP = 0.05  # of accuracy against another network
NAMED = 8  # classes in an alarm


def classes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class: `count` positions of it, `predicted` ones, accuracy, precision, iou.

    `confusion` is [K, K] with the true class by row. Accuracy is the share of its positions that are
    found; None where there are none to divide by.

    >>> found = classes([[3, 1], [0, 0]], ["cat", "dog"])
    >>> [(one["name"], one["accuracy"], one["precision"], one["iou"]) for one in found]
    [('cat', 0.75, 1.0, 0.75), ('dog', None, 0.0, 0.0)]
    """
    found = []
    for at, name in enumerate(names):
        right = confusion[at][at]
        count, predicted = sum(confusion[at]), sum(row[at] for row in confusion)
        found.append(
            {
                "name": name,
                "count": count,
                "predicted": predicted,
                "right": right,
                "accuracy": _share(right, count),
                "precision": _share(right, predicted),
                "iou": _share(right, count + predicted - right),
            }
        )
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean_accuracy(found: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the accuracies of those classes that occur."""
    return statistics.fmean(one["accuracy"] for one in found if one["accuracy"] is not None)


def confused(
    confusion: Sequence[Sequence[int]], names: Sequence[str], *, count: int = 5
) -> list[dict[str, Any]]:
    """Return the pairs that are mixed up most often: true class, predicted class, how often, share of the true.

    >>> confused([[3, 1], [0, 2]], ["cat", "dog"])
    [{'true': 'cat', 'predicted': 'dog', 'count': 1, 'share': 0.25}]
    """
    pairs: list[dict[str, Any]] = [
        {"true": names[i], "predicted": names[j], "count": cell, "share": cell / sum(row)}
        for i, row in enumerate(confusion)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:count]


class Alarm(NamedTuple):
    """Something that should not be so, and what to do."""

    name: str
    text: str
    advice: str


def alarms(found: Evaluation) -> list[Alarm]:
    """All that is amiss with an evaluation."""
    said = [(name, rule(found), advice) for name, (rule, advice) in ALARMS.items()]
    return [
        Alarm(name, text, advice(found) if callable(advice) else advice)
        for name, text, advice in said
        if text
    ]


def _percent(share: float) -> str:
    return f"{format_value('test_accuracy', share)} %"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _other_images(found: Evaluation) -> str:
    if not found["other_images"]:
        return ""
    return "the network was trained on other images than the train split here"


def _not_finite(found: Evaluation) -> str:
    count = found["not_finite"]
    return f"{count:,} of the weights are infinite or not a number" if count else ""


def _predicted(found: Evaluation) -> list[Mapping[str, Any]]:
    return [one for one in found["classes"] if one["predicted"]]


def _one_class(found: Evaluation) -> str:
    predicted = _predicted(found)
    return f"all predictions are '{predicted[0]['name']}'" if len(predicted) == 1 else ""


def _chance(found: Evaluation) -> str:
    """Within two standard deviations of what saying the most frequent class would reach."""
    counts = [one["count"] for one in found["classes"]]
    guess = max(counts) / sum(counts)
    bound = guess + 2 * math.sqrt(guess * (1 - guess) / found["images"])
    if found["overall"]["accuracy"] > bound:
        return ""
    reached = _percent(found["overall"]["accuracy"])
    return f"accuracy {reached} is not clearly above the majority-class baseline, {_percent(guess)}"


def _never(found: Evaluation) -> str:
    predicted = _predicted(found)
    names = [one["name"] for one in found["classes"] if one["count"] and not one["predicted"]]
    return f"never predicted: {_listed(names)}" if names and len(predicted) > 1 else ""


def _never_right(found: Evaluation) -> str:
    """Those that are predicted, but always wrongly; of the others `_never` speaks."""
    names = [one["name"] for one in _predicted(found) if one["accuracy"] == 0]
    return f"accuracy 0 % of class {_listed(names)}" if names else ""


def _uncalibrated(found: Evaluation) -> str:
    ece = found["overall"]["ece"]
    if ece is None or ece <= MOST_ECE:
        return ""
    return f"the calibration error is {_percent(ece)}, more than {MOST_ECE:.0%}"


def _below(role: str) -> Callable[[Evaluation], str]:
    def below(found: Evaluation) -> str:
        reached = found["overall"][found["metric"]]
        if found["role"] != role or reached >= found["expected"]:
            return ""
        return f"{found['metric']} {_percent(reached)} of the {role} is below the {found['expected']:.0%} that space {found['space']} expects"

    return below


def _drop(found: Evaluation) -> str:
    against = found.get("against")
    if not against or -against["difference"][found["metric"]] <= MOST_DROP:
        return ""
    lost = -100 * against["difference"][found["metric"]]
    return f"{found['metric']} is {lost:.2f} points below that of {against['weights']}"


def _no_smaller(found: Evaluation) -> str:
    against = found.get("against")
    if not found["quantized"] or not against or against["difference"]["size_mb"] < 0:
        return ""
    return f"int8 is no smaller than {against['weights']}"


def _no_faster(found: Evaluation) -> str:
    """Compiled against compiled; a gain within the sum of both deviations is none."""
    against, own = found.get("against"), found["profile"]
    if not found["quantized"] or not against or "compiled_latency_ms" not in own:
        return ""
    other = against["profile"]
    if against["quantized"] or "compiled_latency_ms" not in other:
        return ""
    noise = own["compiled_latency_ms_sd"] + other["compiled_latency_ms_sd"]
    if other["compiled_latency_ms"] - own["compiled_latency_ms"] > noise:
        return ""
    times = [f"{one['compiled_latency_ms']:.3f} ± {one['compiled_latency_ms_sd']:.3f}" for one in (own, other)]  # fmt: skip
    return f"no speed-up from int8: {times[0]} ms against {times[1]} ms, both compiled"


def _not_quantized(found: Evaluation) -> str:
    wrong = found["profile"].get("wrong", "")
    return f"fewer than half of the layers are int8: {wrong}" if wrong else ""


def _operators(found: Evaluation) -> str:
    own = found["profile"]
    whole = own["int8_operators"] + own.get("float_operators", 0)
    return (
        f"verify that the model is really quantized: {own['int8_operators']} of {whole} convolutions and linear "
        "layers are int8; a network this small or this CPU may gain nothing"
    )


def _mend(found: Evaluation) -> str:
    if found["quantized"]:
        return "review the calibration: more images (--set calibration_images=N), or fake quantization (method qat)"
    return (
        "check the distillation pipeline, and of a pruned network the ratio and the epochs after it"
    )


ALARMS: dict[str, tuple[Callable[[Evaluation], str], str | Callable[[Evaluation], str]]] = {
    "not_finite": (_not_finite, "training has diverged: a lower lr, or --set clip=1"),
    "other_images": (_other_images, "check --data: its classes may be others, or in another order"),
    "one_class": (_one_class, "training has collapsed: check lr, labels and normalisation"),
    "chance": (_chance, "check that it was trained at all, and on these classes in this order"),
    "never_predicted": (_never, "check how many training images these classes have, and their labels"),
    "never_right": (_never_right, "check the labels, and the most confused pairs"),
    "ece": (_uncalibrated, "do not read its scores as probabilities: try label smoothing, or scale them by a temperature"),
    "expected_teacher": (_below("teacher"), "check training epochs and learning rate"),
    "expected_student": (_below("student"), "check the distillation pipeline: teacher, loss weights, temperature, epochs"),
    "drop": (_drop, _mend),
    "not_quantized": (_not_quantized, "quantize it again (method static or qat)"),
    "no_smaller": (_no_smaller, _operators),
    "no_faster": (_no_faster, _operators),
}  # fmt: skip
