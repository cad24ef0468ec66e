"""What every network promises: a new entry of MODELS is tested by being there."""

import functools

import pytest
import torch
from torch import nn

from tune_kd import losses
from tune_kd.models import checkpoints, registry, segmentation
from tune_kd.models.registry import MODELS, Shape
from tune_kd.models.taps import Taps

NAMES = sorted(MODELS)
# Every network takes any size (a ViT the one that it is built for); small, so that the deep ones are quick.
SIDES = (16, 16)
DENSE_SIDES = (32, 48)  # of the networks that score every pixel


@functools.cache
def is_dense(name: str) -> bool:
    """Networks of every pixel are those with scores at a stride of their own."""
    return hasattr(registry.build(name, shape=Shape(num_classes=2)), "coarse")


DENSE = [name for name in NAMES if is_dense(name)]


def shape(name: str, *, channels: int = 3) -> Shape:
    return Shape(num_classes=7, channels=channels, size=DENSE_SIDES if is_dense(name) else SIDES)


@functools.cache
def shared_model(name: str, *, channels: int = 3, seed: int = 0) -> nn.Module:
    """A network that the tests below leave as it is."""
    return registry.build(name, shape=shape(name, channels=channels), seed=seed)


def images(name: str, count: int, channels: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn((count, channels, *shape(name).size), generator=random)


def expected(name: str, count: int) -> tuple[int, ...]:
    """The shape of scores."""
    return (count, 7, *(DENSE_SIDES if is_dense(name) else ()))


def test_which_networks_score_every_pixel() -> None:
    parts = ("fcn_", "lraspp_", "aspp_")
    assert [name for name in NAMES if name.startswith(parts)] == DENSE


@pytest.mark.parametrize("name", NAMES)
def test_gives_scores_and_features_of_falling_size(name: str) -> None:
    model = shared_model(name).eval()
    with torch.no_grad(), Taps(model, tuple(model.taps)) as taps:
        scores = model(images(name, 2))
    assert scores.shape == expected(name, 2)
    assert {"low", "mid", "high"} <= taps.features.keys()
    levels = [taps.features[level] for level in ("low", "mid", "high")]
    assert all(f.shape[0] == 2 and f.ndim == 4 for f in levels)  # maps [B, C, h, w]
    assert all(f.shape[0] == 2 and f.ndim in (2, 4) for f in taps.features.values())
    for side in (2, 3):
        sizes = [f.shape[side] for f in levels]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] >= 2
    assert all(f.dtype == torch.float32 and f.isfinite().all() for f in levels)
    assert len({float(f.std()) for f in levels}) == 3  # three features, none a constant
    assert min(float(f.std()) for f in levels) > 0


@pytest.mark.parametrize("name", DENSE)
def test_coarse_scores_resized_are_the_scores(name: str) -> None:
    model = shared_model(name).eval()
    with torch.no_grad():
        coarse, scores = model.coarse(images(name, 2)), model(images(name, 2))
    assert coarse.shape[:2] == (2, 7)
    height, width = coarse.shape[2:]
    assert 32 / height == 48 / width >= 4
    assert torch.equal(segmentation.resize(coarse, DENSE_SIDES), scores)


@pytest.mark.parametrize("name", NAMES)
def test_takes_grey_images(name: str) -> None:
    with torch.no_grad():
        scores = shared_model(name, channels=1).eval()(images(name, 2, channels=1))
    assert scores.shape == expected(name, 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(
    name: str,
) -> None:
    before = torch.get_rng_state()
    torch.rand(1)
    again = registry.build(name, shape=shape(name))
    torch.set_rng_state(before)
    other = registry.build(name, shape=shape(name), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert checkpoints.tensor_hash(again) == checkpoints.tensor_hash(shared_model(name))
    assert checkpoints.tensor_hash(other) != checkpoints.tensor_hash(again)
    layers = [n for n, m in other.named_modules() if isinstance(m, nn.Conv2d)]
    assert layers
    for layer in layers:
        ours, its = (m.get_submodule(layer).weight for m in (other, again))
        assert not torch.equal(ours, its), layer


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    model = registry.build(name, shape=shape(name)).train()
    labels = torch.arange(4).view(4, *(1 for _ in expected(name, 4)[2:]))
    labels = labels.expand(4, *expected(name, 4)[2:])
    # a ViT's head begins with zeros (torchvision's), so the rest of it learns from the second step on
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learned = set()
    for _ in range(2 if name.startswith("vit_") else 1):
        optimizer.zero_grad()
        losses.hard_loss(model(images(name, 4)), labels).backward()
        learned |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert [n for n, _ in model.named_parameters() if n not in learned] == []


@pytest.mark.parametrize("name", NAMES)
def test_dropout_comes_before_the_classifier_and_changes_no_key(name: str) -> None:
    plain = shared_model(name)
    model = registry.build(name, shape=shape(name), dropout=0.5).train()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert checkpoints.tensor_hash(model) == checkpoints.tensor_hash(plain)
    dropouts = [module for module in model.modules() if isinstance(module, registry.Dropout)]
    assert dropouts
    assert {float(module.rate) for module in dropouts} == {0.5}
    assert len(dropouts) == 1 or name.startswith("vit_")  # whose blocks have it as well
    assert not [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    dropouts[-1].register_forward_hook(lambda module, args, out: calls.append((args[0], out)))
    registry.set_dropout(model, 0.5, generator=torch.Generator().manual_seed(0))
    model(images(name, 4))
    ((before, after),) = calls
    dropped = float(((after == 0) & (before != 0)).float().mean() / (before != 0).float().mean())
    assert 0.3 < dropped < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_their_state_dict(name: str) -> None:
    model = registry.build(name, shape=shape(name), seed=5)
    checkpoints.checked_load(model, shared_model(name).state_dict(), source="a copy")
    assert checkpoints.tensor_hash(model) == checkpoints.tensor_hash(shared_model(name))
