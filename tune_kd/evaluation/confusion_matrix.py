"""A confusion matrix as shares of the true class, and the picture of one or several of them.

An evaluation and the report draw the same picture; so nothing here needs torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

Matrix = npt.NDArray[np.int64]  # counts [K, K], true class by row
Floats = npt.NDArray[np.float64]

MAX_NAMES = 24  # up to so many classes have their names on the axes
MAX_TEXTS = 10  # and up to so many have the shares in the cells


def shares(cells: Matrix) -> Floats:
    """Return each row divided by its sum, float64 [K, K]; NaN for a class without images.

    >>> shares(np.array([[3, 1], [0, 0]])).tolist()
    [[0.75, 0.25], [nan, nan]]
    """
    return divide(cells, cells.sum(axis=1, keepdims=True))


def divide(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Return `numerator` / `denominator`, NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    quotients: Floats = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotients, where=below > 0)
    return quotients


def draw(
    matrices: Mapping[str, Matrix], *, names: Sequence[str], title: str, side: float = 4.0
) -> Figure:
    """Return a panel for each of the matrices, at least one; the color is stretched so that small shares are seen.

    Names of the classes are on the axes of a matrix that has as many classes, else their numbers.
    `side`: inches of a panel.
    """
    columns = min(len(matrices), 3)
    lines = -(-len(matrices) // columns)
    size = (0.8 + (side + 0.2) * columns, 0.8 + side * lines)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    alike = len({cells.shape for cells in matrices.values()}) == 1
    grid = figure.subplots(lines, columns, squeeze=False, sharey=alike)
    for axes in grid.flat[len(matrices) :]:
        axes.set_visible(False)
    for axes, (name, cells) in zip(grid.flat, matrices.items(), strict=False):
        image = _panel(axes, shares(cells) * 100, names)
        axes.set_title(name, loc="left", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("true")
    panels = list(grid.flat[: len(matrices)])
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.01, aspect=30)
    bar.set_ticks([0, 1, 10, 50, 100])
    bar.outline.set_visible(False)
    return figure


def _panel(axes: Axes, percent: Floats, names: Sequence[str]) -> AxesImage:
    size = len(percent)
    norm = PowerNorm(0.4, vmin=0, vmax=100)
    image = axes.imshow(percent, cmap="Blues", norm=norm)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    names = names if len(names) == size else [str(at) for at in range(size)]
    if size <= MAX_NAMES:
        small = 8 if size <= 12 else 6
        upright = max(map(len, names)) <= 2
        axes.set_xticks(range(size), names, rotation=0 if upright else 90, fontsize=small)
        axes.set_yticks(range(size), names, fontsize=small)
    axes.tick_params(length=0)
    if size <= MAX_TEXTS:
        for (row, column), value in np.ndenumerate(percent):
            if value >= 0.5:
                text = f"{value:.0f}"
                ink = "white" if float(norm(value)) > 0.6 else "black"
                label = axes.text(
                    column, row, text, ha="center", va="center", fontsize=6, color=ink
                )
                label.set_in_layout(False)  # it cannot leave its panel, and measuring it takes long
    return image
