"""What to know before the numbers, and what to do next: sentences in Markdown."""

from collections import Counter

from analysis import selection
from analysis.commands import confirm_command, search_command
from analysis.comparison import stats
from analysis.comparison.verdicts import is_confirmed
from analysis.compression import change
from analysis.formatting import counted, gap, mean_sd, metric, spoken
from analysis.hyperparameters.edges import edges
from analysis.selection import BASELINE
from analysis.study import Study
from tune_kd.metrics import number

COSTLY = 0.05  # of the test metric: more is said to be a high price for int8


def warnings(study: Study) -> list[str]:
    """Return what a reader must know before the numbers."""
    found = _weak_teacher(study)
    if file := study.manifest.teacher_file:
        found.append(
            f"The teacher came from the file {file}: it may have seen this study's validation "
            "images, so validation values of methods that distil may be too good."
        )
    if file := study.manifest.start_file:
        found.append(
            f"Students began from the file {file}: it may have seen this study's validation images, and its "
            "training could not be repeated with other seeds, so the spreads of methods that began from it are "
            "of what came after."
        )
    if BASELINE not in study.methods:
        found.append(f"The study has no baseline ({BASELINE}): nothing can be compared.")
    elif not study.kd_methods:
        found.append(
            f"The study has the baseline ({BASELINE}) alone: there is nothing to compare it with."
        )
    return found


def _weak_teacher(study: Study) -> list[str]:
    """Return a teacher below the plain student: on test the tuned one, before that the one with default settings.

    Never the best of several trials: a maximum is too good.
    """
    tested = selection.teacher(study.rows, "confirm")
    taught = selection.teacher(study.rows, "teacher")
    trials = selection.default_trials(study.rows, BASELINE).values()
    default = [v for row in trials if (v := number(row, study.metric)) is not None]
    for row, name, values, what in (
        (tested, study.test_metric, study.tuned(BASELINE).values(), "the tuned baseline"),
        (taught, study.metric, default, "the baseline with its default settings"),
    ):
        own, plain = number(row, name), stats.summarise(values)
        if own is None or plain is None:
            continue
        if own >= plain.mean:
            return []
        return [
            f"THE TEACHER IS WORSE THAN THE STUDENT WITHOUT IT: {spoken(name)}, %: {metric(row, name)} "
            f"(n = 1) against {mean_sd(plain)} of {what}. Train it longer or take another teacher; what "
            "distillation does below says little."
        ]
    return []


def advice(study: Study) -> list[str]:
    """Return what to do next: what to confirm, searches that gave nothing, what quantizing cost."""
    found = [*_unconfirmed(study), *_lost_repeats(study), *_unfinished(study)]
    return found + _edges(study) + _quantized(study)


def _edges(study: Study) -> list[str]:
    """Ranges at whose end the best trials of several searches stand, beyond chance."""
    return [
        f"**{method}**: the best trials of its searches (n = {edge.n}) stand at the {edge.end} end of the range of "
        f"`{edge.parameter}` ({study.manifest.methods[method].ranges[edge.parameter]}; by chance so near in "
        f"{edge.p * 100:.2g} % of studies): widen it there."
        for method in study.methods
        for edge in edges(study, method)
    ]


def _unconfirmed(study: Study) -> list[str]:
    """Winners and recommended students that the test split has not seen, once it was opened."""
    if not is_confirmed(study):
        return []
    found = []
    for method in study.methods:
        now, used = study.best_so_far(method), study.winners(method)
        tested = study.tuned(method)
        if missing := [repeat for repeat in used if repeat not in tested]:
            found.append(f"**{method}**: not confirmed in {_repeats(missing)}.")
        for repeat, row in now.items():
            if used[repeat]["trial"] != row["trial"]:
                found.append(
                    f"**{method}**: trial {row['trial']} is now better on validation than trial "
                    f"{used[repeat]['trial']}, which was confirmed."
                )
        chosen = study.chosen(method)
        if chosen and not study.confirmed(chosen):
            found.append(f"**{method}**: its recommended trial {chosen['trial']} is not confirmed.")
    if found:
        found[-1] += f" Type `{confirm_command(study)}`."
    return found


def _lost_repeats(study: Study) -> list[str]:
    """Repeats that count for nothing because a method has no finished trial in them."""
    found = []
    for method in study.methods:
        begun = {row["repeat"] for row in selection.trials(study.rows, "search", method)}
        lost = sorted(begun - study.winners(method).keys())
        if lost and study.winners(method):
            found.append(
                f"**{method}**: no trial has finished in {_repeats(lost)}: it counts for nothing there, "
                f"so that n = {len(study.winners(method))} of {counted(study.repeats, 'repeat')}."
            )
    return found


def _quantized(study: Study) -> list[str]:
    """int8 that costs much, or that is no faster than the float student; both compiled."""
    found = []
    plain = number(selection.student_footprint(study.rows), "compiled_latency_ms")
    for method in study.methods:
        made = change(study, method, "Quantize")
        if made is None:
            continue
        if made.difference and made.difference.mean < -COSTLY:
            found.append(
                f"**{method}**: quantizing changes {spoken(study.test_metric)} by "
                f"{gap(made.difference)} percentage points: calibrate on more images, or train with "
                "fake quantization."
            )
        fast = number(study.footprint(study.chosen(method)), "compiled_latency_ms")
        if fast is not None and plain is not None and fast >= plain:
            found.append(
                f"**{method}**: int8 is no faster here than the float student ({fast:.3f} against "
                f"{plain:.3f} ms, both compiled): time it on the device that it is meant for."
            )
    return found


def _repeats(numbers: list[int]) -> str:
    return f"repeat{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _unfinished(study: Study) -> list[str]:
    found = []
    none = [m for m in study.methods if not selection.trials(study.rows, "search", m)]
    if none:
        found.append(f"**{', '.join(none)}**: no trial has ended yet: `{search_command(study)}`.")
    for method in study.methods:
        counts = Counter(row["status"] for row in selection.trials(study.rows, "search", method))
        total = sum(counts.values())
        if total and not counts["finished"]:
            found.append(f"**{method}**: none of {counted(total, 'trial')} has finished.")
        elif counts["failed"]:
            found.append(
                f"**{method}**: of {counted(total, 'trial')} {counts['failed']} failed, "
                f"{counts['stopped']} stopped early, {counts['finished']} finished; only these are ranked."
            )
    return found
