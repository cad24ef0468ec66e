"""What is measured on an idle worker before a study's first trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tune_kd.compress import int8, pruning
from tune_kd.measure import hardware, inductor, profile, timing_cache, training_step
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import Compute, Images, Recipe, digest, rebuild
from tune_kd.training.context import NodeContext, shape_of
from tune_kd.training.students import rebuild_student


def prepare(config: dict[str, Any], ctx: NodeContext) -> dict[str, Any]:
    """Precision and layout by timing the student's training step, then both networks' footprint.

    Each answer is kept in the node's cache, so that two studies on one machine choose alike.
    """
    images: Images = rebuild(Images, config["images"])
    shape = (images.channels, *images.size)
    device = torch.device(ctx.device)

    def network(name: str) -> torch.nn.Module:
        return registry.build(name, shape=shape_of(images), base=ctx.code).to(device)

    def label(name: str) -> str:
        parts = [name, f"{images.num_classes} classes", *config["sources"]]
        return ", ".join(parts)

    step = training_step.Step(
        network=label(config["student"]),
        shape=shape,
        batch_size=config["batch_size"],
        device=device,
        dense=images.dense,
    )
    compute: Compute = training_step.probe(
        lambda: network(config["student"]), step=step, cache=ctx.cache
    )
    measured = {}
    for role in ("teacher", "student"):
        name = config[role]
        measured[role] = profile.measure_once(
            network(name), name=label(name), shape=shape, device=device, cache=ctx.cache
        )
        measured[role]["nonzero_params"] = measured[role]["num_params"]  # of fresh weights all
        if config["compiled"]:
            key = f"{label(name)} compiled"
            measured[role] |= _compiled(network(name), key=key, shape=shape, ctx=ctx)
    return {
        "precision": compute.precision,
        "layout": compute.layout,
        "measured": measured,
        "device": profile.device_name(device),
        "hardware": hardware.hardware(),
    }


def measure_student(recipe: Recipe, file: Path, ctx: NodeContext) -> dict[str, Any]:
    """Size and speed of one finished student from its file, with nothing else running.

    The speed is looked up where this node has measured the architecture before.

    Integers are timed compiled alone: the eager graph that holds them is slower than float32. A
    `reason` says why a latency is missing.
    """
    images = recipe.images
    shape, device = (images.channels, *images.size), torch.device(ctx.device)
    sample = torch.zeros((2, *shape), device=device)
    state = checkpoints.load_weights(file)
    model = rebuild_student(recipe, state, stages=len(recipe.stages), ctx=ctx, sample=sample)
    run_device = "cpu" if int8.is_int8(model) else device
    values: dict[str, Any] = {"device": profile.device_name(run_device)}
    name = f"{recipe.student} {_architecture(recipe, state)}"
    if not int8.is_int8(model):
        values |= profile.measure_once(
            model, name=name, shape=shape, device=device, cache=ctx.cache
        )
        values["nonzero_params"] = float(pruning.nonzero_params(model))
        return values
    values["size_mb"] = int8.size_mb(model)
    return {**values, **_compiled(model, key=f"{name} compiled", shape=shape, ctx=ctx)}


def _architecture(recipe: Recipe, state: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of a student's architecture: its tensors by name, shape and type, and a user's own code."""
    tensors = [f"{name} {list(t.shape)} {t.dtype}" for name, t in sorted(state.items())]
    return digest(*tensors, *recipe.sources)


def _compiled(
    model: torch.nn.Module, *, key: str, shape: tuple[int, ...], ctx: NodeContext
) -> dict[str, Any]:
    """Return the compiled network's latency, once a machine; a `reason` where there is no compiler."""
    if why := inductor.why_no_compiler():
        return {"reason": why}
    name = profile.timing_name(key, shape=shape, device="cpu")  # what int8 runs on, and its rivals
    return timing_cache.look_up(
        name,
        file=ctx.cache / "measure.json",
        compute=lambda: inductor.latency(model.eval(), shape=shape),
    )
