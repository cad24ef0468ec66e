"""Changes of a network that are not training. `TRANSFORMS` maps a name to a class.

Its options are the keyword arguments of the class, which a method may sample. A user's own is
`file.py:Class`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tune_kd.errors import UsageError, unknown
from tune_kd.plugins import is_reference, load_function


class NetworkTransform(Protocol):
    """What a class of TRANSFORMS, or a user's own, must be able to do."""

    def apply(self, model: nn.Module, *, sample: Tensor) -> nn.Module:
        """Return the changed network; `sample` is two images [2, C, H, W] on its device."""
        ...

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """Return a network with the shapes of `state`, which a changed network gave.

        `model` has the shapes of before; values do not matter. The state is loaded afterwards.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The last linear layer W [outputs, inputs] as two layers of rank `rank`: W = (U S) V.

    The truncated singular value decomposition, the best approximation of that rank (Eckart and
    Young 1936; for networks Denton et al. 2014, section 3.2). With the full rank the logits are the
    same up to rounding.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank >= 1 must hold, but got {self.rank!r}")

    @torch.no_grad()
    def apply(self, model: nn.Module, *, sample: Tensor) -> nn.Module:
        """Return the network with the layer replaced, in place; at most the layer's own rank is kept."""
        path, layer = _last_linear(model)
        u, sizes, vh = torch.linalg.svd(layer.weight.float(), full_matrices=False)
        rank = min(self.rank, len(sizes))
        first, second = _replace_layer(model, path, layer, rank=rank)
        first.weight.copy_(vh[:rank])
        second.weight.copy_(u[:, :rank] * sizes[:rank])
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
        return model

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network with two layers of the state's rank."""
        path, layer = _last_linear(model)
        _replace_layer(model, path, layer, rank=len(state[f"{path}.1.weight"]))
        return model


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    layers = [
        (path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear layer for low_rank to factorize")
    return layers[-1]


def _replace_layer(
    model: nn.Module, path: str, layer: nn.Linear, *, rank: int
) -> tuple[nn.Linear, nn.Linear]:
    """Put the layer's own dropout and two linear layers, not filled yet, in its place."""
    dropout = getattr(layer, "dropout", nn.Identity())
    has_bias = layer.bias is not None
    first = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False)
    second = nn.utils.skip_init(nn.Linear, rank, layer.out_features, bias=has_bias)
    pair = nn.Sequential(dropout, first, second).to(layer.weight.device)
    model.set_submodule(path, pair.train(layer.training))
    return first, second


TRANSFORMS: dict[str, Callable[..., NetworkTransform]] = {"low_rank": LowRank}


def find(
    name: str, options: Mapping[str, Any] | None = None, *, base: Path | None = None
) -> NetworkTransform:
    """Return the transform of that name: a key of TRANSFORMS, or `file.py:Class` in `base`, with its options.

    Raises:
        UsageError: no such transform, file, class or option, or a class that lacks a method.
    """
    if is_reference(name):
        make: Callable[..., Any] = load_function(name, base=base)
    elif name in TRANSFORMS:
        make = TRANSFORMS[name]
    else:
        raise unknown("transform", name, TRANSFORMS, where="file.py:Class or")
    try:
        instance = make(**dict(options or {}))
    except (TypeError, ValueError) as error:
        raise UsageError(f"transform {name} with {dict(options or {})}: {error}") from None
    for method in ("apply", "rebuild"):
        if not callable(getattr(instance, method, None)):
            raise UsageError(f"transform {name} has no method {method}(model, ...)")
    transform: NetworkTransform = instance
    return transform
