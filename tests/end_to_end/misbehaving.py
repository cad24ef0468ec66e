"""A user's own space whose methods misbehave while they train; tests copy it beside a study.

What happens is chosen from outside: MISFORTUNES names a folder of notes, one a misfortune that has
happened; where it is empty all methods behave.
"""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tune_kd.data.batch import Batch
from tune_kd.losses import Outputs, cosine_loss
from tune_kd.recipe import LossWeights, Stage
from tune_kd.space import Method, Optimizer, SearchSpace, Training, log_uniform, uniform

TRIES = 3
_calls: Counter[str] = Counter()  # of this process


def _happens(name: str, *, times: int) -> bool:
    """Whether a misfortune happens now: in the second epoch at first, then as soon as it is tried again."""
    folder = os.environ.get("MISFORTUNES")
    if not folder:
        return False
    note = Path(folder) / name
    before = len(note.read_text()) if note.exists() else 0
    _calls[name] += 1
    if before >= times or (before == 0 and _calls[name] < 8):
        return False
    with note.open("a") as file:
        file.write("x")
    return True


def well(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    return cosine_loss(student.features, teacher.features)


def raises(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    if os.environ.get("MISFORTUNES"):
        raise ValueError("a mistake\nof the user")
    return well(student, teacher, batch)


def nan(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    return well(student, teacher, batch) * float("nan" if os.environ.get("MISFORTUNES") else 1)


def dies_once(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    if _happens("dies_once", times=1):
        os.kill(os.getpid(), signal.SIGKILL)
    return well(student, teacher, batch)


def dies(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    if _happens("dies", times=TRIES):
        os.kill(os.getpid(), signal.SIGKILL)
    return well(student, teacher, batch)


def disk(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    if _happens("disk", times=TRIES):
        raise OSError(28, "No space left on device")
    return well(student, teacher, batch)


def _method(loss: str) -> Method:
    def stages(space: SearchSpace, *, gamma: float, **training: float) -> tuple[Stage, ...]:
        stage = space.distill(LossWeights(gamma=gamma), **training)
        return (replace(stage, feature_loss=f"{Path(__file__).name}:{loss}"),)

    return Method(
        stages=stages,
        needs=("features",),
        ranges={
            "gamma": log_uniform(0.05, 5.0),
            "lr": log_uniform(0.01, 0.5),
            "weight_decay": log_uniform(5e-5, 2e-3),
            "dropout": uniform(0.0, 0.3),
        },
        defaults={"gamma": 0.5, "lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0},
    )


SPACE = SearchSpace(
    name="misbehaving",
    task="digits",
    teacher=Training("digits_teacher", epochs=3, batch_size=64, optimizer=Optimizer(lr=0.05)),
    student=Training("digits_student", epochs=4, batch_size=64),
    trials=12,
    methods={
        name: _method(name) for name in ("well", "raises", "nan", "dies_once", "dies", "disk")
    },
)
