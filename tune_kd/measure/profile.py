"""How big and how fast a network is on a named device.

Timings belong to an architecture on a device: measured once, with nothing else running, kept in the
cache and looked up. FLOPs are 2 x multiply-adds; an MB is 1e6 bytes. One protocol: float32,
evaluation mode, one CPU thread, warmed up, the device waited for after every forward.
"""

import contextlib
import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tune_kd.measure import timing_cache

BLOCKS = 5  # of forwards, at the least
THROUGHPUT_BATCH = {"cpu": 32}  # ResNet-18 takes a third of a second for 32 images on one core
THROUGHPUT_BATCH_ACCELERATOR = 256


def device_name(device: torch.device | str) -> str:
    """Return what a timing is valid for, for example `cpu: AMD EPYC 9654` or `cuda: NVIDIA H200`."""
    device = torch.device(device)
    if device.type == "cpu":
        return timing_cache.cpu_name()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{device.type}: {name}".removesuffix(": ")


def footprint(model: nn.Module) -> dict[str, float]:
    """num_params, and size_mb of all that the state dict holds (parameters and buffers), each tensor once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return {
        "num_params": float(sum(p.numel() for p in model.parameters())),
        "size_mb": sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6,
    }


def flops(model: nn.Module, image: Tensor) -> float:
    """Floating-point operations of one image's forward, 2 x multiply-adds; `image` is [1, C, H, W]."""
    was_training = model.training
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return float(counter.get_total_flops())


def measure(
    model: nn.Module, *, shape: Sequence[int], device: torch.device | str
) -> dict[str, float]:
    """Size and speed for images of `shape` (C, H, W): the columns of metrics.METRICS by name.

    num_params, size_mb; flops of one image; latency_ms, the median of one image's forward, and
    latency_ms_sd; throughput_per_s, images a second in batches. Works on a copy: the network given
    keeps its mode, device and type. Takes about 3 s for ResNet-18 on one core.
    """
    device = torch.device(device)
    size = footprint(model)
    with threads(1), torch.inference_mode():
        model_copy = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
        image = random_images(1, shape, device)
        operations = flops(model_copy, image)
        latency = forward_seconds(model_copy, image, at_least=0.4)
        batch_size = THROUGHPUT_BATCH.get(device.type, THROUGHPUT_BATCH_ACCELERATOR)
        # fewer of bigger images
        batch_size = max(1, min(batch_size, batch_size * 32 * 32 // math.prod(shape[1:])))
        batch = forward_seconds(model_copy, random_images(batch_size, shape, device), at_least=0.2)
    return {
        **size,
        "flops": operations,
        "latency_ms": statistics.median(latency) * 1e3,
        "latency_ms_sd": statistics.stdev(latency) * 1e3,
        "throughput_per_s": batch_size / statistics.median(batch),
    }


def forward_seconds(
    model: Callable[[Tensor], object], images: Tensor, *, at_least: float
) -> list[float]:
    """Seconds of one forward, block by block, BLOCKS and `at_least` seconds of them after a warm-up."""

    def forward() -> None:
        model(images)
        wait_for(images.device)  # within a block too, else launches are timed and not the network

    from torch.utils.benchmark import (
        Timer,  # says on stderr that there is no CUDA, where it is imported
    )

    forward()
    timer = Timer("forward()", globals={"forward": forward}, num_threads=1)
    seconds = list(timer.blocked_autorange(min_run_time=at_least).times)
    while len(seconds) < BLOCKS:  # a slow or busy machine: a spread needs more than one block
        seconds += timer.blocked_autorange(min_run_time=at_least).times
    return seconds


def random_images(count: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """[count, C, H, W], the same ones each time."""
    images = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))
    return images.to(device)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it: work on CUDA is only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Use that many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_once(
    model: nn.Module, *, name: str, shape: Sequence[int], device: torch.device | str, cache: Path
) -> dict[str, float]:
    """`measure`, kept in `cache`/measure.json; `name` names the network, its classes and a user's source."""
    key = timing_name(name, shape=shape, device=device)

    def compute() -> dict[str, float]:
        return measure(model, shape=shape, device=device)

    return timing_cache.look_up(key, file=cache / "measure.json", compute=compute)


def timing_name(name: str, *, shape: Sequence[int], device: torch.device | str) -> str:
    """Return the key in measure.json of a network of that name on this device, with one thread."""
    return timing_cache.timing_key(name, shape=shape, device=device_name(device), threads=1)
