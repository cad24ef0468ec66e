"""Plots of hyperparameters: importances, slices, pairs, parallel coordinates."""

import math
from collections.abc import Mapping

from analysis.web.charts import draw_chart
from analysis.web.content import (
    Axis,
    Band,
    Bar,
    Chart,
    Graded,
    Importance,
    Importances,
    Level,
    Pair,
    Pairs,
    Panel,
    Parallel,
    Row,
    Scale,
    Slices,
)
from analysis.web.figures import (
    SMALL,
    WIDE,
    Drawn,
    Json,
    axis,
    colour,
    layout,
    plotly_text,
    round_value,
)

BAR = 30  # height of one bar, px
SHADES = ((0.0, "shade1"), (0.5, "shade2"), (1.0, "shade3"))  # from the worst to the best


def draw_importances(plot: Importances) -> list[Drawn]:
    """Bars with whiskers, the most important hyperparameter on top."""
    most = max((len(one.bars) for one in plot.methods), default=0)
    return [_bars(one, most) for one in plot.methods]


def _bars(one: Importance, most: int) -> Drawn:
    bars = sorted(one.bars, key=lambda bar: bar.mean)  # plotly begins at the bottom
    bounded_bars = [bar for bar in bars if bar.low is not None and bar.high is not None]
    whiskers: Json = {}
    if bounded_bars:
        whiskers["error_x"] = {
            "type": "data",
            "symmetric": False,
            "color": colour("ink"),
            "thickness": 1.2,
            "width": 4,
            "array": [
                round_value(bar.high - bar.mean) if bar.high is not None else 0 for bar in bars
            ],
            "arrayminus": [
                round_value(bar.mean - bar.low) if bar.low is not None else 0 for bar in bars
            ],
        }
    texts = [
        f"{bar.parameter}: {bar.mean:.2f}{_interval(bar)}" + (f"\n{one.basis}" if one.basis else "")
        for bar in bars
    ]
    data = {
        "type": "bar",
        "orientation": "h",
        "x": [round_value(bar.mean) for bar in bars],
        "y": [plotly_text(bar.parameter) for bar in bars],
        "marker": {"color": colour(one.colour)},
        "opacity": 0.85,
        "width": 0.55,
        "hoverinfo": "text",
        "hovertext": [plotly_text(text) for text in texts],
        "textposition": "none",
        **whiskers,
    }
    top = max([1.0, *(bar.high for bar in bars if bar.high is not None)])
    across = axis(Axis(title="importance", low=0.0, high=top))
    down = axis(
        Axis(), type="category", showgrid=False, range=[len(bars) - most - 0.5, len(bars) - 0.5]
    )
    title = f"{one.method}, {one.basis}" if one.basis else one.method
    return Drawn(
        data=[data],
        layout=layout(across, down),
        height=64 + BAR * most,
        title=title,
        colour=one.colour,
    )


def _interval(bar: Bar) -> str:
    return "" if bar.low is None or bar.high is None else f" [{bar.low:.2f}, {bar.high:.2f}]"


def draw_slices(plot: Slices) -> list[Drawn]:
    """Return a panel a hyperparameter; the flat region is shaded, the robust value a line."""
    panels = tuple(
        Panel(
            title=one.parameter.title,
            series=one.series,
            bands=(Band(low=one.region[0], high=one.region[1], colour="good"),)
            if one.region
            else (),
            levels=() if one.robust is None else (Level(value=one.robust, upright=True),),
            x=Axis(log=one.parameter.log, low=one.parameter.low, high=one.parameter.high),
        )
        for one in plot.slices
    )
    plots = draw_chart(Chart(panels=panels, x=Axis(), y=plot.y, key=plot.key))
    for panel, panel_plot in zip(panels, plots, strict=True):
        if any(isinstance(point.x, str) for series in panel.series for point in series.points):
            panel_plot.layout["xaxis"]["type"] = "category"
    return plots


def draw_pairs(plot: Pairs) -> list[Drawn]:
    """Trials in the plane of two hyperparameters; the darker (in a dark theme: the lighter), the better."""
    return [_pair(pair) for pair in plot.pairs]


