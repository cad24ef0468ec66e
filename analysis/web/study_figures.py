"""A study's figures as `content` has them: values in percent or points, hover texts with configurations."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from analysis import selection
from analysis.comparison import methods, stats
from analysis.formatting import as_text, gap, heading, label, points, sentence_name
from analysis.plots import results as plots
from analysis.plots import training
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.web.content import (
    COLOURS,
    Axis,
    Chart,
    Effect,
    Forest,
    Key,
    Level,
    Mark,
    Panel,
    Point,
    Series,
    Symbol,
    Tone,
)
from analysis.wording import words as words_of
from tune_kd.metrics import number
from tune_kd.study import results

TONES: dict[str, Tone] = {
    stats.HELPS: "good",
    stats.SMALL_HELP: "good",
    stats.HURTS: "bad",
    stats.SMALL_HURT: "bad",
}
SYMBOLS: dict[str, Symbol] = {"finished": "circle", "stopped": "circle-open", "failed": "x"}
MOST_CURVES = 60  # of one method, beside the chosen one
Item = TypeVar("Item")


def colour_of(study: Study, method: str) -> str:
    """Return a method's colour in every figure, as in the pictures."""
    if method == BASELINE:
        return "base"
    return COLOURS[study.kd_methods.index(method) % len(COLOURS)]


def words(study: Study, trial: results.Row, *more: str) -> str:
    """Return what a figure says of a search trial: its name, its value, its configuration."""
    value = number(trial, study.metric)
    lines = [
        f"{trial['method']}, repeat {trial['repeat']}, trial {trial['number']} ({trial['status']})",
        *more,
    ]
    if value is not None:
        lines.append(f"{sentence_name(study.metric)} {value * 100:.2f} %")
    settings = [
        f"{name.removeprefix('config.')} {as_text(value)}"
        for name, value in trial.items()
        if name.startswith("config.") and value is not None and value == value
    ]
    lines += settings  # a line each: a small panel has no room for two
    if trial["status"] == "failed":
        lines.append(" ".join((trial.get("reason") or "reason not recorded").split())[:200])
    return "\n".join(lines)


def methods_key(study: Study) -> tuple[Key, ...]:
    """Return a legend of methods."""
    return tuple(Key(label=label(m), colour=colour_of(study, m)) for m in study.methods)


# ---------------------------------------------------------------- differences


def differences(study: Study) -> Forest | None:
    """Each tuned method minus the tuned baseline on test, with every repeat's difference."""
    effects = tuple(
        _effect(
            study,
            result.method,
            result.difference,
            pair=(study.tuned_values(result.method), study.tuned_values(BASELINE)),
            verdict=result.verdict,
        )
        for result in methods.results(study).values()
        if result.difference
    )
    axis = f"{sentence_name(study.test_metric)} minus the tuned baseline's, percentage points"
    return Forest(effects=effects, axis=axis, margin=study.margin * 100) if effects else None


def tuning(study: Study) -> Forest | None:
    """Return what tuning bought each method: what its searches chose minus its default settings, on test."""
    effects = tuple(
        _effect(
            study,
            result.method,
            result.bought,
            pair=(study.tuned_values(result.method), study.default_by_repeat(result.method)),
            verdict=None,
        )
        for result in methods.results(study).values()
        if result.bought
    )
    axis = f"{sentence_name(study.test_metric)}: tuned minus default, percentage points"
    return Forest(effects=effects, axis=axis) if effects else None


def _effect(
    study: Study,
    method: str,
    estimate: stats.Estimate,
    *,
    pair: tuple[Mapping[int, float], Mapping[int, float]],
    verdict: stats.Verdict | None,
) -> Effect:
    """Return a difference over repeats, each with what it compares."""
    treatment, control = pair
    marks = tuple(
        Mark(
            change * 100,
            f"{method}, repeat {repeat}: {points(change)} points ({treatment[repeat] * 100:.2f} against "
            f"{control[repeat] * 100:.2f} %)\n{_winner(study, method, repeat)}",
        )
        for repeat, change in stats.differences(treatment, control).items()
    )
    return Effect(
        name=label(method),
        mean=estimate.mean * 100,
        low=None if estimate.low is None else estimate.low * 100,
        high=None if estimate.high is None else estimate.high * 100,
        numbers=gap(estimate),
        label=words_of(verdict, study.margin),
        tone=TONES.get(verdict.label, "none") if verdict else "none",
        marks=marks,
        hover=f"{method}: {gap(estimate)}",
    )


def _winner(study: Study, method: str, repeat: int) -> str:
    """Return what a repeat's search chose."""
    trial = study.winner(method, repeat)
    return words(study, trial) if trial else ""


# ---------------------------------------------------------------- search


def history(study: Study) -> Chart | None:
    """Return a panel a method: its repeats one after the other, each with its best finished trial so far as a line."""
    history_points = plots.history(study)
    if not history_points:
        return None
    low, high = plots.window(history_points)
    key = [Key(label=status, symbol=symbol) for status, symbol in SYMBOLS.items()]
    return Chart(
        panels=tuple(_history(study, method, history_points) for method in study.methods),
        x=Axis(
            title="trials of all repeats, in their order",
            integer_ticks=True,
            low=-0.5,
            high=_most_trials(history_points) - 0.5,
        ),
        y=Axis(title=axis_title(study.metric), low=low, high=high),
        key=(
            *key,
            Key(label="below the axis", symbol="triangle-down"),
            Key(label="best of the repeat so far", look="line"),
        ),
    )


def _most_trials(history_points: Sequence[plots.Point]) -> int:
    """Return the trials of the method that has most."""
    return max(Counter(point.method for point in history_points).values())


