"""A recipe's student: as training begins with it, and as it was after some stages."""

from collections.abc import Mapping

from torch import Tensor, nn

from tune_kd.compress import int8, pruning
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import Recipe, stream, training_stages
from tune_kd.training import context
from tune_kd.training.context import NodeContext
from tune_kd.training.stages import stage_kind


def initial_student(
    recipe: Recipe, ctx: NodeContext, *, sample: Tensor, seed: int, shared: int
) -> nn.Module:
    """Return the network that training begins with: fresh, from a file, or after the first `shared` stages."""
    if shared:
        state = ctx.weights(recipe.first(shared).recipe_id(seed))
        return rebuild_student(recipe, state, stages=shared, ctx=ctx, sample=sample)
    if recipe.start:
        state = ctx.weights(recipe.start)
        return rebuild_student(recipe, state, stages=0, ctx=ctx, sample=sample)
    weights_seed = stream(seed, "weights")
    model = context.build(recipe.student, recipe, ctx, dropout=_dropout(recipe), seed=weights_seed)
    if recipe.initial:
        registry.load_imagenet(model, recipe.student)
    return model


def _dropout(recipe: Recipe) -> float:
    """Return what its student is built with; stages set the rate that they train with."""
    training = training_stages(recipe.stages)
    return training[0].dropout if training else 0.0


def rebuild_student(
    recipe: Recipe, state: Mapping[str, Tensor], *, stages: int, ctx: NodeContext, sample: Tensor
) -> nn.Module:
    """Return the recipe's network as it was after so many stages, from its state alone.

    Each stage gives a fresh network the shapes that the state has after it.

    Raises:
        UsageError: a state of another network.
    """
    model = context.build(recipe.student, recipe, ctx, dropout=_dropout(recipe), seed=0)
    if recipe.start and pruning.is_pruned(model, state):
        pruning.reshape(model, state)
    for stage in recipe.stages[:stages]:
        model = stage_kind(stage, code=ctx.code).rebuild(model, state, sample=sample)
    if int8.is_int8(model):  # which has its state already
        return model
    checkpoints.checked_load(model, state, source=f"the state of {recipe.student}")
    return context.place(model, ctx, recipe.compute)
