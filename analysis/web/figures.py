"""Plots as plotly.js draws them: dictionaries of traces and layout, no import of plotly.

`draw` gives the panels of a plot. Colours are written "var(--name)"; the page puts in those of the reader's
theme. Names that users chose are escaped, because plotly reads a few HTML tags in texts.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.web.content import (
    Axis,
    Chart,
    Effect,
    Forest,
    Panel,
    Plot,
    Point,
    Series,
    Slices,
)

Json = dict[str, Any]
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDE, SMALL = 340, 240  # heights of a plot alone and of a panel among others, px
LINE = 84  # height of one effect, px
MOST_HOVER = 600  # characters


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One plot for plotly.js, its title (shown above it by the page) and its height in px."""

    data: list[Json]
    layout: Json
    height: int
    title: str = ""
    colour: str = "ink"


def draw(plot: Plot) -> list[Drawn]:
    """The panels of a plot, in order."""
    from analysis.web import hyperparameters

    known: dict[type, Callable[[Any], list[Drawn]]] = {
        Forest: draw_forest,
        Chart: draw_chart,
        **hyperparameters.DRAWN,
    }
    return known[type(plot)](plot)


def colour(name: str) -> str:
    """A colour of the page's theme."""
    return f"var(--{name})"


def said(text: str) -> str:
    r"""A text for plotly: lines by <br>, nothing else is read as HTML.

    >>> said("<b> & co\nlr 0.1")
    '&lt;b&gt; &amp; co<br>lr 0.1'
    """
    short = text if len(text) <= MOST_HOVER else f"{text[:MOST_HOVER]} ..."
    return "<br>".join(html.escape(line, quote=False) for line in short.split("\n"))


def rounded(value: float | str | None) -> float | str | None:
    """Six digits are more than a screen shows; None for what is not finite."""
    if value is None or isinstance(value, str):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def layout(x: Json, y: Json, **more: Any) -> Json:
    """What all plots share."""
    return {
        "xaxis": x,
        "yaxis": y,
        "autosize": True,
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": colour("soft")},
        "margin": {"l": 44, "r": 12, "t": 8, "b": 40},
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": colour("soft"),
            "activecolor": colour("ink"),
        },
        "hoverlabel": {
            "align": "left",
            "bgcolor": colour("card"),
            "bordercolor": colour("line"),
            "font": {"family": FONT, "size": 12, "color": colour("ink")},
        },
        **more,
    }


def axis(of: Axis, **more: Any) -> Json:
    """An axis; its range only where both ends are given."""
    found: Json = {
        "title": {"text": said(of.title), "standoff": 6},
        "type": "log" if of.log else "linear",
        "gridcolor": colour("grid"),
        "linecolor": colour("line"),
        "zeroline": False,
        "automargin": True,
        "nticks": 7,
        "tickangle": 0,
    }
    if of.log:
        ticks = log_ticks(of)
        found |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]} if ticks else {}
    if of.whole:
        found |= {"tickformat": "d"}
    if of.low is not None and of.high is not None:
        ends = (of.low, of.high)
        found["range"] = [math.log10(end) if of.log else end for end in ends]
    return found | more


def log_ticks(of: Axis) -> list[float]:
    """Powers of ten within a range, with 2 and 5 where there is one at most; none where it is open.

    >>> log_ticks(Axis(low=1.0, high=9.0)), log_ticks(Axis(low=5e-05, high=2.0))
    ([1.0, 2.0, 5.0], [0.0001, 0.001, 0.01, 0.1, 1.0])
    """
    if of.low is None or of.high is None:
        return []
    low, high = of.low * 0.999, of.high * 1.001
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        found = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) > 1:
            return inside
    return []


def scale(plot: Plot) -> str:
    """What the page says above a plot: the axis that its panels share, which a phone has no room for."""
    if isinstance(plot, Forest):
        return plot.axis
    shares = isinstance(plot, Slices) or (isinstance(plot, Chart) and len(plot.panels) > 1)
    return plot.y.title if shares and isinstance(plot, Chart | Slices) else ""


# ---------------------------------------------------------------- charts


