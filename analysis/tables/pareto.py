"""The trade-offs that a search with several objectives found."""

import pandas as pd

from analysis import selection
from analysis.comparison import stats
from analysis.formatting import (
    NONE,
    Table,
    heading,
    label,
    latency,
    mean_sd,
    metric,
    sentence_name,
    with_notes,
)
from analysis.study import Study
from tune_kd import objectives
from tune_kd.study.results import Row


def front_trials(study: Study) -> list[Row]:
    """All finished search trials with what is known of them by name (`Study.values`)."""
    trials = selection.trials(study.rows, "search")
    return [
        study.values(r)
        for r in trials
        if r["status"] == "finished" and r["method"] in study.methods
    ]


def best_trials(study: Study, trials: list[Row]) -> list[Row]:
    """Of these trials the Pareto front over the study's objectives that keeps its constraints."""
    allowed = [trial for trial in trials if not objectives.violations(trial, study.constraints)]
    return [allowed[at] for at in objectives.front(allowed, study.objectives)]


def front(study: Study) -> Table:
    """Trials that no other beats in every objective; then those that only a constraint keeps out."""
    title = f"Front of {', '.join(map(sentence_name, study.objectives))} (validation, n = 1)"
    if len(study.objectives) < 2:
        return title, ""
    trials = front_trials(study)
    best = best_trials(study, trials)
    best_names = {trial["trial"] for trial in best}
    free = [trials[at] for at in objectives.front(trials, study.objectives)]
    out = [
        t
        for t in free
        if t["trial"] not in best_names and objectives.violations(t, study.constraints)
    ]
    if not best and not out:
        return title, ""
    frame = pd.DataFrame([_line(study, trial) for trial in (*best, *out)])
    note = "No other finished trial is at least as good in every objective and better in one."
    if study.constraints:
        note += (
            f" Constraints: {', '.join(map(str, study.constraints))}; trials that break one are listed "
            "where they would be on the front without it."
        )
    return title, with_notes(frame, note)


def _line(study: Study, trial: Row) -> dict[str, str]:
    broken = objectives.violations(trial, study.constraints)
    bound = [c.name for c in study.constraints]
    names = dict.fromkeys([*study.objectives, *bound])
    cells = {"Method": label(trial["method"]), "Trial": str(trial["trial"])}
    cells |= {heading(n): metric(trial, n) for n in names if n != "latency_ms"}
    cells["Latency, ms"] = latency(trial)
    if study.constraints:
        cells["Allowed"] = f"no: {', '.join(map(str, broken))}" if broken else "yes"
    runs = {seed: stages[-1] for seed, stages in study.runs(trial).items()}
    summary = stats.summarise(selection.values(runs, study.test_metric).values())
    cells[heading(study.test_metric)] = mean_sd(summary) if summary else NONE
    return cells
