"""What is said of the students that methods recommend: single configurations, over seeds."""

from analysis.comparison import stats
from analysis.comparison.methods import results
from analysis.formatting import sentence_name
from analysis.study import Study
from analysis.wording import margin_words, points_words

ABOUT_STUDENTS = (
    "What can be said is about the students that the methods recommend, single configurations over seeds, and "
    "not about the methods:"
)
STUDENTS = {
    stats.HELPS: "better than",
    stats.HURTS: "worse than",
    stats.SMALL_HELP: "better than, by less than {margin},",
    stats.SMALL_HURT: "worse than, by less than {margin},",
    stats.NO_DIFFERENCE: "no further than {margin} from",
    stats.NOT_SETTLED: "not shown to be better or worse than",
    stats.TOO_FEW: "confirmed with too few seeds to be compared with",
}


def students(study: Study) -> list[str]:
    """Return a sentence about each recommended student against the recommended plain student."""
    sentences = []
    for result in results(study).values():
        trial, verdict = study.recommended_trial(result.method), result.student_verdict
        if trial is None or verdict is None or result.student is None:
            continue
        words = STUDENTS[verdict.label].format(margin=margin_words(study.margin))
        sentences.append(
            f"The student of **{result.method}** (trial {trial['trial']}) is {words} the best plain student: "
            f"{points_words(result.student, 'seed')} of {sentence_name(study.test_metric)}."
        )
    return sentences