def draw_chart(chart: Chart) -> list[Drawn]:
    """A plot a panel, the y axis of all alike."""
    alone = not scale(chart)
    y = chart.y if chart.y.low is not None else _shared(chart)
    y = y if alone else replace(y, title="")
    return [
        Drawn(
            data=[trace(series, y) for series in panel.series if series.points],
            layout=layout(
                axis(panel.x or chart.x, nticks=7 if alone else 5),
                axis(y),
                shapes=_shapes(panel),
                annotations=_notes(panel),
            ),
            height=WIDE if alone else SMALL,
            title=panel.title,
            colour=panel.colour,
        )
        for panel in chart.panels
    ]


def _shared(chart: Chart) -> Axis:
    """The y axis with a range that holds all panels' points."""
    values = [
        value
        for panel in chart.panels
        for value in (
            *(point.y for series in panel.series for point in series.points),
            *(level.value for level in panel.levels if not level.upright),
        )
        if value is not None and math.isfinite(value) and (value > 0 or not chart.y.log)
    ]
    if not values:
        return chart.y
    low, high = min(values), max(values)
    if chart.y.log:
        room = (high / low) ** 0.06 if high > low else 1.5
        return replace(chart.y, low=low / room, high=high * room)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return replace(chart.y, low=low - room, high=high + room)


def trace(series: Series, y: Axis) -> Json:
    """Points as a trace; dots below the axis stand on it as triangles."""
    low = y.low if series.look == "dots" else None
    below = [low is not None and p.y is not None and p.y < low for p in series.points]
    ys = [low if out else p.y for out, p in zip(below, series.points, strict=True)]
    found: Json = {
        "type": "scatter",
        "x": [_category(p.x) for p in series.points],
        "y": [rounded(value) for value in ys],
        "opacity": series.opacity,
        **hovers(series.points),
    }
    if series.look == "dots":
        symbols = ["triangle-down" if out else series.symbol for out in below]
        alike = series.symbol if not any(below) else symbols
        marker = {"symbol": alike, "size": series.size, "color": colour(series.colour)}
        rim = {"width": 1.5 if series.symbol in ("x", "circle-open", "line-ns-open") else 0}
        return found | {
            "mode": "markers",
            "marker": {**marker, "line": {**rim, "color": colour(series.colour)}},
            "cliponaxis": not any(below),
        }
    line: Json = {"color": colour(series.colour), "width": series.width}
    line |= {"dash": "dash"} if series.dashed else {}
    line |= {"shape": "hv"} if series.look == "step" else {}
    return found | {"mode": "lines", "line": line}


def hovers(points: Sequence[Point]) -> Json:
    """What is said of points: once where all say the same, nothing where they say nothing."""
    texts = [said(point.hover) for point in points]
    if not any(texts):
        return {"hoverinfo": "skip"}
    return {"hoverinfo": "text", "hovertext": texts[0] if len(set(texts)) == 1 else texts}


def _category(x: float | str) -> float | str | None:
    return said(x) if isinstance(x, str) else rounded(x)


