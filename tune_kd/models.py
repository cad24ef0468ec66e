"""Networks by name for small images, their named feature taps, dropout with its own random stream, and weights.

A network's weights are a function of its seed. Its state-dict keys are torchvision's where torchvision
has the network. `taps` names the modules whose outputs are its features: "low", "mid" and "high" are
the last three stages, "pooled" the vector before the classifier.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from tune_kd.errors import UsageError, unknown
from tune_kd.plugins import is_reference, load_function
from tune_kd.recipe import stream


class Dropout(nn.Module):
    """Dropout whose rate is a tensor and whose random numbers come from a generator of its own.

    The rate in [0, 1) is a 0-dim buffer outside the state dict, so that a captured step reads what a
    trial varies. The identity in evaluation mode and while not `active`. In training an active one
    needs its `generator` (on the input's device), which `set_dropout` gives it at each epoch.
    """

    rate: Tensor

    def __init__(self, rate: float = 0.0, *, fixed: bool = False) -> None:
        """`fixed`: the network's own rate, which `set_dropout` leaves as it is."""
        super().__init__()
        assert 0 <= rate < 1, rate
        self.register_buffer("rate", torch.tensor(float(rate)), persistent=False)
        self.active = rate > 0  # a Python value: reading the tensor would wait for the device
        self.fixed = fixed
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Each number is zero with probability `rate`, else divided by 1 - rate."""
        if not (self.training and self.active):
            return x
        assert self.generator is not None, "set_dropout gives the generator before training"
        draw = torch.rand(x.shape, generator=self.generator, device=x.device)
        return x * ((draw >= self.rate) / (1.0 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"rate={self.rate.item():g}"


class Classifier(nn.Linear):
    """The last layer, [B, C] to [B, num_classes], with dropout before it; its keys are those of Linear."""

    def __init__(self, in_features: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(in_features, num_classes)
        self.dropout = Dropout(dropout)

    def forward(self, input: Tensor) -> Tensor:
        """Scores [B, num_classes]."""
        return super().forward(self.dropout(input))


def set_dropout(model: nn.Module, rate: float, *, generator: torch.Generator | None) -> None:
    """Give every `Dropout` its generator, and those that are not fixed their rate in [0, 1).

    Raises:
        UsageError: a rate above 0 for a network without any dropout.
    """
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    if rate and not found:
        raise UsageError(
            f"dropout {rate:g}: {type(model).__name__} has no dropout layer; use 0, or give it a `tune_kd.models.Dropout`"
        )
    for module in found:
        module.generator = generator
        if not module.fixed:
            assert 0 <= rate < 1, rate
            module.rate.fill_(rate)
            module.active = rate > 0


class SmallImageResNet(ResNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's ResNet of basic blocks, widths 64-128-256-512, for small images.

    The stem is a 3x3 convolution of stride 1 without pooling: torchvision's own, meant for 224 pixels,
    leaves one pixel of 32. He et al. 2016, table 1, with the stem of its section 4.2.
    """

    def __init__(
        self, layers: Sequence[int], *, num_classes: int, channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__(BasicBlock, list(layers), num_classes=num_classes)
        self.conv1 = _conv3x3(channels, 64)
        self.maxpool = nn.Identity()
        self.fc = Classifier(512, num_classes, dropout=dropout)
        self.taps = {
            "lowest": "layer1",
            "low": "layer2",
            "mid": "layer3",
            "high": "layer4",
            "pooled": "avgpool",
        }


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2: a ResNet of 6n+2 layers, n blocks for each of the widths 16, 32 and 64.

    The shortcuts that change the width are 1x1 convolutions, as distillation's references have them
    (ResNet-8: 78,042 parameters at 10 classes), not the paper's parameter-free ones.
    """

    def __init__(
        self, depth: int, *, num_classes: int, channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        assert (blocks >= 1, rest) == (True, 0), depth
        self.conv1 = _conv3x3(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks=blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks=blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks=blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = Classifier(64, num_classes, dropout=dropout)
        self.taps = {"low": "layer1", "mid": "layer2", "high": "layer3", "pooled": "avgpool"}
        _he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch normalisation, at full, half and quarter size: for 8x8 digits."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        *,
        num_classes: int,
        channels: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        low, mid, high = widths
        self.stage1 = _convolution(channels, low, stride=1)
        self.stage2 = _convolution(low, mid, stride=2)
        self.stage3 = _convolution(mid, high, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = Classifier(high, num_classes, dropout=dropout)
        self.taps = {"low": "stage1", "mid": "stage2", "high": "stage3", "pooled": "avgpool"}
        _he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        x = self.stage3(self.stage2(self.stage1(x)))
        scores: Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


def _conv3x3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (stride 1), initialised as in He et al. 2015."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    conv = _conv3x3(inputs, outputs, stride=stride)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Basic blocks; the first one changes width and size, with a 1x1 convolution as its shortcut."""
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def _he_normal(model: nn.Module) -> None:
    """He et al. 2015: normal with variance 2 / fan_out, in all convolutions, as torchvision does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


Builder = Callable[..., nn.Module]  # called with num_classes=, channels= and dropout=

MODELS: dict[str, Builder] = {
    "resnet18": functools.partial(SmallImageResNet, (2, 2, 2, 2)),  # 11,173,962 at 10 classes
    "resnet8_wide": functools.partial(SmallImageResNet, (1, 1, 1, 1)),  # 4,903,242
    "resnet8": functools.partial(CifarResNet, 8),  # 78,042
    "resnet20": functools.partial(CifarResNet, 20),
    "resnet32": functools.partial(CifarResNet, 32),
    "resnet56": functools.partial(CifarResNet, 56),
    "resnet110": functools.partial(CifarResNet, 110),
    "digits_teacher": functools.partial(SmallCNN, (32, 64, 64)),  # 56,554; about 99 % on digits
    "digits_student": functools.partial(SmallCNN, (4, 8, 8)),  # 1,030; 94 to 98 %
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network is built for: how many classes, and its images' channels."""

    num_classes: int
    channels: int = 3


def build(
    name: str,
    *,
    shape: Shape,
    dropout: float = 0.0,
    seed: int = 0,
    base: Path | None = None,
) -> nn.Module:
    """The network of that name, its weights a function of `seed`; the global generators are left alone.

    A user's `file.py:function` (looked for in `base`) is called with num_classes=, channels= and, if
    it takes it, dropout=. Its attribute `taps` (level to module path) is needed for feature methods
    only. Its `nn.Dropout` layers become `Dropout` of the same rate, so that its random numbers are ours.

    Raises:
        UsageError: no such network, file or function; a function that cannot be called so, that returns
            no module, or that takes no dropout where dropout > 0 is asked for.
    """
    arguments: dict[str, Any] = {"num_classes": shape.num_classes, "channels": shape.channels}
    if is_reference(name):
        function: Builder = load_function(name, base=base)
        arguments |= _user_arguments(function, name, arguments, dropout)
    elif name in MODELS:
        function = MODELS[name]
        arguments["dropout"] = dropout
    else:
        raise unknown("network", name, MODELS, where="file.py:function or")
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would seed the accelerators' generators as well
        torch.default_generator.manual_seed(stream(seed, "weights"))
        model = function(**arguments)
    return _checked(model, name)


def _user_arguments(
    function: Builder, name: str, arguments: Mapping[str, Any], dropout: float
) -> dict[str, Any]:
    """{"dropout": rate} if the function takes it; UsageError where it cannot be called."""
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    takes_dropout = takes_any or "dropout" in signature.parameters
    if dropout and not takes_dropout:
        raise UsageError(
            f"'{name}' takes no dropout=, but dropout {dropout:g} is asked for; add the argument or --set dropout=0"
        )
    extra = {"dropout": dropout} if takes_dropout else {}
    try:
        signature.bind(**arguments, **extra)
    except TypeError as error:
        given = ", ".join(f"{k}={v}" for k, v in {**arguments, **extra}.items())
        raise UsageError(f"'{name}' is called with ({given}): {error}") from None
    return extra


def _checked(model: object, name: str) -> nn.Module:
    """The module that a builder returned, with taps and with dropout of our own."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"'{name}' returned {type(model).__name__}; expected a torch.nn.Module")
    taps = getattr(model, "taps", {})
    if not isinstance(taps, Mapping):
        raise UsageError(
            f"'{name}': taps is {type(taps).__name__}; expected for example {{'high': 'layer3'}}"
        )
    for parent in list(model.modules()):
        for key, child in parent.named_children():
            if type(child) is nn.Dropout and child.p < 1:
                parent._modules[key] = Dropout(child.p, fixed=True)
    return model


class Taps:
    """Collects the outputs of a network's named modules: `features` is by level, of the last forward.

    >>> model = build("digits_student", shape=Shape(num_classes=10, channels=1))
    >>> with Taps(model, ["high"]) as taps:
    ...     scores = model(torch.zeros(2, 1, 8, 8))
    >>> {level: tuple(map_.shape) for level, map_ in taps.features.items()}
    {'high': (2, 8, 2, 2)}
    """

    def __init__(self, model: nn.Module, levels: Sequence[str]) -> None:
        """Hooks are on from here until `remove`, or the end of a `with` block.

        Raises:
            UsageError: a level that the network does not have, or a path that names no module.
        """
        self.features: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        modules = {level: _tapped(model, level) for level in levels}
        self._hooks.append(model.register_forward_pre_hook(self._clear))
        for level, module in modules.items():
            hook = functools.partial(self._keep, level)
            self._hooks.append(module.register_forward_hook(hook))

    def _clear(self, module: nn.Module, args: Any) -> None:
        self.features = {}

    def _keep(self, level: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise UsageError(
                f"level '{level}': its module gives {type(output).__name__}; tap one that gives a tensor"
            )
        self.features[level] = output

    def remove(self) -> None:
        """Takes the hooks off; `features` stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _tapped(model: nn.Module, level: str) -> nn.Module:
    taps: Mapping[str, str] = getattr(model, "taps", {})
    if not taps:
        raise UsageError(
            f"{type(model).__name__} has no taps for level '{level}'; give it e.g. self.taps = {{'{level}': 'layer3'}}"
        )
    if level not in taps:
        raise unknown("level", level, taps, where=f"{type(model).__name__} has")
    try:
        return model.get_submodule(taps[level])
    except AttributeError:
        raise UsageError(
            f"level '{level}' of {type(model).__name__}: there is no module '{taps[level]}'"
        ) from None
