"""What all pictures share: colours, bare axes, a panel a method, one legend, PNG bytes.

Figures are made without pyplot, so that nothing global is touched.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from analysis.formatting import label
from analysis.selection import BASELINE
from analysis.study import Study

# Okabe and Ito's colours, told apart by colour-blind readers too; the baseline is grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, INK = "#767676", "#222222"
DPI = 160

Drawn = Figure | Mapping[str, Figure] | None  # several figures have names of their own


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file; drawn once, where `savefig` draws twice for the sake of the layout."""
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # typed in parts
    canvas.draw()
    buffer = io.BytesIO()
    imsave(buffer, np.asarray(canvas.buffer_rgba()), format="png", dpi=DPI)
    return buffer.getvalue()


def panels_of(study: Study, title: str, ylabel: str) -> tuple[Figure, dict[str, Axes]]:
    """One panel a method, four in a line, with one y axis for all."""
    count = len(study.methods)
    columns = min(count, 4)
    lines = -(-count // columns)
    figure = Figure(figsize=(1.2 + 2.7 * max(columns, 2), 1.3 + 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    panels: dict[str, Axes] = {}
    for at, axes in enumerate(grid.flat):
        if at >= count:
            axes.set_visible(False)
            continue
        method = study.methods[at]
        panels[method] = bare(axes)
        axes.tick_params(labelbottom=True)  # the place below may be empty
        axes.set_title(label(method), loc="left", fontsize=10, color=colour_of(study, method))
        if at % columns == 0:
            axes.set_ylabel(ylabel)
    return figure, panels


def bare(axes: Axes) -> Axes:
    """No frame, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def colour_of(study: Study, method: str) -> str:
    """Return a method's colour in every picture."""
    if method == BASELINE:
        return GREY
    return COLOURS[study.kd_methods.index(method) % len(COLOURS)]


def key(
    figure: Figure, axes: Axes, entries: Sequence[tuple[str, dict[str, Any]]], *, ncols: int = 3
) -> None:
    """One legend for all panels, below them: one line in a wide figure, else `ncols` columns."""
    handles = [axes.plot([], [], label=name, **look)[0] for name, look in entries]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(entries) if figure.get_figwidth() > 10 else ncols,
        frameon=False,
        fontsize=9,
    )
