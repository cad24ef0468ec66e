"""A study's pictures: first the data that are shown, as plain tuples, then their drawing.

Values are fractions in the data and percent on the page. `PLOTS` maps a name to a function of the
study that gives a figure, several by name, or None where the study has no data for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import selection
from analysis.comparison import stats
from analysis.comparison.methods import results
from analysis.formatting import gap, heading, sentence_name
from analysis.plots import confusion, pareto, segmentation, training
from analysis.plots.style import GREY, INK, Drawn, bare, colour_of, key, panels_of
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.wording import words
from tune_kd.metrics import SHARES, number

VERDICT_COLOURS = {
    **dict.fromkeys((stats.HELPS, stats.SMALL_HELP), "#009E73"),
    **dict.fromkeys((stats.HURTS, stats.SMALL_HURT), "#D55E00"),
    stats.NO_DIFFERENCE: "#0072B2",
}


class Curve(NamedTuple):
    """The validation metric (fractions) of one search trial after each epoch (from 1)."""

    method: str
    trial: str
    status: str  # "running" where there is no verdict yet
    is_recommended: bool  # whether its method recommends it
    epochs: list[int]
    values: list[float]


class Point(NamedTuple):
    """One search trial: its value, and the best finished one of its method and repeat so far."""

    method: str
    repeat: int
    number: int
    status: str
    value: float | None
    best: float | None


class Effect(NamedTuple):
    """A tuned method minus the tuned baseline on test: the interval, and each repeat's difference."""

    method: str
    difference: stats.Estimate
    by_repeat: list[float]
    verdict: stats.Verdict


def learning_curves(study: Study) -> list[Curve]:
    """Return the curves of all search trials, in the order of methods."""
    statuses = {row["trial"]: row["status"] for row in selection.trials(study.rows, "search")}
    recommended_names = {
        row["trial"] for method in study.methods if (row := study.recommended_trial(method))
    }
    curves = []
    for trial, rows in study.curves.items():
        pairs = [(r["step"], number(r, study.metric)) for r in rows if r["phase"] == "search"]
        points = [(step, value) for step, value in pairs if value is not None]
        if points and rows[0]["method"] in study.methods:
            epochs, values = [step for step, _ in points], [value for _, value in points]
            outcome = statuses.get(trial, "running")
            curves.append(
                Curve(rows[0]["method"], trial, outcome, trial in recommended_names, epochs, values)
            )
    return sorted(curves, key=lambda c: (study.methods.index(c.method), c.trial))


def history(study: Study) -> list[Point]:
    """All search trials in the order of methods, repeats and numbers; each repeat has its own best."""
    points = []
    for method in study.methods:
        best: dict[int, float] = {}
        rows = selection.trials(study.rows, "search", method)
        for row in sorted(rows, key=lambda r: (r["repeat"], r["number"])):
            value, repeat = number(row, study.metric), row["repeat"]
            if row["status"] == "finished" and value is not None:
                best[repeat] = max(best.get(repeat, value), value)
            points.append(
                Point(method, repeat, row["number"], row["status"], value, best.get(repeat))
            )
    return points


def effects(study: Study) -> list[Effect]:
    """Return what each confirmed method changed on test; empty where nothing can be compared."""
    return [
        Effect(result.method, result.difference, list(result.by_repeat.values()), result.verdict)
        for result in results(study).values()
        if result.difference and result.verdict
    ]


def draw_differences(study: Study) -> Figure | None:
    """Return a forest plot: interval, mean and repeats of each method's difference to the tuned baseline."""
    rows = effects(study)
    if not rows:
        return None
    figure = Figure(figsize=(8.4, 1.7 + 0.62 * len(rows)), layout="constrained")
    axes = bare(figure.add_subplot())
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvspan(-study.margin * 100, study.margin * 100, color=INK, alpha=0.07, linewidth=0)
    for at, effect in enumerate(rows):
        colour = VERDICT_COLOURS.get(effect.verdict.label, GREY)
        mean, low, high = effect.difference.mean, effect.difference.low, effect.difference.high
        if low is not None and high is not None:
            interval = [low * 100, high * 100]
            axes.plot(interval, [at, at], color=colour, linewidth=3, solid_capstyle="round")
        repeats = [value * 100 for value in effect.by_repeat]
        axes.plot(
            repeats, [at + 0.24] * len(repeats), "o", color=colour, alpha=0.45, markersize=5, mew=0
        )
        axes.plot([mean * 100], [at], "o", color=colour, markersize=10, mec="white", mew=1.5)
        text = f"{gap(effect.difference)}\n{words(effect.verdict, study.margin)}"
        axes.annotate(
            text,
            (1.02, at),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour if colour != GREY else INK,
        )
    axes.set_yticks(range(len(rows)), [effect.method for effect in rows], fontsize=11)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.set_xlabel(
        f"{sentence_name(study.test_metric)} minus the tuned baseline's, percentage points"
    )
    axes.set_title(
        f"{study.name}: what distillation changes", loc="left", fontweight="bold", pad=22
    )
    axes.annotate(
        "mean and 95 % interval (unadjusted) over repeats; small dots: single repeats; band: too small to matter",
        (0, 1),
        xytext=(0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=GREY,
    )
    return figure


def draw_learning_curves(study: Study) -> Figure | None:
    """Return a panel a method: its trials faint, the chosen one bold, the baseline's to compare with."""
    curves = learning_curves(study)
    if not curves:
        return None
    figure, panels = panels_of(
        study, f"{study.name}: {sentence_name(study.metric)} by epoch", _axis(study)
    )
    baseline = next((c for c in curves if c.is_recommended and c.method == BASELINE), None)
    teacher_value = number(selection.teacher(study.rows, "teacher"), study.metric)
    for method, axes in panels.items():
        for curve in (c for c in curves if c.method == method and not c.is_recommended):
            _line(axes, curve, color=colour_of(study, method), alpha=0.3, linewidth=1)
            if curve.status == "stopped":
                end = curve.epochs[-1], curve.values[-1] * 100
                axes.plot(*end, "|", color=colour_of(study, method), alpha=0.6, markersize=6)
        if baseline and method != BASELINE:
            _line(axes, baseline, color=GREY, linewidth=1.5, linestyle="--")
        for curve in (c for c in curves if c.method == method and c.is_recommended):
            _line(axes, curve, color=colour_of(study, method), linewidth=2.5)
        if teacher_value is not None:
            axes.axhline(teacher_value * 100, color=INK, linewidth=1, linestyle=":")
        axes.set_xlabel("epoch")
    # The worst of the chosen is the floor, so that a trial that diverged does not flatten the rest.
    recommended_values = [value * 100 for c in curves for value in c.values if c.is_recommended]
    low = min(recommended_values or [0.0])
    high = max([value * 100 for c in curves for value in c.values] + [100 * (teacher_value or 0)])
    axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.08 * (high - low) + 0.01)
    entries: list[tuple[str, dict[str, Any]]] = [
        ("recommended trial", {"color": INK, "linewidth": 2.5}),
        ("others, all repeats", {"color": INK, "alpha": 0.3}),
        ("stopped", {"color": INK, "alpha": 0.6, "marker": "|", "linestyle": ""}),
        ("recommended baseline", {"color": GREY, "linestyle": "--"}),
        ("teacher, last epoch", {"color": INK, "linestyle": ":"}),
    ]
    key(figure, axes, entries)
    return figure


