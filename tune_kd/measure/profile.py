"""How big and how fast a network is on a named device, and which precision and layout train it fastest.

Timings belong to an architecture on a device: measured once, with nothing else running, kept in the
cache and looked up. FLOPs are 2 x multiply-adds; an MB is 1e6 bytes. One protocol: float32,
evaluation mode, one CPU thread, warmed up, the device waited for after every forward.
"""

import contextlib
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tune_kd import files
from tune_kd.files import write_whole
from tune_kd.measure import timing_cache
from tune_kd.models import layers
from tune_kd.recipe import Compute

BLOCKS = 5  # of forwards, at the least
THROUGHPUT_BATCH = {"cpu": 32}  # ResNet-18 takes a third of a second for 32 images on one core
THROUGHPUT_BATCH_ACCELERATOR = 256
COMBINATIONS = tuple(
    (precision, layout)
    for precision in ("float32", "bfloat16")
    for layout in ("contiguous", "channels_last")
)
BFLOAT16_GAIN = 1.10  # it must be that much faster than the best float32 to be worth its rounding
HOPELESS = 4.0  # times the plain step with two images, where overheads still count
CHANNELS_LAST_GAIN = 1.05


def device_name(device: torch.device | str) -> str:
    """Return what a timing is valid for, for example `cpu: AMD EPYC 9654` or `cuda: NVIDIA H200`."""
    device = torch.device(device)
    if device.type == "cpu":
        return timing_cache.cpu_name()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{device.type}: {name}".removesuffix(": ")


