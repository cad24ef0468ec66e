"""What `shapes_kd.py` names: a task with images of its own, a teacher, a student and a feature loss.

A worker imports this file alone, from the study's copy of it: it may import installed packages, but
no file beside it.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_kd.data.batch import Batch
from tune_kd.data.tasks import Raw, Task
from tune_kd.losses import Outputs

CLASSES = ("disk", "square", "triangle")
SIDE = 16
EACH = {"train": 200, "test": 100}  # images of a class


def shapes() -> Task:
    """Return the task: grey 16x16 images; mean and deviation are computed from the training images."""
    return Task(
        name="shapes",
        size=SIDE,
        channels=1,
        pad=2,
        flip=True,
        read=read,
        num_train=EACH["train"] * len(CLASSES),
        num_classes=len(CLASSES),
    )


def read(split: str, folder: Path | None, cache: Path) -> Raw:
    """Read a split. With `--data DIR` the class folders or Parquet files there are read instead of this.

    `folder` is None here; what is downloaded may be kept below `cache`.
    """
    labels = np.repeat(np.arange(len(CLASSES)), EACH[split]).astype(np.int64)
    random = np.random.default_rng(0 if split == "train" else 1)
    images = (_draw(CLASSES[label], random) for label in labels)
    return Raw(images=images, labels=labels, class_names=CLASSES)


def _draw(name: str, random: np.random.Generator) -> np.ndarray:
    """One shape of random place, size and brightness on noise: uint8 [16, 16]."""
    y, x = np.mgrid[:SIDE, :SIDE] - random.uniform(6, 9, (2, 1, 1))
    reach = random.uniform(3, 5)
    inside = {
        "disk": x**2 + y**2 < reach**2,
        "square": np.maximum(abs(x), abs(y)) < 0.9 * reach,
        "triangle": (abs(x) < 0.6 * (y + reach)) & (y < reach),
    }[name]
    image = random.normal(90, 45, (SIDE, SIDE)) + inside * random.uniform(40, 90)
    return image.clip(0, 255).astype(np.uint8)


class Net(nn.Module):
    """Convolutions of three widths; `taps` names the modules whose outputs are its features."""

    def __init__(
        self, widths: tuple[int, int, int], *, num_classes: int, channels: int, dropout: float
    ) -> None:
        super().__init__()
        pairs = zip((channels, *widths), widths, strict=False)
        self.stages = nn.Sequential(*(_convolution(i, o) for i, o in pairs))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)  # a module, not F.dropout: its random numbers are seeded
        self.fc = nn.Linear(widths[-1], num_classes)
        self.taps = {"low": "stages.0", "mid": "stages.1", "high": "stages.2"}

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        return self.fc(self.dropout(self.pool(self.stages(images)).flatten(1)))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def teacher(*, num_classes: int, channels: int, dropout: float = 0.0) -> nn.Module:
    """Build the big network."""
    return Net((16, 32, 64), num_classes=num_classes, channels=channels, dropout=dropout)


def student(*, num_classes: int, channels: int, dropout: float = 0.0) -> nn.Module:
    """Build the small one."""
    return Net((2, 4, 8), num_classes=num_classes, channels=channels, dropout=dropout)


def attention(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): where a map is strong, not in which channel.

    A scalar, weighted by gamma. The student's features have the teacher's channels already, by a
    trained projection; the teacher's carry no gradient.
    """
    levels = [
        (_where(features) - _where(teacher.features[level])).square().sum(1).mean()
        for level, features in student.features.items()
    ]
    return torch.stack(levels).mean()


def _where(features: Tensor) -> Tensor:
    """Return the energy of each position of [B, C, H, W], as unit vectors [B, H * W]."""
    return F.normalize(features.float().square().mean(1).flatten(1), dim=1)
