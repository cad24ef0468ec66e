"""Confusion matrices of the test split: the teacher's and each method's, rows divided by their sums."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis import confusion
from analysis.formatting import label
from analysis.study import Study

NAMED = 24  # up to so many classes have their names on the axes
WRITTEN = 10  # and up to so many have the shares in the cells


def matrices(study: Study) -> dict[str, confusion.Matrix]:
    """Return counts [K, K] by model: the teacher's, and each method's recommended student's added up over seeds."""
    counts: dict[str, confusion.Matrix] = {}
    teacher_counts = confusion.of_teacher(study)
    if teacher_counts is not None:
        counts["teacher (n = 1)"] = teacher_counts
    for method in study.methods:
        cells = list(confusion.of_method(study, method).values())
        if cells and len({matrix.shape for matrix in cells}) == 1:
            counts[f"{label(method)} (n = {len(cells)})"] = np.sum(cells, axis=0)
    return counts


def draw_confusion(study: Study) -> Figure | None:
    """Return a panel a model; the colour is stretched so that small shares are seen."""
    counts = matrices(study)
    if not counts:
        return None
    columns = min(len(counts), 3)
    lines = -(-len(counts) // columns)
    figure = Figure(figsize=(0.8 + 4.2 * columns, 0.8 + 4.0 * lines), layout="constrained")
    title = f"{study.name}: confusion on the test split, % of the true class"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    same_shape = len({cells.shape for cells in counts.values()}) == 1
    grid = figure.subplots(lines, columns, squeeze=False, sharey=same_shape)
    for axes in grid.flat[len(counts) :]:
        axes.set_visible(False)
    for axes, (name, cells) in zip(grid.flat, counts.items(), strict=False):
        image = _panel(axes, study, confusion.shares(cells))
        axes.set_title(name, loc="left", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=list(grid.flat[: len(counts)]), shrink=0.6, pad=0.01, aspect=30)
    bar.set_ticks([0, 1, 10, 50, 100])
    bar.outline.set_visible(False)
    return figure


def _panel(axes: Axes, study: Study, shares: confusion.Floats) -> AxesImage:
    size = len(shares)
    norm = PowerNorm(0.4, vmin=0, vmax=100)
    image = axes.imshow(shares * 100, cmap="Blues", norm=norm)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    names = study.class_names if len(study.class_names) == size else [str(at) for at in range(size)]
    if size <= NAMED:
        small = 8 if size <= 12 else 6
        upright = max(map(len, names)) <= 2
        axes.set_xticks(range(size), names, rotation=0 if upright else 90, fontsize=small)
        axes.set_yticks(range(size), names, fontsize=small)
    axes.tick_params(length=0)
    if size <= WRITTEN:
        for (row, column), value in np.ndenumerate(shares * 100):
            if value >= 0.5:
                text = f"{value:.0f}"
                ink = "white" if float(norm(value)) > 0.6 else "black"
                label = axes.text(
                    column, row, text, ha="center", va="center", fontsize=6, color=ink
                )
                label.set_in_layout(False)  # it cannot leave its panel, and measuring it takes long
    return image
