"""What pruning takes away, that the rest is untouched, and that a checkpoint's shapes can be had again."""

import copy
import sys

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tune_kd.compress import pruning
from tune_kd.errors import UsageError
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import Prune

SHAPES = {"digits_student": (1, 8, 8)}
NETWORKS = [
    "resnet18",
    "resnet8",
    "resnet20",
    "digits_student",
    "mobilenet_v2",
    "mobilenet_v3_small",
]


def network(name: str, *, seed: int = 0) -> nn.Module:
    if name.startswith("mobilenet"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return getattr(torchvision.models, name)(num_classes=10)
    shape = registry.Shape(num_classes=10, channels=images(name).shape[1])
    return registry.build(name, shape=shape, seed=seed)


def images(name: str, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPES.get(name, (3, 32, 32)), generator=generator)


def shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


def prune_network(name: str, *ratios: float, seed: int = 0) -> nn.Module:
    model = network(name, seed=seed)
    for ratio in ratios:
        pruning.prune(model, Prune(ratio=ratio), sample=images(name))
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_loses_the_share_of_its_channels_and_the_scores_stay(name: str) -> None:
    before, after = shapes(network(name)), shapes(prune_network(name, 0.3))
    head = list(before)[-1]  # the classifier's bias
    assert after[head] == [10]
    for key, old in before.items():
        if not old or key == head:
            continue
        stays = [key == head.replace("bias", "weight"), len(old) > 1 and old[1] in (1, 3)]
        assert after[key][0] == (10 if stays[0] else old[0] - round(0.3 * old[0])), key
        if len(old) > 1:  # images have as many channels as before, depthwise layers see one
            assert after[key][1] == (old[1] if stays[1] else old[1] - round(0.3 * old[1])), key
            assert after[key][2:] == old[2:]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_takes_the_shapes_and_gives_the_same_scores(name: str) -> None:
    model = prune_network(name, 0.4, 0.25)
    with torch.no_grad():
        model.train()(images(name, 4))  # statistics that are not the initial ones
    fresh = network(name, seed=9)
    pruning.reshape(fresh, model.state_dict())
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(outputs(fresh, images(name)), outputs(model, images(name)))
    for one, other in zip(fresh.modules(), model.modules(), strict=True):
        assert one.extra_repr() == other.extra_repr()
    fresh.train()(images(name)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in fresh.parameters())


def test_an_unpruned_checkpoint_changes_nothing() -> None:
    model = network("resnet8")
    before = checkpoints.tensor_hash(model)
    pruning.reshape(model, network("resnet8").state_dict())
    assert checkpoints.tensor_hash(model) == before


def test_what_a_channel_held_goes_or_stays_whole() -> None:
    """Two layers by hand: the second and third of four channels are the smallest of all they touch."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    first, norm, _, last = model
    with torch.no_grad():
        first.weight.copy_(torch.tensor([3.0, 0.1, 0.2, 4.0]).view(4, 1, 1, 1))
        first.bias.copy_(torch.arange(4.0))
        norm.running_mean.copy_(torch.arange(4.0) + 10)
        norm.running_var.copy_(torch.arange(4.0) + 1)
        norm.bias.copy_(torch.arange(4.0) + 20)
        last.weight.copy_(torch.arange(12.0).view(3, 4) / 100)
    pruning.prune(model, Prune(ratio=0.5), sample=torch.zeros(1, 1, 1, 1))
    assert first.weight.flatten().tolist() == [3.0, 4.0]
    assert first.bias.tolist() == [0.0, 3.0]
    assert norm.running_mean.tolist() == [10.0, 13.0]
    assert norm.running_var.tolist() == [1.0, 4.0]
    assert norm.bias.tolist() == [20.0, 23.0]
    expected = (torch.arange(12.0).view(3, 4) / 100)[:, [0, 3]]
    assert torch.equal(last.weight, expected)


def test_modes_gradients_layout_and_random_numbers_stay() -> None:
    model = network("resnet8").to(memory_format=torch.channels_last).train()
    model.layer1.eval()
    model.bn1.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    pruning.prune(model, Prune(ratio=0.5), sample=images("resnet8"))
    assert [module.training for module in model.modules()] == modes
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"bn1.weight"}
    assert model.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.layer2[0].conv1.weight.is_contiguous()
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("method", ["channel", "magnitude"])
def test_the_same_network_loses_the_same(method: str) -> None:
    hashes = set()
    for _ in range(2):
        model = network("resnet8")
        pruning.prune(model, Prune(method=method, ratio=0.37), sample=images("resnet8"))
        hashes.add(checkpoints.tensor_hash(model))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("width", "ratio", "channels"), [(4, 0.9, 1), (10, 0.9, 1), (20, 0.9, 2), (10, 0.04, 10)]
)
def test_rounding_leaves_at_least_one_channel(width: int, ratio: float, channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Flatten(), nn.Linear(width, 5))
    pruning.prune(model, Prune(ratio=ratio), sample=torch.zeros(1, 1, 1, 1))
    assert (model[0].out_channels, model[3].in_features) == (channels, channels)


class Dense(nn.Module):
    """Scores for every pixel: a skip of the input's size, joined by concatenation, then upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)  # as wide as there are classes
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Conv2d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        low = nn.functional.interpolate(self.down(stem).relu(), scale_factor=2.0)
        return nn.functional.interpolate(self.head(torch.cat([stem, low], 1)), scale_factor=2.0)


def test_a_network_of_dense_scores_keeps_its_last_convolution_only() -> None:
    model = Dense()
    pruning.prune(model, Prune(ratio=0.5), sample=images("resnet8"))
    widths = (model.stem.out_channels, model.down.out_channels, model.head.in_channels)
    assert widths == (4, 8, 12)
    assert model(images("resnet8")).shape == (2, 8, 64, 64)
    fresh = Dense()
    pruning.reshape(fresh, model.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images("resnet8")), model(images("resnet8")))