def _shapes(panel: Panel) -> list[Json]:
    """Bands and levels."""
    bands: list[Json] = [
        {
            "type": "rect", "layer": "below", "xref": "x", "x0": band.low, "x1": band.high,
            "yref": "y domain", "y0": 0, "y1": 1, "line": {"width": 0},
            "fillcolor": colour(band.colour), "opacity": 0.15,
        }
        for band in panel.bands
    ]  # fmt: skip
    across = {"xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    along = {"yref": "y domain", "y0": 0, "y1": 1, "xref": "x"}
    lines = [
        {
            "type": "line",
            **(along if level.upright else across),
            **{f"{'x' if level.upright else 'y'}{end}": rounded(level.value) for end in (0, 1)},
            "line": {
                "color": colour(level.colour),
                "width": 1,
                "dash": "dot" if level.dashed else "solid",
            },
        }
        for level in panel.levels
    ]
    return bands + lines


def _notes(panel: Panel) -> list[Json]:
    """The words of levels at their right end, above the line."""
    return [
        {
            "text": said(level.hover), "showarrow": False, "xref": "x domain", "x": 1,
            "xanchor": "right", "yref": "y", "y": rounded(level.value), "yanchor": "bottom",
            "font": {"size": 11, "color": colour(level.colour)},
        }
        for level in panel.levels
        if level.hover and not level.upright
    ]  # fmt: skip


# ---------------------------------------------------------------- effects

TONES: Mapping[str, str] = {"good": "good", "bad": "bad", "none": "base"}


def draw_forest(forest: Forest) -> list[Drawn]:
    """Each effect's words above its interval, so that a phone has the whole width for the numbers."""
    data = [trace for at, effect in enumerate(forest.effects) for trace in _effect(effect, at)]
    shapes: list[Json] = [
        {"type": "line", "xref": "x", "x0": 0, "x1": 0, "yref": "y domain", "y0": 0, "y1": 1,
         "layer": "below", "line": {"color": colour("ink"), "width": 1}},
    ]  # fmt: skip
    if forest.margin:
        shapes.append(
            {"type": "rect", "xref": "x", "x0": -forest.margin, "x1": forest.margin, "layer": "below",
             "yref": "y domain", "y0": 0, "y1": 1, "fillcolor": colour("base"), "opacity": 0.14,
             "line": {"width": 0}}
        )  # fmt: skip
    count = len(forest.effects)
    side = axis(Axis(), range=[count - 0.55, -0.62], showticklabels=False, showgrid=False, fixedrange=True)  # fmt: skip
    return [
        Drawn(
            data=data,
            layout=layout(
                axis(_roomy(forest)),
                side,
                shapes=shapes,
                annotations=[_words(effect, at) for at, effect in enumerate(forest.effects)],
                margin={"l": 8, "r": 8, "t": 4, "b": 28},
            ),
            height=40 + LINE * count,
        )
    ]


def _roomy(forest: Forest) -> Axis:
    """The x axis: every interval and difference, 0, and some room."""
    values = [0.0, forest.margin or 0.0, -(forest.margin or 0.0)]
    for effect in forest.effects:
        ends = (effect.mean, effect.low, effect.high, *(mark.value for mark in effect.marks))
        values += [end for end in ends if end is not None and math.isfinite(end)]
    room = 0.05 * (max(values) - min(values)) or 1.0
    return Axis(low=min(values) - room, high=max(values) + room)


def _effect(effect: Effect, at: int) -> list[Json]:
    """Interval, single differences, mean."""
    ink, found = colour(TONES[effect.tone]), list[Json]()
    hover = said(effect.hover or f"{effect.name}: {effect.said}")
    if effect.low is not None and effect.high is not None:
        found.append({
            "type": "scatter", "mode": "lines", "x": [rounded(effect.low), rounded(effect.high)],
            "y": [at, at], "line": {"color": ink, "width": 4}, "hoverinfo": "text",
            "hovertext": hover,
        })  # fmt: skip
    marks = [Point(mark.value, at + 0.22, mark.hover) for mark in effect.marks]
    if marks:
        found.append({
            "type": "scatter", "mode": "markers", "x": [rounded(mark.value) for mark in effect.marks],
            "y": [point.y for point in marks], "opacity": 0.75,
            "marker": {"color": ink, "size": 8, "symbol": "circle-open", "line": {"width": 1.5}},
            **hovers(marks),
        })  # fmt: skip
    found.append({
        "type": "scatter", "mode": "markers", "x": [rounded(effect.mean)], "y": [at],
        "marker": {"color": ink, "size": 12, "line": {"color": colour("card"), "width": 2}},
        "hoverinfo": "text", "hovertext": hover,
    })  # fmt: skip
    return found


def _words(effect: Effect, at: int) -> Json:
    label = f"  {said(effect.label)}" if effect.label else ""
    return {
        "text": f"<b>{said(effect.name)}</b>{label}<br>{said(effect.said)}",
        "showarrow": False, "xref": "x domain", "x": 0, "xanchor": "left", "align": "left",
        "yref": "y", "y": at - 0.12, "yanchor": "bottom", "bgcolor": colour("bg"),
        "font": {"size": 13, "color": colour("ink")},
    }  # fmt: skip
