"""A study's trials as points: by what it was searched for, and by their hyperparameters."""

from collections.abc import Sequence

from analysis import selection
from analysis.formatting import heading, label, sentence_name
from analysis.hyperparameters.slices import pair
from analysis.plots import results as plots
from analysis.study import Study
from analysis.tables.parameters import cached_importances
from analysis.tables.pareto import best_trials, front_trials
from analysis.web.content import (
    Axis,
    Bar,
    Chart,
    Graded,
    Importance,
    Importances,
    Key,
    Level,
    Pair,
    Pairs,
    Panel,
    Parallel,
    Point,
    Row,
    Scale,
    Series,
    Slice,
    Slices,
)
from analysis.web.study_figures import SYMBOLS, axis_title, colour_of, methods_key, words
from tune_kd import objectives
from tune_kd.metrics import METRICS, number
from tune_kd.study import results


def front(study: Study) -> Chart | None:
    """All finished trials: objective 2 to the right, objective 1 upwards, those on the front large."""
    if len(study.objectives) < 2:
        return None
    up, right = study.objectives[:2]
    trials = front_trials(study)
    points = [t for t in trials if number(t, up) is not None and number(t, right) is not None]
    if not points:
        return None
    front_names = {trial["trial"] for trial in best_trials(study, points)}
    looks = [(on, broken) for on in (False, True) for broken in (False, True)]
    series = tuple(
        Series(
            points=tuple(
                Point(_value(t, right), _value(t, up), _objectives(study, t))
                for t in points
                if t["method"] == method
                and (t["trial"] in front_names, bool(objectives.violations(t, study.constraints)))
                == (on, broken)
            ),
            colour=colour_of(study, method),
            size=13 if on else 8,
            symbol="x" if broken else "circle",
            opacity=1 if on else 0.6,
        )
        for method in study.methods
        for on, broken in looks
    )
    return Chart(
        panels=(Panel(title="", series=series, levels=_constraints(study)),),
        x=Axis(title=heading(right)),
        y=Axis(title=heading(up)),
        key=(*methods_key(study), *(CONSTRAINED if study.constraints else ())),
    )


CONSTRAINED = (
    Key(label="breaks a constraint", symbol="x"),
    Key(label="constraint", look="line", dashed=True),
)


def _constraints(study: Study) -> tuple[Level, ...]:
    """Return the constraints on the two objectives as lines."""
    up, right = study.objectives[:2]
    return tuple(
        Level(value=c.bound * METRICS[c.name].scale, upright=c.name == right, hover=str(c))
        for c in study.constraints
        if c.name in (up, right)
    )


def _value(trial: results.Row, name: str) -> float:
    return (number(trial, name) or 0.0) * METRICS[name].scale


def _objectives(study: Study, trial: results.Row) -> str:
    values = [
        f"{sentence_name(name)} {_value(trial, name):.4g} {METRICS[name].unit}".rstrip()
        for name in study.objectives
    ]
    broken = [str(c) for c in objectives.violations(trial, study.constraints)]
    return words(study, trial, *values, *(["breaks " + ", ".join(broken)] if broken else []))


# ---------------------------------------------------------------- hyperparameters


def slices(study: Study) -> Slices | None:
    """Return the metric of all search trials over each hyperparameter that was searched."""
    rows = [
        r for r in selection.trials(study.rows, "search") if number(r, study.metric) is not None
    ]
    panels = tuple(
        Slice(
            parameter=_padded_axis(name, *ends),
            series=tuple(
                _dots(study, rows, f"config.{name}", method=method, status=status)
                for method in study.methods
                for status in ("stopped", "finished")
            ),
        )
        for name, ends in _bounds(study).items()
        if any(row.get(f"config.{name}") is not None for row in rows)
    )
    if not panels:
        return None
    low, high = plots.window(plots.history(study))
    return Slices(
        slices=panels,
        y=Axis(title=axis_title(study.metric), low=low, high=high),
        key=(
            *methods_key(study),
            Key(label="stopped early", symbol="circle-open"),
            Key(label="below the axis", symbol="triangle-down"),
        ),
    )


