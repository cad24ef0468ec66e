"""A study's tables. `TABLES` maps a name to a function of the study that gives (title, table).

A table is a DataFrame of strings, ready to print, or Markdown text; an empty one is not printed. To
add a table, write a function, give it a key in `TABLES`, and name the key in the space's `tables`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from analysis import selection
from analysis.comparison import stats
from analysis.comparison.methods import rung_correlation
from analysis.costs import TeacherCost, teacher_cost
from analysis.formatting import (
    NONE,
    Table,
    as_text,
    count_text,
    heading,
    label,
    latency,
    mean_sd,
    metric,
)
from analysis.study import Study
from analysis.summary import lines
from analysis.tables import classes, comparison, compression, parameters, pareto
from analysis.tables import methods as tables_methods
from tune_kd.metrics import METRICS, number
from tune_kd.study.results import STATUSES, Row

WEIGHTS = ("alpha", "beta", "gamma", "temperature")
FAILURES_SHOWN = 20


def validation(study: Study) -> Table:
    """Return the winners of each method on validation: what there is before anything is confirmed."""
    rows = [
        {
            "Method": label(line.method),
            f"{heading(study.metric)}, mean ± sd (n repeats), each chosen on this split": mean_sd(
                line.validation
            ),
        }
        for line in lines(study)
    ]
    title = f"{METRICS[study.metric].heading} of the search (optimistic: chosen on it)"
    return title, pd.DataFrame(rows)


def configuration(study: Study) -> Table:
    """Return the setting of the trial that stands for each method; loss weights also as ratios."""
    trials = {method: study.recommended_trial(method) for method in study.methods}
    columns = sorted({k for row in trials.values() if row for k in row if k.startswith("config.")})
    names = [n for n in columns if n.removeprefix("config.") not in WEIGHTS]
    names = [n for n in names if any(row and row[n] is not None for row in trials.values())]
    table = []
    for method, row in trials.items():
        if row is None:
            continue
        fixed_values = study.manifest.methods[method].fixed
        cells = {"Method": label(method), "Trial": str(row["trial"])}
        cells["Validation that chose it, % (n = 1)"] = metric(row, study.metric)
        cells |= {name: as_text(row[name]) for name in WEIGHTS}
        cells |= {f"{name}/alpha": _ratio(row[name], row["alpha"]) for name in ("beta", "gamma")}
        for name in names:
            value, parameter = row.get(name), name.removeprefix("config.")
            cells[parameter] = as_text(fixed_values.get(parameter) if value is None else value)
        table.append(cells)
    return "Recommended configuration of each method", pd.DataFrame(table)


def _ratio(weight: float | None, alpha: float | None) -> str:
    return as_text(weight / alpha) if alpha and weight is not None else NONE


def search_summary(study: Study) -> Table:
    """Trials by status, epochs and time of the teacher, of each method, and of confirming.

    The last column is the rank correlation of validation at the first rung with that at the end.
    """
    table = []
    methods = {label(method): method for method in study.methods}
    groups = {"teacher": selection.trials(study.rows, "teacher", "")}
    for m in study.methods:
        groups[f"{label(m)}: first stages, shared"] = selection.trials(study.rows, "teacher", m)
        groups[label(m)] = selection.trials(study.rows, "search", m)
    groups["re-evaluating, all"] = selection.trials(study.rows, "reevaluate")
    groups["confirming, all"] = [r for r in selection.trials(study.rows, "confirm") if r["method"]]
    for name, rows in groups.items():
        if not rows and name not in methods:
            continue
        counts = Counter(row["status"] for row in rows)
        seconds = sum(number(row, "seconds") or 0 for row in rows)
        table.append(
            {
                "Method": name,
                "Trials": str(len(rows)),
                **{status.capitalize(): str(counts[status]) for status in STATUSES},
                "Epochs": f"{sum(row['epochs'] or 0 for row in rows):,}",
                "Seconds": f"{seconds:,.0f}",
                "Hours": f"{seconds / 3600:.2f}",
                "First rung and end": _rung(study, methods.get(name, "")),
            }
        )
    return "Search", pd.DataFrame(table)


def _rung(study: Study, method: str) -> str:
    """Spearman's correlation of the first rung with the end."""
    correlation = rung_correlation(study, method) if method else None
    return f"{correlation.value:+.2f} (n = {correlation.n})" if correlation else NONE


def teacher(study: Study) -> Table:
    """Return what is known of the teacher."""
    train_row, test_row = (selection.teacher(study.rows, phase) for phase in ("teacher", "confirm"))
    size = selection.teacher(study.rows, "measure")
    file = study.manifest.teacher_file
    facts = {
        "Network": study.manifest.teacher or NONE,
        "Weights": f"from the file {file}" if file else "trained by this project on train only",
        **({"Origin": train_row["reason"]} if train_row and train_row.get("reason") else {}),
        f"{heading(study.metric)} (n = 1)": metric(train_row, study.metric),
        f"{heading(study.test_metric)} (n = 1)": metric(test_row, study.test_metric),
        "Epochs": as_text((train_row or {}).get("epochs")),
        "Training time, s": as_text(number(train_row, "seconds")),
        "Parameters": metric(size, "num_params"),
        "Size, MB": metric(size, "size_mb"),
        "Latency, ms": latency(size),
        **_cost(teacher_cost(study)),
        "Model id": study.manifest.teacher_model or NONE,
    }
    return "Teacher", _facts(facts)


