"""What all plots share as plotly.js draws them: dictionaries of traces and layout, no import of plotly.

Colours are written "var(--name)"; the page puts in those of the reader's
theme. Names that users chose are escaped, because plotly reads a few HTML tags in texts.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.web.content import (
    Axis,
    Chart,
    Forest,
    Plot,
    Point,
    Slices,
)

Json = dict[str, Any]
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDE, SMALL = 340, 240  # heights of a plot alone and of a panel among others, px
MOST_HOVER = 600  # characters


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One plot for plotly.js, its title (shown above it by the page) and its height in px."""

    data: list[Json]
    layout: Json
    height: int
    title: str = ""
    colour: str = "ink"


def colour(name: str) -> str:
    """Return a colour of the page's theme."""
    return f"var(--{name})"


def plotly_text(text: str) -> str:
    r"""Return a text for plotly: lines by <br>, nothing else is read as HTML.

    >>> plotly_text("<b> & co\nlr 0.1")
    '&lt;b&gt; &amp; co<br>lr 0.1'
    """
    excerpt = text if len(text) <= MOST_HOVER else f"{text[:MOST_HOVER]} ..."
    return "<br>".join(html.escape(line, quote=False) for line in excerpt.split("\n"))


def round_value(value: float | str | None) -> float | str | None:
    """Six digits are more than a screen shows; None for what is not finite."""
    if value is None or isinstance(value, str):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def layout(x: Json, y: Json, **more: Any) -> Json:
    """Return what all plots share."""
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
    """Return an axis; its range only where both ends are given."""
    result: Json = {
        "title": {"text": plotly_text(of.title), "standoff": 6},
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
        result |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]} if ticks else {}
    if of.integer_ticks:
        result |= {"tickformat": "d"}
    if of.low is not None and of.high is not None:
        ends = (of.low, of.high)
        result["range"] = [math.log10(end) if of.log else end for end in ends]
    return result | more


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
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [value for value in ticks if low <= value <= high]
        if len(inside) > 1:
            return inside
    return []


def scale(plot: Plot) -> str:
    """Return what the page says above a plot: the axis that its panels share, which a phone has no room for."""
    if isinstance(plot, Forest):
        return plot.axis
    shares = isinstance(plot, Slices) or (isinstance(plot, Chart) and len(plot.panels) > 1)
    return plot.y.title if shares and isinstance(plot, Chart | Slices) else ""


def hovers(points: Sequence[Point]) -> Json:
    """Return what is said of points: once where all say the same, nothing where they say nothing."""
    texts = [plotly_text(point.hover) for point in points]
    if not any(texts):
        return {"hoverinfo": "skip"}
    return {"hoverinfo": "text", "hovertext": texts[0] if len(set(texts)) == 1 else texts}