def _padded_axis(name: str, low: float, high: float, log: bool) -> Axis:
    """Return an axis somewhat wider than a range."""
    if log:
        room = (high / low) ** 0.04
        return Axis(title=name, log=True, low=low / room, high=high * room)
    room = 0.04 * (high - low)
    return Axis(title=name, low=low - room, high=high + room)


def _dots(
    study: Study, rows: Sequence[results.Row], column: str, *, method: str, status: str
) -> Series:
    """Return the trials of a method that ended alike, over one hyperparameter."""
    return Series(
        points=tuple(
            Point(row[column], row[study.metric] * 100, words(study, row))
            for row in rows
            if (row["method"], row["status"]) == (method, status) and row.get(column) is not None
        ),
        colour=colour_of(study, method),
        symbol=SYMBOLS[status],
        opacity=1 if status == "finished" else 0.5,
    )


def _bounds(study: Study) -> dict[str, tuple[float, float, bool]]:
    """Return the widest range of each hyperparameter over the methods that search it."""
    bounds: dict[str, tuple[float, float, bool]] = {}
    for method in study.methods:
        for name, (low, high, log) in study.manifest.methods[method].bounds.items():
            widest = bounds.get(name, (low, high, log))
            bounds[name] = (min(low, widest[0]), max(high, widest[1]), bool(log))
    return {name: ends for name, ends in bounds.items() if ends[0] < ends[1]}


def importance(study: Study) -> Importances | None:
    """Return a panel of bars for each method whose importances are known."""
    all_importances = [cached_importances(study, method) for method in study.methods]
    panels = tuple(
        Importance(
            method=label(one.method),
            bars=tuple(
                Bar(parameter=bar.parameter, mean=bar.mean, low=bar.low, high=bar.high)
                for bar in one.parameters
            ),
            basis=one.parameters[0].basis,
            colour=colour_of(study, one.method),
        )
        for one in all_importances
        if one.parameters
    )
    return Importances(methods=panels) if panels else None


def pairs(study: Study) -> Pairs | None:
    """Return the plane of the two hyperparameters that matter most, of each method where both are numbers."""
    rows = {row["trial"]: row for row in selection.trials(study.rows, "search")}
    planes = []
    for method in study.methods:
        plane = pair(study, cached_importances(study, method))
        ends = study.manifest.methods[method].bounds
        if plane is None or not {plane.x, plane.y} <= ends.keys():
            continue
        points = tuple(
            Graded(point.x, point.y, point.value * 100, words(study, rows[point.trial]))
            for point in plane.points
        )
        planes.append(
            Pair(
                title=label(method),
                x=_padded_axis(plane.x, *ends[plane.x]),
                y=_padded_axis(plane.y, *ends[plane.y]),
                value=axis_title(study.metric),
                points=points,
            )
        )
    return Pairs(pairs=tuple(planes)) if planes else None


def parallel(study: Study, method: str) -> Parallel | None:
    """Return a method's finished trials over all that was searched, the metric on the last axis."""
    trials = [
        r for r in selection.trials(study.rows, "search", method) if r["status"] == "finished"
    ]
    rows = sorted(
        (r for r in trials if number(r, study.metric) is not None), key=lambda r: -r[study.metric]
    )
    bounds = study.manifest.methods[method].bounds
    if len(rows) < 3 or len(bounds) < 2:
        return None
    recommended, colour = study.recommended_trial(method), colour_of(study, method)
    values = [row[study.metric] * 100 for row in rows]
    scales = [Scale(title=n, low=low, high=high, log=log) for n, (low, high, log) in bounds.items()]
    scales.append(Scale(title=sentence_name(study.metric), low=values[-1], high=values[0]))
    lines = [
        Row(
            values=(*(row.get(f"config.{name}") for name in bounds), value),
            hover=words(study, row),
            rank="best"
            if recommended and row["trial"] == recommended["trial"]
            else "good"
            if at < len(rows) / 4
            else "other",
            colour=colour,
        )
        for at, (row, value) in enumerate(zip(rows, values, strict=True))
    ]
    return Parallel(
        scales=tuple(scales),
        rows=tuple(lines),
        key=(
            Key(label="chosen trial", look="line", colour=colour, width=4),
            Key(label="best quarter", look="line", colour=colour, width=1.6),
            Key(label="others", look="line", colour="base", width=1, opacity=0.6),
        ),
    )
