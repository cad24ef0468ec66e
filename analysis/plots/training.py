"""How the recommended trials were trained: losses, validation and learning rate by epoch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.formatting import heading, label, sentence_name
from analysis.plots.style import INK, bare, colour_of, key, panels_of
from analysis.selection import BASELINE
from analysis.study import Study
from tune_kd.metrics import number

# A loss's column, its name, and how its line looks; the terms are unweighted, the total is weighted.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "train_loss": ("total", {"color": INK, "linewidth": 4.5, "alpha": 0.3}),
    "hard_loss": ("CE (labels)", {"color": "#0072B2"}),
    "soft_loss": ("KD (outputs)", {"color": "#D55E00"}),
    "feature_loss": ("feature", {"color": "#009E73"}),
}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")  # powers are slow to typeset
UNUSED = ("soft_loss", "feature_loss")  # 0 throughout where they have no weight: not drawn

Entry = tuple[str, dict[str, Any]]


class Series(NamedTuple):
    """A column of one trial over its epochs (steps from 1), where it is known."""

    steps: list[int]
    values: list[float]


def series(study: Study, method: str, column: str) -> Series:
    """Return a column of the trial that a method recommends; empty lists where there is none."""
    trial = study.recommended_trial(method)
    rows = study.curves.get(trial["trial"], []) if trial else []
    points = [(r["step"], value) for r in rows if (value := number(r, column)) is not None]
    if column in UNUSED and not any(value for _, value in points):
        points = []
    return Series([step for step, _ in points], [value for _, value in points])


def _any(study: Study, columns: Sequence[str]) -> bool:
    return any(series(study, m, c).values for m in study.methods for c in columns)


def draw_loss_components(study: Study) -> Figure | None:
    """Return a panel a method: the weighted sum and its terms, each as it is before it is weighted."""
    if not _any(study, list(LOSSES)):
        return None
    title = f"{study.name}: training loss and its parts (recommended trial of each method)"
    figure, panels = panels_of(study, title, "loss")
    values: list[float] = []
    for method, axes in panels.items():
        for column, (_, look) in LOSSES.items():
            curve = series(study, method, column)
            if curve.values:
                axes.plot(*curve, **look)
                values += curve.values
        _epochs(axes)
    _log_if_wide(list(panels.values()), values)
    key(figure, axes, [(name, look) for name, look in LOSSES.values()])
    return figure


def draw_all_losses(study: Study) -> Figure | None:
    """Return a panel a loss: the methods' recommended trials in one picture."""
    columns = [column for column in LOSSES if _any(study, [column])]
    if not columns:
        return None
    width = 1.2 + 2.7 * max(len(columns), 2)
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    figure.suptitle(f"{study.name}: losses compared", x=0.01, ha="left", fontweight="bold")
    grid = figure.subplots(1, len(columns), squeeze=False)
    for axes, column in zip(grid.flat, columns, strict=True):
        values: list[float] = []
        for method in study.methods:
            curve = series(study, method, column)
            if curve.values:
                _method(axes, study, method, curve)
                values += curve.values
        name = LOSSES[column][0]
        axes.set_title(
            "total (weights differ)" if name == "total" else name, loc="left", fontsize=10
        )
        _epochs(bare(axes))
        _log_if_wide([axes], values)
    grid[0, 0].set_ylabel("training loss")
    _methods_key(figure, axes, study)
    return figure


def draw_learning_rate(study: Study) -> Figure | None:
    """Return the learning rate of each method's recommended trial at the end of each epoch."""
    if not _any(study, ["lr"]):
        return None
    figure, axes = _single_panel(f"{study.name}: learning rate (recommended trial of each method)")
    for method in study.methods:
        _method(axes, study, method, series(study, method, "lr"))
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    _methods_key(figure, axes, study)
    return figure


def draw_validation(study: Study, metric: str) -> Figure | None:
    """Return a validation metric of each method's recommended trial, with the baseline as a line.

    None where it is not the metric that the study ranks its trials by.
    """
    if study.metric != metric or not _any(study, [study.metric]):
        return None
    figure, axes = _single_panel(
        f"{study.name}: {sentence_name(study.metric)} (recommended trial of each method)"
    )
    for method in study.methods:
        curve = series(study, method, study.metric)
        _method(axes, study, method, Series(curve.steps, [value * 100 for value in curve.values]))
    baseline = number(study.recommended_trial(BASELINE), study.metric)
    last: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": ":"}
    if baseline is not None:
        axes.axhline(baseline * 100, **last)
    text = heading(study.metric)
    axes.set_ylabel(text[0].lower() + text[1:])
    baseline_entry = (
        [] if baseline is None else [(f"baseline at its end: {baseline * 100:.2f}", last)]
    )
    _methods_key(figure, axes, study, baseline_entry)
    return figure


def _single_panel(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = bare(figure.add_subplot())
    axes.set_title(title, loc="left", fontweight="bold")
    _epochs(axes)
    return figure, axes


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _method(axes: Axes, study: Study, method: str, curve: Series) -> None:
    style = "--" if method == BASELINE else "-"
    axes.plot(*curve, color=colour_of(study, method), linestyle=style, linewidth=2)


def _methods_key(figure: Figure, axes: Axes, study: Study, more: Sequence[Entry] = ()) -> None:
    entries: list[Entry] = [
        (label(m), {"color": colour_of(study, m), "linestyle": "--" if m == BASELINE else "-"})
        for m in study.methods
    ]
    key(figure, axes, [*entries, *more], ncols=5)


def _log_if_wide(panels: Sequence[Axes], values: Sequence[float]) -> None:
    """Set a log axis where the largest value would flatten the small ones."""
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) > 30 * min(positive):
        for axes in panels:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(PLAIN)
            axes.yaxis.set_minor_locator(NullLocator())
