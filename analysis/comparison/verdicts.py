"""The verdict in plain words: a sentence a method, what it rests on, and what to type to know more."""

from collections import Counter

from analysis import selection
from analysis.commands import FEWEST_TRIALS, confirm_command, search_command
from analysis.comparison import images, stats
from analysis.comparison.methods import MethodResult, level, results
from analysis.comparison.stats import Estimate
from analysis.comparison.students import ABOUT_STUDENTS, students
from analysis.formatting import count_text, sentence_name
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import distils
from analysis.wording import margin_words, p_words, percent_words, points_words

SENTENCES = {
    stats.HELPS: "**{method} helps**: {gap} of {metric} over the tuned baseline ({p}, {holm}).",
    stats.HURTS: "**{method} hurts**: {gap} of {metric} against the tuned baseline ({p}, {holm}).",
    stats.SMALL_HELP: "**{method} helps, by less than {margin}**: {gap} of {metric} over the tuned baseline "
    "({p} for a difference, {p_equivalence} for less than {margin}; {holm}).",
    stats.SMALL_HURT: "**{method} hurts, by less than {margin}**: {gap} of {metric} against the tuned "
    "baseline ({p} for a difference, {p_equivalence} for less than {margin}; {holm}).",
    stats.NO_DIFFERENCE: "**{method}: no difference larger than {margin}** to the tuned baseline: {gap} of "
    "{metric} ({p_equivalence} in two one-sided tests, {holm}).",
    stats.NOT_SETTLED: "**{method}: not settled**, neither that there is a difference nor that there is none "
    "larger than {margin}: {gap} of {metric} against the tuned baseline. {needed}",
}
USUAL_REPEATS = 5
MOST_ADVISED = 50  # repeats; where more are needed, the command asks for twice as many as there are


def verdict(study: Study) -> list[str]:
    """Return the paragraphs of the verdict: of each method, out of the box and tuned, what they rest on, what to do."""
    if not any(study.winners(method) for method in study.methods):
        return [_no_verdict(study)]
    if not is_confirmed(study):
        return [
            f"**No verdict yet**: nothing has been confirmed on the test split. Type `{confirm_command(study)}`. "
            "Until then there are validation values only, of single runs and chosen on that very split: they "
            "are too good."
        ]
    if not study.kd_methods:
        return [
            f"**No verdict**: {BASELINE} is the only method, and there is nothing to compare it with."
        ]
    sentences = [f"- {text}" for text in verdicts(study)]
    paragraphs = ["\n".join(sentences), summary(study)]
    if study.repeats < stats.MIN_REPEATS and (student_sentences := students(study)):
        paragraphs += [ABOUT_STUDENTS, "\n".join(f"- {text}" for text in student_sentences)]
    return [text for text in (*paragraphs, basis(study), to_settle(study)) if text]


def _no_verdict(study: Study) -> str:
    """Why there is nothing at all to say."""
    trials = selection.trials(study.rows, "search")
    if not trials:
        return f"**No verdict yet**: no trial has ended. Type `{search_command(study)}`."
    counts = Counter(row["status"] for row in trials)
    return (
        f"**No verdict**: none of {count_text(len(trials), 'trial')} has finished ({counts['failed']} failed, "
        f"{counts['stopped']} stopped). Why they failed stands under Failures; when that is mended, begin "
        "another study (`--name`), or go on with this one: "
        f"`{search_command(study)}`."
    )


def is_confirmed(study: Study) -> bool:
    """Whether any method has a number on the test split."""
    return any(
        study.tuned_values(method)
        or study.default(method)
        or study.confirmed_values(study.recommended_trial(method))
        for method in study.methods
    )


def verdicts(study: Study) -> list[str]:
    """Return a sentence or two about each method that distils, from its repeats."""
    method_results = results(study)
    return [_sentence(study, method_results[method]) for method in study.kd_methods]


def _sentence(study: Study, result: MethodResult) -> str:
    method, difference, verdict = result.method, result.difference, result.verdict
    if difference is None or verdict is None:
        return f"**{method}: {_why_nothing(study, result)}"
    if verdict.label == stats.TOO_FEW:
        return _too_few(study, method, difference)
    return SENTENCES[verdict.label].format(
        method=method,
        gap=points_words(difference, "repeat"),
        metric=sentence_name(study.test_metric),
        margin=margin_words(study.margin),
        p=p_words(verdict.p),
        p_equivalence=p_words(verdict.p_equivalence),
        holm=f"Holm over {count_text(_verdict_count(study), 'method')}",
        needed=_needed(study, difference) if verdict.label == stats.NOT_SETTLED else "",
    )


def _why_nothing(study: Study, result: MethodResult) -> str:
    if not study.winners(result.method):
        return "nothing to say**, no trial has finished."
    if not result.tuned:
        return "not confirmed** on the test split."
    if BASELINE not in study.methods:
        return f"nothing to compare with**, the study has no baseline ({BASELINE})."
    return "nothing to compare with**, no baseline is confirmed in the same repeats."


