"""The verdict in plain words: a sentence a method, what it rests on, and what to type to know more."""

from analysis import images, stats
from analysis.cells import counted, gap, spoken
from analysis.commands import FEWEST_TRIALS, confirm_command, search_command
from analysis.comparison import MethodResult, level, results
from analysis.load import Study
from analysis.select import BASELINE
from analysis.stats import Estimate, Verdict

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
STUDENTS = {
    stats.HELPS: "better than",
    stats.HURTS: "worse than",
    stats.SMALL_HELP: "better than, by less than {margin},",
    stats.SMALL_HURT: "worse than, by less than {margin},",
    stats.NO_DIFFERENCE: "no further than {margin} from",
    stats.NOT_SETTLED: "not shown to be better or worse than",
    stats.TOO_FEW: "confirmed with too few seeds to be compared with",
}


def words(verdict: Verdict | None, margin: float) -> str:
    """A verdict as it stands in a table.

    >>> words(Verdict(label="no difference", p=0.4, p_equivalence=0.01, repeats_needed=None), 0.005)
    'no difference larger than 0.5 points'
    """
    if verdict is None:
        return ""
    if verdict.label == stats.TOO_FEW:
        return "no verdict: too few repeats"
    if verdict.label == stats.NO_DIFFERENCE:
        return f"no difference larger than {margin_words(margin)}"
    return verdict.label.replace("less than m", f"less than {margin_words(margin)}")


def margin_words(margin: float) -> str:
    """A margin in points.

    >>> margin_words(0.005), margin_words(0.01)
    ('0.5 points', '1 point')
    """
    return f"{margin * 100:.4g} point{'' if margin == 0.01 else 's'}"


def verdicts(study: Study) -> list[str]:
    """A sentence or two about each method that distils, from its repeats."""
    found = results(study)
    return [_sentence(study, found[method]) for method in study.kd_methods]


def _sentence(study: Study, found: MethodResult) -> str:
    method, difference, verdict = found.method, found.difference, found.verdict
    if difference is None or verdict is None:
        return f"**{method}: {_why_nothing(study, found)}"
    if verdict.label == stats.TOO_FEW:
        return _too_few(study, method, difference)
    return SENTENCES[verdict.label].format(
        method=method,
        gap=_gap(difference, "repeat"),
        metric=spoken(study.test_metric),
        margin=margin_words(study.margin),
        p=p_words(verdict.p),
        p_equivalence=p_words(verdict.p_equivalence),
        holm=f"Holm over {counted(_judged(study), 'method')}",
        needed=_needed(study, verdict, difference.n),
    )


def _why_nothing(study: Study, found: MethodResult) -> str:
    if not study.winners(found.method):
        return "nothing to say**, no trial has finished."
    if not found.tuned:
        return "not confirmed** on the test split."
    if BASELINE not in study.methods:
        return f"nothing to compare with**, the study has no baseline ({BASELINE})."
    return "nothing to compare with**, no baseline is confirmed in the same repeats."


def _too_few(study: Study, method: str, difference: Estimate) -> str:
    """Below three repeats nothing is said about a method."""
    seen = f"{_gap(difference, 'repeat')} of {spoken(study.test_metric)} against the tuned baseline"
    if study.repeats < stats.MIN_REPEATS:
        why = f"the study has {counted(study.repeats, 'repeat')} and a verdict needs at least {stats.MIN_REPEATS}"
    else:
        why = f"only {difference.n} of {study.repeats} repeats can be compared"
    return f"**{method}: no verdict about the method**: {why}. {seen}."


def _needed(study: Study, verdict: Verdict, repeats: int) -> str:
    margin = margin_words(study.margin)
    if verdict.repeats_needed is None:
        return f"Not even {stats.MOST_REPEATS:,} repeats would show a difference of {margin} here."
    if verdict.repeats_needed <= repeats:
        return f"So many repeats show a difference of {margin} in 4 of 5 studies; that it is smaller takes more."
    return f"With this spread {verdict.repeats_needed} repeats would show a difference of {margin} in 4 of 5 studies."