def _pair(pair: Pair) -> Drawn:
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": [round_value(point.x) for point in pair.points],
        "y": [round_value(point.y) for point in pair.points],
        "hoverinfo": "text",
        "hovertext": [plotly_text(_hover(pair, point)) for point in pair.points],
        "marker": {
            "color": [round_value(point.value) for point in pair.points],
            "size": 11,
            "colorscale": [[at, colour(name)] for at, name in SHADES],
            "line": {"width": 1, "color": colour("line")},
            "colorbar": {
                "thickness": 8,
                "outlinewidth": 0,
                "title": {"text": plotly_text(pair.value), "side": "right"},
                "tickfont": {"size": 11},
                "nticks": 4,
            },
        },
    }
    return Drawn(
        data=[data],
        layout=layout(axis(pair.x), axis(pair.y)),
        height=SMALL + 40,
        title=pair.title,
    )


def _hover(pair: Pair, point: Graded) -> str:
    return point.hover or f"{pair.value}: {point.value:.4g}"


# ---------------------------------------------------------------- parallel coordinates

LOOKS: Mapping[str, tuple[str | None, float, float]] = {  # colour (None: the row's), width, opacity
    "other": ("base", 1.0, 0.4),
    "good": (None, 1.6, 0.8),
    "best": (None, 4.0, 1.0),
}


def draw_parallel(plot: Parallel) -> list[Drawn]:
    """Lines over axes of their own; drawn as ordinary lines, which have hover texts and print sharply."""
    rows = [row for rank in LOOKS for row in plot.rows if row.rank == rank]
    notes = [note for at, scale in enumerate(plot.scales) for note in _ticks(scale, at)]
    return [
        Drawn(
            data=[_line(plot, row) for row in rows],
            layout=layout(
                {"range": [-0.35, len(plot.scales) - 0.65], "visible": False, "fixedrange": True},
                {"range": [-0.1, 1.05], "visible": False, "fixedrange": True},
                shapes=[_rod(at) for at in range(len(plot.scales))],
                annotations=notes,
                margin={"l": 8, "r": 8, "t": 34, "b": 4},
            ),
            height=WIDE,
        )
    ]


def _line(plot: Parallel, row: Row) -> Json:
    ink, width, opacity = LOOKS[row.rank]
    places = [
        (at, place)
        for at, (scale, value) in enumerate(zip(plot.scales, row.values, strict=True))
        if (place := _place(scale, value)) is not None
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [at for at, _ in places],
        "y": [round_value(place) for _, place in places],
        "opacity": opacity,
        "line": {"color": colour(ink or row.colour), "width": width},
        "marker": {"size": 4},
        "hoverinfo": "text" if row.hover else "skip",
        "hovertext": plotly_text(row.hover),
    }


def _place(scale: Scale, value: float | str | None) -> float | None:
    """Where a value stands on its axis, 0 at the bottom and 1 at the top; None where it has no place."""
    if value is None:
        return None
    if scale.choices:
        if str(value) not in scale.choices:
            return None
        return (scale.choices.index(str(value)) + 0.5) / len(scale.choices)
    if isinstance(value, str) or (scale.log and min(value, scale.low) <= 0):
        return None
    low, high, x = (math.log(v) if scale.log else v for v in (scale.low, scale.high, value))
    return 0.5 if low == high else (x - low) / (high - low)


def _ticks(scale: Scale, at: int) -> list[Json]:
    """Return the axis' name above it and its values beside it."""
    values: list[tuple[str, float | None]]
    if scale.choices:
        values = [(choice, _place(scale, choice)) for choice in scale.choices]
    else:
        middle = math.sqrt(scale.low * scale.high) if scale.log else (scale.low + scale.high) / 2
        values = [(f"{v:.3g}", _place(scale, v)) for v in (scale.low, middle, scale.high)]
    words: Json = {"showarrow": False, "xref": "x", "x": at, "yref": "y"}
    title = words | {
        "text": f"<b>{plotly_text(scale.title)}</b>",
        "y": 1.05,
        "yanchor": "bottom",
        "xanchor": "center",
        "font": {"size": 12, "color": colour("ink")},
    }
    beside = [
        words
        | {
            "text": plotly_text(text),
            "y": place,
            "xanchor": "left",
            "xshift": 4,
            "font": {"size": 11},
        }
        for text, place in values
        if place is not None
    ]
    return [title, *beside]


def _rod(at: int) -> Json:
    return {
        "type": "line",
        "xref": "x",
        "x0": at,
        "x1": at,
        "yref": "y",
        "y0": 0,
        "y1": 1,
        "line": {"color": colour("soft"), "width": 1},
        "layer": "below",
    }
