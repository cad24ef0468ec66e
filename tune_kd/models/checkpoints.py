"""Weights of networks: read without unpickling, loaded strictly, hashed."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from tune_kd.errors import UsageError
from tune_kd.models.registry import Dropout
from tune_kd.recipe import bytes_hash


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU: safetensors, or a state dict saved by torch.save.

    Raises:
        UsageError: no such file, or not such a checkpoint (see `parse`).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    return parse(data, source=str(path))


def parse(data: bytes, *, source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's bytes; `source` names it in errors.

    A state dict may be nested under "state_dict" or "model". Nothing is unpickled but tensors
    (`weights_only=True`).

    Raises:
        UsageError: not such a checkpoint.
    """
    try:
        if data[8:9] == b"{":  # safetensors: 8 bytes of length, then JSON
            return load(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return unwrap(content, source=source)
    except UsageError:
        raise
    except Exception as error:  # torch raises many kinds for files that are not its own
        why = str(error).partition("\n")[0].partition(". ")[0][:120]  # its first sentence
        raise UsageError(
            f"{source} is not a checkpoint of tensors alone ({type(error).__name__}: {why});"
            "\nsave model.state_dict() with torch.save or with safetensors"
        ) from None


def header(data: bytes) -> dict[str, str]:
    """Return what a safetensors file says of itself beside its tensors; nothing of other files.

    >>> from safetensors.torch import save
    >>> header(save({"x": torch.zeros(1)}, metadata={"network": "resnet8"})), header(b"PK")
    ({'network': 'resnet8'}, {})
    """
    if data[8:9] != b"{":
        return {}
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except ValueError:  # a damaged file: `parse` says so
        return {}
    return dict(metadata)


def unwrap(state: object, *, source: str) -> dict[str, Tensor]:
    """Return a state dict freed of what training scripts wrap it in: "state_dict", "model", "module.".

    Raises:
        UsageError: not a mapping of names to tensors.
    """
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise UsageError(
            f"{source} is not a checkpoint: expected a state dict of names and tensors"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"{source} is not a checkpoint: '{name}' is {type(value).__name__}, not a tensor; save model.state_dict()"
            )
    for prefix in ("module.", "_orig_mod."):  # of DataParallel and torch.compile
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def checked_load(model: nn.Module, state: Mapping[str, Any], *, source: str) -> None:
    """Load a state dict, all of it or nothing; `source` names it in errors.

    Raises:
        UsageError: which keys or shapes differ, the first few of each kind.
    """
    tensors, expected = unwrap(state, source=source), model.state_dict()
    common_names = tensors.keys() & expected.keys()
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in common_names and tensors[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} {tensors[name].dtype} instead of {expected[name].dtype}"
        for name in expected
        if name in common_names
        and tensors[name].is_floating_point() != expected[name].is_floating_point()
    ]
    differences = {
        "missing": [name for name in expected if name not in common_names],
        "unexpected": [name for name in tensors if name not in common_names],
        "shape": shapes,
        "type": kinds,
    }
    problems = [f"{kind}: {_first(names)}" for kind, names in differences.items() if names]
    if problems:
        raise UsageError(
            f"{source} does not fit {type(model).__name__}; {'; '.join(problems)}"
            "\ngive a checkpoint of this architecture, or name the architecture that it belongs to"
        )
    model.load_state_dict(tensors)


def _first(names: list[str], count: int = 3) -> str:
    excess = len(names) - count
    return ", ".join(names[:count]) + (f" and {excess} more" if excess > 0 else "")


def tensor_hash(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers: names, shapes, types, bytes; device and layout do not matter.

    Dropout's rate is left out: it is no part of what a network has learned.
    """
    return bytes_hash(_tensor_bytes(model))


def _tensor_bytes(model: nn.Module) -> Iterator[bytes | memoryview]:
    rates = {id(module.rate) for module in model.modules() if isinstance(module, Dropout)}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) in rates:
            continue
        value = tensor.detach().cpu().contiguous()
        yield f"{name} {list(value.shape)} {value.dtype};".encode()
        yield value.reshape(-1).view(torch.uint8).numpy().data
