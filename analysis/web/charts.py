"""Panels of dots and lines."""

import math
from dataclasses import replace

from analysis.web.content import Axis, Chart, Panel, Series
from analysis.web.figures import (
    SMALL,
    WIDE,
    Drawn,
    Json,
    axis,
    colour,
    hovers,
    layout,
    plotly_text,
    round_value,
    scale,
)


def draw_chart(chart: Chart) -> list[Drawn]:
    """Return a plot a panel, the y axis of all alike."""
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
    """Return the y axis with a range that holds all panels' points."""
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
    line_data: Json = {
        "type": "scatter",
        "x": [_category(p.x) for p in series.points],
        "y": [round_value(value) for value in ys],
        "opacity": series.opacity,
        **hovers(series.points),
    }
    if series.look == "dots":
        symbols = ["triangle-down" if out else series.symbol for out in below]
        symbol = series.symbol if not any(below) else symbols
        marker = {"symbol": symbol, "size": series.size, "color": colour(series.colour)}
        rim = {"width": 1.5 if series.symbol in ("x", "circle-open", "line-ns-open") else 0}
        return line_data | {
            "mode": "markers",
            "marker": {**marker, "line": {**rim, "color": colour(series.colour)}},
            "cliponaxis": not any(below),
        }
    line: Json = {"color": colour(series.colour), "width": series.width}
    line |= {"dash": "dash"} if series.dashed else {}
    line |= {"shape": "hv"} if series.look == "step" else {}
    return line_data | {"mode": "lines", "line": line}


def _category(x: float | str) -> float | str | None:
    return plotly_text(x) if isinstance(x, str) else round_value(x)


def _shapes(panel: Panel) -> list[Json]:
    """Bands and levels."""
    bands: list[Json] = [
        {
            "type": "rect",
            "layer": "below",
            "xref": "x",
            "x0": band.low,
            "x1": band.high,
            "yref": "y domain",
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": colour(band.colour),
            "opacity": 0.15,
        }
        for band in panel.bands
    ]
    across = {"xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    along = {"yref": "y domain", "y0": 0, "y1": 1, "xref": "x"}
    lines = [
        {
            "type": "line",
            **(along if level.upright else across),
            **{f"{'x' if level.upright else 'y'}{end}": round_value(level.value) for end in (0, 1)},
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
    """Return the words of levels at their right end, above the line."""
    return [
        {
            "text": plotly_text(level.hover),
            "showarrow": False,
            "xref": "x domain",
            "x": 1,
            "xanchor": "right",
            "yref": "y",
            "y": round_value(level.value),
            "yanchor": "bottom",
            "font": {"size": 11, "color": colour(level.colour)},
        }
        for level in panel.levels
        if level.hover and not level.upright
    ]