def test_grouped_convolutions_keep_their_groups() -> None:
    def grouped_network() -> nn.Sequential:
        layers = [nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 5, 1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    model, fresh = grouped_network(), grouped_network()
    pruning.prune(model, Prune(ratio=0.5), sample=images("resnet8"))
    assert (model[1].groups, model[1].in_channels, model[1].out_channels) == (4, 8, 8)
    pruning.reshape(fresh, model.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images("resnet8")), model(images("resnet8")))


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    with pytest.raises(UsageError, match="one tensor of scores"):
        pruning.prune(Two(), Prune(ratio=0.5), sample=torch.zeros(1, 4))
    with pytest.raises(UsageError, match="no convolution or linear layer gives the 4"):
        pruning.prune(nn.Sequential(nn.Flatten()), Prune(ratio=0.5), sample=torch.zeros(1, 4))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[compress\]'"):
        pruning.prune(network("digits_student"), Prune(), sample=images("digits_student"))
    stage = Prune(method="magnitude")
    pruning.prune(network("digits_student"), stage, sample=images("digits_student"))


def by_hand() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.5, -4.0]).view(2, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.001, 0.001]))
        model[1].weight.copy_(torch.tensor([0.001, 0.001]))
        model[3].weight.copy_(torch.tensor([[1.0, -0.1], [0.2, 3.0], [0.0, -0.3]]))
    return model


