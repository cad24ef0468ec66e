"""Networks in int8 for x86 CPUs: quantized after training or trained so, kept as flat tensors.

torchao's PT2E with its X86 Inductor quantizer: activations uint8 per tensor, weights int8 per
output channel, convolutions with the normalisation after them folded in. `prepare`, then
`calibrate` or train, then `convert`: a graph that computes in float32 between rounding to and from
int8, on any CPU. int8 kernels come with `compiled.for_cpu`. Jacob et al. 2018 describes both ways.
torchao comes with `pip install -e '.[compress]'`.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import TypeIs

from tune_kd.compress import fx_passes
from tune_kd.errors import UsageError
from tune_kd.models import registry

aten = torch.ops.aten
MULTIPLIERS = (aten.conv2d.default, aten.linear.default)  # the operators that int8 is for
ACTIVATIONS, TRAINED = (
    "int8.activations",
    "int8.trained",
)  # keys of a state, beside those of the graph


class Prepared(nn.Module):
    """A network with observers, or with fake quantization (`trained`), at each tensor that will be int8.

    Training and evaluation mode are those of batch normalisation, and of the observers: they look
    at what is trained on, never at what is evaluated. One that is only calibrated stays in
    evaluation mode; its observers look at all that it sees.
    """

    def __init__(self, graph: fx.GraphModule, *, trained: bool, norms: int) -> None:
        super().__init__()
        self.graph, self.trained, self.norms = graph, trained, norms
        self.register_state_dict_post_hook(_copy_shared)  # type: ignore[no-untyped-call]
        self.train(trained)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W], of the sample's size, to the network's scores."""
        scores: Tensor = self.graph(x)
        return scores

    def train(self, mode: bool = True) -> "Prepared":
        """Training mode where it is trained; without effect where it is calibrated."""
        mode = mode and self.trained
        for module in self.modules():
            module.training = mode
        if self.trained:
            # Not torchao's own switch: it replaces the network's eps and momentum by 1e-5 and 0.1.
            for node in self.graph.graph.nodes:
                if node.target in fx_passes.NORMS:
                    node.update_arg(5, mode)
            self.graph.recompile()
            for observer in observers(self).values():
                observer.observer_enabled.fill_(mode)
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module, also from a flat file.

        Without the versions in a state dict's metadata torchao's observers put a default in place
        of what they were made with.
        """
        state = OrderedDict(state_dict)
        state._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]
        return super().load_state_dict(state, strict=strict, assign=assign)


def _copy_shared(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Observers that several places share have several names; a file wants tensors of their own."""
    pointers: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in pointers:
            state[name] = tensor.clone()
        elif tensor.numel():
            pointers.add(tensor.data_ptr())


class Converted(nn.Module):
    """An int8 network: its graph, which holds the tensors that it reads and no others.

    Always in evaluation mode; `train` is without effect.
    """

    def __init__(self, graph: fx.GraphModule, *, trained: bool, norms: int) -> None:
        super().__init__()
        self.graph, self.trained, self.norms = graph, trained, norms
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W], of the sample's size, to scores in float32."""
        scores: Tensor = self.graph(x)
        return scores

    def train(self, mode: bool = True) -> "Converted":
        """Without effect."""
        for module in self.modules():
            module.training = False
        return self


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What became of a network's operators."""

    fused: int  # batch normalisations folded into the convolution before them
    quantized_ops: int  # convolutions and linear layers whose input and weight are int8
    float_ops: int  # those that are not


def prepare(model: nn.Module, *, sample: Tensor, qat: bool) -> Prepared:
    """Return a copy of the network, on the CPU, with observers, or for training with fake quantization (`qat`).

    The network's own dropout is left out; it is otherwise exported as it is, so what its Python
    code decides, it decides now. Any batch size of 1 and more (2 and more in training) can follow.

    Args:
        model: the float network; it stays as it is.
        sample: images [B, C, H, W], B >= 2; only their shape matters.
        qat: trained with fake quantization, rather than calibrated.

    Raises:
        UsageError: torchao is missing, or the network cannot be exported.
    """
    x86, quantize = _torchao()
    copied = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    copied = _without_dropout(copied).train(qat)
    batches = ({0: torch.export.Dim.DYNAMIC},)
    try:
        with fx_passes.silence():
            program = torch.export.export(copied, (sample.cpu(),), dynamic_shapes=batches)
    except Exception as error:  # export raises many kinds
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise UsageError(
            f"{type(model).__name__} cannot be exported for int8 ({why});"
            "\nits forward may not branch on values, and wants a sample of two images or more"
        ) from error
    graph = program.module(check_guards=False)
    fx_passes.name_calls(graph, copied)
    norms = sum(node.target in fx_passes.NORMS for node in graph.graph.nodes)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=qat))
    with fx_passes.silence():
        if qat:
            graph = quantize.prepare_qat_pt2e(graph, quantizer)
            fx_passes.own_normalisation(graph, copied)
        else:
            graph = quantize.prepare_pt2e(graph, quantizer)
    num_unfolded = fx_passes.count_unfolded(graph)
    if num_unfolded:
        raise UsageError(
            f"{type(model).__name__}: {num_unfolded} of {norms} batch normalisations do not follow "
            "a convolution, so that int8 cannot fold them into one; leave out the stage that "
            "quantizes"
        )
    return Prepared(graph, trained=qat, norms=norms)


