"""What an evaluation's numbers say: each class, the confused pairs, and the alarms with advice.

An evaluation is plain data, as evaluation.json holds it: shares as fractions, None where a number
is not known or not finite.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tune_kd.metrics import format_value

Evaluation = Mapping[str, Any]
MOST_ECE = 0.10
MOST_DROP = 0.05  # of accuracy against another network
MAX_NAMES = 8  # classes in an alarm


def classes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class: `count` positions of it, `predicted` ones, accuracy, precision, iou.

    `confusion` is [K, K] with the true class by row. Accuracy is the share of its positions that
    are found; None where there are none to divide by.

    >>> rows = classes([[3, 1], [0, 0]], ["cat", "dog"])
    >>> [(one["name"], one["accuracy"], one["precision"], one["iou"]) for one in rows]
    [('cat', 0.75, 1.0, 0.75), ('dog', None, 0.0, 0.0)]
    """
    rows = []
    for at, name in enumerate(names):
        right = confusion[at][at]
        count, predicted = sum(confusion[at]), sum(row[at] for row in confusion)
        rows.append(
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
    return rows


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def mean_accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the accuracies of those classes that occur."""
    return statistics.fmean(one["accuracy"] for one in rows if one["accuracy"] is not None)


def rank_confusions(
    confusion: Sequence[Sequence[int]], names: Sequence[str], *, count: int = 5
) -> list[dict[str, Any]]:
    """Return the pairs that are mixed up most often: true class, predicted class, how often, share of the true.

    >>> rank_confusions([[3, 1], [0, 2]], ["cat", "dog"])
    [{'true': 'cat', 'predicted': 'dog', 'count': 1, 'share': 0.25}]
    """
    pairs: list[dict[str, Any]] = [
        {"true": names[i], "predicted": names[j], "count": cell, "share": cell / sum(row)}
        for i, row in enumerate(confusion)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:count]


class Diagnostic(NamedTuple):
    """Something that should not be so, and what to do."""

    name: str
    text: str
    advice: str


def diagnose(evaluation: Evaluation) -> list[Diagnostic]:
    """All that is amiss with an evaluation."""
    texts = [(name, rule(evaluation), advice) for name, (rule, advice) in RULES.items()]
    return [
        Diagnostic(name, text, advice(evaluation) if callable(advice) else advice)
        for name, text, advice in texts
        if text
    ]


def _percent(share: float) -> str:
    return f"{format_value('test_accuracy', share)} %"


def _join(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _other_images(evaluation: Evaluation) -> str:
    if not evaluation["other_images"]:
        return ""
    return "the network was trained on other images than the train split here"


def _not_finite(evaluation: Evaluation) -> str:
    count = evaluation["not_finite"]
    return f"{count:,} of the weights are infinite or not a number" if count else ""


def _predicted(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    return [one for one in evaluation["classes"] if one["predicted"]]


def _one_class(evaluation: Evaluation) -> str:
    predicted = _predicted(evaluation)
    return f"all predictions are '{predicted[0]['name']}'" if len(predicted) == 1 else ""


def _chance(evaluation: Evaluation) -> str:
    """Within two standard deviations of what saying the most frequent class would reach."""
    counts = [one["count"] for one in evaluation["classes"]]
    guess = max(counts) / sum(counts)
    bound = guess + 2 * math.sqrt(guess * (1 - guess) / evaluation["images"])
    if evaluation["overall"]["accuracy"] > bound:
        return ""
    reached = _percent(evaluation["overall"]["accuracy"])
    return f"accuracy {reached} is not clearly above the majority-class baseline, {_percent(guess)}"


def _never(evaluation: Evaluation) -> str:
    predicted = _predicted(evaluation)
    names = [one["name"] for one in evaluation["classes"] if one["count"] and not one["predicted"]]
    return f"never predicted: {_join(names)}" if names and len(predicted) > 1 else ""


def _never_right(evaluation: Evaluation) -> str:
    """Those that are predicted, but always wrongly; of the others `_never` speaks."""
    names = [one["name"] for one in _predicted(evaluation) if one["accuracy"] == 0]
    return f"accuracy 0 % of class {_join(names)}" if names else ""


def _uncalibrated(evaluation: Evaluation) -> str:
    ece = evaluation["overall"]["ece"]
    if ece is None or ece <= MOST_ECE:
        return ""
    return f"the calibration error is {_percent(ece)}, more than {MOST_ECE:.0%}"


def _below(role: str) -> Callable[[Evaluation], str]:
    def below(evaluation: Evaluation) -> str:
        reached = evaluation["overall"][evaluation["metric"]]
        if evaluation["role"] != role or reached >= evaluation["expected"]:
            return ""
        return f"{evaluation['metric']} {_percent(reached)} of the {role} is below the {evaluation['expected']:.0%} that space {evaluation['space']} expects"

    return below


def _drop(evaluation: Evaluation) -> str:
    against = evaluation.get("against")
    if not against or -against["difference"][evaluation["metric"]] <= MOST_DROP:
        return ""
    lost = -100 * against["difference"][evaluation["metric"]]
    return f"{evaluation['metric']} is {lost:.2f} points below that of {against['weights']}"


def _no_smaller(evaluation: Evaluation) -> str:
    against = evaluation.get("against")
    if not evaluation["quantized"] or not against or against["difference"]["size_mb"] < 0:
        return ""
    return f"int8 is no smaller than {against['weights']}"


def _no_faster(evaluation: Evaluation) -> str:
    """Compiled against compiled; a gain within the sum of both deviations is none."""
    against, profile = evaluation.get("against"), evaluation["profile"]
    if not evaluation["quantized"] or not against or "compiled_latency_ms" not in profile:
        return ""
    other = against["profile"]
    if against["quantized"] or "compiled_latency_ms" not in other:
        return ""
    noise = profile["compiled_latency_ms_sd"] + other["compiled_latency_ms_sd"]
    if other["compiled_latency_ms"] - profile["compiled_latency_ms"] > noise:
        return ""
    return (
        f"no speed-up from int8: {_compiled_latency(profile)} ms against "
        f"{_compiled_latency(other)} ms, both compiled"
    )


def _compiled_latency(profile: Mapping[str, Any]) -> str:
    return f"{profile['compiled_latency_ms']:.3f} ± {profile['compiled_latency_ms_sd']:.3f}"


def _not_quantized(evaluation: Evaluation) -> str:
    wrong = evaluation["profile"].get("wrong", "")
    return f"fewer than half of the layers are int8: {wrong}" if wrong else ""


def _operators(evaluation: Evaluation) -> str:
    profile = evaluation["profile"]
    total = profile["int8_operators"] + profile.get("float_operators", 0)
    return (
        f"verify that the model is really quantized: {profile['int8_operators']} of {total} convolutions and linear "
        "layers are int8; a network this small or this CPU may gain nothing"
    )


def _remedy(evaluation: Evaluation) -> str:
    if evaluation["quantized"]:
        return "review the calibration: more images (--set calibration_images=N), or fake quantization (method qat)"
    return (
        "check the distillation pipeline, and of a pruned network the ratio and the epochs after it"
    )


RULES: dict[str, tuple[Callable[[Evaluation], str], str | Callable[[Evaluation], str]]] = {
    "not_finite": (_not_finite, "training has diverged: a lower lr, or --set clip=1"),
    "other_images": (_other_images, "check --data: its classes may be others, or in another order"),
    "one_class": (_one_class, "training has collapsed: check lr, labels and normalisation"),
    "chance": (_chance, "check that it was trained at all, and on these classes in this order"),
    "never_predicted": (_never, "check how many training images these classes have, and their labels"),
    "never_right": (_never_right, "check the labels, and the most confused pairs"),
    "ece": (_uncalibrated, "do not read its scores as probabilities: try label smoothing, or scale them by a temperature"),
    "expected_teacher": (_below("teacher"), "check training epochs and learning rate"),
    "expected_student": (_below("student"), "check the distillation pipeline: teacher, loss weights, temperature, epochs"),
    "drop": (_drop, _remedy),
    "not_quantized": (_not_quantized, "quantize it again (method static or qat)"),
    "no_smaller": (_no_smaller, _operators),
    "no_faster": (_no_faster, _operators),
}  # fmt: skip
