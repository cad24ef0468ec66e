"""Taps: the features of the last forward, by level, and hooks that leave no trace."""

import pytest
import torch
from torch import nn

from tune_kd.errors import UsageError
from tune_kd.models.registry import Shape, build
from tune_kd.models.taps import Taps


def small() -> nn.Module:
    return build("digits_student", shape=Shape(num_classes=10, channels=1))


def test_shapes_of_taps_at_32_pixels() -> None:
    expected = {
        "resnet8_wide": {
            "lowest": (1, 64, 32, 32),
            "low": (1, 128, 16, 16),
            "mid": (1, 256, 8, 8),
            "high": (1, 512, 4, 4),
            "pooled": (1, 512, 1, 1),
        },
        "resnet20": {
            "low": (1, 16, 32, 32),
            "mid": (1, 32, 16, 16),
            "high": (1, 64, 8, 8),
            "pooled": (1, 64, 1, 1),
        },
    }
    for name, shapes in expected.items():
        model = build(name, shape=Shape(num_classes=10))
        with torch.no_grad(), Taps(model, list(shapes)) as taps:
            model(torch.zeros(1, 3, 32, 32))
        assert {level: tuple(map_.shape) for level, map_ in taps.features.items()} == shapes


def test_taps_hold_the_last_forward_and_go_without_trace() -> None:
    model = small().eval()
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = model(image)
    with Taps(model, ["high", "low"]) as taps:
        assert taps.features == {}
        assert torch.equal(model(image), plain)
        first = taps.features
        assert set(first) == {"low", "high"}
        model(image * 2)
        assert not torch.equal(taps.features["high"], first["high"])
        taps.features["high"].sum().backward()
        assert model.stage1[0].weight.grad is not None
    model(image)
    assert not torch.equal(taps.features["high"], first["high"])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert set(hooks) == {0}


def test_taps_of_no_level_need_no_taps() -> None:
    model = nn.Linear(2, 2)
    with Taps(model, ()) as taps:
        model(torch.zeros(1, 2))
    assert taps.features == {}


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"did you mean 'high'.*SmallCNN has: high, low, mid, pooled"
    ):
        Taps(small(), ["hihg"])
    with pytest.raises(UsageError, match="Linear has no taps for level 'high'"):
        Taps(nn.Linear(2, 2), ["high"])
    model = small()
    model.taps = {"high": "layer9"}  # type: ignore[assignment]
    with pytest.raises(UsageError, match="level 'high' of SmallCNN: there is no module 'layer9'"):
        Taps(model, ["high"])
