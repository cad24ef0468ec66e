"""Studies of other kinds than the usual one: pruned and quantized, with a label a pixel, several objectives.

Each function gives what `made_up.put` wants: rows, and what the manifest has beside the usual.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from tune_kd.recipe import Distill, Images, LossWeights, Prune, Quantize, Recipe, Stage, to_json
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import measure_trial

Row = dict[str, Any]
IMAGES = Images(task="digits", train_hash="made", num_classes=2)
TRAIN = Distill(epochs=3, weights=LossWeights(alpha=0.5, beta=0.5, temperature=4.0))
TUNE = Distill(epochs=2, weights=LossWeights(alpha=1.0))
STAGES: dict[str, tuple[Stage, ...]] = {
    "no_kd": (Distill(epochs=6),),
    "response": (TRAIN,),
    "channels": (TRAIN, Prune(ratio=0.5), TUNE),
    "zeros": (TRAIN, Prune(method="magnitude", ratio=0.5), TUNE),
    "static": (TRAIN, Quantize()),
    "qat": (TRAIN, Quantize(training=TUNE)),
}
NAMES = {"distill": "Distill", "prune": "Prune", "quantize": "Quantize"}
PLAIN = {"num_params": 20_000.0, "nonzero_params": 20_000.0, "size_mb": 0.08, "flops": 1e6}
CUT = {"num_params": 5_000.0, "nonzero_params": 5_000.0, "size_mb": 0.02, "flops": 4e5}
ZEROS = {**PLAIN, "nonzero_params": 10_000.0}
INT8 = {**PLAIN, "size_mb": 0.025}
# Of each method: the sizes, the validation and the test metric after each stage, of repeats 0 to 2 and
# again of the seeds 800 to 802 of the recommended trial.
STORY: dict[str, list[tuple[Row, float, list[float]]]] = {
    "no_kd": [(PLAIN, 0.90, [0.90, 0.91, 0.92])],
    "response": [(PLAIN, 0.95, [0.93, 0.94, 0.95])],
    "channels": [
        (PLAIN, 0.94, [0.93, 0.94, 0.95]),
        (CUT, 0.60, [0.61, 0.62, 0.63]),
        (CUT, 0.91, [0.91, 0.92, 0.93]),
    ],
    "zeros": [
        (PLAIN, 0.94, [0.93, 0.94, 0.95]),
        (ZEROS, 0.80, [0.81, 0.82, 0.83]),
        (ZEROS, 0.93, [0.92, 0.93, 0.94]),
    ],
    "static": [(PLAIN, 0.94, [0.93, 0.94, 0.95]), (INT8, 0.90, [0.83, 0.84, 0.85])],
    "qat": [(PLAIN, 0.94, [0.93, 0.94, 0.95]), (INT8, 0.93, [0.92, 0.93, 0.94])],
}


def recipe(method: str) -> str:
    return to_json(Recipe(images=IMAGES, student="digits_student", stages=STAGES[method]))


def run(maker: Any, method: str, repeat: int, *, origin: str = "", at: int = 0) -> list[Row]:
    """The trial of a repeat, or with an origin a run that confirms it, with test value `at`: a row a stage."""
    rows = []
    name = maker.name(method, repeat, 0)
    for stage, (sizes, value, tests) in enumerate(STORY[method]):
        columns = {
            "recipe": recipe(method),
            "stage": stage,
            "stage_name": NAMES[STAGES[method][stage].kind],
        }
        if origin:
            first = 800 + at if origin == "recommended" else None
            (row,) = maker.confirmation(name, origin, [tests[at]], first=first)
        else:
            row = maker.row(
                method=method,
                repeat=repeat,
                number=0,
                trial=name,
                origin="default",
                val_accuracy=value,
                val_loss=0.5,
                alpha=1.0,
                beta=0.5,
                gamma=0.0,
                temperature=4.0,
                **{"config.lr": 0.1},
            )
        rows.append(row | columns | sizes)
    return rows


def compressed(maker: Any, *, compiler: bool = True) -> tuple[list[Row], dict[str, Any]]:
    """Six methods, three repeats of one trial each, one confirming seed a repeat, three of the recommended."""
    reason = None if compiler else "no C++ compiler"

    def measure(trial: str, latency: float, compiled: float, sizes: Row, **columns: Any) -> Row:
        return maker.row(
            phase="measure",
            trial=measure_trial(trial),
            latency_ms=latency,
            latency_ms_sd=0.01,
            compiled_latency_ms=compiled if compiler else None,
            compiled_latency_ms_sd=0.02 if compiler else None,
            reason=reason,
            **sizes,
            **columns,
        )

    teacher = {"num_params": 500_000.0, "size_mb": 2.0, "flops": 1e7}
    rows = [
        maker.row(phase="teacher", trial="teacher-f00d", val_accuracy=0.99, epochs=8),
        maker.row(phase="confirm", trial="confirm-teacher", test_accuracy=0.985),
        measure("teacher", 2.0, 1.0, teacher),
        measure("student", 0.5, 0.25, PLAIN),
    ]
    for method, times, sizes in (
        ("channels", (0.4, 0.2), CUT),
        ("static", (0.9, 0.1), INT8),
        ("qat", (0.9, 2.0), INT8),
    ):
        source = maker.name(method, 0, 0)
        rows.append(measure(source, *times, sizes, method=method, source=source))
    for method in STAGES:
        for at in range(3):
            rows += run(maker, method, at)
            rows += run(maker, method, at, origin="best+default", at=at)
            rows += run(maker, method, 0, origin="recommended", at=at)
    methods = {method: {"defaults": {"lr": 0.1}} for method in STAGES}
    objectives = {"objectives": ["val_accuracy", "size_mb"], "constraints": ["size_mb <= 0.07"]}
    return rows, {"methods": methods, "class_names": ["cat", "dog"], **objectives}


# Confusion of three classes, background first; each class of the teacher has an IoU known by heart.
TEACHER = [[90, 10, 0], [0, 20, 0], [0, 0, 20]]  # 0.9, 2/3, 1
STUDENTS = {
    "no_kd": [[[80, 20, 0], [0, 20, 0], [10, 0, 10]], [[80, 20, 0], [0, 20, 0], [0, 0, 20]]],
    "response": [[[90, 10, 0], [0, 20, 0], [0, 0, 20]], [[90, 10, 0], [2, 18, 0], [0, 0, 20]]],
}
MIOU = {"no_kd": [0.50, 0.52], "response": [0.60, 0.66]}


def dense(maker: Any) -> tuple[list[Row], dict[str, Any]]:
    """A baseline and one method, two repeats, two seeds of the recommended, a label for every pixel."""
    rows = [
        maker.row(
            phase="teacher", trial="teacher-f00d", val_accuracy=0.95, val_miou=0.71, epochs=8
        ),
        maker.row(phase="measure", trial="measure-teacher", num_params=5e5, latency_ms=2.0),
        maker.row(
            phase="measure",
            trial="measure-student",
            num_params=2_812_345.0,
            latency_ms=45.23,
            latency_ms_sd=1.52,
            size_mb=11.2,
            flops=1e9,
        ),
        maker.row(
            phase="confirm",
            trial="confirm-teacher",
            test_accuracy=0.94,
            test_miou=0.70,
            test_ece=0.02,
            test_confusion=[n for line in TEACHER for n in line],
        ),
    ]
    for method, tests in MIOU.items():
        for at, miou in enumerate(tests):
            rows.append(maker.trial(method, 0, 0.9, repeat=at, val_miou=tests[0] + 0.01))
            cells = [n for line in STUDENTS[method][at] for n in line]
            columns = {"test_confusion": cells, "test_ece": 0.05 + 0.01 * at, "test_agreement": 0.8}
            best = maker.confirmation(maker.name(method, at, 0), "best+default", [0.9])
            recommended = maker.confirmation(
                maker.name(method, 0, 0), "recommended", [0.9], first=800 + at
            )
            rows += [row | columns | {"test_miou": miou} for row in (*best, *recommended)]
    methods = {method: {"defaults": {"lr": 0.1}} for method in MIOU}
    changes = {"methods": methods, "metric": "val_miou", "dense": True, "repeats": 2}
    return rows, {**changes, "class_names": ["background", "cat", "dog"]}


def put_predictions(folder: Path | str, trial: str, *, count: int = 20, side: int = 24) -> None:
    """`predictions/<trial>.npz`: discs of classes 1 and 2, predicted the worse the lower the number."""
    y, x = np.mgrid[:side, :side]
    middle = (y - side / 2) ** 2 + (x - side / 2) ** 2
    truth = np.stack([(middle < (side / 3) ** 2) * (1 + at % 2) for at in range(count)])
    labels = truth.astype(np.uint8)
    labels[:, 0] = 255
    guesses = [
        np.roll(labels[at], (count - at) * side // (2 * count), axis=1) for at in range(count)
    ]
    predictions = np.stack(guesses)
    predictions[predictions == 255] = 0
    images = np.repeat(labels[..., None], 3, axis=-1) * 60 + 30
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=images.astype(np.uint8),
        labels=labels,
        predicted=predictions,
        iou=np.linspace(0.1, 0.95, count),
        index=np.arange(count, dtype=np.int64) * 7,
    )
    Storage(folder).write(f"predictions/{trial}.npz", buffer.getvalue())


def cells(text):
    """The body of the first Markdown table in a text, stripped."""
    table = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def headings(text):
    return [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
