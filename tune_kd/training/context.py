"""What a recipe names, found or built where it runs: images, networks, the frozen teacher, its logit cache."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tune_kd.data import splits, tasks
from tune_kd.models import checkpoints, layers, registry
from tune_kd.recipe import (
    RECIPE_VERSION,
    Compute,
    Images,
    Recipe,
    to_json,
    training_stages,
)
from tune_kd.training import teacher
from tune_kd.training.logit_cache import LogitCache, cache_key


@dataclass(frozen=True, kw_only=True)
class NodeContext:
    """Where a recipe runs: nothing here changes what it gives."""

    cache: Path  # on the node's own disk
    data: Path | None = None  # --data; None = the task's own
    code: Path | None = None  # the folder of a user's own files
    device: str = "cpu"
    model: Callable[[str], Path] | None = None  # a trained model's weights by its id

    def weights(self, model_id: str) -> dict[str, Tensor]:
        """Return a trained model's tensors."""
        assert self.model is not None, "this recipe needs a trained model"
        return checkpoints.load_weights(self.model(model_id))


def load_train(images: Images, ctx: NodeContext) -> tasks.Decoded:
    """Return the decoded train split, which must be the one that the recipe was written for."""
    task = tasks.find(images.task, base=ctx.code)
    decoded = tasks.decode(task, "train", folder=ctx.data, cache=ctx.cache)
    if decoded.hash != images.train_hash:
        raise ValueError(
            f"the train images here ({decoded.hash}) are not the study's ({images.train_hash})"
        )
    return decoded


def device_split(images: Images, ctx: NodeContext, layout: str) -> splits.DeviceSplit:
    """Return the images that a recipe is fitted and validated on, on its device."""
    decoded = load_train(images, ctx)
    fit, validation = splits.split(
        decoded, limit=images.limit_train, seed=images.split_seed, share=images.val_share
    )
    if images.fit_on == "train+val":
        fit, validation = np.sort(np.concatenate([fit, validation])), validation[:0]
    return place_split(decoded, images, ctx, layout=layout, parts=(fit, validation))


def place_split(
    decoded: tasks.Decoded,
    images: Images,
    ctx: NodeContext,
    *,
    layout: str,
    parts: tuple[splits.Ints, splits.Ints],
) -> splits.DeviceSplit:
    """Return a decoded split on the device, with the images to fit and those to validate on."""
    device = torch.device(ctx.device)
    fit, validation = (torch.from_numpy(part).to(device) for part in parts)
    height, width = images.size
    return splits.DeviceSplit(
        images=splits.device_images(decoded, images=images, device=device, layout=layout),
        fit=fit,
        validation=validation,
        num_classes=images.num_classes,
        sides=(height, width),
        dense=images.dense,
    )


def shape_of(images: Images) -> registry.Shape:
    """Return what a network is built for."""
    height, width = images.size
    return registry.Shape(
        num_classes=images.num_classes, channels=images.channels, size=(height, width)
    )


def build(
    name: str, recipe: Recipe, ctx: NodeContext, *, dropout: float = 0.0, seed: int
) -> nn.Module:
    """Return a network of the recipe's image shape on the context's device, in the recipe's layout."""
    model = registry.build(
        name, shape=shape_of(recipe.images), dropout=dropout, seed=seed, base=ctx.code
    )
    return place(model, ctx, recipe.compute)


def place(model: nn.Module, ctx: NodeContext, compute: Compute) -> nn.Module:
    """On the device, in the memory layout."""
    return layers.place(model, torch.device(ctx.device), layout=compute.layout)


def sample_of(images: splits.DeviceSplit) -> Tensor:
    """Two images as a network sees them, for its shapes."""
    return images.images.plain_batch(images.fit[:2]).images


def load_model(name: str, recipe: Recipe, ctx: NodeContext, model_id: str) -> nn.Module:
    """Return a trained network by its model id."""
    model = build(name, recipe, ctx, seed=0)
    checkpoints.checked_load(model, ctx.weights(model_id), source=model_id)
    return model


def frozen_teacher(recipe: Recipe, ctx: NodeContext) -> teacher.FrozenTeacher | None:
    """Return the teacher of the recipe's stages, None where no stage needs one."""
    if not recipe.needs_teacher:
        return None
    training = training_stages(recipe.stages)
    levels = {lv for stage in training if "features" in stage.needs for lv in stage.levels}
    model = load_model(recipe.teacher, recipe, ctx, recipe.teacher_model)
    return teacher.FrozenTeacher(model, levels=sorted(levels), precision=recipe.compute.precision)


def logit_cache(
    recipe: Recipe, frozen: teacher.FrozenTeacher, images: splits.DeviceSplit, *, ctx: NodeContext
) -> LogitCache:
    """Return the teacher's logits for every view that training sees of the fitted images."""

    def compute(epoch: int, positions: np.ndarray) -> Tensor:
        augment = images.augmenter(recipe.images.view_seed, epoch)
        index = images.fit[torch.from_numpy(positions).to(images.fit.device)]
        return frozen.logits(images.batches(index, view=augment))

    name = cache_key(
        frozen.tensor_hash,
        str(RECIPE_VERSION),
        *recipe.sources,
        to_json(recipe.images),
        to_json(recipe.compute),
        torch.device(ctx.device).type,
    )
    return LogitCache(ctx.cache / "logits", name, size=len(images.fit), compute=compute)