def _without_dropout(model: nn.Module) -> nn.Module:
    """Dropout taken out, and our `Classifier` a linear layer: the quantizer looks for that very class."""
    kinds = (registry.Dropout, nn.modules.dropout._DropoutNd)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, registry.Classifier):
                linear = nn.utils.skip_init(nn.Linear, child.in_features, child.out_features)
                linear.weight, linear.bias = child.weight, child.bias
                parent._modules[name] = linear
            elif isinstance(child, kinds):
                parent._modules[name] = nn.Identity()
    return model


@torch.no_grad()
def calibrate(prepared: Prepared, batches: Iterable[Tensor]) -> int:
    """Show the observers batches [B, C, H, W]; the number of images that they saw."""
    assert not prepared.trained, "one that is trained sees its images in training"
    num_images = 0
    for batch in batches:
        prepared(batch)
        num_images += len(batch)
    return num_images


def observers(prepared: nn.Module) -> dict[str, Any]:
    """Observers, or modules of fake quantization, by name."""
    _torchao()
    from torchao.quantization.pt2e import FakeQuantizeBase, ObserverBase

    modules = dict(prepared.named_modules())
    fake_quantizers = {n: m for n, m in modules.items() if isinstance(m, FakeQuantizeBase)}
    return fake_quantizers or {n: m for n, m in modules.items() if isinstance(m, ObserverBase)}


def ranges(prepared: nn.Module) -> dict[str, Tensor]:
    """Return what each observer has seen, copied: its smallest and largest values, one row or one a channel."""
    extremes = {}
    for name, module in observers(prepared).items():
        observer = getattr(module, "activation_post_process", module)
        ends = [observer.min_val.flatten(), observer.max_val.flatten()]
        extremes[name] = torch.stack(ends).clone()
    return extremes


