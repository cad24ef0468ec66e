"""Networks by name, with weights that are a function of a seed.

What networks there are stands in `networks` (scores of an image) and `segmentation` (of every
pixel).
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tune_kd.errors import UsageError, unknown
from tune_kd.models import classification, segmentation
from tune_kd.models.classification import CifarResNet, SmallCNN, SmallImageResNet, SmallViT
from tune_kd.models.layers import Classifier as Classifier  # these two for users' own networks
from tune_kd.models.layers import Dropout as Dropout
from tune_kd.models.layers import set_dropout as set_dropout
from tune_kd.plugins import is_reference, load_function
from tune_kd.recipe import stream

Builder = Callable[..., nn.Module]  # called with num_classes=, channels= and dropout=

_X4 = (32, 64, 128, 256)  # widths
MODELS: dict[str, Builder] = {
    "resnet18": functools.partial(SmallImageResNet, (2, 2, 2, 2)),  # 11,173,962 at 10 classes
    "resnet34": functools.partial(SmallImageResNet, (3, 4, 6, 3)),  # 21,282,122
    "resnet50": functools.partial(SmallImageResNet, (3, 4, 6, 3), bottleneck=True),  # 23,520,842
    "resnet152": functools.partial(SmallImageResNet, (3, 8, 36, 3), bottleneck=True),  # 58,156,618
    "resnet8_wide": functools.partial(SmallImageResNet, (1, 1, 1, 1)),  # 4,903,242
    "resnet8": functools.partial(CifarResNet, 8),  # 78,042
    "resnet20": functools.partial(CifarResNet, 20),
    "resnet32": functools.partial(CifarResNet, 32),
    "resnet56": functools.partial(CifarResNet, 56),
    "resnet110": functools.partial(CifarResNet, 110),
    "resnet8x4": functools.partial(CifarResNet, 8, widths=_X4),
    "resnet32x4": functools.partial(CifarResNet, 32, widths=_X4),
    "vit_tiny": functools.partial(SmallViT, 12),  # 5,362,762 at 32 pixels
    "vit_tiny_6": functools.partial(SmallViT, 6),  # 2,693,578
    "mobilenet_v2": classification.small_mobilenet_v2,  # 2,236,682
    "mobilenet_v3_small": classification.small_mobilenet_v3,
    "digits_teacher": functools.partial(SmallCNN, (32, 64, 64)),  # 56,554; about 99 % on digits
    "digits_student": functools.partial(SmallCNN, (4, 8, 8)),  # 1,030; 94 to 98 %
    "digits_medium": functools.partial(SmallCNN, (8, 16, 32)),  # 6,274; to be pruned
    # of every pixel
    "fcn_resnet50": segmentation.fcn_resnet50,
    "lraspp_mobilenet_v3_large": segmentation.lraspp_mobilenet_v3_large,
    "lraspp_mobilenet_v3_small": segmentation.lraspp_mobilenet_v3_small,
    "aspp_mobilenet_v3_small": segmentation.aspp_mobilenet_v3_small,
}
# torchvision's names of the networks whose ImageNet weights ours can begin with
IMAGENET = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet152": "resnet152",
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_small": "mobilenet_v3_small",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network is built for: how many classes, and its images' channels and sides."""

    num_classes: int
    channels: int = 3
    size: tuple[int, int] = (32, 32)


def build(
    name: str,
    *,
    shape: Shape,
    dropout: float = 0.0,
    seed: int = 0,
    base: Path | None = None,
) -> nn.Module:
    """Return the network of that name, its weights a function of `seed`; the global generators are left alone.

    A user's `file.py:function` (looked for in `base`) is called with num_classes=, channels= and,
    if it takes them, dropout= and size= (height, width). Its attribute `taps` (level to module
    path) is needed for feature methods only. Its `nn.Dropout` layers become `Dropout`, so that
    their random numbers are ours: those with the rate `dropout` get each stage's, others keep their
    own.

    Raises:
        UsageError: no such network, file or function; a function that cannot be called so, that
            returns no module, or that takes no dropout where dropout > 0 is asked for.
    """
    arguments: dict[str, Any] = {"num_classes": shape.num_classes, "channels": shape.channels}
    if is_reference(name):
        function: Builder = load_function(name, base=base)
        arguments |= _user_arguments(function, name, arguments, shape=shape, dropout=dropout)
    elif name in MODELS:
        function = MODELS[name]
        arguments["dropout"] = dropout
        if "size" in inspect.signature(function).parameters:
            arguments["size"] = shape.size
    else:
        raise unknown("network", name, MODELS, where="file.py:function or")
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would seed the accelerators' generators as well
        torch.default_generator.manual_seed(stream(seed, "weights"))
        model = function(**arguments)
    return _check_model(model, name, dropout=dropout)


def _user_arguments(
    function: Builder, name: str, arguments: Mapping[str, Any], *, shape: Shape, dropout: float
) -> dict[str, Any]:
    """dropout= and size= if the function takes them; UsageError where it cannot be called."""
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    takes_dropout = takes_any or "dropout" in signature.parameters
    if dropout and not takes_dropout:
        raise UsageError(
            f"'{name}' takes no dropout=, but dropout {dropout:g} is asked for; add the argument or --set dropout=0"
        )
    extra: dict[str, Any] = {"dropout": dropout} if takes_dropout else {}
    if "size" in signature.parameters:
        extra["size"] = shape.size
    try:
        signature.bind(**arguments, **extra)
    except TypeError as error:
        call = ", ".join(f"{k}={v}" for k, v in {**arguments, **extra}.items())
        raise UsageError(f"'{name}' is called with ({call}): {error}") from None
    return extra


def _check_model(model: object, name: str, *, dropout: float) -> nn.Module:
    """Return the module that a builder returned, with taps and with dropout of our own."""
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
                follows = (
                    is_reference(name) and child.p == dropout
                )  # ours that follow are `Dropout`
                parent._modules[key] = Dropout(child.p, fixed=not follows)
    return model


def check_imagenet(name: str) -> None:
    """Raise UsageError where a network has no ImageNet weights."""
    if name not in IMAGENET:
        raise unknown("network with ImageNet weights", name, IMAGENET)


def load_imagenet(model: nn.Module, name: str) -> None:
    """Torchvision's ImageNet weights into a network of MODELS, but for its stem and its classifier.

    Those two have other shapes for small images and other classes, and keep their fresh weights.
    Once downloaded they are read from torch's hub folder; nothing but tensors is unpickled.

    Raises:
        UsageError: a network without such weights, or weights that cannot be had.
    """
    import torchvision.models

    check_imagenet(name)
    weights = torchvision.models.get_model_weights(IMAGENET[name]).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, weights_only=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UsageError(
            f"ImageNet weights of {name} cannot be downloaded ({error}); put {Path(weights.url).name} "
            f"into {folder}, or --set teacher.initial=none"
        ) from None
    fresh = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in fresh and v.shape == fresh[k].shape}
    layers = sorted({k.rpartition(".")[0] for k in fresh.keys() - fitting.keys()})
    assert len(layers) <= 4, f"ImageNet weights of {name} do not fit: {layers}"
    model.load_state_dict(fitting, strict=False)