def _too_few(study: Study, method: str, difference: Estimate) -> str:
    """Below three repeats nothing is said about a method."""
    effect = f"{points_words(difference, 'repeat')} of {sentence_name(study.test_metric)} against the tuned baseline"
    if study.repeats < stats.MIN_REPEATS:
        reason = f"the study has {count_text(study.repeats, 'repeat')} and a verdict needs at least {stats.MIN_REPEATS}"
    else:
        reason = f"only {difference.n} of {study.repeats} repeats can be compared"
    return f"**{method}: no verdict about the method**: {reason}. {effect}."


def _needed(study: Study, difference: Estimate) -> str:
    """With how many repeats in all a difference of the margin would be seen."""
    margin, repeats = margin_words(study.margin), needed_repeats(study, difference)
    if repeats is None:
        return f"Not even {stats.MOST_REPEATS:,} repeats would show a difference of {margin} here."
    if repeats <= difference.n:
        return f"So many repeats show a difference of {margin} in 4 of 5 studies; that it is smaller takes more."
    return (
        f"With this spread {repeats} repeats would show a difference of {margin} in 4 of 5 studies."
    )


def needed_repeats(study: Study, difference: Estimate) -> int | None:
    """Return the same as a number, judged as the next look at the test split would be."""
    error = stats.look_level(study.looks + 1) if study.looks else level(study)
    return stats.repeats_needed(
        difference, effect=study.margin, level=error / max(1, _verdict_count(study))
    )


def _verdict_count(study: Study) -> int:
    """How many methods the verdicts are adjusted for."""
    method_verdicts = (result.verdict for result in results(study).values())
    return sum(
        verdict is not None and verdict.label != stats.TOO_FEW for verdict in method_verdicts
    )


def to_settle(study: Study) -> str:
    """Return what to type where a method has no verdict, or is not settled; "" where nothing is open."""
    compared_results = [
        result for result in results(study).values() if result.verdict and result.difference
    ]
    labels = [result.verdict.label for result in compared_results if result.verdict]
    if not {stats.TOO_FEW, stats.NOT_SETTLED}.intersection(labels):
        return ""
    if study.trials_per_repeat < FEWEST_TRIALS:
        return (
            f"A repeat needs at least {FEWEST_TRIALS} trials of each method and this study has "
            f"{study.trials_per_repeat}: begin another one (`--name`) with more `--trials`."
        )
    command = search_command(study, repeats=_advised_repeats(study))
    text = f"To know more: `{command}`, then `{confirm_command(study)}`."
    if study.looks:
        error = percent_words(stats.look_level(study.looks + 1))
        text += (
            f" That is another look at the test split: its verdicts may err in {error} of studies."
        )
    return text


def _advised_repeats(study: Study) -> int:
    """As many as what is not settled needs; twice as many as there are where that is beyond reason."""
    repeat_counts = [study.repeats + 2 if study.repeats >= stats.MIN_REPEATS else USUAL_REPEATS]
    for result in results(study).values():
        label = result.verdict.label if result.verdict else ""
        if label == stats.NOT_SETTLED and result.difference:
            count = needed_repeats(study, result.difference) or MOST_ADVISED + 1
            repeat_counts.append(count if count <= MOST_ADVISED else 2 * study.repeats)
    return max(repeat_counts)


def summary(study: Study) -> str:
    """Return what each method gains with its default settings and after tuning; "" where neither is known."""
    parts = [
        f"**{result.method}** {points_words(default, 'seed', short=True)} out of the box, "
        f"{points_words(difference, 'repeat', short=True)} tuned"
        for result in results(study).values()
        if (default := result.default_difference) and (difference := result.difference)
    ]
    if not parts:
        return ""
    return f"Points of {sentence_name(study.test_metric)} over the baseline treated alike: {'; '.join(parts)}."


def basis(study: Study) -> str:
    """Return what the sentences rest on: what the intervals hold and what not, and how often one has looked."""
    differences = [result.difference for result in results(study).values() if result.difference]
    if not differences:
        return _looks(study)
    sources = (
        "the luck of the searches and the choice of the test images together"
        if images.has_predictions(study)
        else "the luck of the searches, not the choice of the test images (the runs did not keep what they "
        "predicted)"
    )
    text = f"Intervals are 95 % and hold {sources}; they are not adjusted for comparing several methods"
    text += ", the verdicts are (Holm). " if _verdict_count(study) else ". "
    if any(distils(study, method) for method in study.kd_methods):
        text += (
            "All is said about this teacher and this split: the teacher is one run (n = 1), whose seed no "
            "interval holds. "
        )
    else:
        text += "All is said about this split. "
    return text + _looks(study)


def _looks(study: Study) -> str:
    error = percent_words(level(study))
    times = "once" if study.looks <= 1 else count_text(study.looks, "time")
    text = f"The test split was looked at {times}"
    if not _verdict_count(study):
        text += "."
    elif study.looks <= 1:
        text += f": the verdicts of all methods together err in at most {error} of studies."
    else:
        text += f": the verdicts of this look err in at most {error} of studies, those of all looks in 5 %."
    if study.evaluations:
        text += (
            f" Beside that it was opened {count_text(study.evaluations, 'time')} to evaluate single networks; "
            "nothing may be chosen by what that said."
        )
    return text
