"""A study's figures as `content` has them: values in percent or points, hover texts with configurations."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from analysis import plots, plots_training, select, stats
from analysis.cells import gap, heading, label, plain, points, spoken
from analysis.html.content import (
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
from analysis.load import Study
from analysis.select import BASELINE, number
from tune_kd import results

TONES: dict[str, Tone] = {"helps": "good", "hurts": "bad"}
SYMBOLS: dict[str, Symbol] = {"finished": "circle", "stopped": "circle-open", "failed": "x"}
MOST_CURVES = 60  # of one method, beside the chosen one
Item = TypeVar("Item")


def colour_of(study: Study, method: str) -> str:
    """A method's colour in every figure, as in the pictures."""
    if method == BASELINE:
        return "base"
    return COLOURS[study.kd_methods.index(method) % len(COLOURS)]


def words(study: Study, trial: results.Row, *more: str) -> str:
    """What a figure says of a search trial: its name, its value, its configuration."""
    value = number(trial, study.metric)
    lines = [f"{trial['method']}, trial {trial['number']} ({trial['status']})", *more]
    if value is not None:
        lines.append(f"{spoken(study.metric)} {value * 100:.2f} %")
    known = [
        f"{name.removeprefix('config.')} {plain(value)}"
        for name, value in trial.items()
        if name.startswith("config.") and value is not None and value == value
    ]
    lines += known  # a line each: a small panel has no room for two
    if trial["status"] == "failed":
        lines.append(" ".join((trial.get("reason") or "reason not recorded").split())[:200])
    return "\n".join(lines)


def methods_key(study: Study) -> tuple[Key, ...]:
    """A legend of methods."""
    return tuple(Key(label=label(m), colour=colour_of(study, m)) for m in study.methods)


# ---------------------------------------------------------------- differences


def differences(study: Study) -> Forest | None:
    """Each method minus the baseline on test, with every seed's difference."""
    effects = tuple(
        _effect(
            study, found.method, study.chosen(BASELINE), study.chosen(found.method), verdict=True
        )
        for found in plots.effects(study)
    )
    axis = f"{spoken(study.test_metric)} minus the tuned baseline's, percentage points"
    return Forest(effects=effects, axis=axis) if effects else None


def tuning(study: Study) -> Forest | None:
    """What tuning bought each method: its best trial minus its textbook setting on test."""
    effects = []
    for method in study.methods:
        best, book = study.chosen(method), select.textbook(study.rows, method)
        changed = best and book and best["trial"] != book["trial"]
        if changed and stats.paired(study.confirmed(best), study.confirmed(book)):
            effects.append(_effect(study, method, book, best, verdict=False))
    axis = f"{spoken(study.test_metric)}: best minus textbook, percentage points"
    return Forest(effects=tuple(effects), axis=axis) if effects else None


def _effect(
    study: Study,
    method: str,
    control: results.Row | None,
    treated: results.Row | None,
    *,
    verdict: bool,
) -> Effect:
    """The difference of two confirmed trials, paired by seed."""
    own, other = study.confirmed(treated), study.confirmed(control)
    found = stats.paired(own, other)
    assert found is not None
    assert treated is not None
    marks = tuple(
        Mark(
            change * 100,
            f"{method}, seed {seed}: {points(change)} points ({own[seed] * 100:.2f} against "
            f"{other[seed] * 100:.2f} %)\n{words(study, treated)}",
        )
        for seed, change in stats.differences(own, other).items()
    )
    return Effect(
        name=label(method),
        mean=found.mean * 100,
        low=None if found.low is None else found.low * 100,
        high=None if found.high is None else found.high * 100,
        said=gap(found),
        label=found.verdict if verdict else "",
        tone=TONES.get(found.verdict, "none"),
        marks=marks,
        hover=f"{method}: {gap(found)}\n{words(study, treated)}",
    )


# ---------------------------------------------------------------- search


def history(study: Study) -> Chart | None:
    """A panel a method: value by trial number, the best finished one so far as a step line."""
    found = plots.history(study)
    if not found:
        return None
    low, high = plots.window(found)
    key = [Key(label=status, symbol=symbol) for status, symbol in SYMBOLS.items()]
    return Chart(
        panels=tuple(_history(study, method, found) for method in study.methods),
        x=Axis(title="trial", whole=True, low=-0.5, high=max(p.number for p in found) + 0.5),
        y=Axis(title=titled(study.metric), low=low, high=high),
        key=(
            *key,
            Key(label="below the axis", symbol="triangle-down"),
            Key(label="best so far", look="line"),
        ),
    )