def _cost(cost: TeacherCost | None) -> dict[str, str]:
    """Return what the teacher cost, and from how many students on it pays."""
    if cost is None:
        return {}
    facts = {}
    if cost.students is not None:
        facts["As long as"] = (
            f"{cost.students:.1f} trainings of the plain student ({cost.student_s:,.0f} s, the mean of its "
            "finished trials)"
        )
    if cost.pays_from is not None:
        facts["Pays"] = (
            f"from {count_text(cost.pays_from, 'student')} on: the teacher once and {cost.default_s:,.0f} s for each "
            f"with the default settings, against {cost.search_s:,.0f} s for each for one whole search of the "
            "baseline; this counts time, not accuracy"
        )
    return facts


def failures(study: Study) -> Table:
    """Failed trials of every phase with their reasons, the first twenty."""
    rows = [row for row in study.rows if row["status"] == "failed"]
    table = [
        {
            "Phase": row["phase"],
            "Method": row["method"] or NONE,
            "Trial": str(row["trial"]),
            "Epochs": as_text(row["epochs"]),
            "Reason": " ".join((row["reason"] or "not recorded").split())[:300],
        }
        for row in rows[:FAILURES_SHOWN]
    ]
    more = f" ({len(rows)}, the first {len(table)} shown)" if len(rows) > len(table) else ""
    return f"Failures{more}", pd.DataFrame(table)


def provenance(study: Study) -> Table:
    """How the numbers were made: command, seeds, hardware, software, data."""
    manifest = study.manifest
    versions = dict(manifest.versions)
    system = versions.pop("system", "")
    seeds = {row["seed"] for row in selection.trials(study.rows, "confirm") if row["method"]}
    facts = {
        "Command": manifest.command,
        "Study, space": f"{study.name}, {manifest.space}",
        "Task": f"{manifest.task}, {as_text(manifest.images.num_classes)} classes",
        "Images": f"{as_text(manifest.num_train)} training, {as_text(manifest.num_val)} validation",
        "Validation rule": manifest.validation_rule,
        "Repeats, trials of each": f"{study.repeats}, {study.trials_per_repeat}",
        "Data hash": manifest.images.train_hash,
        "Teacher, student": f"{manifest.teacher}, {manifest.student}",
        "Seed of the search": manifest.seed,
        "Confirmation seeds": sorted(seeds),
        "Epochs": f"{as_text(manifest.epochs)} (teacher {as_text(manifest.teacher_epochs)})",
        **{
            name.replace("_", " ").capitalize(): as_text(value)
            for name, value in manifest.fields.items()
            if not name.endswith("epochs")
        },
        "Precision, layout": f"{manifest.compute.precision}, {manifest.compute.layout}",
        "Sampler, random trials": f"{manifest.sampler}, {as_text(manifest.random_start)}",
        "Scheduler, rungs": f"{manifest.scheduler}, epochs {as_text(manifest.rungs)}",
        "Devices": _distinct(study.rows, "device") or manifest.device,
        **({"Hardware": manifest.hardware} if manifest.hardware else {}),
        "Hosts": _distinct(study.rows, "host"),
        "Operating system": system or "not recorded",
        "Versions": versions,
        "Commit": _distinct(study.rows, "commit") or manifest.commit,
        "From, to (UTC)": _distinct(study.rows, "started")[:1]
        + _distinct(study.rows, "ended")[-1:],
    }
    return "How it was made", _facts(facts)


def _facts(facts: Mapping[str, object]) -> pd.DataFrame:
    return pd.DataFrame({"": list(facts), "Value": [as_text(v) for v in facts.values()]})


def _distinct(rows: Iterable[Row], name: str) -> list[str]:
    return sorted({row[name] for row in rows if row.get(name)})


def confirmed_trials(study: Study) -> Table:
    """Every search trial that was confirmed, by method and repeat, in each of its roles."""
    table = []
    for method in study.methods:
        trials = selection.trials(study.rows, "search", method)
        for row in sorted(trials, key=lambda r: (r["repeat"], r["number"])):
            for role in ("best", "default", "recommended"):
                values = {s: rows[-1] for s, rows in study.runs(row, role).items()}
                if values:
                    test_values = selection.values(values, study.test_metric)
                    table.append(
                        {
                            "Method": label(method),
                            "Repeat": str(row["repeat"]),
                            "Trial": str(row["number"]),
                            "Confirmed as": role,
                            "Validation, % (n = 1)": metric(row, study.metric),
                            "Test, % (n seeds)": mean_sd(stats.summarise(test_values.values())),
                        }
                    )
    return "Confirmed trials", pd.DataFrame(table)


def top_trials(study: Study) -> Table:
    """Return the five best finished trials of each method on validation, over all repeats."""
    table = [
        {
            "Method": label(method),
            "Repeat": str(row["repeat"]),
            "Trial": str(row["number"]),
            "Origin": row["origin"],
            "Validation, % (n = 1)": metric(row, study.metric),
            **{name: as_text(row[name]) for name in WEIGHTS},
        }
        for method in study.methods
        for row in selection.best(study.rows, method, top=5, metric=study.metric)
    ]
    return "Best five trials of each method", pd.DataFrame(table)


TABLES: dict[str, Callable[[Study], Table]] = {
    "main": tables_methods.main_table,
    "validation": validation,
    "configuration": configuration,
    "tuning": tables_methods.tuning,
    "use": tables_methods.use,
    "curse": tables_methods.curse,
    "importance": parameters.importance,
    "robust": parameters.robust,
    "search": search_summary,
    "teacher": teacher,
    "failures": failures,
    "provenance": provenance,
    "confirmed": confirmed_trials,
    "top_trials": top_trials,
    "comparison": comparison.comparison,
    "results": comparison.results,
    "quantization": compression.quantization,
    "pruning": compression.pruning,
    "calibration": classes.calibration,
    "classes": classes.classes,
    "front": pareto.front,
}
