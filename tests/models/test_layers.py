"""Dropout with a generator of its own, and networks placed on a device."""

import pytest
import torch
from torch import nn

from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.models.layers import place
from tune_kd.models.registry import Dropout, Shape, build

GREY = Shape(num_classes=10, channels=1)


def small(**settings: float) -> nn.Module:
    return build("digits_student", shape=GREY, **settings)  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_dropout_is_a_function_of_its_generator_alone() -> None:
    layer, x = Dropout(0.3), torch.ones(64, 100)
    before = torch.get_rng_state()
    layer.generator = generator(1)
    first, second = layer(x), layer(x)
    layer.generator = generator(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_dropout_is_the_identity_in_evaluation_and_exactly_so_at_rate_zero() -> None:
    x = torch.randn(8, 5, generator=generator())
    layer = Dropout(0.5).eval()
    assert layer(x) is x
    layer = Dropout(0.0).train()
    assert layer(x) is x
    layer.active, layer.generator = True, generator()  # as in a captured step
    assert torch.equal(layer(x), x)
    layer.rate.fill_(0.9)
    assert float((layer(x) == 0).float().mean()) > 0.5


def test_dropout_keeps_the_type() -> None:
    layer = Dropout(0.5)
    layer.generator = generator()
    assert layer(torch.ones(4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_training_with_dropout_repeats_with_its_generator() -> None:
    model, image = small(dropout=0.5).train(), torch.randn(4, 1, 8, 8, generator=generator())
    scores = []
    for seed in (1, 1, 2):
        registry.set_dropout(model, 0.5, generator=generator(seed))
        scores.append(model(image))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    registry.set_dropout(model, 0.0, generator=None)
    assert torch.equal(model(image), small().train()(image))


def test_dropout_needs_a_layer() -> None:
    model = nn.Linear(2, 2)
    registry.set_dropout(model, 0.0, generator=None)
    with pytest.raises(UsageError, match=r"dropout 0.2: Linear has no dropout layer"):
        registry.set_dropout(model, 0.2, generator=None)


@pytest.mark.parametrize("channels", [1, 4, 7, 15, 16])
def test_a_network_placed_in_channels_last_learns_what_it_does_in_the_other_layout(
    channels,
) -> None:
    """Also where oneDNN would write beyond its buffers: strided 1x1 convolutions of few channels."""
    images = torch.randn(64, channels, 16, 16, generator=generator())
    gradients = []
    for layout in ("contiguous", "channels_last", "channels_last"):
        torch.manual_seed(0)
        conv = nn.Conv2d(channels, 8, 1, stride=2)
        model = place(
            nn.Sequential(nn.BatchNorm2d(channels), conv), torch.device("cpu"), layout=layout
        )
        again = place(model, torch.device("cpu"), layout=layout)
        assert len(again[1]._forward_pre_hooks) == (channels < 16)
        form = torch.contiguous_format if layout == "contiguous" else torch.channels_last
        for _ in range(5):
            again(images.contiguous(memory_format=form)).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(gradients[0], gradients[1], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(gradients[1], gradients[2], strict=True))
