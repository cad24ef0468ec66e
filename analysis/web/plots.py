"""Every kind of plot: from `content` to what plotly.js draws."""

from collections.abc import Callable
from typing import Any

from analysis.web import charts, forest, hyperparameters
from analysis.web.content import (
    Chart,
    Forest,
    Importances,
    Pairs,
    Parallel,
    Plot,
    Slices,
)
from analysis.web.figures import Drawn

DRAWN: dict[type, Callable[[Any], list[Drawn]]] = {
    Forest: forest.draw_forest,
    Chart: charts.draw_chart,
    Importances: hyperparameters.draw_importances,
    Slices: hyperparameters.draw_slices,
    Pairs: hyperparameters.draw_pairs,
    Parallel: hyperparameters.draw_parallel,
}


def draw(plot: Plot) -> list[Drawn]:
    """Return the panels of a plot, in order."""
    return DRAWN[type(plot)](plot)
