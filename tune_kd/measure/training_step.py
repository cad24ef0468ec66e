"""Which precision and layout train a network fastest on a device: a training step, timed in each of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_kd.measure import profile, timing_cache
from tune_kd.models import layers
from tune_kd.recipe import Compute

COMBINATIONS = tuple(
    (precision, layout)
    for precision in ("float32", "bfloat16")
    for layout in ("contiguous", "channels_last")
)
BFLOAT16_GAIN = 1.10  # it must be that much faster than the best float32 to be worth its rounding
HOPELESS = 4.0  # times the plain step with two images, where overheads still count
CHANNELS_LAST_GAIN = 1.05


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
            device=profile.device_name(self.device),
            threads=torch.get_num_threads(),
            detail=f"batch {self.batch_size}",
        )


def probe(build: Callable[[], nn.Module], *, step: Step, cache: Path) -> Compute:
    """Precision and layout that train a network fastest here, timed once and kept in `cache`/probe.json.

    Kept with the choice: `train_step_s`, seconds of one step as chosen, and `seconds` of all four.
    """

    def compute() -> dict[str, Any]:
        seconds = step_seconds(build, step=step)
        choice = choose(seconds)
        return {
            "precision": choice.precision,
            "layout": choice.layout,
            "train_step_s": seconds[choice.precision, choice.layout],
            "seconds": {" ".join(pair): value for pair, value in seconds.items()},
        }

    timing = timing_cache.look_up(step.key, file=cache / "probe.json", compute=compute)
    return Compute(precision=timing["precision"], layout=timing["layout"])


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

    The combinations take turns, so that a disturbance meets all of them; at least 3 rounds, then
    until `rounds` or `budget_s` is over. Float32 contiguous is always among them.
    """
    runs = {pair: _trainer(build, step, *pair) for pair in _worth_a_try(build, step)}
    times: dict[tuple[str, str], list[float]] = {pair: [] for pair in COMBINATIONS}
    for run in runs.values():
        run()  # memory, kernels and momentum are set up
    began = time.perf_counter()
    for number in range(1, rounds + 1):
        for pair, run in runs.items():
            start = time.perf_counter()
            run()
            times[pair].append(time.perf_counter() - start)
        fastest = min(min(times[pair]) for pair in runs)
        runs = {
            p: r for p, r in runs.items() if p == COMBINATIONS[0] or min(times[p]) < 2 * fastest
        }
        if number >= 3 and time.perf_counter() - began > budget_s:
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
    model = layers.place(build().train(), step.device, layout=layout)
    images = profile.random_images(step.batch_size, step.shape, step.device).contiguous(
        memory_format=form
    )
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
        profile.wait_for(step.device)

    return run
