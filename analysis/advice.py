"""What the numbers mean: verdicts, warnings and advice, as sentences in Markdown."""

import shlex
from collections import Counter
from itertools import combinations

from analysis import select, stats
from analysis.cells import gap, metric, plain, spoken
from analysis.compressing import change
from analysis.lines import to_baseline
from analysis.load import Study

COSTLY = 0.05  # of the test metric: more is said to be a high price for int8
SENTENCES = {
    "helps": "**{method} helps**: {gap} percentage points of {metric} over the baseline.",
    "hurts": "**{method} hurts**: {gap} percentage points of {metric} against the baseline.",
    "no evidence": "**{method}: no evidence** that it helps or hurts: {gap} percentage points of "
    "{metric} against the baseline; the interval holds 0.",
    "too few seeds": "**{method}: too few seeds** to say: {gap} percentage points of {metric} "
    "against the baseline. A verdict needs at least 3 seeds in common.",
}


def verdicts(study: Study) -> list[str]:
    """One or two sentences a method that distils: helps, hurts, no evidence, too few seeds."""
    said = []
    for method in study.kd_methods:
        difference = to_baseline(study, method)
        if difference:
            text = SENTENCES[difference.verdict].format(
                method=method, gap=gap(difference), metric=spoken(study.test_metric)
            )
        elif study.chosen(method) is None:
            text = f"**{method}: nothing to say**, no trial has finished."
        elif not study.confirmed(study.chosen(method)):
            text = f"**{method}: not confirmed** on the test split."
        else:
            text = f"**{method}: nothing to compare with**, no baseline is confirmed on its seeds."
        said.append(text)
    return said


def is_confirmed(study: Study) -> bool:
    """Whether any method has a number on the test split."""
    return any(study.confirmed(study.chosen(method)) for method in study.methods)


def warnings(study: Study) -> list[str]:
    """What a reader must know before the numbers."""
    found = []
    taught = select.teacher(study.rows, "teach")
    best = next(iter(select.best(study.rows, select.BASELINE, metric=study.metric)), None)
    low, high = select.number(taught, study.metric), select.number(best, study.metric)
    if low is not None and high is not None and low < high:
        found.append(
            f"THE TEACHER IS WORSE THAN THE STUDENT WITHOUT IT: {spoken(study.metric)} "
            f"{metric(taught, study.metric)} % (n = 1) against {metric(best, study.metric)} % "
            "(n = 1) of the best baseline trial. Train it longer or take another teacher; what "
            "distillation does below says little."
        )
    if file := study.manifest.get("teacher_file"):
        found.append(
            f"The teacher came from the file {file}: it may have seen this study's validation "
            "images, so validation values of methods that distil may be too good."
        )
    if file := study.manifest.get("start_file"):
        found.append(
            f"Students began from the file {file}: it may have seen this study's validation images, and its "
            "training could not be repeated with other seeds, so the spreads of methods that began from it are "
            "of what came after."
        )
    if select.BASELINE not in study.methods:
        found.append(f"The study has no baseline ({select.BASELINE}): nothing can be compared.")
    return found


def advice(study: Study) -> list[str]:
    """What to do next: ranges to widen, methods to tell apart, seeds to add, trials that failed."""
    found = [*_edges(study), *_within_noise(study), *_few_seeds(study), *_unfinished(study)]
    found += _quantised(study)
    for method in study.methods:
        ranked = select.best(study.rows, method, top=len(study.rows), metric=study.metric)
        best = next((row for row in ranked if row["trial"] not in study.barred), None)
        used = study.chosen(method)
        if best and used and best["trial"] != used["trial"]:
            found.append(
                f"**{method}**: trial {best['number']} is now better on validation than trial "
                f"{used['number']}, which was confirmed: `{confirm_command(study)}`."
            )
    return found


def confirm_command(study: Study, *, seeds: int = 5) -> str:
    """What to type to confirm a study."""
    return f"python -m tune_kd.confirm {shlex.quote(study.address)} --seeds {seeds}"


def _edges(study: Study) -> list[str]:
    found = []
    for method in study.methods:
        described, row = study.manifest["methods"][method], study.chosen(method)
        for name, (low, high, log) in described.get("bounds", {}).items():
            value = select.number(row, f"config.{name}")
            end = "" if value is None else select.edge(value, low, high, log=log)
            if end:
                text = described.get("ranges", {}).get(name, f"{plain(low)} .. {plain(high)}")
                found.append(
                    f"**{method}**: the best `{name}`, {plain(value)}, lies within 5 % of the "
                    f"{end} end of its range ({text}): widen it there."
                )
    return found


def _within_noise(study: Study) -> list[str]:
    found = []
    for first, second in combinations(study.kd_methods, 2):
        values = (study.confirmed(study.chosen(method)) for method in (second, first))
        difference = stats.paired(*values)
        if difference and difference.verdict == "no evidence":
            found.append(
                f"**{first}** and **{second}** are within noise: {second} minus {first} is "
                f"{gap(difference)} percentage points of {spoken(study.test_metric)}."
            )
    return found


def _quantised(study: Study) -> list[str]:
    """int8 that costs much, or that is no faster than the float student; both compiled."""
    found = []
    plain = select.number(select.student_footprint(study.rows), "compiled_latency_ms")
    for method in study.methods:
        made = change(study, method, "Quantize")
        if made is None:
            continue
        if made.difference and made.difference.mean < -COSTLY:
            found.append(
                f"**{method}**: quantising changes {spoken(study.test_metric)} by "
                f"{gap(made.difference)} percentage points: calibrate on more images, or train with "
                "fake quantisation."
            )
        fast = select.number(study.footprint(study.chosen(method)), "compiled_latency_ms")
        if fast is not None and plain is not None and fast >= plain:
            found.append(
                f"**{method}**: int8 is no faster here than the float student ({fast:.3f} against "
                f"{plain:.3f} ms, both compiled): time it on the device that it is meant for."
            )
    return found


def _few_seeds(study: Study) -> list[str]:
    counts = {m: len(study.confirmed(study.chosen(m))) for m in study.methods}
    few = [f"{method} has {n}" for method, n in counts.items() if n < stats.MIN_REPEATS]
    if not few or not is_confirmed(study):
        return []
    return [f"Fewer than three seeds ({', '.join(few)}): `{confirm_command(study)}`."]


def _unfinished(study: Study) -> list[str]:
    found = []
    for method in study.methods:
        counts = Counter(row["status"] for row in select.trials(study.rows, "search", method))
        total = sum(counts.values())
        if not counts["finished"]:
            found.append(f"**{method}**: none of {total} trials has finished.")
        elif counts["failed"] or counts["stopped"]:
            found.append(
                f"**{method}**: of {total} trials {counts['failed']} failed, {counts['stopped']} "
                f"stopped early, {counts['finished']} finished; only these are ranked."
            )
    return found