def draw_history(study: Study) -> Figure | None:
    """Return a panel a method: value by trial, its repeats one after another, each with its running best."""
    points = history(study)
    if not points:
        return None
    figure, panels = panels_of(
        study, f"{study.name}: {sentence_name(study.metric)} by trial", _axis(study)
    )
    low, high = window(points)
    band = low - 0.06 * (high - low)  # where trials stand that are too bad to be shown, or failed
    for method, axes in panels.items():
        method_points, colour = [p for p in points if p.method == method], colour_of(study, method)
        _running_best(axes, method_points, colour)
        for status, look in _MARKS.items():
            pairs = [(at, p.value) for at, p in enumerate(method_points) if p.status == status]
            inside = [(at, v * 100) for at, v in pairs if v is not None and v * 100 >= low]
            axes.plot(*_columns(inside), linestyle="", **_with_colour(look, colour))
            below = [(at, band) for at, v in pairs if v is None or v * 100 < low]
            mark = {**_with_colour(look, colour), **({} if status == "failed" else {"marker": "v"})}
            axes.plot(*_columns(below), linestyle="", **mark)
        axes.set_xlabel("trial" if study.repeats == 1 else "trial, repeats one after another")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(low - 0.12 * (high - low), high)
    entries = [
        (status, _with_colour(look, INK) | {"linestyle": ""}) for status, look in _MARKS.items()
    ]
    below_range = {"color": INK, "marker": "v", "markersize": 6, "linestyle": ""}
    entries += [("below the range", below_range), ("best of the repeat so far", {"color": INK})]
    key(figure, axes, entries)
    return figure


def _running_best(axes: Axes, points: Sequence[Point], colour: str) -> None:
    """Draw a step line for each repeat, and a faint line between two repeats."""
    places = list(enumerate(points))
    for repeat in dict.fromkeys(p.repeat for p in points):
        numbers = [at for at, p in places if p.repeat == repeat]
        best = [(at, p.best * 100) for at, p in places if at in numbers and p.best is not None]
        axes.step(*_columns(best), where="post", color=colour)
        if numbers[0]:
            axes.axvline(numbers[0] - 0.5, color=GREY, linewidth=0.6, linestyle=":")


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


PLOTS: dict[str, Callable[[Study], Drawn]] = {
    "differences": draw_differences,
    "learning_curves": draw_learning_curves,
    "history": draw_history,
    "kd_loss_components": training.draw_loss_components,
    **{
        f"kd_validation_{name}": partial(training.draw_validation, metric=f"val_{name}")
        for name in SHARES
    },
    "kd_all_losses": training.draw_all_losses,
    "kd_learning_rate": training.draw_learning_rate,
    "confusion": confusion.draw_confusion,
    "predictions": segmentation.draw_predictions,
    "iou_distribution": segmentation.draw_iou_distribution,
    "front": pareto.draw_front,
}

_MARKS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "o", "markersize": 6, "mew": 0},
    "stopped": {"marker": "o", "markersize": 5, "mfc": "white", "alpha": 0.8},
    "failed": {"marker": "x", "markersize": 8, "mew": 2},
}


def _axis(study: Study) -> str:
    return heading(study.metric)[0].lower() + heading(study.metric)[1:]


def window(points: Sequence[Point]) -> tuple[float, float]:
    """Limits in percent that keep good trials apart: a few very bad ones stay below them."""
    values = sorted(p.value * 100 for p in points if p.value is not None) or [0.0, 100.0]
    final_values = sorted(p.value * 100 for p in points if p.value and p.status == "finished")
    top = values[-1]
    floor = (final_values or values)[len(final_values or values) // 4]
    low = max(values[0], floor - max(top - floor, 1.0))
    return low, top + 0.06 * (top - low) + 0.01


def _with_colour(look: dict[str, Any], colour: str) -> dict[str, Any]:
    return {"color": colour, **look}


def _line(axes: Axes, curve: Curve, **look: Any) -> None:
    axes.plot(curve.epochs, [value * 100 for value in curve.values], **look)
