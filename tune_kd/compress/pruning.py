"""Pruning, in place: whole channels out of the network, or the smallest weights set to zero.

Channels are removed by torch-pruning (Fang et al. 2023, "DepGraph"), which finds the layers that
must lose the same ones; it comes with `pip install -e '.[compress]'`. A network without them has
other shapes: `reshape` gives those of a checkpoint to a fresh one.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from tune_kd.errors import UsageError
from tune_kd.recipe import Prune

PACKAGES = ("torch_pruning", "torchao")  # of the extra `compress`

Norm = nn.modules.batchnorm._BatchNorm


def prune(model: nn.Module, stage: Prune, *, sample: Tensor) -> None:
    """Take the share `stage.ratio` out of a network, in place; the same network loses the same.

    "channel": of the output channels of each layer, those with the smallest L2 norm over all
    weights that belong to them; round(ratio * channels) of those that are there, at least one
    stays. The class scores stay. Parameters are new objects afterwards: an optimizer is made after
    it, not before. "magnitude": of all convolution and linear weights together that are not zero
    yet, the round(ratio * count) smallest become exactly 0; so 0.5 twice leaves a quarter. Biases
    and normalisation stay.

    Args:
        model: the network; its modes and which of its parameters take gradients stay.
        stage: method and ratio.
        sample: images [B, C, H, W] on the network's device; only their shape matters.

    Raises:
        UsageError: torch-pruning is missing, or cannot follow this network.
    """
    if stage.method == "magnitude":
        _prune_weights(model, stage.ratio)
    else:
        with _as_before(model):
            _prune_channels(model, stage.ratio, sample)


@torch.no_grad()
def _prune_weights(model: nn.Module, ratio: float) -> None:
    weights = _weights(model)
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    nonzero = sizes.nonzero().squeeze(1)
    order = sizes[nonzero].argsort(stable=True)  # of equal ones the first go
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[nonzero[order[: round(ratio * len(nonzero))]]] = True
    parts = mask.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.masked_fill_(part.view(weight.shape), 0.0)


def _prune_channels(model: nn.Module, ratio: float, sample: Tensor) -> None:
    pruning = _torch_pruning()
    scores, head = _classifier(model, sample)
    widths = {m: _outputs(m) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    # The library keeps int(width * (1 - share)), in floating point, and spares a layer that would
    # lose all; these shares, half a channel off an edge, have it keep what the docstring says.
    sizes = {layer: max(1, width - round(ratio * width)) for layer, width in widths.items()}
    shares = {layer: 1 - (sizes[layer] + 0.5) / width for layer, width in widths.items()}
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the library follows gradients
    try:
        with torch.enable_grad():
            pruner = pruning.pruner.MagnitudePruner(
                model,
                sample,
                importance=pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio_dict={layer: max(share, 0.0) for layer, share in shares.items()},
                ignored_layers=[head],
            )
            pruner.step()
        with torch.no_grad():
            assert model(sample).shape == scores.shape
    except Exception as error:  # the library raises whatever its own code meets
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:120]
        raise UsageError(
            f"the channels of {type(model).__name__} cannot be pruned ({why});"
            "\nuse Prune(method='magnitude') for this network"
        ) from error


def _classifier(model: nn.Module, sample: Tensor) -> tuple[Tensor, nn.Module]:
    """Return the scores of the sample, and the layer that gives them: the last one as wide as there are classes."""
    called: list[nn.Module] = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [m.register_forward_hook(lambda m, *_: called.append(m)) for m in layers]
    try:
        with torch.no_grad():
            scores = model.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(scores, Tensor):
        raise UsageError(
            f"{type(model).__name__} gives {type(scores).__name__}; pruning wants a network that "
            "gives one tensor of scores"
        )
    heads = [layer for layer in called if _outputs(layer) == scores.shape[1]]
    if not heads:
        raise UsageError(
            f"{type(model).__name__}: no convolution or linear layer gives the {scores.shape[1]} "
            "class scores"
        )
    return scores, heads[-1]


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    return int(layer.out_features)  # type: ignore[arg-type]


@contextlib.contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Modes, the taking of gradients and the memory layout by name, as they were before the block."""
    modes = {module: module.training for module in model.modules()}
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    last = {name for name, p in model.named_parameters() if _channels_last(p)}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(gradients[name])
            if name in last:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _channels_last(tensor: Tensor) -> bool:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError:
        raise UsageError(
            "pruning channels needs torch-pruning: pip install -e '.[compress]', or use "
            "Prune(method='magnitude')"
        ) from None
    module: ModuleType = torch_pruning
    return module


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of convolutions and linear layers, each once.

    Where layers have become operators of an exported graph: its parameters of two and more
    dimensions.
    """
    weights: dict[int, Any] = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
    }
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            weights |= {id(p): p for p in module.parameters() if p.dim() >= 2}
    return list(weights.values())


def keep_zeros(model: nn.Module) -> Callable[[], None]:
    """Return a function that sets the convolution and linear weights that are zero now to zero again, in place.

    It is called after each step of the optimizer: their gradients, and momentum from before, move
    them. It holds on to the parameters of now, on their device; after `prune` of channels make
    another.

    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 2.0]]))
    >>> mask_weights = keep_zeros(layer)
    >>> _ = layer.weight.data.add_(1.0)
    >>> mask_weights()
    >>> layer.weight.tolist()
    [[0.0, 3.0]]
    """
    zeros = [(weight, weight.detach() == 0) for weight in _weights(model)]
    zeros = [(weight, zero) for weight, zero in zeros if bool(zero.any())]

    @torch.no_grad()
    def mask_weights() -> None:
        for weight, zero in zeros:
            weight.masked_fill_(zero, 0.0)

    return mask_weights


def nonzero_params(model: nn.Module) -> int:
    """How many numbers of all parameters, biases and normalisation too, are not exactly zero."""
    return sum(int(p.detach().count_nonzero()) for p in model.parameters())


def reshape(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a fresh network the shapes of a channel-pruned checkpoint, so that it can be loaded strictly.

    Convolutions (a depthwise one stays depthwise, a grouped one keeps its groups), linear layers
    and normalisations get tensors of those shapes, whose values are for `load_state_dict` to fill
    in.

    Raises:
        UsageError: another network's checkpoint: keys, ranks or kernels differ, or something is
            wider. The network is then as it was.
    """
    model_state = model.state_dict()
    wrong = [f"no '{name}'" for name in model_state if name not in state]
    wrong += [f"unexpected '{name}'" for name in state if name not in model_state]
    wrong += [
        f"'{name}' {list(state[name].shape)} from {list(model_state[name].shape)}"
        for name in model_state
        if name in state and not _is_narrower(state[name], model_state[name])
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UsageError(
            f"the checkpoint is not a pruned {type(model).__name__}: {', '.join(wrong[:3])}{more}"
            "\ngive the checkpoint of this architecture, or name the architecture that it belongs "
            "to"
        )
    changes: list[tuple[nn.Module, dict[str, Any]]] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        tensors = {n: t for n, t in _own_tensors(module) if prefix + n in model_state}
        shapes = {n: state[prefix + n].shape for n in tensors}
        resized = {n: shape for n, shape in shapes.items() if shape != tensors[n].shape}
        if resized:
            new = {n: _new_tensor(tensors[n], shape) for n, shape in resized.items()}
            changes.append((module, new | _settings(module, resized, path)))
    for module, new in changes:
        for name, value in new.items():
            setattr(module, name, value)


def _is_narrower(tensor: Tensor, original: Tensor) -> bool:
    """Whether pruning can have made the shape: only the first two dimensions, and only smaller."""
    if tensor.dim() != original.dim() or tensor.shape[2:] != original.shape[2:]:
        return False
    return all(0 < g <= o for g, o in zip(tensor.shape[:2], original.shape[:2], strict=True))


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _new_tensor(tensor: Tensor, shape: torch.Size) -> Tensor:
    new = tensor.detach().new_empty(shape)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _settings(module: nn.Module, shapes: Mapping[str, torch.Size], path: str) -> dict[str, Any]:
    """Return the attributes that repeat what the new shapes say."""
    weight = shapes.get("weight")
    if isinstance(module, nn.Conv2d) and weight:
        outputs, inputs = weight[:2]
        if module.groups == module.in_channels == module.out_channels and inputs == 1:
            return {"out_channels": outputs, "in_channels": outputs, "groups": outputs}
        if outputs % module.groups == 0:
            return {"out_channels": outputs, "in_channels": inputs * module.groups}
    elif isinstance(module, nn.Linear) and weight:
        return {"out_features": weight[0], "in_features": weight[1]}
    elif isinstance(module, Norm):
        return {"num_features": next(iter(shapes.values()))[0]}
    elif isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and weight:
        return {"normalized_shape": tuple(weight)}
    elif isinstance(module, nn.GroupNorm) and weight and weight[0] % module.num_groups == 0:
        return {"num_channels": weight[0]}
    raise UsageError(
        f"the checkpoint's {type(module).__name__} '{path}' cannot have been pruned to "
        f"{list(next(iter(shapes.values())))}"
    )


def is_pruned(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state is of this network with channels left out: the same names, something narrower."""
    model_state = model.state_dict()
    if model_state.keys() != state.keys() or any(
        not _is_narrower(state[k], model_state[k]) for k in model_state
    ):
        return False
    return any(state[name].shape != model_state[name].shape for name in model_state)


def check_installed(space: str) -> None:
    """Whether what compresses networks is installed; UsageError says what to type."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"space {space} prunes or quantizes, which needs {' and '.join(missing)}; "
            "type: pip install -e '.[compress]'"
        )
