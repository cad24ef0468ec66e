"""Tables that compare methods: tuned, out of the box, what to use, and how far validation is to be trusted."""

import pandas as pd

from analysis.comparison import stats
from analysis.comparison.methods import results
from analysis.comparison.students import students
from analysis.formatting import (
    NONE,
    Table,
    gap,
    heading,
    label,
    latency,
    mean_sd,
    metric,
    with_notes,
)
from analysis.study import Study
from analysis.summary import lines
from analysis.wording import words
from tune_kd.metrics import METRICS
from tune_kd.study.results import Row


def main_table(study: Study) -> Table:
    """Teacher, baseline and tuned methods: the test metric over repeats, difference, verdict, size."""
    rows = []
    for line in lines(study):
        verdict = line.result.verdict if line.result else None
        rows.append(
            {
                "Method": label(line.method),
                f"{heading(study.test_metric)}, mean ± sd (n repeats)": mean_sd(line.test),
                "Difference to the tuned baseline, pp [95 %]": gap(
                    line.difference,
                    pairs=bool(line.difference and line.test and line.difference.n != line.test.n),
                ),
                "Verdict": words(verdict, study.margin) or NONE,
                "Parameters": metric(line.footprint, "num_params"),
                "Latency, ms": latency(line.footprint),
            }
        )
    return METRICS[study.test_metric].heading, pd.DataFrame(rows)


def tuning(study: Study) -> Table:
    """Return the default settings against the baseline's, tuned ones against the tuned baseline, and the gain."""
    title = "Out of the box and tuned (test split)"
    method_results = results(study).values()
    if not any(result.default for result in method_results):
        return title, ""
    frame = pd.DataFrame(
        [
            {
                "Method": label(result.method),
                "Default, % (n seeds)": mean_sd(stats.summarise(result.default.values())),
                "Default difference, pp [95 %]": gap(result.default_difference),
                "Tuned, % (n repeats)": mean_sd(stats.summarise(result.tuned.values())),
                "Tuned difference, pp [95 %]": gap(result.difference),
                "Gain from tuning, pp [95 %]": gap(result.bought),
            }
            for result in method_results
        ]
    )
    note = (
        "Differences are to the baseline treated alike: default settings paired by seed, with no choice in "
        "them; tuned methods repeat by repeat. Gain from tuning a method: tuned minus its own default "
        "settings, repeat by repeat."
    )
    return title, with_notes(frame, note)


def use(study: Study) -> Table:
    """Return the student that each method recommends, against the best plain student."""
    title = "What to use"
    rows = []
    for result in results(study).values():
        trial = study.recommended_trial(result.method)
        if trial is None:
            continue
        foot = study.footprint(trial)
        rows.append(
            {
                "Method": label(result.method),
                "Recommended trial": str(trial["trial"]),
                "Validation, fresh seeds, %": _fresh_summary(study, result.method, trial),
                f"{heading(study.test_metric)}, mean ± sd (n seeds)": mean_sd(
                    stats.summarise(result.recommended.values())
                ),
                "Against the best plain student, pp [95 %]": gap(result.student),
                "Parameters": metric(foot, "num_params"),
                "Latency, ms": latency(foot),
            }
        )
    if not rows:
        return title, ""
    note = (
        "Recommended without the test split: of a method's best winners the one whose mean over fresh seeds on "
        "validation is highest; where none was trained again, the winner that is best on validation. The "
        "comparison is of these configurations, over seeds that all have in common: it says nothing of the "
        "methods, whose searches might have found others."
    )
    return title, with_notes(pd.DataFrame(rows), note, items=students(study))


def _fresh_summary(study: Study, method: str, trial: Row) -> str:
    """Return the validation of the re-evaluations with their number; a dash where there are none."""
    seeds = study.fresh_values(method).get(trial["trial"], {})
    return mean_sd(stats.summarise(seeds.values()))


def curse(study: Study) -> Table:
    """How much too good the validation was that chose the winners."""
    title = "Winner's curse (validation split)"
    rows = [
        {
            "Method": label(result.method),
            "When it was chosen, %": mean_sd(result.curse.chosen),
            "Trained again, %": mean_sd(result.curse.fresh),
            "Too good by, pp [95 %]": gap(result.curse.difference),
        }
        for result in results(study).values()
        if result.curse
    ]
    if not rows:
        return title, ""
    note = (
        "The best of several trials is partly luck: n winners on the validation that chose them, and the mean of "
        "their fresh seeds on the same images."
    )
    return title, with_notes(pd.DataFrame(rows), note)
