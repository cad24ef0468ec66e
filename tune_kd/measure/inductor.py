"""Networks as machine code for this CPU, float and int8, and how fast they are.

An int8 graph as it stands computes in float32 between roundings, slower than the float network;
Inductor makes int8 kernels of it. So latencies of the two are compared compiled with compiled.
"""

import copy
import statistics
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tune_kd.compress import fx_passes, int8
from tune_kd.errors import UsageError
from tune_kd.measure import profile


def why_no_compiler() -> str:
    """Says what `for_cpu` misses here; "" where it can work."""
    from torch._inductor import cpp_builder

    try:
        compiler = cpp_builder.get_cpp_compiler()  # of $CXX, g++, clang++: what Inductor will call
    except Exception as error:
        return f"no C++ compiler works here ({type(error).__name__}): install g++, or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"{compiler} works, but Python's headers are missing: install python3-dev"
    return ""


def for_cpu(model: nn.Module, sample: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the network as machine code for this CPU and the sample's shape, compiled now; no gradients.

    Inductor with frozen weights, so that convolutions and normalisations are folded, and the
    roundings of an `int8.Converted` become int8 kernels. Works on a copy. Takes a minute or so for
    MobileNetV2.

    Raises:
        UsageError: there is no C++ compiler.
    """
    from torch._inductor import config

    if why := why_no_compiler():
        raise UsageError(f"compiling a network for the CPU: {why}")
    model_copy = copy.deepcopy(model).to("cpu").eval()
    if int8.is_int8(model_copy):
        graph = model_copy.graph
    else:  # a graph of its own: networks of one class would share Dynamo's bound on versions
        with fx_passes.silence():
            graph = torch.export.export(model_copy, (sample,)).module(check_guards=False)
    compiled_model = torch.compile(graph, dynamic=False)

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        scores: Tensor = compiled_model(x)
        return scores

    with (
        fx_passes.silence(),
        config.patch(freezing=True),
    ):  # as an option of `compile` it comes too late
        forward(sample)
    return forward


def latency(model: nn.Module, *, shape: Sequence[int]) -> dict[str, float]:
    """compiled_latency_ms, the median of one image's forward once compiled, and compiled_latency_ms_sd.

    Float or int8, images of `shape` (C, H, W), by the protocol of `measure.measure`: one CPU
    thread, warmed up.

    Raises:
        UsageError: there is no C++ compiler.
    """
    image = profile.random_images(1, shape, torch.device("cpu"))
    with profile.threads(1):
        seconds = profile.forward_seconds(for_cpu(model, image), image, at_least=0.4)
    return {
        "compiled_latency_ms": statistics.median(seconds) * 1e3,
        "compiled_latency_ms_sd": statistics.stdev(seconds) * 1e3,
    }
