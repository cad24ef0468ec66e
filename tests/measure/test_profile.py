"""What measurements contain, that they leave no trace, and that each is made once."""

import copy
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tune_kd.measure import profile, timing_cache
from tune_kd.measure.profile import COMBINATIONS, Step, choose, look_up
from tune_kd.metrics import METRICS
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import Compute

SHAPE = (1, 8, 8)


def network() -> nn.Module:
    return registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))


def step() -> Step:
    device = torch.device("cpu")
    return Step(network="digits_student", shape=SHAPE, batch_size=8, device=device)


def test_a_measurement_has_the_metrics_and_leaves_the_network_alone() -> None:
    model = network().train()
    model.stage1.eval()
    flags = [module.training for module in model.modules()]
    before, threads = checkpoints.tensor_hash(model), torch.get_num_threads()
    random = torch.get_rng_state()
    values = profile.measure(model, shape=SHAPE, device="cpu")
    elsewhere = ("val_", "test_", "compiled_", "nonzero_")  # scores, and what compresses
    assert values.keys() == {n for n in METRICS if not n.startswith(elsewhere)}
    assert all(isinstance(v, float) and v > 0 for v in values.values())
    assert [module.training for module in model.modules()] == flags
    assert checkpoints.tensor_hash(model) == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)


def test_flops_are_two_a_multiply_add() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    values = profile.measure(model, shape=(3, 4, 4), device="cpu")
    assert values["flops"] == 2 * (3 * 8 * 9 * 16 + 8 * 16 * 5)


def test_the_footprint_counts_each_tensor_once() -> None:
    layer = nn.Linear(10, 10, bias=False)
    tied = nn.Sequential(layer, nn.BatchNorm1d(10), layer)
    buffers = 4 * (10 + 10) + 8  # running mean and variance, an int64 counter
    assert profile.footprint(tied) == {
        "num_params": 120.0,
        "size_mb": (4 * 120 + buffers) / 1e6,
    }
    half = copy.deepcopy(tied).half()
    assert profile.footprint(half)["size_mb"] < profile.footprint(tied)["size_mb"]
    dropped = registry.build("resnet8", shape=registry.Shape(num_classes=10), dropout=0.5)
    state = sum(t.numel() * t.element_size() for t in dropped.state_dict().values())
    assert profile.footprint(dropped) == {"num_params": 78_042.0, "size_mb": state / 1e6}


def counted(result: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], list[int]]:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return result

    return compute, calls


def test_a_result_is_computed_once_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "x.json"
    first, first_calls = counted({"a": 1.5})
    second, second_calls = counted({"b": "text"})
    assert look_up("one", file=file, compute=first) == {"a": 1.5}
    assert look_up("two", file=file, compute=second) == {"b": "text"}
    assert look_up("one", file=file, compute=second) == {"a": 1.5}
    assert (len(first_calls), len(second_calls)) == (1, 1)
    assert timing_cache.read_all(file) == {"one": {"a": 1.5}, "two": {"b": "text"}}


def test_two_that_start_together_compute_once(tmp_path: Path) -> None:
    started = threading.Barrier(2)
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.2)  # long enough for the other to ask meanwhile
        return {"a": len(calls)}

    def ask() -> dict[str, Any]:
        started.wait()
        return look_up("one", file=tmp_path / "x.json", compute=compute)

    with ThreadPoolExecutor(2) as pool:
        answers = [future.result() for future in [pool.submit(ask), pool.submit(ask)]]
    assert answers == [{"a": 1}, {"a": 1}]
    assert calls == [1]


def test_a_failed_computation_leaves_nothing_and_a_torn_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "x.json"

    def fails() -> dict[str, Any]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        look_up("one", file=file, compute=fails)
    assert not file.exists()
    file.write_text('{"one": {"a"')
    compute, calls = counted({"a": 1})
    assert look_up("one", file=file, compute=compute) == {"a": 1}
    assert calls == [1]


def test_measure_once_looks_up_what_was_measured(tmp_path: Path) -> None:
    first = profile.measure_once(network(), name="n", shape=SHAPE, device="cpu", cache=tmp_path)
    again = profile.measure_once(network(), name="n", shape=SHAPE, device="cpu", cache=tmp_path)
    assert first == again
    (key,) = timing_cache.read_all(tmp_path / "measure.json")
    assert key.startswith("n | 1x8x8 | cpu: ")
    assert key.endswith("| 1 threads")


def test_the_device_has_a_name() -> None:
    assert profile.device_name("cpu") == timing_cache.cpu_name()
    assert len(timing_cache.cpu_name()) > len("cpu: ")


def table(*seconds: float) -> dict[tuple[str, str], float]:
    """float32 contiguous and channels_last, then bfloat16 alike; a missing one is 0."""
    return {pair: s for pair, s in zip(COMBINATIONS, seconds, strict=True) if s}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (table(1.0, 1.0, 1.0, 1.0), ("float32", "contiguous")),
        (table(1.0, 0.96, 2.0, 2.0), ("float32", "contiguous")),
        (table(1.0, 0.95, 2.0, 2.0), ("float32", "channels_last")),
        (table(1.0, 0.97, 0.92, 0.91), ("float32", "contiguous")),  # 7 % over the best float32
        (table(1.0, 0.8, 0.75, 0.79), ("float32", "channels_last")),
        (table(1.0, 0.8, 0.72, 0.71), ("bfloat16", "contiguous")),
        (table(1.0, 0.8, 0.72, 0.40), ("bfloat16", "channels_last")),
        (table(1.0, 0.0, 0.0, 0.4), ("bfloat16", "channels_last")),
        (table(1.0, 0.0, 0.0, 0.0), ("float32", "contiguous")),
    ],
)
def test_a_choice_must_be_worth_it(
    seconds: dict[tuple[str, str], float], expected: tuple[str, str]
) -> None:
    assert choose(seconds) == Compute(precision=expected[0], layout=expected[1])


def test_every_combination_trains_and_the_first_is_always_timed() -> None:
    random = torch.get_rng_state()
    seconds = profile.step_seconds(network, step=step(), rounds=3)
    assert COMBINATIONS[0] in seconds
    assert set(seconds) <= set(COMBINATIONS)
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_probe_is_made_once_and_read_without_torch(tmp_path: Path) -> None:
    chosen = profile.probe(network, step=step(), cache=tmp_path)

    def never() -> nn.Module:
        raise AssertionError("probed again")

    assert profile.probe(never, step=step(), cache=tmp_path) == chosen
    code = (
        "import sys; from pathlib import Path; from tune_kd.measure import timing_cache;"
        f"key = timing_cache.timing_key('digits_student', shape=(1, 8, 8), device=timing_cache.cpu_name(), threads={torch.get_num_threads()}, detail='batch 8');"
        f"found = timing_cache.read_probe(Path({str(tmp_path)!r}), key);"
        "print(found['precision'], found['layout'], found['train_step_s'] > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [chosen.precision, chosen.layout, "True", "False"]
    assert timing_cache.read_probe(tmp_path, "another key") is None
