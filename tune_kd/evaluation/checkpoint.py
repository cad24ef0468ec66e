"""A network that is examined, from whatever file it comes, and what it does on each test image."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_kd import files, plugins
from tune_kd.compress import int8, pruning
from tune_kd.data.batch import IGNORE, Batch
from tune_kd.errors import UsageError
from tune_kd.losses import hard_loss
from tune_kd.measure import inductor
from tune_kd.measure import profile as measure
from tune_kd.models import checkpoints
from tune_kd.recipe import Images, Recipe, from_json
from tune_kd.space import SearchSpace
from tune_kd.study import node_files, recipe_builder
from tune_kd.study.storage import Storage
from tune_kd.training import context, external_weights, inference, scoring, students, test_split
from tune_kd.training.external_weights import ExternalCheckpoint


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network ready to be scored, in evaluation mode on its context's device."""

    name: str  # as it was given
    file_id: str
    recipe: Recipe  # what made it; without stages where the file does not say
    ctx: context.NodeContext  # integers run on the CPU, whatever there is
    model: nn.Module
    role: str  # student or teacher of the space; "" for another network
    num_params: int  # of an int8 network those of the float one
    not_finite: int  # numbers of its file that are infinite or none

    @property
    def quantized(self) -> bool:
        """Whether it computes with integers."""
        return int8.is_int8(self.model)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its images: (C, H, W)."""
        return (self.recipe.images.channels, *self.recipe.images.size)


@dataclass(frozen=True, kw_only=True)
class ExpectedModel:
    """What a checkpoint is taken for: a network of this space, for images like these."""

    space: SearchSpace
    images: Images
    ctx: context.NodeContext
    network: str = ""  # of a checkpoint that does not say what it is
    also: str = ""  # what it may be beside student and teacher, where `network` is not said


def load(checkpoint: ExternalCheckpoint, expected: ExpectedModel) -> LoadedModel:
    """Return the network of a file that tune_kd wrote, or of a checkpoint of a network by name.

    The header's recipe says how the first kind is rebuilt and how it sees images. The second is the
    named network (one whose channels were pruned as well), or else the space's student or teacher,
    whichever fits.

    Raises:
        UsageError: no checkpoint, one for other images, or one that fits none of these networks.
    """
    state = checkpoint.state()
    recipe = _read_recipe(checkpoint, expected)
    if recipe is None:
        recipe = _guess_recipe(checkpoint, state, expected)
    quantized = recipe.quantizes or int8.ACTIVATIONS in state
    ctx = replace(expected.ctx, device="cpu") if quantized else expected.ctx
    sample = torch.zeros((2, recipe.images.channels, *recipe.images.size), device=ctx.device)
    try:
        if quantized and not recipe.quantizes:
            plain = context.build(recipe.student, recipe, ctx, seed=0)
            model: nn.Module = int8.restore(plain.eval(), state, sample=sample)
        else:
            stages = len(recipe.stages)
            model = students.rebuild_student(recipe, state, stages=stages, ctx=ctx, sample=sample)
    except UsageError as error:
        raise UsageError(f"{checkpoint.name}: {error}") from None
    return LoadedModel(
        name=checkpoint.name,
        file_id=checkpoint.file_id,
        recipe=recipe,
        ctx=ctx,
        model=model.eval(),
        role=_role(recipe.student, expected.space),
        num_params=_parameters(recipe, model, ctx),
        not_finite=sum(int((~t.isfinite()).sum()) for t in state.values() if t.is_floating_point()),
    )


def load_student(address: str) -> nn.Module:
    """Return the recommended student of `runs/X:METHOD`, rebuilt with the study's own code, in evaluation mode.

    Raises:
        UsageError: no such study or method, or nothing finished there.
    """
    checkpoint = external_weights.find(address, option="load_student", confirmed=True)
    recipe = checkpoint.recipe
    assert recipe is not None  # it comes from a study
    storage = Storage(address.rpartition(":")[0])
    cache = files.cache_folder()
    ctx = context.NodeContext(cache=cache, code=node_files.local_code(storage, cache))
    sample = torch.zeros((2, recipe.images.channels, *recipe.images.size))
    stages = len(recipe.stages)
    model = students.rebuild_student(
        recipe, checkpoint.state(), stages=stages, ctx=ctx, sample=sample
    )
    return model.eval()


def _role(network: str, space: SearchSpace) -> str:
    if network == space.student.network:
        return "student"
    return "teacher" if network == space.teacher.network else ""


def _parameters(recipe: Recipe, model: nn.Module, ctx: context.NodeContext) -> int:
    if int8.is_int8(model):
        model = context.build(recipe.student, recipe, ctx, seed=0)
    return int(measure.footprint(model)["num_params"])


def _read_recipe(checkpoint: ExternalCheckpoint, expected: ExpectedModel) -> Recipe | None:
    """Return the recipe of a file of ours, its network and task named as the space names them."""
    recipe, text = checkpoint.recipe, checkpoints.header(checkpoint.data).get("recipe")
    if recipe is None and text is None:
        return None
    try:
        recipe = recipe or from_json(text or "")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{checkpoint.name}: its header's recipe cannot be read ({type(error).__name__}: {error}); "
            "it was written by another version"
        ) from None
    names = (expected.space.student.network, expected.space.teacher.network)
    network = next(
        (n for n in names if recipe_builder.staged_reference(n) == recipe.student), recipe.student
    )
    if expected.network and recipe_builder.staged_reference(expected.network) != recipe.student:
        raise UsageError(
            f"--network {expected.network}: {checkpoint.name} says that it is {recipe.student}; leave --network out"
        )
    images_text, expected_text = _form(recipe.images), _form(expected.images)
    if images_text != expected_text:
        raise UsageError(
            f"{checkpoint.name} is for {images_text}, but space {expected.space.name} has {expected_text}; name the space that it was trained in"
        )
    images = replace(recipe.images, task=expected.space.task)
    return replace(recipe, student=network, images=images)


def _form(images: Images) -> str:
    kind = "a class for every pixel, " if images.dense else ""
    sides = "x".join(str(side) for side in (images.channels, *images.size))
    return f"images of {sides} ({kind}{images.num_classes} classes)"


def _guess_recipe(
    checkpoint: ExternalCheckpoint, state: Mapping[str, Tensor], expected: ExpectedModel
) -> Recipe:
    """Return a recipe without stages of the first network that fits: the named one, the student, the teacher."""
    space = expected.space
    defaults = [space.student.network, space.teacher.network, expected.also]
    names = [expected.network] if expected.network else defaults
    reasons = []
    for name in dict.fromkeys(name for name in names if name):
        recipe = Recipe(images=expected.images, student=name, start=checkpoint.model_id)
        model = context.build(name, recipe, replace(expected.ctx, device="cpu"), seed=0)
        pruned = bool(expected.network) and pruning.is_pruned(model, state)
        integers = int8.ACTIVATIONS in state  # whose names are no network's
        try:
            if not pruned and not integers:
                checkpoints.checked_load(model, state, source=checkpoint.name)
            return recipe
        except UsageError as error:
            reasons.append(f"{name} ({str(error).partition(chr(10))[0].partition('; ')[2]})")
    raise UsageError(
        f"{checkpoint.name} does not fit {', nor '.join(reasons)};\nname the network that it is by --network"
    )


def from_here(name: str) -> str:
    """Return a user's `file.py:function` as the command line means it: below the working folder."""
    if not plugins.is_reference(name):
        return name
    file, _, function = name.rpartition(":")
    return f"{Path(file).expanduser().absolute()}:{function}"


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a network reaches on the test split."""

    scores: scoring.Scores
    hits: Tensor  # float64 [N], the share of each image's positions that are right; NaN where none counts
    batches: list[dict[str, Any]]  # number, images, accuracy, loss, seconds
    class_names: tuple[str, ...]


def evaluate(model: LoadedModel, *, batch_size: int) -> EvaluationResult:
    """Open the test split and score all its images, `batch_size` of them a line of `batches`."""
    opened = test_split.prepare(model.recipe, model.ctx, reference=None)
    images = opened.images
    tally = scoring.Tally(images.num_classes, device=images.fit.device)
    hits, batches = [], []
    for number, index in enumerate(images.fit.split(batch_size), 1):
        start = time.perf_counter()
        parts = [
            _score(logits, batch, tally)
            for logits, batch in inference.predict(model.model, images.batches(index))
        ]
        right, valid, loss = (
            torch.cat(column).double().cpu() for column in zip(*parts, strict=True)
        )
        hits.append(right / valid)
        count = int(valid.sum())
        batches.append(
            {
                "number": number,
                "images": len(index),
                "accuracy": float(right.sum()) / count if count else None,
                "loss": float(loss.sum()) / count if count else None,
                "seconds": time.perf_counter() - start,
            }
        )
    return EvaluationResult(
        scores=tally.scores(),
        hits=torch.cat(hits),
        batches=batches,
        class_names=opened.decoded.class_names,
    )


def _score(logits: Tensor, batch: Batch, tally: scoring.Tally) -> tuple[Tensor, Tensor, Tensor]:
    """Of some images: right positions and those that count, [B] each; the sum of their losses, [1]."""
    tally.add(logits, batch.labels)
    valid = batch.labels != IGNORE
    right = (logits.argmax(1) == batch.labels) & valid
    loss = hard_loss(logits, batch.labels).double() * valid.sum()
    size = len(logits)
    return right.view(size, -1).sum(1), valid.view(size, -1).sum(1), loss.view(1)


def profile(model: LoadedModel, *, compiled: bool) -> dict[str, Any]:
    """Size and speed of a network, with nothing else running: the columns of metrics.METRICS by name.

    Integers are timed compiled alone: the eager graph that holds them is slower than float32. With
    `compiled` a float network is compiled as well; `reason` says why no network could be.
    """
    columns: dict[str, Any] = {"device": measure.device_name(model.ctx.device)}
    columns["num_params"] = model.num_params
    if int8.is_int8(model.model):
        columns["size_mb"] = int8.size_mb(model.model)
        columns |= _operators(model.model)
    else:
        measured = measure.measure(model.model, shape=model.shape, device=model.ctx.device)
        columns |= {name: value for name, value in measured.items() if name != "num_params"}
        columns["nonzero_params"] = pruning.nonzero_params(model.model)
    if not compiled and not model.quantized:
        return columns
    return columns | _compiled(model)


def _compiled(model: LoadedModel) -> dict[str, Any]:
    """Return the compiled latency, or the `reason` why there is none: what was scored is not lost for it."""
    if why := inductor.why_no_compiler():
        return {"reason": why}
    try:
        return dict(inductor.latency(model.model, shape=model.shape))
    except Exception as error:  # the compiler raises many kinds
        return {"reason": f"{type(error).__name__}: {error}".partition("\n")[0][:160]}


def _operators(model: int8.Converted) -> dict[str, Any]:
    """How many convolutions and linear layers compute with integers; `wrong` says what is amiss."""
    try:
        report = int8.report(model)
    except ValueError as error:
        return {"int8_operators": 0, "wrong": str(error)}
    return {"int8_operators": report.quantized_ops, "float_operators": report.float_ops}
