"""A recipe from its first stage to its last: a generator of epoch reports.

Everything is measured before the last report is handed over, because nothing runs after it: a
scheduler's stop is raised inside whoever consumes the reports.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_kd import data, losses, measure, models, tasks, teacher, train, weights
from tune_kd.recipe import RECIPE_VERSION, Compute, Distill, Images, Recipe, stream, to_json
from tune_kd.results import EpochReport


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a recipe runs: nothing here changes what it gives."""

    cache: Path  # on the node's own disk
    data: Path | None = None  # --data; None = the task's own
    code: Path | None = None  # the folder of a user's own files
    device: str = "cpu"
    model: Callable[[str], Path] | None = None  # a trained model's weights by fingerprint


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where an earlier attempt stopped: the last finished epoch of a stage, and its state."""

    stage: int
    epoch: int
    state: Mapping[str, Tensor]


def load_train(images: Images, site: Site) -> tasks.Decoded:
    """The decoded train split, which must be the one that the recipe was written for."""
    task = tasks.find(images.task, base=site.code)
    decoded = tasks.decode(task, "train", folder=site.data, cache=site.cache)
    if decoded.hash != images.train_hash:
        raise ValueError(
            f"the train images here ({decoded.hash}) are not the study's ({images.train_hash})"
        )
    return decoded


def fold(images: Images, site: Site, layout: str) -> train.Fold:
    """The images that a recipe is fitted and validated on, on its device."""
    decoded = load_train(images, site)
    fit, validation = data.split(decoded.labels, limit=images.limit_train, seed=images.split_seed)
    if images.fit_on == "train+val":
        fit, validation = np.sort(np.concatenate([fit, validation])), validation[:0]
    device = torch.device(site.device)
    return train.Fold(
        images=_resident(decoded, images, site, layout),
        fit=torch.from_numpy(fit).to(device),
        validation=torch.from_numpy(validation).to(device),
        num_images=len(decoded.labels),
        pad=images.pad,
        flip=images.flip,
    )


def _resident(decoded: tasks.Decoded, images: Images, site: Site, layout: str) -> data.Resident:
    return data.Resident(
        decoded,
        pad=images.pad,
        mean=images.mean,
        std=images.std,
        device=torch.device(site.device),
        layout=layout,
    )


def build(name: str, recipe: Recipe, site: Site, *, dropout: float = 0.0, seed: int) -> nn.Module:
    """A network of the recipe's image shape on the site's device, in the recipe's layout."""
    model = models.build(
        name,
        shape=models.Shape(num_classes=recipe.images.num_classes, channels=recipe.images.channels),
        dropout=dropout,
        seed=seed,
        base=site.code,
    )
    return place(model, site, recipe.compute)


def place(model: nn.Module, site: Site, compute: Compute) -> nn.Module:
    """A network on the site's device in a memory layout."""
    layout = torch.channels_last if compute.layout == "channels_last" else torch.contiguous_format
    return model.to(device=torch.device(site.device), memory_format=layout)  # type: ignore[call-overload,no-any-return]


def load_model(name: str, recipe: Recipe, site: Site, fingerprint: str) -> nn.Module:
    """A trained network by its fingerprint."""
    assert site.model is not None, "this recipe needs a trained model"
    model = build(name, recipe, site, seed=0)
    weights.checked_load(model, weights.load_weights(site.model(fingerprint)), what=fingerprint)
    return model


def frozen_teacher(recipe: Recipe, site: Site) -> teacher.Frozen | None:
    """The teacher of the recipe's stages, None where no stage listens to one."""
    weights = [stage.weights for stage in recipe.stages]
    if not any(w.beta > 0 or w.gamma > 0 for w in weights):
        return None
    levels = {lv for stage in recipe.stages if stage.weights.gamma > 0 for lv in stage.levels}
    model = load_model(recipe.teacher, recipe, site, recipe.teacher_model)
    return teacher.Frozen(model, levels=sorted(levels), precision=recipe.compute.precision)


def teacher_tape(
    recipe: Recipe, frozen: teacher.Frozen, images: train.Fold, *, seed: int, site: Site
) -> teacher.Tape:
    """The teacher's logits for every view that a seed shows of the fitted images."""

    def compute(epoch: int, positions: np.ndarray) -> Tensor:
        views = images.views(seed, epoch)
        index = images.fit[torch.from_numpy(positions).to(images.fit.device)]
        chunks = index.split(train.EVALUATION_BATCH)
        return torch.cat(
            [frozen.outputs(images.images.batch(c, views[c]))[0].cpu() for c in chunks]
        )

    name = teacher.key(
        frozen.fingerprint, str(RECIPE_VERSION), *recipe.sources, to_json(recipe.images), to_json(recipe.compute), str(seed), torch.device(site.device).type
    )  # fmt: skip
    return teacher.Tape(site.cache / "tape", name, size=len(images.fit), compute=compute)