def _history(study: Study, method: str, found: Sequence[plots.Point]) -> Panel:
    rows = {row["number"]: row for row in select.trials(study.rows, "search", method)}
    own, colour = [p for p in found if p.method == method], colour_of(study, method)
    best = tuple(Point(p.number, p.best * 100) for p in own if p.best is not None)
    dots = [
        Series(
            points=tuple(
                Point(p.number, _percent(p.value), words(study, rows[p.number]))
                for p in own
                if p.status == status
            ),
            colour=colour,
            symbol=symbol,
            size=8,
        )
        for status, symbol in SYMBOLS.items()
    ]
    line = Series(points=best, look="step", colour=colour)
    return Panel(title=label(method), colour=colour, series=(line, *dots))


def _percent(value: float | None) -> float:
    """In percent; a failed trial, which has none, stands below the axis."""
    return -math.inf if value is None else value * 100


CHOSEN = Series(points=(), look="line", width=3.5)
OTHER = Series(points=(), look="line", width=1.2, opacity=0.45)
COMPARED = Series(points=(), look="line", colour="base", dashed=True)


def learning_curves(study: Study) -> Chart | None:
    """A panel a method: its trials faint, the chosen one bold, the baseline's dashed."""
    curves = plots.learning_curves(study)
    if not curves:
        return None
    base = [c for c in curves if c.chosen and c.method == BASELINE]
    taught = number(select.teacher(study.rows, "teach"), study.metric)
    level = () if taught is None else (Level(value=taught * 100, hover="teacher"),)
    panels = []
    for method in study.methods:
        colour = colour_of(study, method)
        own = [c for c in curves if c.method == method]
        others = thinned([c for c in own if not c.chosen], MOST_CURVES)
        drawn = [_curve(study, c, replace(OTHER, colour=colour)) for c in others]
        drawn += [_curve(study, c, COMPARED) for c in base if method != BASELINE]
        drawn += [_curve(study, c, replace(CHOSEN, colour=colour)) for c in own if c.chosen]
        panels.append(Panel(title=label(method), colour=colour, series=tuple(drawn), levels=level))
    low, high = _floor(curves, taught)
    return Chart(
        panels=tuple(panels),
        x=Axis(title="epoch", whole=True),
        y=Axis(title=titled(study.metric), low=low, high=high),
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
    """A trial's curve that looks like a given series."""
    stages = study.stages.get(curve.trial)
    hover = words(study, stages[-1]) if stages else f"{curve.trial} (running)"
    steps = zip(curve.epochs, curve.values, strict=True)
    return replace(like, points=tuple(Point(step, value * 100, hover) for step, value in steps))


def _floor(curves: Sequence[plots.Curve], taught: float | None) -> tuple[float, float]:
    """The worst of the chosen curves is the floor, so that a trial that diverged does not flatten the rest."""
    chosen = [value for c in curves if c.chosen for value in c.values]
    every = [value for c in curves for value in c.values]
    low, high = min(chosen or every) * 100, max([*every, taught or 0.0]) * 100
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def thinned(items: Sequence[Item], most: int) -> list[Item]:
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
    """A panel a method: the weighted sum and its terms, each before it is weighted."""
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
        x=Axis(title="epoch", whole=True),
        y=Axis(title="training loss"),
        key=tuple(_key(plots_training.LOSSES[name][0], like) for name, like in LOSSES.items()),
    )


def _loss(study: Study, method: str, column: str) -> Series:
    found, name = plots_training.series(study, method, column), plots_training.LOSSES[column][0]
    points = tuple(
        Point(step, value, f"{name}, epoch {step}: {value:.4g}")
        for step, value in zip(found.steps, found.values, strict=True)
    )
    return replace(LOSSES[column], points=points)


def titled(metric: str) -> str:
    """A metric as an axis is named: "validation accuracy, %"."""
    text = heading(metric)
    return text[0].lower() + text[1:]
