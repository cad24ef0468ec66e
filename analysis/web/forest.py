"""Differences with their intervals."""

import math
from collections.abc import Mapping, Sequence

from analysis.web.content import Axis, Effect, Forest, Point
from analysis.web.figures import Drawn, Json, axis, colour, hovers, layout, plotly_text, round_value

LINE = 84  # height of one effect, px
TONES: Mapping[str, str] = {"good": "good", "bad": "bad", "none": "base"}


def draw_forest(forest: Forest) -> list[Drawn]:
    """Each effect's words above its interval, so that a phone has the whole width for the numbers."""
    data = [trace for at, effect in enumerate(forest.effects) for trace in _effect(effect, at)]
    shapes = [_zero_line(), *([_margin_band(forest.margin)] if forest.margin else [])]
    count = len(forest.effects)
    side = axis(
        Axis(), range=[count - 0.55, -0.62], showticklabels=False, showgrid=False, fixedrange=True
    )
    return [
        Drawn(
            data=data,
            layout=layout(
                axis(_x_axis(forest)),
                side,
                shapes=shapes,
                annotations=[_words(effect, at) for at, effect in enumerate(forest.effects)],
                margin={"l": 8, "r": 8, "t": 4, "b": 28},
            ),
            height=40 + LINE * count,
        )
    ]


def _zero_line() -> Json:
    return {
        "type": "line",
        "layer": "below",
        "xref": "x",
        "x0": 0,
        "x1": 0,
        "yref": "y domain",
        "y0": 0,
        "y1": 1,
        "line": {"color": colour("ink"), "width": 1},
    }


def _margin_band(margin: float) -> Json:
    return {
        "type": "rect",
        "layer": "below",
        "xref": "x",
        "x0": -margin,
        "x1": margin,
        "yref": "y domain",
        "y0": 0,
        "y1": 1,
        "line": {"width": 0},
        "fillcolor": colour("base"),
        "opacity": 0.14,
    }


def _x_axis(forest: Forest) -> Axis:
    """Return the x axis: every interval and difference, 0, and some room."""
    values = [0.0, forest.margin or 0.0, -(forest.margin or 0.0)]
    for effect in forest.effects:
        ends = (effect.mean, effect.low, effect.high, *(mark.value for mark in effect.marks))
        values += [end for end in ends if end is not None and math.isfinite(end)]
    room = 0.05 * (max(values) - min(values)) or 1.0
    return Axis(low=min(values) - room, high=max(values) + room)


def _effect(effect: Effect, at: int) -> list[Json]:
    """Interval, single differences, mean."""
    ink = colour(TONES[effect.tone])
    hover = plotly_text(effect.hover or f"{effect.name}: {effect.numbers}")
    words: Json = {"hoverinfo": "text", "hovertext": hover}
    traces: list[Json] = []
    if effect.low is not None and effect.high is not None:
        ends = [round_value(effect.low), round_value(effect.high)]
        line = {"color": ink, "width": 4}
        traces.append(
            {"type": "scatter", "mode": "lines", "x": ends, "y": [at, at], "line": line, **words}
        )
    marks = [Point(mark.value, at + 0.22, mark.hover) for mark in effect.marks]
    if marks:
        traces.append(_dots(marks, ink))
    outline = {"color": colour("card"), "width": 2}
    mean = {
        "type": "scatter",
        "mode": "markers",
        "x": [round_value(effect.mean)],
        "y": [at],
        "marker": {"color": ink, "size": 12, "line": outline},
        **words,
    }
    return [*traces, mean]


def _dots(marks: Sequence[Point], ink: str) -> Json:
    """Return the trace of single differences, open circles."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round_value(point.x) for point in marks],
        "y": [point.y for point in marks],
        "opacity": 0.75,
        "marker": {"color": ink, "size": 8, "symbol": "circle-open", "line": {"width": 1.5}},
        **hovers(marks),
    }


def _words(effect: Effect, at: int) -> Json:
    label = f"  {plotly_text(effect.label)}" if effect.label else ""
    return {
        "text": f"<b>{plotly_text(effect.name)}</b>{label}<br>{plotly_text(effect.numbers)}",
        "showarrow": False,
        "xref": "x domain",
        "x": 0,
        "xanchor": "left",
        "align": "left",
        "yref": "y",
        "y": at - 0.12,
        "yanchor": "bottom",
        "bgcolor": colour("bg"),
        "font": {"size": 13, "color": colour("ink")},
    }