def run(
    recipe: Recipe, *, seed: int, site: Site, resume: Resume | None = None, open_test: bool = False
) -> Iterator[EpochReport]:
    """Train the recipe's student, from `resume` on; the last report has all measurements.

    `open_test` unseals the test split for one evaluation at the end; a search never sets it. A recipe
    without stages measures the model that it starts from: one report of epoch 0.
    """
    started = time.monotonic()
    images = fold(recipe.images, site, recipe.compute.layout)
    if recipe.start:
        model = load_model(recipe.student, recipe, site, recipe.start)
    else:
        first = next((stage.dropout for stage in recipe.stages), 0.0)
        weights_seed = stream(seed, "weights")
        model = build(recipe.student, recipe, site, dropout=first, seed=weights_seed)
    if not recipe.stages:
        values = _metrics(model, recipe, images, site, open_test)
        seconds = time.monotonic() - started
        yield EpochReport(stage=0, stage_name="Measure", epoch=0, step=0, last=True, values=values, seconds=seconds)  # fmt: skip
        return
    frozen = frozen_teacher(recipe, site)
    step = 0
    for number, stage in enumerate(recipe.stages):
        done = 0
        if resume and number < resume.stage:
            step += stage.epochs
            continue
        work = _training(recipe, number, images, seed=seed, site=site)
        work = replace(work, first_step=step, **_teaching(recipe, frozen, work, site))
        learner = train.Learner(model, _projections(recipe, stage, frozen, work, site, model), stage.optimiser)  # fmt: skip
        if resume and number == resume.stage:
            learner.load(resume.state)
            done = resume.epoch
        began = time.monotonic()
        for epoch, values in train.train(work, learner, done=done):
            last = number == len(recipe.stages) - 1 and epoch == stage.epochs
            if epoch == stage.epochs:
                values |= _metrics(model, recipe, images, site, open_test and last)
            yield EpochReport(
                stage=number,
                stage_name=type(stage).__name__,
                epoch=epoch,
                step=step + epoch,
                last=last,
                values=values,
                seconds=time.monotonic() - began,
                state=learner.state(),
            )
            began = time.monotonic()
        step += stage.epochs


def _training(
    recipe: Recipe, number: int, images: train.Fold, *, seed: int, site: Site
) -> train.Training:
    stage = recipe.stages[number]
    return train.Training(
        stage=stage,
        number=number,
        first_step=0,
        seed=seed,
        fold=images,
        compute=recipe.compute,
        teacher=None,
        tape=None,
        feature_loss=losses.find_feature_loss(stage.feature_loss, base=site.code),
    )


def _teaching(
    recipe: Recipe, frozen: teacher.Frozen | None, work: train.Training, site: Site
) -> dict[str, Any]:
    """The teacher and the tape of a stage, where its weights ask for them."""
    if frozen is None:
        return {}
    tape = None
    if work.stage.weights.beta > 0:
        tape = teacher_tape(recipe, frozen, work.fold, seed=work.seed, site=site)
    return {"teacher": frozen, "tape": tape}


def _projections(  # noqa: PLR0913 - two networks and their setting
    recipe: Recipe, stage: Distill, frozen: teacher.Frozen | None, work: train.Training, site: Site, model: nn.Module
) -> nn.Module:  # fmt: skip
    """Student-side projections to the teacher's channels, built by a dry forward of two images."""
    if frozen is None or stage.weights.gamma == 0:
        return nn.Module()
    sample = work.fold.images.batch(work.fold.fit[:2], None)
    _, wanted = frozen.outputs(sample)
    was_training = model.training
    taps = models.Taps(model, stage.levels)
    model.eval()
    with torch.no_grad():
        model(sample)
    found = dict(taps.features)
    taps.remove()
    model.train(was_training)
    wanted = {level: wanted[level] for level in stage.levels}
    built = losses.Projections(found, wanted, seed=stream(work.seed, "projections"))
    return place(built, site, recipe.compute)


def _metrics(
    model: nn.Module, recipe: Recipe, images: train.Fold, site: Site, open_test: bool
) -> dict[str, float]:
    """Size of the network, validation where a fold has one, and the test split where it is open."""
    values: dict[str, float] = dict(measure.footprint(model))
    if len(images.validation):
        accuracy, loss = train.evaluate(model, images.images, images.validation)
        values |= {"val_accuracy": accuracy, "val_loss": loss}
    if open_test:
        task = tasks.find(recipe.images.task, base=site.code)
        decoded = tasks.decode(task, "test", folder=site.data, cache=site.cache)
        test = _resident(decoded, recipe.images, site, recipe.compute.layout)
        index = torch.arange(len(decoded.labels), device=images.fit.device)
        accuracy, loss = train.evaluate(model, test, index)
        values |= {"test_accuracy": accuracy, "test_loss": loss}
    return values
