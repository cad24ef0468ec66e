"""Which precision and layout a probe chooses, and that it is made once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tune_kd.measure import timing_cache, training_step
from tune_kd.measure.training_step import COMBINATIONS, Step, choose
from tune_kd.models import registry
from tune_kd.recipe import Compute

SHAPE = (1, 8, 8)


def network() -> nn.Module:
    return registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))


def step() -> Step:
    device = torch.device("cpu")
    return Step(network="digits_student", shape=SHAPE, batch_size=8, device=device)


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
    seconds = training_step.step_seconds(network, step=step(), rounds=3)
    assert COMBINATIONS[0] in seconds
    assert set(seconds) <= set(COMBINATIONS)
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_probe_is_made_once_and_read_without_torch(tmp_path: Path) -> None:
    choice = training_step.probe(network, step=step(), cache=tmp_path)

    def never() -> nn.Module:
        raise AssertionError("probed again")

    assert training_step.probe(never, step=step(), cache=tmp_path) == choice
    code = (
        "import sys; from pathlib import Path; from tune_kd.measure import timing_cache;"
        f"key = timing_cache.timing_key('digits_student', shape=(1, 8, 8), device=timing_cache.cpu_name(), threads={torch.get_num_threads()}, detail='batch 8');"
        f"found = timing_cache.read_probe(Path({str(tmp_path)!r}), key);"
        "print(found['precision'], found['layout'], found['train_step_s'] > 0, 'torch' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == [choice.precision, choice.layout, "True", "False"]
    assert timing_cache.read_probe(tmp_path, "another key") is None
