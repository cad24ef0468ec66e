"""That networks really become int8, that training with fake quantization trains, and that nothing is lost in a file."""

import copy
import functools
import sys

import pytest
import torch
import torchvision
from safetensors.torch import load, save
from torch import Tensor, nn

from tune_kd.compress import int8, pruning
from tune_kd.compress.int8 import Int8Report
from tune_kd.errors import UsageError
from tune_kd.measure import inductor, profile
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import Prune


def network(*, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """Three convolutions, normalisations and a linear layer, with statistics as after training."""
    shape = registry.Shape(num_classes=10, channels=1)
    model = registry.build("digits_student", shape=shape, seed=seed, dropout=dropout)
    registry.set_dropout(model, dropout, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in range(5):
            model.train()(images(32, seed=step + 1))
    return model.eval()


def images(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def static(model: nn.Module) -> int8.Converted:
    prepared = int8.prepare(model, sample=images(2), qat=False)
    int8.calibrate(prepared, images(64).split(16))
    return int8.convert(prepared)


@functools.cache
def _template() -> int8.Prepared:
    return int8.prepare(network(), sample=images(2), qat=True)


def fake_quantized() -> int8.Prepared:
    """What `prepare` made of `network()` for training; it takes seconds, so each test has a copy."""
    return copy.deepcopy(_template())


def train_prepared(steps: int = 3) -> int8.Prepared:
    prepared = fake_quantized()
    train(prepared, steps)
    return prepared


def train(prepared: int8.Prepared, steps: int, *, first: int = 0) -> None:
    sgd = torch.optim.SGD(prepared.parameters(), lr=0.05)
    prepared.train()
    for step in range(first, first + steps):
        loss = nn.functional.cross_entropy(prepared(images(16, seed=step)), torch.arange(16) % 10)
        loss.backward()
        sgd.step()
        sgd.zero_grad()


@torch.no_grad()
def scores(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return load(save(state))


def test_static_int8_is_close_to_float_and_all_of_it_is_int8() -> None:
    """An activation is off by at most half a step of 1/255 of its range, four layers deep; the scores
    differ by some hundredths of their spread. One layer with a wrong scale gives tenths."""
    model = network()
    prepared = int8.prepare(model, sample=images(2), qat=False)
    before = int8.ranges(prepared)
    assert int8.calibrate(prepared, images(64).split(20)) == 64
    assert int8.assert_active(prepared, before) == len(before) > 4
    converted = int8.convert(prepared)
    assert int8.report(converted) == Int8Report(fused=3, quantized_ops=4, float_ops=0)
    exact, rounded = scores(model, images(64)), scores(converted, images(64))
    error = (rounded - exact).std() / exact.std()
    assert 0 < error < 0.05
    assert torch.equal(scores(converted, images(64)), rounded)


def test_the_float_network_stays_as_it_is() -> None:
    model = network(dropout=0.5).train()
    before, modes = checkpoints.tensor_hash(model), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    for qat in (False, True):
        int8.prepare(model, sample=images(2), qat=qat)
    assert checkpoints.tensor_hash(model) == before
    assert [m.training for m in model.modules()] == modes
    assert isinstance(model.fc, registry.Classifier)
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_are_the_floats_rounded_to_their_channels_scale() -> None:
    """By hand: symmetric, the largest of a channel is 127.5 steps, torchao's definition of [-128, 127]."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5], [0.02, -0.04]]))
    prepared = int8.prepare(nn.Sequential(layer), sample=torch.ones(2, 2), qat=False)
    int8.calibrate(prepared, [torch.tensor([[0.0, 1.0], [1.0, 0.0]])])
    state = int8.state_of(int8.convert(prepared))
    scale = state["_scale_0"]
    assert torch.allclose(scale, torch.tensor([1.0, 0.04]) / 127.5)
    assert state["_frozen_param0"].tolist() == [[127, 64], [64, -128]]
    assert state["_zero_point_0"].tolist() == [0, 0]


@pytest.mark.parametrize("qat", [False, True])
def test_any_batch_size_can_follow_and_images_do_not_meet(qat: bool) -> None:
    converted = int8.convert(train_prepared()) if qat else static(network())
    together = scores(converted, images(7))
    alone = torch.cat([scores(converted, image) for image in images(7).split(1)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_training_with_fake_quantization_trains() -> None:
    prepared = fake_quantized()
    before = int8.ranges(prepared)
    old = {name: p.detach().clone() for name, p in prepared.named_parameters()}
    with pytest.raises(ValueError, match=r"of \d+ observers have seen no images"):
        int8.assert_active(prepared, before)
    train(prepared, 3)
    assert int8.assert_active(prepared, before) == len(before)
    assert all(not torch.equal(p, old[name]) for name, p in prepared.named_parameters())
    converted = int8.convert(prepared)
    assert int8.report(converted) == Int8Report(fused=3, quantized_ops=4, float_ops=0)
    exact = scores(prepared.eval(), images(64))
    # The same rounding before and after; sums in another order move hardly a value by a step.
    assert (scores(converted, images(64)) - exact).std() < 0.002 * exact.std()


def test_training_that_changed_no_weight_is_noticed() -> None:
    prepared = fake_quantized()
    before, untrained = int8.ranges(prepared), int8.weights(prepared)
    prepared.train()(images(8))  # observers see images, nothing is learned
    assert int8.assert_active(prepared, before) == len(before)
    with pytest.raises(ValueError, match="training has changed no weight"):
        int8.assert_active(prepared, before, untrained=untrained)
    train(prepared, 1)
    assert int8.assert_active(prepared, before, untrained=untrained) == len(before)


def test_fake_quantization_that_is_off_is_noticed() -> None:
    prepared = fake_quantized()
    before = int8.ranges(prepared)
    train(prepared, 1)
    for observer in int8.observers(prepared).values():
        observer.enable_fake_quant(False)
    with pytest.raises(ValueError, match="fake quantization was off in"):
        int8.assert_active(prepared, before)


def test_evaluation_changes_nothing_and_training_goes_on_after_it() -> None:
    prepared = train_prepared()
    before = copy.deepcopy(prepared.state_dict())
    x = images(16, seed=3) * 3  # beyond what was seen
    prepared.eval()
    assert not any(module.training for module in prepared.modules())
    first = scores(prepared, x)
    after = prepared.state_dict()
    flags = {name for name in before if name.endswith("observer_enabled")}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - flags)
    assert torch.equal(scores(prepared, x), first)
    assert torch.equal(torch.cat([scores(prepared, part) for part in x.split(4)]), first)
    ranges = int8.ranges(prepared)
    assert prepared.train() is prepared
    assert all(module.training for module in prepared.modules())
    scores(prepared, x)
    assert any(not torch.equal(ranges[n], now) for n, now in int8.ranges(prepared).items())
    means = [name for name in before if name.endswith("running_mean")]
    assert means
    assert all(not torch.equal(before[name], prepared.state_dict()[name]) for name in means)


def test_training_that_was_resumed_equals_training_that_was_not() -> None:
    straight = train_prepared(4)
    half = train_prepared(2)
    other = fake_quantized()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(through_a_file(half.state_dict()))
    train(other, 2, first=2)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_a_copy_of_what_is_prepared_is_its_own() -> None:
    prepared = train_prepared(1)
    before = copy.deepcopy(prepared.state_dict())
    copied = copy.deepcopy(prepared)
    train(copied, 2)
    copied.eval()
    assert prepared.training
    assert all(torch.equal(t, before[name]) for name, t in prepared.state_dict().items())
    int8.convert(prepared)
    assert prepared.training
    assert all(torch.equal(t, before[name]) for name, t in prepared.state_dict().items())


def test_normalisation_keeps_its_own_eps_and_momentum() -> None:
    """MobileNetV3 has eps = 1e-3 and momentum = 0.01; variances here are small enough to tell."""
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.25)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    with torch.no_grad():
        model[0].weight.mul_(0.02)
        model[0].bias.mul_(0.02)
        map_ = model[0](images(16))
        norm.running_var.copy_(map_.var((0, 2, 3)))
    prepared = int8.prepare(model, sample=images(2), qat=True)
    running = prepared.graph.get_buffer("1.running_mean")
    scores(prepared, images(16))
    # Rounding an input to 1/255 of its range moves a mean a little; another momentum, by far more.
    assert torch.allclose(running, 0.25 * map_.mean((0, 2, 3)), rtol=0.05, atol=1e-4)
    for _ in range(30):
        scores(prepared, images(16))
    exact = copy.deepcopy(model).eval()
    exact[1].running_mean.copy_(running)
    exact[1].running_var.copy_(prepared.graph.get_buffer("1.running_var"))
    reference = scores(exact, images(16))
    for network_ in (prepared.eval(), int8.convert(prepared)):
        assert (scores(network_, images(16)) - reference).std() < 0.05 * reference.std()
    exact[1].eps = 1e-5  # the test can tell
    assert (scores(exact, images(16)) - reference).std() > 0.5 * reference.std()


def test_dropout_is_left_out() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10))
    prepared = int8.prepare(model, sample=images(2), qat=True)
    scores(prepared, images(8))
    assert torch.equal(scores(prepared.eval(), images(8)), scores(prepared, images(8)))
    ours = int8.prepare(network(dropout=0.9), sample=images(2), qat=True)
    assert scores(ours, images(8)).shape == (8, 10)


@pytest.mark.parametrize("qat", [False, True])
def test_a_state_holds_all_of_an_int8_network(qat: bool) -> None:
    converted = int8.convert(train_prepared()) if qat else static(network())
    state = through_a_file(int8.state_of(converted))
    restored = int8.restore(network(seed=7), state, sample=images(3, seed=9))
    assert torch.equal(scores(restored, images(33)), scores(converted, images(33)))
    assert int8.report(restored) == int8.report(converted)
    again = int8.state_of(restored)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    if qat:
        return
    changed = {**state, int8.ACTIVATIONS: state[int8.ACTIVATIONS] * 2}  # all of it is read
    other = int8.restore(network(seed=7), changed, sample=images(2))
    assert not torch.equal(scores(other, images(33)), scores(converted, images(33)))


def test_a_pruned_network_in_int8_survives_a_file() -> None:
    model = network()
    pruning.prune(model, Prune(ratio=0.3), sample=images(2))
    pruned, converted = model.state_dict(), static(model)
    state = int8.state_of(converted)
    fresh = network(seed=3)
    with pytest.raises(UsageError, match="does not fit SmallCNN"):
        int8.restore(fresh, state, sample=images(2))
    pruning.reshape(fresh, pruned)
    restored = int8.restore(fresh, state, sample=images(2))
    assert torch.equal(scores(restored, images(16)), scores(converted, images(16)))


def test_weights_that_were_pruned_to_zero_stay_zero_through_training_and_in_int8() -> None:
    model = network()
    pruning.prune(model, Prune(method="magnitude", ratio=0.5), sample=images(2))
    prepared = int8.prepare(model, sample=images(2), qat=True)
    mask_weights = pruning.keep_zeros(prepared)
    train(prepared, 2)
    mask_weights()
    layers = ("stage1.0", "stage2.0", "stage3.0", "fc")
    zeros = sum(int((model.get_parameter(f"{n}.weight") == 0).sum()) for n in layers)
    zeros_after = sum(int((prepared.graph.get_parameter(f"{n}.weight") == 0).sum()) for n in layers)
    assert zeros_after == zeros > 0
    state = int8.state_of(int8.convert(prepared))
    assert sum(int((t == 0).sum()) for n, t in state.items() if t.dtype == torch.int8) >= zeros


def test_the_size_is_that_of_what_the_graph_reads() -> None:
    """1,030 parameters: 984 weights, 10 biases of the last layer, 36 of normalisation."""
    converted = static(network())
    layers = [(4, 4 * 9), (8, 4 * 8 * 9), (8, 8 * 8 * 9), (10, 8 * 10)]
    # a weight is a byte; each output channel has a bias (4), a scale (4) and a zero point (8)
    expected = sum(count + outputs * (4 + 4 + 8) for outputs, count in layers)
    assert int8.size_mb(converted) == expected / 1e6
    assert profile.footprint(converted)["size_mb"] == expected / 1e6


def test_an_int8_network_stays_in_evaluation_mode_and_can_be_measured() -> None:
    converted = static(network())
    before = scores(converted, images(4))
    assert converted.train() is converted
    assert not converted.training
    assert torch.equal(scores(converted, images(4)), before)
    assert not any(p.requires_grad for p in converted.parameters())
    values = profile.measure(converted, shape=(1, 8, 8), device="cpu")
    assert values["latency_ms"] > 0


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = int8.state_of(static(network()))
    short = {**state, int8.ACTIVATIONS: state[int8.ACTIVATIONS][1:]}
    with pytest.raises(UsageError, match=r"\d+ roundings instead of \d+"):
        int8.restore(network(), short, sample=images(2))
    with pytest.raises(UsageError, match="does not fit SmallCNN: '_scale_9'"):
        int8.restore(network(), {**state, "_scale_9": torch.ones(1)}, sample=images(2))
    with pytest.raises(UsageError, match="not the state of an int8 network"):
        int8.restore(network(), network().state_dict(), sample=images(2))


def test_a_module_that_is_called_twice_is_quantized_at_both_places() -> None:
    """As the one ReLU of a residual block."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(x)))).flatten(1)

    converted = static(Block())
    assert int8.report(converted) == Int8Report(fused=0, quantized_ops=2, float_ops=0)


def test_what_is_not_int8_is_said() -> None:
    class Before(nn.Module):
        """Normalisation before the convolution cannot be folded into it."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x)).flatten(1)

    for qat in (False, True):
        with pytest.raises(UsageError, match="Before: 1 of 1 batch normalisations do not follow"):
            int8.prepare(Before(), sample=images(2), qat=qat)
    with pytest.raises(ValueError, match="0 of 0 convolutions and linear layers"):
        int8.report(static(nn.Sequential(nn.AvgPool2d(8), nn.Flatten())))


def test_a_network_that_cannot_be_exported_is_refused() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(UsageError, match="Branches cannot be exported"):
        int8.prepare(Branches(), sample=images(2), qat=False)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[compress\]'"):
        int8.prepare(network(), sample=images(2), qat=False)


def test_without_a_compiler_a_sentence_says_so() -> None:
    from torch._inductor import config

    before = inductor.why_no_compiler()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert "no C++ compiler works here" in inductor.why_no_compiler()
        with pytest.raises(UsageError, match="install g"):
            inductor.latency(network(), shape=(1, 8, 8))
    assert inductor.why_no_compiler() == before


@pytest.mark.slow
def test_compiled_networks_compute_the_same_with_int8_kernels() -> None:
    from torch._inductor.utils import run_and_get_code

    if why := inductor.why_no_compiler():
        pytest.skip(why)
    model, x = network(), images(1)
    fast = inductor.for_cpu(model, x)
    assert torch.allclose(fast(x), scores(model, x), atol=1e-4)
    converted = static(model)
    compiled, code = run_and_get_code(lambda: inductor.for_cpu(converted, x))
    assert "qconv" in "".join(code)
    exact = scores(converted, x)
    # sums in another order move some roundings by a step; CPUs without VNNI also saturate
    assert (compiled(x) - exact).abs().max() < 0.1 * exact.std()
    latency = inductor.latency(converted, shape=(1, 8, 8))
    assert latency.keys() == {"compiled_latency_ms", "compiled_latency_ms_sd"}
    assert latency["compiled_latency_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("qat", [False, True])
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mobilenet_v2", Int8Report(fused=52, quantized_ops=53, float_ops=0)),
        ("mobilenet_v3_small", Int8Report(fused=34, quantized_ops=54, float_ops=0)),
        ("resnet8", Int8Report(fused=9, quantized_ops=10, float_ops=0)),
        ("resnet18", Int8Report(fused=20, quantized_ops=21, float_ops=0)),
    ],
)
def test_networks_of_many_layers(name: str, counts: Int8Report, qat: bool) -> None:
    def build(seed: int) -> nn.Module:
        if name in registry.MODELS:
            return registry.build(name, shape=registry.Shape(num_classes=10), seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return getattr(torchvision.models, name)(num_classes=10)

    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build(0)
    prepared = int8.prepare(model, sample=x[:2], qat=qat)
    before = int8.ranges(prepared)
    if qat:
        nn.functional.cross_entropy(prepared(x), torch.arange(16) % 10).backward()
        torch.optim.SGD(prepared.parameters(), lr=0.01).step()
    else:
        assert int8.calibrate(prepared, [x]) == 16
    int8.assert_active(prepared, before)
    converted = int8.convert(prepared)
    assert int8.report(converted) == counts
    float_mb = profile.footprint(model)["size_mb"]
    assert int8.size_mb(converted) < 0.35 * float_mb
    restored = int8.restore(build(1), through_a_file(int8.state_of(converted)), sample=x[:2])
    assert torch.equal(scores(restored, x), scores(converted, x))
