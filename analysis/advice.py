"""What to know before the numbers, and what to do next: sentences in Markdown."""

from collections import Counter

from analysis import selection
from analysis.commands import confirm_command, search_command
from analysis.comparison import stats
from analysis.comparison.verdicts import is_confirmed
from analysis.compression import change
from analysis.formatting import count_text, gap, mean_sd, metric, sentence_name
from analysis.hyperparameters.edges import edges
from analysis.selection import BASELINE
from analysis.study import Study
from tune_kd.metrics import number

COSTLY = 0.05  # of the test metric: more is said to be a high price for int8


def warnings(study: Study) -> list[str]:
    """Return what a reader must know before the numbers."""
    sentences = _weak_teacher(study)
    if file := study.manifest.teacher_file:
        sentences.append(
            f"The teacher came from the file {file}: it may have seen this study's validation "
            "images, so validation values of methods that distil may be too good."
        )
    if file := study.manifest.start_file:
        sentences.append(
            f"Students began from the file {file}: it may have seen this study's validation images, and its "
            "training could not be repeated with other seeds, so the spreads of methods that began from it are "
            "of what came after."
        )
    if BASELINE not in study.methods:
        sentences.append(f"The study has no baseline ({BASELINE}): nothing can be compared.")
    elif not study.kd_methods:
        sentences.append(
            f"The study has the baseline ({BASELINE}) alone: there is nothing to compare it with."
        )
    return sentences


def _weak_teacher(study: Study) -> list[str]:
    """Return a teacher below the plain student: on test the tuned one, before that the one with default settings.

    Never the best of several trials: a maximum is too good.
    """
    test_row = selection.teacher(study.rows, "confirm")
    train_row = selection.teacher(study.rows, "teacher")
    rows = selection.default_trials(study.rows, BASELINE).values()
    default = [v for row in rows if (v := number(row, study.metric)) is not None]
    for teacher_row, name, values, rival in (
        (test_row, study.test_metric, study.tuned_values(BASELINE).values(), "the tuned baseline"),
        (train_row, study.metric, default, "the baseline with its default settings"),
    ):
        value, student = number(teacher_row, name), stats.summarise(values)
        if value is None or student is None:
            continue
        if value >= student.mean:
            return []
        return [
            f"THE TEACHER IS WORSE THAN THE STUDENT WITHOUT IT: {sentence_name(name)}, %: {metric(teacher_row, name)} "
            f"(n = 1) against {mean_sd(student)} of {rival}. Train it longer or take another teacher; what "
            "distillation does below says little."
        ]
    return []


def advice(study: Study) -> list[str]:
    """Return what to do next: what to confirm, searches that gave nothing, what quantizing cost."""
    sentences = [*_unconfirmed(study), *_lost_repeats(study), *_unfinished(study)]
    return sentences + _edges(study) + _quantized(study)


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
    sentences = []
    for method in study.methods:
        best_rows, winners = study.best_so_far(method), study.winners(method)
        test_values = study.tuned_values(method)
        if missing := [repeat for repeat in winners if repeat not in test_values]:
            sentences.append(f"**{method}**: not confirmed in {_repeats(missing)}.")
        for repeat, row in best_rows.items():
            if winners[repeat]["trial"] != row["trial"]:
                sentences.append(
                    f"**{method}**: trial {row['trial']} is now better on validation than trial "
                    f"{winners[repeat]['trial']}, which was confirmed."
                )
        trial = study.recommended_trial(method)
        if trial and not study.confirmed_values(trial):
            sentences.append(
                f"**{method}**: its recommended trial {trial['trial']} is not confirmed."
            )
    if sentences:
        sentences[-1] += f" Type `{confirm_command(study)}`."
    return sentences


def _lost_repeats(study: Study) -> list[str]:
    """Repeats that count for nothing because a method has no finished trial in them."""
    sentences = []
    for method in study.methods:
        repeats = {row["repeat"] for row in selection.trials(study.rows, "search", method)}
        lost_repeats = sorted(repeats - study.winners(method).keys())
        if lost_repeats and study.winners(method):
            sentences.append(
                f"**{method}**: no trial has finished in {_repeats(lost_repeats)}: it counts for nothing there, "
                f"so that n = {len(study.winners(method))} of {count_text(study.repeats, 'repeat')}."
            )
    return sentences


def _quantized(study: Study) -> list[str]:
    """int8 that costs much, or that is no faster than the float student; both compiled."""
    sentences = []
    float_latency = number(selection.student_footprint(study.rows), "compiled_latency_ms")
    for method in study.methods:
        effect = change(study, method, "Quantize")
        if effect is None:
            continue
        if effect.difference and effect.difference.mean < -COSTLY:
            sentences.append(
                f"**{method}**: quantizing changes {sentence_name(study.test_metric)} by "
                f"{gap(effect.difference)} percentage points: calibrate on more images, or train with "
                "fake quantization."
            )
        latency = number(study.footprint(study.recommended_trial(method)), "compiled_latency_ms")
        if latency is not None and float_latency is not None and latency >= float_latency:
            sentences.append(
                f"**{method}**: int8 is no faster here than the float student ({latency:.3f} against "
                f"{float_latency:.3f} ms, both compiled): time it on the device that it is meant for."
            )
    return sentences


def _repeats(numbers: list[int]) -> str:
    return f"repeat{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _unfinished(study: Study) -> list[str]:
    sentences = []
    waiting_methods = [m for m in study.methods if not selection.trials(study.rows, "search", m)]
    if waiting_methods:
        sentences.append(
            f"**{', '.join(waiting_methods)}**: no trial has ended yet: `{search_command(study)}`."
        )
    for method in study.methods:
        counts = Counter(row["status"] for row in selection.trials(study.rows, "search", method))
        total = sum(counts.values())
        if total and not counts["finished"]:
            sentences.append(f"**{method}**: none of {count_text(total, 'trial')} has finished.")
        elif counts["failed"]:
            sentences.append(
                f"**{method}**: of {count_text(total, 'trial')} {counts['failed']} failed, "
                f"{counts['stopped']} stopped early, {counts['finished']} finished; only these are ranked."
            )
    return sentences
