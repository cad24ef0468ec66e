"""What int8 changes in exported graphs, whose layers are operators: batch normalisation, unread tensors.

Graphs for training with fake quantization have the form that torchao's `prepare_qat_pt2e` gives
them.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
NORMS = (aten.batch_norm.default,)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings of the libraries' own calls, and no random numbers drawn for their patterns."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def name_calls(graph: fx.GraphModule, model: nn.Module) -> None:
    """Which module of `model` each operator comes from, in the words that torchao groups them by.

    Export marks later calls in the key of a node's module stack (`relu@1`), but torchao groups
    nodes by the name beside it, and refuses a module with several outputs, such as a residual
    block's ReLU. Older torch, 2.11 too, does not look at the module stack at all, but at
    `source_fn_stack`.
    """
    for node in graph.graph.nodes:
        stack = dict(node.meta.get("nn_module_stack") or {})
        if not stack:
            continue
        key, (path, kind) = list(stack.items())[-1]
        _, marked, call = key.rpartition("@")
        name = f"{path}@{call}" if marked else path
        node.meta["nn_module_stack"] = {**stack, key: (name, kind)}
        if node.op == "call_function":
            node.meta["source_fn_stack"] = [(name, type(model.get_submodule(path)))]


def count_unfolded(graph: fx.GraphModule) -> int:
    """Batch normalisations that are neither gone nor, in training, behind a convolution's scaled weight."""
    norms = [node for node in graph.graph.nodes if node.target in NORMS]
    return sum(_convolution(node) is None for node in norms)


def _convolution(norm: Any) -> Any:
    """In a graph for training, the convolution whose output is divided and normalised; None without."""
    divided = norm.args[0]
    if divided.target is aten.add.Tensor:
        divided = divided.args[0]  # the convolution's bias
    scaled = isinstance(divided, fx.Node) and divided.target is aten.div.Tensor
    return divided.args[0] if scaled and divided.args[0].target is aten.conv2d.default else None


def own_normalisation(graph: fx.GraphModule, model: nn.Module) -> None:
    """Set the network's eps and momentum, for which torchao puts 1e-5 and 0.1; no count of batches.

    The count is not read where there is a momentum, and would change in evaluation too.
    """
    for node in list(graph.graph.nodes):
        if node.target in NORMS:
            norm = model.get_submodule(_path(node.args[3]).rpartition(".")[0])
            node.update_arg(6, norm.momentum)
            node.update_arg(7, norm.eps)
        elif node.target is aten.add.Tensor and _path(node.args[0]).endswith(".running_var"):
            norm = model.get_submodule(_path(node.args[0]).rpartition(".")[0])
            node.update_arg(1, norm.eps)  # in the scale of the weights that are rounded
        elif node.target is aten.add_.Tensor and _path(node.args[0]).endswith(
            ".num_batches_tracked"
        ):
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _path(node: Any) -> str:
    """Of the tensor that a node reads; "" for other nodes."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else ""


@torch.no_grad()
def fold(graph: fx.GraphModule) -> None:
    """Put trained batch normalisations into the convolutions before them.

    conv(x, round(w * s)) / s + bias, normalised, is conv(x, round(w * s)) + (bias - mean) * s +
    beta, where s = gamma / sqrt(var + eps). torchao's own way exports dozens of patterns to find
    them, for a minute, and takes eps to be 1e-5.
    """
    norms: list[Any] = [node for node in graph.graph.nodes if node.target in NORMS]
    for number, norm in enumerate(norms):
        conv, bias = _convolution(norm), torch.zeros(())
        if norm.args[0].target is aten.add.Tensor:
            bias = graph.get_parameter(_path(norm.args[0].args[1].args[0]))
        rounded = conv.args[1]  # the scaled weight, through its fake quantization
        scaled = rounded.args[0] if rounded.op == "call_module" else rounded
        weight = graph.get_parameter(_path(scaled.args[0]))
        gamma, beta = (graph.get_parameter(_path(node)) for node in norm.args[1:3])
        mean, var = (graph.get_buffer(_path(node)) for node in norm.args[3:5])
        scale = gamma / torch.sqrt(var + norm.args[7])
        new = {"weight": weight * scale.view(-1, 1, 1, 1), "bias": (bias - mean) * scale + beta}
        for name, value in new.items():
            graph.register_parameter(f"folded{number}_{name}", nn.Parameter(value))
        with graph.graph.inserting_before(scaled):
            scaled.replace_all_uses_with(graph.graph.get_attr(f"folded{number}_weight"))
        with graph.graph.inserting_before(conv):
            added = graph.graph.get_attr(f"folded{number}_bias")
        conv.args = (*conv.args[:2], added, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
    graph.graph.lint()
    graph.graph.eliminate_dead_code()
    graph.recompile()


def drop_unread(graph: fx.GraphModule) -> None:
    """Delete the float weights, and whatever else the graph no longer reads."""
    tensors = read_tensors(graph)
    for path in [name for name, _ in (*graph.named_parameters(), *graph.named_buffers())]:
        if path not in tensors:
            parent, _, name = path.rpartition(".")
            delattr(graph.get_submodule(parent), name)
    graph.delete_all_unused_submodules()
    graph.recompile()


def read_tensors(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Return the tensors that a graph reads, by path, each once."""
    tensors = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            parent, _, name = node.target.rpartition(".")
            value = getattr(graph.get_submodule(parent), name)
            if isinstance(value, Tensor):
                tensors[node.target] = value.detach()
    return tensors


def roundings(graph: fx.GraphModule) -> list[fx.Node]:
    """Nodes that round activations to or from int8; their second and third arguments are numbers."""
    operators = torch.ops.quantized_decomposed
    kinds = (operators.quantize_per_tensor.default, operators.dequantize_per_tensor.default)
    return [node for node in graph.graph.nodes if node.target in kinds]
