"""What measurements contain, that they leave no trace, and that each is made once."""

import copy
from pathlib import Path

import torch
from torch import nn

from tune_kd.measure import profile, timing_cache
from tune_kd.metrics import METRICS
from tune_kd.models import checkpoints, registry

SHAPE = (1, 8, 8)


def network() -> nn.Module:
    return registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))


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
