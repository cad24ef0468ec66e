"""Parameter counts, users' networks and ImageNet weights."""

import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model, resnet18

from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.models.checkpoints import tensor_hash
from tune_kd.models.registry import Shape, build
from tune_kd.models.taps import Taps

TEN = Shape(num_classes=10)
GREY = Shape(num_classes=10, channels=1)


def small(**settings: float) -> nn.Module:
    return build("digits_student", shape=GREY, **settings)  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet152", 58_156_618),
        ("resnet8_wide", 4_903_242),
        ("resnet8", 78_042),
        ("resnet20", 272_474),
        ("resnet56", 855_770),
        ("resnet110", 1_730_714),
        ("vit_tiny", 5_362_762),
        ("vit_tiny_6", 2_693_578),
        ("mobilenet_v2", 2_236_682),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert sum(p.numel() for p in build(name, shape=TEN).parameters()) == count


def test_the_digits_student_is_far_smaller_than_its_teacher() -> None:
    teacher, student = (build(f"digits_{who}", shape=GREY) for who in ("teacher", "student"))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (teacher, student)]
    assert 50_000 <= sizes[0] <= 100_000
    assert 1_000 <= sizes[1] <= 2_000


def test_keys_are_torchvisions() -> None:
    assert list(build("resnet18", shape=TEN).state_dict()) == list(resnet18().state_dict())


def test_convolutions_start_as_he_et_al_say() -> None:
    model = build("resnet18", shape=TEN)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        variance = float(conv.weight.detach().var())
        assert variance == pytest.approx(2 / fan_out, rel=0.2)


USER = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, channels, p=0.25):
        super().__init__(nn.Flatten(), nn.Linear(channels * 64, 8), nn.Dropout(p), nn.Linear(8, num_classes))

def plain(num_classes, channels):
    return Net(num_classes, channels)

def dropped(num_classes, channels, dropout):
    net = Net(num_classes, channels, dropout)
    net.taps = {"high": "1"}
    return net

def odd(num_classes, depth):
    return Net(num_classes, 1)

def nothing(num_classes, channels):
    return None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(USER)
    return tmp_path


def test_a_users_network_is_seeded_and_its_dropout_becomes_ours(folder: Path) -> None:
    before = torch.get_rng_state()
    first, again = (build("nets.py:plain", shape=GREY, seed=1, base=folder) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert tensor_hash(first) == tensor_hash(again)
    assert list(first.state_dict()) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    image = torch.ones(4, 1, 8, 8)
    registry.set_dropout(first.train(), 0.0, generator=generator(3))
    scores = first(image)
    registry.set_dropout(first, 0.0, generator=generator(3))
    assert torch.equal(first(image), scores)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(first[2].rate) == 0.25  # its own rate stays


def test_a_users_network_gets_the_dropout_that_it_takes(folder: Path) -> None:
    model = build("nets.py:dropped", shape=GREY, dropout=0.4, base=folder)
    assert float(model[2].rate) == pytest.approx(0.4)
    with Taps(model, ["high"]) as taps:
        model.eval()(torch.zeros(2, 1, 8, 8))
    assert taps.features["high"].shape == (2, 8)
    with pytest.raises(UsageError, match=r"takes no dropout=, but dropout 0.4 is asked for"):
        build("nets.py:plain", shape=GREY, dropout=0.4, base=folder)


def test_a_users_dropout_follows_the_stage_and_what_is_the_networks_own_stays(folder: Path) -> None:
    (folder / "two.py").write_text(
        "from torch import nn\n"
        "def two(num_classes, channels, dropout):\n"
        "    return nn.Sequential(nn.Dropout(0.25), nn.Flatten(), nn.Dropout(dropout))\n"
    )
    for initial_rate in (0.5, 0.0):
        model = registry.build("two.py:two", shape=GREY, dropout=initial_rate, base=folder)
        for rate in (0.5, 0.0, 0.125):
            registry.set_dropout(model, rate, generator=generator())
            assert [float(model[at].rate) for at in (0, 2)] == [0.25, rate]
            assert [model[at].active for at in (0, 2)] == [True, rate > 0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_imagenet_weights_fill_all_but_the_stem_and_the_classifier(name, monkeypatch) -> None:
    """Weights in torchvision's shapes and names, in place of a download."""
    weights = {
        k: torch.full_like(v, 0.5)
        for k, v in get_model(name, num_classes=1000).state_dict().items()
    }
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **options: weights)
    model = registry.build(name, shape=registry.Shape(num_classes=10))
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    registry.load_imagenet(model, name)
    untouched = {k for k, v in model.state_dict().items() if torch.equal(v, fresh[k])}
    filled = {
        k for k, v in model.state_dict().items() if bool((v == weights[k].flatten()[0]).all())
    }
    assert untouched | filled == fresh.keys()
    assert {k for k in untouched - filled if fresh[k].dim() > 1} == {
        k for k, v in fresh.items() if v.dim() > 1 and v.shape != weights[k].shape
    }


def test_imagenet_weights_that_cannot_be_had_are_said(monkeypatch) -> None:
    def offline(self, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    model = registry.build("resnet18", shape=registry.Shape(num_classes=10))
    with pytest.raises(UsageError, match=r"put resnet18-\w+\.pth into .*teacher.initial=none"):
        registry.load_imagenet(model, "resnet18")
    with pytest.raises(UsageError, match="network with ImageNet weights"):
        registry.load_imagenet(small(), "digits_student")


def test_wrong_networks_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        build("resnet19", shape=TEN)
    with pytest.raises(UsageError, match=r"called with \(num_classes=10, channels=3\): missing"):
        build("nets.py:odd", shape=TEN, base=folder)
    with pytest.raises(UsageError, match=r"returned NoneType; expected a torch.nn.Module"):
        build("nets.py:nothing", shape=TEN, base=folder)
