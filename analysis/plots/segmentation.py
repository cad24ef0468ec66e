"""Images beside their masks, best and worst, and how the intersection over union is spread.

The files are `predictions/<trial>.npz` of the confirming runs: images uint8 [n, H, W, 3], labels
and predicted uint8 [n, H, W] (255: void), iou float64 [n], index int64 [n], worst first; and, if it
is there, all_iou float64 of every test image.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.formatting import label
from analysis.plots.style import GREY, bare, colour_of
from analysis.study import Study
from tune_kd.study.trial_names import confirm_trial

VOID = 255
VOID_COLOUR = (224, 224, 224)  # lighter than any class's grey
SHOWN = 10  # of the worst and of the best
COLUMNS = ("image", "truth", "prediction")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The worst and the best images of one model, worst first, n of them; arrays as in the module."""

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    iou: np.ndarray
    index: np.ndarray
    all_iou: np.ndarray | None


def predictions(study: Study) -> dict[str, Predictions]:
    """Return what is kept of the teacher and of each method's recommended student, by method (or "teacher")."""
    methods = {confirm_trial("teacher"): "teacher"}
    for method in study.methods:
        for rows in study.runs(study.recommended_trial(method)).values():
            methods[rows[-1]["trial"]] = method
    by_method: dict[str, Predictions] = {}
    for name in study.storage.names("predictions", ".npz"):
        method = methods.get(name.removesuffix(".npz"), "")
        if (
            method
            and method not in by_method
            and (arrays := _read(study.storage.read(f"predictions/{name}")))
        ):
            by_method[method] = arrays
    return {m: by_method[m] for m in ("teacher", *study.methods) if m in by_method}


def _read(data: bytes) -> Predictions | None:
    """Return a file's arrays; None for one that is torn or not ours."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = ("images", "labels", "predicted", "iou", "index")
            content = {name: arrays[name] for name in names}
            every = arrays["all_iou"] if "all_iou" in arrays.files else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if not len(content["images"]) or len({len(array) for array in content.values()}) != 1:
        return None
    return Predictions(**content, all_iou=every)


def palette() -> np.ndarray:
    """Colours of PASCAL VOC's classes, uint8 [256, 3]; void is light grey.

    Bit 3i + c of a class's number is bit 7 - i of its colour's channel c.

    >>> palette()[[0, 1, 2, 15]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    classes = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((classes >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    colours[VOID] = VOID_COLOUR
    return colours


def draw_predictions(study: Study) -> Mapping[str, Figure] | None:
    """Return a figure a model: its worst images on the left, its best on the right, beside their masks."""
    by_method = predictions(study)
    return {method: _figure(study, method, arrays) for method, arrays in by_method.items()} or None


def _figure(study: Study, method: str, arrays: Predictions) -> Figure:
    half = min(SHOWN, max(1, len(arrays.iou) // 2))
    worst = list(range(min(half, len(arrays.iou))))
    best = [at for at in range(len(arrays.iou) - 1, -1, -1) if at not in worst][:half]
    sides = [("worst", worst)] + ([("best", best)] if best else [])
    lines, colours = len(worst), palette()
    tall = arrays.images.shape[1] / arrays.images.shape[2]
    figure = Figure(
        figsize=(0.4 + 4.4 * len(sides), 1.3 + (1.4 * tall + 0.1) * lines),
        layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0),
    )
    figure.suptitle(
        f"{study.name}, {_title(method)}: images with the lowest and the highest IoU",
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    halves = figure.subfigures(1, len(sides), wspace=0.02, squeeze=False)
    for part, (name, places) in zip(halves.flat, sides, strict=True):
        grid = part.subplots(lines, 3, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, at in enumerate(places):
            masks = (colours[arrays.labels[at]], colours[arrays.predicted[at]])
            for axes, picture in zip(grid[line], (arrays.images[at], *masks), strict=True):
                axes.imshow(picture, interpolation="nearest")
            text = f"IoU {arrays.iou[at] * 100:.1f} %"
            grid[line, 2].set_title(text, fontsize=8, loc="right", pad=2)
            grid[line, 0].set_title(f"test image {arrays.index[at]}", fontsize=8, loc="left", pad=2)
        part.suptitle(f"{name}: {', '.join(COLUMNS)}", fontsize=9)
    _classes_key(figure, study, arrays, colours)
    return figure


def _title(method: str) -> str:
    return method if method == "teacher" else label(method)


def _classes_key(figure: Figure, study: Study, arrays: Predictions, colours: np.ndarray) -> None:
    """Draw the colours of the classes that occur in the masks."""
    classes = np.union1d(np.unique(arrays.labels), np.unique(arrays.predicted))
    names = study.class_names
    patches = [
        Patch(
            facecolor=colours[at] / 255,
            edgecolor=GREY,
            linewidth=0.4,
            label="void" if at == VOID else names[at] if at < len(names) else str(at),
        )
        for at in map(int, classes)
    ]
    columns = min(len(patches), 8)
    figure.legend(
        handles=patches, loc="outside lower left", ncols=columns, frameon=False, fontsize=8
    )


def draw_iou_distribution(study: Study) -> Figure | None:
    """Return a panel a model: how many test images have which intersection over union."""
    by_method = predictions(study)
    if not by_method:
        return None
    columns = min(len(by_method), 3)
    lines = -(-len(by_method) // columns)
    figure = Figure(figsize=(1.0 + 2.9 * max(columns, 2), 1.0 + 2.2 * lines), layout="constrained")
    is_complete = all(arrays.all_iou is not None for arrays in by_method.values())
    extent = "all test images" if is_complete else "only the worst and the best test images"
    title = f"{study.name}: IoU of single images ({extent})"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(by_method) :]:
        axes.set_visible(False)
    for axes, (method, arrays) in zip(grid.flat, by_method.items(), strict=False):
        values = arrays.all_iou if is_complete and arrays.all_iou is not None else arrays.iou
        values = values[~np.isnan(values)] * 100
        shade = "#222222" if method == "teacher" else colour_of(study, method)
        bare(axes).hist(values, bins=20, range=(0, 100), color=shade, alpha=0.8)
        if is_complete and len(values):
            axes.axvline(float(values.mean()), color="black", linestyle=":", linewidth=1)
        mean = f", mean {values.mean():.1f}" if is_complete and len(values) else ""
        axes.set_title(f"{_title(method)}{mean}", loc="left", fontsize=10)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("IoU, %")
    for axes in grid[:, 0]:
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
