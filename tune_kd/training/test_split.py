"""What a network is worth on the test split, once it is opened: confirming and evaluating alone do so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_kd import plugins
from tune_kd.data import splits, tasks
from tune_kd.models import segmentation
from tune_kd.recipe import RECIPE_VERSION, Recipe, digest, to_json
from tune_kd.training import context, inference, scoring, teacher
from tune_kd.training.logit_cache import LogitCache, cache_key

SHOWN = 10  # images of the best and of the worst predictions


@dataclass(frozen=True, kw_only=True)
class TestSplit:
    """The test split on the device, and what a reference teacher says of it."""

    images: splits.DeviceSplit  # all of them are `fit`, none is trained on
    decoded: tasks.Decoded
    reference: Tensor | None  # scores float16 [N, K, ...]

    def evaluate(self, model: nn.Module) -> scoring.Scores:
        """Return a network's scores on all test images."""
        every = self.images.fit
        return inference.evaluate(
            model, self.images, every, reference=self.reference, each_image=True
        )


def prepare(
    recipe: Recipe, ctx: context.NodeContext, *, reference: tuple[str, str] | None
) -> TestSplit:
    """Open the test split. `reference` is a teacher's network and model id, to agree with.

    Its scores are computed once a node and kept like a logit cache's.
    """
    task = tasks.find(recipe.images.task, base=ctx.code)
    decoded = tasks.decode(task, "test", folder=ctx.data, cache=ctx.cache)
    every = np.arange(len(decoded.labels))
    images = context.place_split(
        decoded, recipe.images, ctx, layout=recipe.compute.layout, parts=(every, every[:0])
    )
    scores = None
    if reference:
        network, model_id = reference
        scores = _reference_cache(
            recipe, images, ctx, model=(network, model_id, decoded.hash)
        ).epoch(0)
    return TestSplit(images=images, decoded=decoded, reference=scores)


def _reference_cache(
    recipe: Recipe,
    images: splits.DeviceSplit,
    ctx: context.NodeContext,
    *,
    model: tuple[str, str, str],
) -> LogitCache:
    network, model_id, test_hash = model

    def compute(epoch: int, positions: np.ndarray) -> Tensor:
        module = context.load_model(network, recipe, ctx, model_id)
        frozen = teacher.FrozenTeacher(module, precision="float32")
        return frozen.logits(images.batches(images.fit[torch.from_numpy(positions)]))

    code = b""
    if plugins.is_reference(network):  # weights of a file say nothing of the code that runs them
        code = plugins.path_of(network, base=ctx.code).read_bytes()
    key = cache_key(
        "test",
        test_hash,
        network,
        digest(code),
        model_id,
        str(RECIPE_VERSION),
        to_json(recipe.images),
        ctx.device,
    )
    return LogitCache(ctx.cache / "logits", key, size=len(images.fit), compute=compute)


def columns(scores: scoring.Scores, *, dense: bool) -> dict[str, Any]:
    """Test columns of a row."""
    values: dict[str, Any] = {
        **scores.values("test", dense=dense),
        "test_ece": scores.ece,
        "test_confusion": scores.confusion.flatten().tolist(),
    }
    if scores.agreement is not None:
        values["test_agreement"] = scores.agreement
    if scores.images is not None and dense:
        values["test_counts"] = scores.images.flatten().tolist()
    elif scores.images is not None:
        values["test_correct"] = np.packbits(scores.images.numpy()).tobytes()
    return values


def pictures(model: nn.Module, test: TestSplit) -> Mapping[str, np.ndarray]:
    """Return the worst and the best predicted test images of a dense task, the worst first.

    `images` uint8 [n, H, W, C], `labels` and `predicted` uint8 [n, H, W] (255: void), `iou` float64
    [n] (mean over the classes of one image), `index` int64 [n]; `all_iou` float64 [N] of every test
    image.
    """
    images = test.images
    ious = [
        scoring.image_ious(segmentation.resize(logits, images.sides), batch.labels).cpu()
        for logits, batch in inference.predict(model, images.batches(images.fit))
    ]
    iou = torch.cat(ious).double()
    order = iou.argsort(stable=True)
    order = order[~iou[order].isnan()]  # an image of nothing but void is neither
    few = min(SHOWN, -(-len(order) // 2))
    index = torch.cat([order[:few], order[len(order) - few :]])
    batches = (images.images.plain_batch(one) for one in index.to(images.fit.device).split(1))
    predicted = torch.cat([logits.argmax(1) for logits, _ in inference.predict(model, batches)])
    indices = index.numpy()
    return {
        "images": np.asarray(test.decoded.images[indices]),
        "labels": np.asarray(test.decoded.labels[indices]),
        "predicted": predicted.cpu().numpy().astype(np.uint8),
        "iou": iou[index].numpy(),
        "index": indices,
        "all_iou": iou.numpy(),
    }