def _history(study: Study, method: str, history_points: Sequence[plots.Point]) -> Panel:
    trials = {row["trial"]: row for row in selection.trials(study.rows, "search", method)}
    rows = {(row["repeat"], row["number"]): row for row in trials.values()}
    method_points, colour = (
        [p for p in history_points if p.method == method],
        colour_of(study, method),
    )
    place = {(p.repeat, p.number): at for at, p in enumerate(method_points)}
    lines = [
        Series(
            points=tuple(
                Point(place[p.repeat, p.number], p.best * 100)
                for p in method_points
                if p.repeat == repeat and p.best is not None
            ),
            look="step",
            colour=colour,
        )
        for repeat in sorted({p.repeat for p in method_points})
    ]
    dots = [
        Series(
            points=tuple(
                Point(
                    place[p.repeat, p.number],
                    _percent(p.value),
                    words(study, rows[p.repeat, p.number]),
                )
                for p in method_points
                if p.status == status
            ),
            colour=colour,
            symbol=symbol,
            size=8,
        )
        for status, symbol in SYMBOLS.items()
    ]
    return Panel(title=label(method), colour=colour, series=(*lines, *dots))


def _percent(value: float | None) -> float:
    """In percent; a failed trial, which has none, stands below the axis."""
    return -math.inf if value is None else value * 100


CHOSEN = Series(points=(), look="line", width=3.5)
OTHER = Series(points=(), look="line", width=1.2, opacity=0.45)
COMPARED = Series(points=(), look="line", colour="base", dashed=True)


def learning_curves(study: Study) -> Chart | None:
    """Return a panel a method: its trials faint, the chosen one bold, the baseline's dashed."""
    curves = plots.learning_curves(study)
    if not curves:
        return None
    base = [c for c in curves if c.is_recommended and c.method == BASELINE]
    teacher_value = number(selection.teacher(study.rows, "teacher"), study.metric)
    level = () if teacher_value is None else (Level(value=teacher_value * 100, hover="teacher"),)
    panels = []
    for method in study.methods:
        colour = colour_of(study, method)
        method_curves = [c for c in curves if c.method == method]
        others = thin_out([c for c in method_curves if not c.is_recommended], MOST_CURVES)
        lines = [_curve(study, c, replace(OTHER, colour=colour)) for c in others]
        lines += [_curve(study, c, COMPARED) for c in base if method != BASELINE]
        lines += [
            _curve(study, c, replace(CHOSEN, colour=colour))
            for c in method_curves
            if c.is_recommended
        ]
        panels.append(Panel(title=label(method), colour=colour, series=tuple(lines), levels=level))
    low, high = _floor(curves, teacher_value)
    return Chart(
        panels=tuple(panels),
        x=Axis(title="epoch", integer_ticks=True),
        y=Axis(title=axis_title(study.metric), low=low, high=high),
        key=(
            _key("chosen trial of the method", CHOSEN),
            _key("other trials", OTHER),
            _key("chosen trial of the baseline", COMPARED),
        ),
    )


def _key(text: str, like: Series) -> Key:
    return Key(
        label=text,
        look="line",
        colour=like.colour,
        width=like.width,
        dashed=like.dashed,
        opacity=like.opacity,
    )


def _curve(study: Study, curve: plots.Curve, like: Series) -> Series:
    """Return a trial's curve that looks like a given series."""
    stages = study.stages.get(curve.trial)
    hover = words(study, stages[-1]) if stages else f"{curve.trial} (running)"
    steps = zip(curve.epochs, curve.values, strict=True)
    return replace(like, points=tuple(Point(step, value * 100, hover) for step, value in steps))


def _floor(curves: Sequence[plots.Curve], teacher_value: float | None) -> tuple[float, float]:
    """Return the worst of the chosen curves is the floor, so that a trial that diverged does not flatten the rest."""
    recommended_values = [value for c in curves if c.is_recommended for value in c.values]
    every = [value for c in curves for value in c.values]
    low, high = min(recommended_values or every) * 100, max([*every, teacher_value or 0.0]) * 100
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def thin_out(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly spaced."""
    step = max(1, math.ceil(len(items) / most))
    return list(items[::step])


LOSSES = {
    "train_loss": Series(points=(), look="line", width=4.0, opacity=0.4),
    "hard_loss": Series(points=(), look="line", colour="c1"),
    "soft_loss": Series(points=(), look="line", colour="c2"),
    "feature_loss": Series(points=(), look="line", colour="c3"),
}


def losses(study: Study) -> Chart | None:
    """Return a panel a method: the weighted sum and its terms, each before it is weighted."""
    panels = [
        Panel(
            title=label(method),
            colour=colour_of(study, method),
            series=tuple(_loss(study, method, column) for column in LOSSES),
        )
        for method in study.methods
    ]
    if not any(one.points for panel in panels for one in panel.series):
        return None
    return Chart(
        panels=tuple(panels),
        x=Axis(title="epoch", integer_ticks=True),
        y=Axis(title="training loss"),
        key=tuple(_key(training.LOSSES[name][0], like) for name, like in LOSSES.items()),
    )


def _loss(study: Study, method: str, column: str) -> Series:
    curve, name = training.series(study, method, column), training.LOSSES[column][0]
    points = tuple(
        Point(step, value, f"{name}, epoch {step}: {value:.4g}")
        for step, value in zip(curve.steps, curve.values, strict=True)
    )
    return replace(LOSSES[column], points=points)


def axis_title(metric: str) -> str:
    """Return a metric as an axis is named: "validation accuracy, %"."""
    text = heading(metric)
    return text[0].lower() + text[1:]
