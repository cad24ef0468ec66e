"""What single test images say: which were predicted right, and the error from having chosen these."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.comparison.image_errors import image_standard_error, image_standard_error_of_counts
from analysis.study import Study
from tune_kd.study.results import Row

Runs = Mapping[int, Sequence[Row]]  # verdicts of confirming runs by repeat, or one by seed


def correct(row: Row) -> npt.NDArray[np.bool_] | None:
    """Whether each test image was predicted right, bool [N] in their order; None where not kept."""
    data, cells = row.get("test_correct"), row.get("test_confusion")
    if not data:
        return None
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=sum(cells) if cells else None)
    return bits.astype(np.bool_)


def counts(row: Row, classes: int) -> npt.NDArray[np.int64] | None:
    """Pixels of each image and class, int64 [N, classes, 3]: where both agree, predicted, labelled."""
    values = row.get("test_counts")
    if not values or not classes or len(values) % (3 * classes):
        return None
    return np.asarray(values, dtype=np.int64).reshape(-1, classes, 3)


def image_error(study: Study, treatment: Runs, control: Runs) -> float | None:
    """Return standard error of `treated` minus `control` from the choice of test images, a fraction.

    Both are runs by repeat (or by seed); keys that both have are compared. None where a run lacks
    its images, or where runs were measured on different ones.
    """
    if not has_image_error(study):
        return None
    classes = study.manifest.images.num_classes
    read_images = partial(counts, classes=classes) if study.dense else correct
    common = sorted(treatment.keys() & control.keys())
    first, second = (
        _arrays([runs[key] for key in common], read_images) for runs in (treatment, control)
    )
    if len({array.shape[1:] for array in (*first, *second)}) != 1 or len(first) != len(second):
        return None
    error = image_standard_error_of_counts if study.dense else image_standard_error
    return error(first, second)


def has_image_error(study: Study) -> bool:
    """Whether what is kept of single images tells what they do to the study's metric."""
    return study.test_metric == ("test_miou" if study.dense else "test_accuracy")


def has_predictions(study: Study) -> bool:
    """Whether the confirming runs kept what they predicted, so that intervals hold the choice of images."""
    name = "test_counts" if study.dense else "test_correct"
    runs = [r for r in study.rows if r["phase"] == "confirm" and r["method"]]
    finished_runs = [
        row for row in runs if row["status"] == "finished" and row.get(study.test_metric)
    ]
    return (
        bool(finished_runs)
        and has_image_error(study)
        and all(row.get(name) for row in finished_runs)
    )


def _arrays(
    runs: Sequence[Sequence[Row]], read_images: Callable[[Row], npt.NDArray[Any] | None]
) -> list[npt.NDArray[Any]]:
    """Return what runs kept of N images, an array [m, N, ...] a repeat; none where one run kept nothing."""
    stacks = []
    for rows in runs:
        arrays = [array for row in rows if (array := read_images(row)) is not None]
        if len(arrays) < len(rows) or len({array.shape for array in arrays}) != 1:
            return []
        stacks.append(np.stack(arrays))
    return stacks