def test_the_smallest_weights_of_all_layers_become_zero() -> None:
    """Seven weights are not zero: round(0.5 * 7) = 4 go, then round(0.5 * 3) = 2 of the rest."""
    model = by_hand()
    stage = Prune(method="magnitude", ratio=0.5)
    pruning.prune(model, stage, sample=torch.zeros(1, 1, 1, 1))
    assert model[0].weight.flatten().tolist() == [0.0, -4.0]
    assert model[3].weight.tolist() == [[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]
    pruning.prune(model, stage, sample=torch.zeros(1, 1, 1, 1))
    assert model[0].weight.flatten().tolist() == [0.0, -4.0]
    assert model[3].weight.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert model[0].bias.tolist() == model[1].weight.tolist() == [pytest.approx(0.001)] * 2


def test_half_twice_leaves_a_quarter() -> None:
    model = network("resnet8")
    count = sum(w.numel() for w in pruning._weights(model))
    others = sum(p.numel() for p in model.parameters()) - count
    untouched = sum(int(p.count_nonzero()) for p in model.parameters() if p.dim() < 2)
    for _ in range(2):
        pruning.prune(model, Prune(method="magnitude", ratio=0.5), sample=images("resnet8"))
    assert pruning.nonzero_params(model) == count / 4 + untouched
    assert others > untouched > 0  # fresh biases of the normalisations are zero


def test_of_equal_weights_no_more_go_than_asked() -> None:
    model = nn.Linear(10, 10)
    nn.init.ones_(model.weight)
    pruning.prune(model, Prune(method="magnitude", ratio=0.3), sample=torch.zeros(1, 10))
    assert int(model.weight.count_nonzero()) == 70


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_zeros_stay_zero_through_training_and_the_others_move(momentum: float) -> None:
    model = network("resnet8")
    pruning.prune(model, Prune(method="magnitude", ratio=0.5), sample=images("resnet8"))
    zero = {n: p == 0 for n, p in model.named_parameters() if p.dim() > 1}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    again = pruning.keep_zeros(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    for step in range(3):
        model(images("resnet8", 4)).square().mean().backward()
        sgd.step()
        sgd.zero_grad()
        if step == 0:
            assert any(bool(model.get_parameter(n)[z].any()) for n, z in zero.items())
        again()
        assert not any(bool(model.get_parameter(n)[z].any()) for n, z in zero.items())
    for name, z in zero.items():
        assert not torch.equal(model.get_parameter(name)[~z], before[name][~z])


def test_a_network_without_zeros_is_left_alone() -> None:
    model = network("digits_student")
    again = pruning.keep_zeros(model)
    with torch.no_grad():
        model.fc.weight.zero_()
    versions = [p._version for p in model.parameters()]
    again()
    assert [p._version for p in model.parameters()] == versions


def change_state(name: str, **values: Tensor) -> dict[str, Tensor]:
    return {**network(name).state_dict(), **{k.replace("__", "."): v for k, v in values.items()}}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no 'stage1.0.weight'"),
        (change_state("digits_student", more=torch.zeros(1)), "unexpected 'more'"),
        (
            change_state("digits_student", fc__bias=torch.zeros(10, 1)),
            r"'fc.bias' \[10, 1\] from \[10\]",
        ),
        (
            change_state("digits_student", fc__weight=torch.zeros(10, 9)),
            r"\[10, 9\] from \[10, 8\]",
        ),
        (
            change_state("digits_student", fc__weight=torch.zeros(10, 0)),
            r"\[10, 0\] from \[10, 8\]",
        ),
        ({**change_state("digits_student"), "stage1.0.weight": torch.zeros(4, 1, 1, 1)}, "from"),
    ],
)
def test_a_checkpoint_that_is_no_pruned_one_is_refused(
    state: dict[str, Tensor], message: str
) -> None:
    model = network("digits_student")
    before = checkpoints.tensor_hash(model)
    with pytest.raises(UsageError, match=f"not a pruned SmallCNN: .*{message}"):
        pruning.reshape(model, state)
    assert checkpoints.tensor_hash(model) == before


def test_a_layer_of_another_kind_cannot_be_reshaped() -> None:
    model = nn.Embedding(4, 4)
    with pytest.raises(UsageError, match="Embedding"):
        pruning.reshape(model, {"weight": torch.zeros(4, 2)})
