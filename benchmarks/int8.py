"""MobileNetV2 in int8: latency and size against float32, eager and compiled.

    python -m benchmarks.int8

torchvision's MobileNetV2 for 10 classes, its stem of stride 1 as small images want it, one image of
32x32 at a time. The other side of each ratio is the same network in float32. Compiled is what
`compiled.for_cpu` makes: Inductor's code with frozen weights, for both. An int8 network that is not
compiled computes in float32 between roundings, and shows why only compiled ones are compared.
"""

import functools
import itertools
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from benchmarks import common
from tune_kd import cli
from tune_kd.compress import int8
from tune_kd.measure import inductor, profile

SHAPE = (3, 32, 32)
Forward = Callable[[Tensor], Tensor]


def mobilenet() -> nn.Module:
    """MobileNetV2 with statistics of its own batches, so that activations have a spread."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=10)
    model.features[0][0].stride = (1, 1)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, *SHAPE))
    return model.eval()


def measure_time(name: str, work: Callable[[], object], seconds: dict[str, float]) -> object:
    """Return the result of some work, whose time is kept under its name."""
    began = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - began
    return result


def main(arguments: list[str]) -> int:
    """Make the four networks, time them in turns and print milliseconds, ratios and sizes."""
    parser = common.parser("benchmarks.int8", __doc__)
    parser.add_argument("--repeats", type=cli.positive_int, default=7, help="rounds in turns [7]")
    qat_help = "time `prepare` of training, not of calibration"
    parser.add_argument("--qat", action="store_true", help=qat_help)
    options = parser.parse(arguments)

    torch.set_num_threads(1)
    took: dict[str, float] = {}
    model, images = mobilenet(), torch.randn(64, *SHAPE)
    image = images[:1].contiguous()
    sample = images[:2]
    prepared = measure_time(
        "prepare", lambda: int8.prepare(model, sample=sample, qat=options.qat), took
    )
    assert isinstance(prepared, int8.Prepared)
    with torch.no_grad():
        measure_time("64 images", lambda: [prepared(part) for part in images.split(16)], took)
    converted = measure_time("convert", lambda: int8.convert(prepared), took)
    assert isinstance(converted, int8.Converted)
    state = int8.state_of(converted)
    measure_time("restore", lambda: int8.restore(mobilenet(), state, sample=sample), took)
    forwards: dict[str, Forward] = {"float32, eager": model, "int8, eager": converted}
    why = inductor.why_no_compiler()
    if not why:
        for name, network in (("float32, compiled", model), ("int8, compiled", converted)):
            work = functools.partial(inductor.for_cpu, network, image)
            step = f"compile {name.split(',')[0]}"
            forwards[name] = measure_time(step, work, took)  # type: ignore[assignment]

    milliseconds: dict[str, list[float]] = {name: [] for name in forwards}
    with torch.inference_mode(False), torch.no_grad():
        for _ in range(options.repeats):
            for name, forward in forwards.items():
                blocks = profile.forward_seconds(forward, image, at_least=0.2)
                milliseconds[name].append(sorted(blocks)[len(blocks) // 2] * 1e3)

    print(common.about())
    print(
        f"MobileNetV2, one random image of 32x32 (random images), {options.repeats} rounds in "
        "turns; median (min..max)"
    )
    for name, values in milliseconds.items():
        print(f"{name:<25}{common.spread(values)} ms")
    for one, other in itertools.combinations(
        ("float32, eager", "float32, compiled", "int8, compiled"), 2
    ):
        if one in milliseconds and other in milliseconds:
            ratios = common.ratios(milliseconds[one], milliseconds[other])
            print(f"ratio {one} / {other:<20} {common.spread(ratios)}")
    if why:
        print(f"nothing compiled: {why}")
    sizes = profile.footprint(model)["size_mb"], int8.size_mb(converted)
    ratio = sizes[0] / sizes[1]
    print(f"size {sizes[0]:.2f} MB in float32, {sizes[1]:.2f} MB in int8: {ratio:.2f} times less")
    print(f"{int8.report(converted)}")
    if not why:
        exact = converted(image).detach()
        error = (forwards["int8, compiled"](image) - exact).abs().max() / exact.std()
        print(
            f"compiled int8 scores differ from eager ones by {float(error):.3f} of their spread "
            "at the most"
        )
    print("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in took.items()))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
