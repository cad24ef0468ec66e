"""What the benchmarks share: images, the CPU's duration_text, and how a result is written."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torchvision

from tune_kd import cli, files
from tune_kd.data import tasks
from tune_kd.data.tasks import Decoded
from tune_kd.measure import timing_cache

T = TypeVar("T")

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


def parser(module: str, about: str | None) -> cli.Parser:
    """Return the options that all benchmarks have."""
    command = cli.Parser(prog=f"python -m {module}", description=(about or "").split("\n")[0])
    command.add_argument(
        "--data", type=Path, metavar="DIR", help="CIFAR-10 as Parquet [random images]"
    )
    return command


def images(folder: Path | None, count: int) -> Decoded:
    """Return the first images of CIFAR-10's train split, or as many random ones of its size, in memory."""
    if folder is None:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        names = tuple("0123456789")
        return Decoded(
            images=pixels, labels=np.arange(count) % 10, class_names=names, hash="random"
        )
    task = tasks.find("cifar10")
    decoded = tasks.decode(task, "train", folder=folder, cache=files.cache_folder())
    return Decoded(
        images=np.array(decoded.images[:count]),
        labels=np.array(decoded.labels[:count]),
        class_names=decoded.class_names,
        hash=decoded.hash,
    )


def cpu_seconds(work: Callable[[], T]) -> tuple[float, T]:
    """CPU time of this process, which other programs on the machine change least, and the result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, with the smallest and the largest.

    >>> spread([3.0, 1.0, 2.0])
    '2.00 (1.00..3.00)'
    """
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times faster, round by round: what disturbs a round meets both sides of it."""
    return [one / other for one, other in zip(slow, fast, strict=True)]


def about() -> str:
    """Device, threads and versions."""
    return (
        f"{timing_cache.cpu_name()}, {torch.get_num_threads()} thread; python "
        f"{platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}"
    )
