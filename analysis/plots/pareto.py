"""The trade-off between a study's first two objectives."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.formatting import heading, label, sentence_name
from analysis.plots.style import INK, bare, colour_of, key
from analysis.study import Study
from analysis.tables.pareto import best_trials, front_trials
from tune_kd import objectives
from tune_kd.metrics import METRICS, number
from tune_kd.study.results import Row


def draw_front(study: Study) -> Figure | None:
    """All finished trials: objective 2 to the right, objective 1 upwards, the front as a line."""
    if len(study.objectives) < 2:
        return None
    up, right = study.objectives[:2]
    points = [
        (t, x, y)
        for t in front_trials(study)
        if (x := _value(t, right)) is not None and (y := _value(t, up)) is not None
    ]
    if not points:
        return None
    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axes = bare(figure.add_subplot())
    for trial, x, y in points:
        allowed = not objectives.violations(trial, study.constraints)
        colour = colour_of(study, trial["method"])
        axes.plot([x], [y], "o" if allowed else "x", color=colour, alpha=0.75, markersize=6)
    front_names = {trial["trial"] for trial in best_trials(study, [trial for trial, *_ in points])}
    line = sorted((x, y, t["method"]) for t, x, y in points if t["trial"] in front_names)
    if len(study.objectives) == 2:  # with more a line through two of them would say nothing
        step = "steps-pre" if METRICS[right].higher_is_better else "steps-post"
        xs, ys = [x for x, *_ in line], [y for _, y, _ in line]
        axes.plot(xs, ys, color=INK, linewidth=1, zorder=1, drawstyle=step)
    for x, y, method in line:
        axes.plot([x], [y], "o", color=colour_of(study, method), markersize=11, mec=INK, mew=1.5)
    _bounds(axes, study)
    axes.set_xlabel(heading(right))
    axes.set_ylabel(heading(up))
    axes.margins(0.08)
    axes.set_title(
        f"{study.name}: finished trials by {sentence_name(up)} and {sentence_name(right)}",
        loc="left",
        fontweight="bold",
    )
    entries: list[tuple[str, dict[str, Any]]] = [
        (label(m), {"color": colour_of(study, m), "marker": "o", "linestyle": ""})
        for m in study.methods
    ]
    ring = {"color": INK, "marker": "o", "markersize": 9, "mfc": "white", "linewidth": 1}
    entries.append(("on the front", ring))
    if study.constraints:
        entries.append(("breaks a constraint", {"color": INK, "marker": "x", "linestyle": ""}))
        entries.append(("constraint", {"color": INK, "linestyle": "--", "linewidth": 1}))
    key(figure, axes, entries)
    return figure


def _value(trial: Row, name: str) -> float | None:
    """Return a value in the unit of the page."""
    value = number(trial, name)
    return None if value is None else value * METRICS[name].scale


def _bounds(axes: Axes, study: Study) -> None:
    """Draw the constraints on the two objectives as lines."""
    up, right = study.objectives[:2]
    for constraint in study.constraints:
        value = constraint.bound * METRICS[constraint.name].scale
        if constraint.name == right:
            axes.axvline(value, color=INK, linestyle="--", linewidth=1)
        elif constraint.name == up:
            axes.axhline(value, color=INK, linestyle="--", linewidth=1)