def footprint(model: nn.Module) -> dict[str, float]:
    """num_params, and size_mb of all that the state dict holds (parameters and buffers), each tensor once."""
    kept = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return {
        "num_params": float(sum(p.numel() for p in model.parameters())),
        "size_mb": sum(t.numel() * t.element_size() for t in kept.values()) / 1e6,
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
    kept = footprint(model)
    with threads(1), torch.inference_mode():
        copied = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
        image = random_images(1, shape, device)
        operations = flops(copied, image)
        latency = forward_seconds(copied, image, at_least=0.4)
        size = THROUGHPUT_BATCH.get(device.type, THROUGHPUT_BATCH_ACCELERATOR)
        size = max(1, min(size, size * 32 * 32 // math.prod(shape[1:])))  # fewer of bigger images
        batch = forward_seconds(copied, random_images(size, shape, device), at_least=0.2)
    return {
        **kept,
        "flops": operations,
        "latency_ms": statistics.median(latency) * 1e3,
        "latency_ms_sd": statistics.stdev(latency) * 1e3,
        "throughput_per_s": size / statistics.median(batch),
    }


def forward_seconds(
    model: Callable[[Tensor], object], images: Tensor, *, at_least: float
) -> list[float]:
    """Seconds of one forward, block by block, BLOCKS and `at_least` seconds of them after a warm-up."""

    def forward() -> None:
        model(images)
        _wait(images.device)  # within a block too, else launches are timed and not the network

    from torch.utils.benchmark import (
        Timer,  # says on stderr that there is no CUDA, where it is imported
    )

    forward()
    timer = Timer("forward()", globals={"forward": forward}, num_threads=1)
    found = list(timer.blocked_autorange(min_run_time=at_least).times)
    while len(found) < BLOCKS:  # a slow or busy machine: a spread needs more than one block
        found += timer.blocked_autorange(min_run_time=at_least).times
    return found


def random_images(count: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """[count, C, H, W], the same ones each time."""
    drawn = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))
    return drawn.to(device)


def _wait(device: torch.device) -> None:
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


def look_up(key: str, *, file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of that key in a cache file, computed and kept where there is none.

    A lock beside the file, which ends with its process, lets one compute at a time: two studies that
    start together get one answer, and their timings do not disturb each other.
    """
    found = timing_cache.read_all(file).get(key)
    if found is not None:
        return found
    with files.lock(file.with_suffix(".lock")):
        found = timing_cache.read_all(file).get(key)
        if found is None:
            found = compute()
            kept = {**timing_cache.read_all(file), key: found}
            write_whole(file, json.dumps(kept, indent=1, sort_keys=True).encode())
    return found


def measure_once(
    model: nn.Module, *, name: str, shape: Sequence[int], device: torch.device | str, cache: Path
) -> dict[str, float]:
    """`measure`, kept in `cache`/measure.json; `name` names the network, its classes and a user's source."""
    key = timing_name(name, shape=shape, device=device)

    def compute() -> dict[str, float]:
        return measure(model, shape=shape, device=device)

    return look_up(key, file=cache / "measure.json", compute=compute)


def timing_name(name: str, *, shape: Sequence[int], device: torch.device | str) -> str:
    """Return the key in measure.json of a network of that name on this device, with one thread."""
    return timing_cache.timing_key(name, shape=shape, device=device_name(device), threads=1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step to be timed: a network by name, its images' shape (C, H, W), batch size and device."""

    network: str
    shape: tuple[int, ...]
    batch_size: int
    device: torch.device
    dense: bool = False  # a label for every pixel

    @property
    def key(self) -> str:
        """Its name in the cache, for the CPU threads that torch has now."""
        return timing_cache.timing_key(
            self.network,
            shape=self.shape,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            detail=f"batch {self.batch_size}",
        )


def probe(build: Callable[[], nn.Module], *, step: Step, cache: Path) -> Compute:
    """Precision and layout that train a network fastest here, timed once and kept in `cache`/probe.json.

    Kept with the choice: `train_step_s`, seconds of one step as chosen, and `seconds` of all four.
    """

    def compute() -> dict[str, Any]:
        seconds = step_seconds(build, step=step)
        chosen = choose(seconds)
        return {
            "precision": chosen.precision,
            "layout": chosen.layout,
            "train_step_s": seconds[chosen.precision, chosen.layout],
            "seconds": {" ".join(pair): value for pair, value in seconds.items()},
        }

    found = look_up(step.key, file=cache / "probe.json", compute=compute)
    return Compute(precision=found["precision"], layout=found["layout"])


def choose(seconds: dict[tuple[str, str], float]) -> Compute:
    """Return the fastest of (precision, layout), where bfloat16 must gain 10 % on the best float32, channels_last 5 %.

    >>> table = {("float32", "contiguous"): 1.0, ("float32", "channels_last"): 0.8}
    >>> choose(table | {("bfloat16", "contiguous"): 0.75, ("bfloat16", "channels_last"): 0.75})
    Compute(precision='float32', layout='channels_last')
    """
    best = {
        precision: min(s for (p, _), s in seconds.items() if p == precision)
        for precision in {p for p, _ in seconds}
    }
    faster = best.get("bfloat16", float("inf")) * BFLOAT16_GAIN <= best["float32"]
    precision = "bfloat16" if faster else "float32"
    contiguous = seconds.get((precision, "contiguous"), float("inf"))
    last = seconds.get((precision, "channels_last"), float("inf"))
    layout = "channels_last" if last * CHANNELS_LAST_GAIN <= contiguous else "contiguous"
    return Compute(precision=precision, layout=layout)


def step_seconds(
    build: Callable[[], nn.Module], *, step: Step, rounds: int = 15, budget_s: float = 10.0
) -> dict[tuple[str, str], float]:
    """Median seconds of a training step in each combination; one that takes twice the fastest is left out.

    The combinations take turns, so that a disturbance meets all of them; at least 3 rounds, then until
    `rounds` or `budget_s` is over. Float32 contiguous is always among them.
    """
    runs = {pair: _trainer(build, step, *pair) for pair in _worth_a_try(build, step)}
    times: dict[tuple[str, str], list[float]] = {pair: [] for pair in COMBINATIONS}
    for run in runs.values():
        run()  # memory, kernels and momentum are set up
    began = time.perf_counter()
    for done in range(1, rounds + 1):
        for pair, run in runs.items():
            start = time.perf_counter()
            run()
            times[pair].append(time.perf_counter() - start)
        fastest = min(min(times[pair]) for pair in runs)
        runs = {
            p: r for p, r in runs.items() if p == COMBINATIONS[0] or min(times[p]) < 2 * fastest
        }
        if done >= 3 and time.perf_counter() - began > budget_s:
            break
    return {pair: statistics.median(times[pair]) for pair in runs}


def _worth_a_try(build: Callable[[], nn.Module], step: Step) -> list[tuple[str, str]]:
    """Return the combinations that are not hopeless with two images.

    A CPU without bfloat16 instructions takes 50 times as long with them: minutes for one real step.
    """
    few, seconds = replace(step, batch_size=2), {}
    for pair in COMBINATIONS:
        run = _trainer(build, few, *pair)
        run()
        start = time.perf_counter()
        run()
        seconds[pair] = time.perf_counter() - start
    return [
        p
        for p in COMBINATIONS
        if seconds[p] < HOPELESS * seconds[COMBINATIONS[0]] or p == COMBINATIONS[0]
    ]


def _trainer(
    build: Callable[[], nn.Module], step: Step, precision: str, layout: str
) -> Callable[[], None]:
    """One training step as a function: forward, cross-entropy in float32, backward, SGD."""
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = layers.placed(build().train(), step.device, layout=layout)
    images = random_images(step.batch_size, step.shape, step.device).contiguous(memory_format=form)
    labels = torch.arange(step.batch_size, device=step.device) % 2
    if step.dense:
        labels = labels.view(-1, 1, 1).expand(-1, *step.shape[1:]).contiguous()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def run() -> None:
        with torch.autocast(step.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = model(images)
        loss: Tensor = F.cross_entropy(scores.float(), labels)
        loss.backward()
        sgd.step()
        sgd.zero_grad()
        _wait(step.device)

    return run