def _judged(study: Study) -> int:
    """How many methods the verdicts are adjusted for."""
    known = (found.verdict for found in results(study).values())
    return sum(verdict is not None and verdict.label != stats.TOO_FEW for verdict in known)


def to_settle(study: Study) -> str:
    """What to type where a method has no verdict, or is not settled; "" where nothing is open."""
    found = [r for r in results(study).values() if r.verdict and r.difference]
    open_ = [
        r.verdict
        for r in found
        if r.verdict and r.verdict.label in (stats.TOO_FEW, stats.NOT_SETTLED)
    ]
    if not open_:
        return ""
    if study.trials_per_repeat < FEWEST_TRIALS:
        return (
            f"A repeat needs at least {FEWEST_TRIALS} trials of each method and this study has "
            f"{study.trials_per_repeat}: begin another one (`--name`) with more `--trials`."
        )
    known = [verdict.repeats_needed for verdict in open_ if verdict.repeats_needed]
    more = study.repeats + 2 if study.repeats >= stats.MIN_REPEATS else 5
    wanted = max([*known, more])
    text = (
        f"To know more: `{search_command(study, repeats=wanted)}`, then `{confirm_command(study)}`."
    )
    if study.looks:
        next_level = stats.look_level(study.looks + 1)
        text += f" That is another look at the test split, whose verdicts may err in {_percent(next_level)}."
    return text


def summary(study: Study) -> str:
    """What each method gains at its textbook setting and after tuning; "" where neither is known."""
    parts = [
        f"**{found.method}** {_gap(book, 'seed', short=True)} out of the box, "
        f"{_gap(tuned, 'repeat', short=True)} tuned"
        for found in results(study).values()
        if (book := found.textbook_difference) and (tuned := found.difference)
    ]
    if not parts:
        return ""
    return f"Points of {spoken(study.test_metric)} over the baseline treated alike: {'; '.join(parts)}."


def students(study: Study) -> list[str]:
    """A sentence about each recommended student against the recommended plain student."""
    said = []
    for found in results(study).values():
        trial, verdict = study.chosen(found.method), found.student_verdict
        if trial is None or verdict is None or found.student is None:
            continue
        compared = STUDENTS[verdict.label].format(margin=margin_words(study.margin))
        said.append(
            f"The student of **{found.method}** (trial {trial['trial']}) is {compared} the best plain student: "
            f"{_gap(found.student, 'seed')} of {spoken(study.test_metric)}."
        )
    return said


def basis(study: Study) -> str:
    """What the verdicts rest on: what the interval holds and what not, and how often one has looked."""
    held = (
        "the luck of the searches and the choice of the test images together"
        if images.are_known(study)
        else "the luck of the searches, not the choice of the test images (these runs did not keep which "
        "images they got right)"
    )
    return (
        f"Intervals are 95 % and hold {held}; they are not adjusted for comparing several methods, the "
        "verdicts are (Holm). All is said about this teacher and this split: the teacher is one run (n = 1), "
        f"whose seed no interval holds. {_looks(study)}"
    )


def _looks(study: Study) -> str:
    error = _percent(level(study))
    if study.looks <= 1:
        text = f"The test split was looked at once: the verdicts of all methods together err in at most {error} of studies."
    else:
        text = (
            f"The test split was looked at {study.looks} times: the verdicts of this look may err in {error} "
            "of studies, those of all looks together in 5 %."
        )
    if study.evaluations:
        text += (
            f" Beside that it was opened {counted(study.evaluations, 'time')} to evaluate single networks; "
            "nothing may be chosen by what that said."
        )
    return text


def p_words(value: float | None) -> str:
    """A p value.

    >>> p_words(0.0123), p_words(0.00001), p_words(None)
    ('p = 0.012', 'p < 0.001', 'p unknown')
    """
    if value is None:
        return "p unknown"
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _gap(difference: Estimate, noun: str, *, short: bool = False) -> str:
    if short:
        return f"{difference.mean * 100:+.1f} (n = {counted(difference.n, noun)})"
    return f"{gap(difference, of=noun)} percentage points"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