def weights(prepared: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, copied."""
    return {name: p.detach().clone() for name, p in prepared.named_parameters()}


def assert_active(
    prepared: Prepared,
    before: Mapping[str, Tensor],
    *,
    untrained: Mapping[str, Tensor] | None = None,
) -> int:
    """How many observers there are, if all looked at images, fake quantization was on and weights moved.

    `before` is what `ranges` gave right after `prepare`, `untrained` what `weights` gave then
    (None: of weights nothing is asked).

    Raises:
        ValueError: which did not.
    """
    now = ranges(prepared)
    if not now:
        raise ValueError("nothing is quantized: the network has no observers")
    still = [name for name, extremes in now.items() if torch.equal(extremes, before[name])]
    blind = [name for name, extremes in now.items() if not bool(torch.isfinite(extremes).all())]
    if still or blind:
        first = (still or blind)[0]
        raise ValueError(
            f"{len({*still, *blind})} of {len(now)} observers have seen no images, for example "
            f"{first}"
        )
    quantizers = observers(prepared) if prepared.trained else {}
    off = [name for name, module in quantizers.items() if not bool(module.fake_quant_enabled)]
    if off:
        raise ValueError(f"fake quantization was off in {len(off)} places, for example {off[0]}")
    after = dict(prepared.named_parameters())
    if untrained and all(torch.equal(after[name], p) for name, p in untrained.items()):
        raise ValueError("fake quantization was on, but training has changed no weight")
    return len(now)


def convert(prepared: Prepared) -> Converted:
    """Return the int8 network; what is prepared stays as it is."""
    _, quantize = _torchao()
    copied = copy.deepcopy(prepared).to("cpu").eval()
    graph = copied.graph
    fx_passes.fold(graph)
    for rounding in observers(copied).values() if copied.trained else ():
        # What training rounded by. torchao would compute it anew: for weights 0.4 % smaller.
        rounding.calculate_qparams = functools.partial(_as_trained, rounding)
    with fx_passes.silence():
        graph = quantize.convert_pt2e(graph)
    fx_passes.drop_unread(graph)
    for tensor in graph.parameters():
        tensor.requires_grad_(False)
    return Converted(graph, trained=prepared.trained, norms=prepared.norms)


def _as_trained(rounding: Any) -> tuple[Tensor, Tensor]:
    return rounding.scale, rounding.zero_point


def report(converted: Converted) -> Int8Report:
    """Return what became of the operators.

    Raises:
        ValueError: half or more of it is not int8, or a batch normalisation was not folded into a
            convolution.
    """
    nodes = list(converted.graph.graph.nodes)
    num_unfolded = sum("batch_norm" in str(node.target) for node in nodes)
    multipliers = [node for node in nodes if node.target in MULTIPLIERS]
    quantized = sum(all("dequantize" in str(a.target) for a in n.args[:2]) for n in multipliers)
    if num_unfolded:
        text = f"{num_unfolded} of {converted.norms} batch normalisations were not folded"
        raise ValueError(text)
    float_ops = len(multipliers) - quantized
    # of whole networks all are; a graph that was taken apart has hardly any
    if quantized <= float_ops:
        raise ValueError(
            f"{quantized} of {len(multipliers)} convolutions and linear layers of the int8 network "
            "are int8"
        )
    return Int8Report(fused=converted.norms, quantized_ops=quantized, float_ops=float_ops)


def is_int8(model: nn.Module) -> TypeIs[Converted]:
    """Whether a network computes with integers: on the CPU, with a state of its own (`state_of`)."""
    return isinstance(model, Converted)


def size_mb(converted: Converted) -> float:
    """Megabytes (1e6 bytes) of the tensors that the graph reads: int8 weights, their scales, biases."""
    tensors = fx_passes.read_tensors(converted.graph).values()
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def state_of(converted: Converted) -> dict[str, Tensor]:
    """All of an int8 network as flat tensors: those that its graph reads, by path, and two more.

    "int8.activations", float64 [N, 2], is scale and zero point of each rounding of activations, in
    the graph's order; "int8.trained" says whether fake quantization was trained.
    """
    tensors = fx_passes.read_tensors(converted.graph)
    state = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    rows = [node.args[1:3] for node in fx_passes.roundings(converted.graph)]
    state[ACTIVATIONS] = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)
    state[TRAINED] = torch.tensor(converted.trained)
    return state


@torch.no_grad()
def restore(model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor) -> Converted:
    """Return the int8 network of a state, from a float network of its architecture; the scores are the same.

    Args:
        model: the architecture, with any weights; one whose channels were pruned has been through
            `compress.reshape`. It stays as it is.
        state: what `state_of` gave.
        sample: images [B, C, H, W], B >= 2, of the size that the network is for.

    Raises:
        UsageError: the state is not one of an int8 network, or of another architecture.
    """
    if ACTIVATIONS not in state or TRAINED not in state:
        raise UsageError(f"not the state of an int8 network: no '{ACTIVATIONS}' or '{TRAINED}'")
    blank = copy.deepcopy(model)
    for tensor in blank.state_dict().values():
        tensor.fill_(tensor.dim() < 2)  # no value matters, but each must be finite
    prepared = prepare(blank, sample=sample, qat=bool(state[TRAINED]))
    prepared(sample)  # shapes of scales follow from what was seen
    converted = convert(prepared)
    tensors, nodes = fx_passes.read_tensors(converted.graph), fx_passes.roundings(converted.graph)
    values = {name: t for name, t in state.items() if name not in (ACTIVATIONS, TRAINED)}
    wrong = [f"'{name}'" for name in tensors.keys() ^ values.keys()]
    wrong += [
        f"'{name}' {list(values[name].shape)} {values[name].dtype} instead of {list(t.shape)} "
        f"{t.dtype}"
        for name, t in tensors.items()
        if name in values and (values[name].shape, values[name].dtype) != (t.shape, t.dtype)
    ]
    if len(state[ACTIVATIONS]) != len(nodes):
        wrong.append(f"{len(state[ACTIVATIONS])} roundings instead of {len(nodes)}")
    if wrong:
        raise UsageError(
            f"the int8 state does not fit {type(model).__name__}: {', '.join(sorted(wrong)[:3])};"
            "\nname the architecture that it belongs to, and reshape one whose channels were pruned"
        )
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
    for node, (scale, zero) in zip(nodes, state[ACTIVATIONS].tolist(), strict=True):
        node.update_arg(1, scale)
        node.update_arg(2, int(zero))
    converted.graph.recompile()
    return converted


def _torchao() -> tuple[Any, Any]:
    """Return the x86 quantizer's module, which also tells Inductor its int8 kernels, and that of PT2E's verbs."""
    try:
        with fx_passes.silence():
            import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
            from torchao.quantization.pt2e import quantize_pt2e
    except ImportError:
        raise UsageError("int8 needs torchao: pip install -e '.[compress]'") from None
    modules: tuple[ModuleType, ModuleType] = (x86, quantize_pt2e)
    return modules
