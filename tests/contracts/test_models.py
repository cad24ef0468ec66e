"""What every network promises: a new entry of MODELS is tested by being there."""

import functools

import pytest
import torch
from torch import nn

from tune_kd import losses, models, weights
from tune_kd.models import MODELS, Shape

NAMES = sorted(MODELS)
SIZE = 16  # every network takes any size; small, so that the deep ones are quick


@functools.cache
def built(name: str, *, channels: int = 3, seed: int = 0) -> nn.Module:
    """A network that the tests below leave as it is."""
    return models.build(name, shape=Shape(num_classes=7, channels=channels), seed=seed)


def images(count: int, channels: int = 3) -> torch.Tensor:
    shape = (count, channels, SIZE, SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_gives_scores_and_features_of_falling_size(name: str) -> None:
    model = built(name).eval()
    with torch.no_grad(), models.Taps(model, tuple(model.taps)) as taps:
        scores = model(images(2))
    assert scores.shape == (2, 7)
    assert {"low", "mid", "high"} <= taps.features.keys()
    assert all(f.shape[0] == 2 and f.ndim in (2, 4) for f in taps.features.values())
    sizes = [taps.features[level].shape[-1] for level in ("low", "mid", "high")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 2


@pytest.mark.parametrize("name", NAMES)
def test_takes_grey_images(name: str) -> None:
    with torch.no_grad():
        assert built(name, channels=1).eval()(images(2, channels=1)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(
    name: str,
) -> None:
    before = torch.get_rng_state()
    shape = Shape(num_classes=7)
    torch.rand(1)
    again = models.build(name, shape=shape)
    torch.set_rng_state(before)
    other = models.build(name, shape=shape, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights.fingerprint(again) == weights.fingerprint(built(name))
    assert weights.fingerprint(other) != weights.fingerprint(again)
    assert not torch.equal(other.fc.weight, again.fc.weight)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    model = models.build(name, shape=Shape(num_classes=7)).train()
    losses.hard_loss(model(images(4)), torch.tensor([0, 1, 2, 3])).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_dropout_comes_before_the_classifier_and_changes_no_key(name: str) -> None:
    plain = built(name)
    model = models.build(name, shape=Shape(num_classes=7), dropout=0.5).train()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert weights.fingerprint(model) == weights.fingerprint(plain)
    found = [module for module in model.modules() if isinstance(module, models.Dropout)]
    assert [float(module.rate) for module in found] == [0.5]
    seen: list[torch.Tensor] = []
    found[0].register_forward_hook(lambda module, args, output: seen.append(output))
    models.set_dropout(model, 0.5, generator=torch.Generator().manual_seed(0))
    model(images(4))
    zeros = float((seen[0] == 0).float().mean())
    assert 0 < zeros < 1


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_their_state_dict(name: str) -> None:
    model = models.build(name, shape=Shape(num_classes=7), seed=5)
    weights.checked_load(model, built(name).state_dict(), what="a copy")
    assert weights.fingerprint(model) == weights.fingerprint(built(name))
