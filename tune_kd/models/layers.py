"""Dropout with a random stream of its own, the last layer that has it, and networks placed on a device."""

import functools

import torch
from torch import Tensor, nn

from tune_kd.errors import UsageError

# MobileNetV3's normalisation with PyTorch's momentum. With its own, 0.01, evaluation sees the images'
# mean and variance after some 500 steps only: until then a trial's validation says nothing of it.
norm_of_mobilenet_v3 = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)


NARROW = 16  # channels that fill a vector of AVX-512, 8 of AVX2


def place(model: nn.Module, device: torch.device, *, layout: str) -> nn.Module:
    """Return the network on the device, in the memory layout ("contiguous" or "channels_last").

    On a CPU strided 1x1 convolutions of few channels stay contiguous: oneDNN's backward pass in
    channels_last writes beyond its buffers where the channels do not fill a vector, as after
    pruning, and the process dies. Grey images are both layouts at once, so that the asked-for one
    says nothing.
    """
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model.to(device=device, memory_format=form)  # type: ignore[call-overload]
    for module in model.modules() if device.type == "cpu" else ():
        if isinstance(module, nn.Conv2d) and _dies(module):
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
            if _contiguous not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_contiguous)
    return model


def _dies(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.in_channels < NARROW


def _contiguous(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # not `contiguous`, which leaves a single channel's strides as they are
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in args)


class Dropout(nn.Module):
    """Dropout whose rate is a tensor and whose random numbers come from a generator of its own.

    The rate in [0, 1) is a 0-dim buffer outside the state dict, so that a captured step reads what
    a trial varies. The identity in evaluation mode and while not `active`. In training an active
    one needs its `generator` (on the input's device), which `set_dropout` gives it at each epoch.
    """

    rate: Tensor

    def __init__(self, rate: float = 0.0, *, fixed: bool = False) -> None:
        """Build it. `fixed`: the network's own rate, which `set_dropout` leaves as it is."""
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
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    if rate and not layers:
        raise UsageError(
            f"dropout {rate:g}: {type(model).__name__} has no dropout layer; use 0, or give it a `tune_kd.models.registry.Dropout`"
        )
    for module in layers:
        module.generator = generator
        if not module.fixed:
            assert 0 <= rate < 1, rate
            module.rate.fill_(rate)
            module.active = rate > 0
