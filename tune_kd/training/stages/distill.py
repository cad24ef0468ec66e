"""Training on labels and, where its weights ask for it, with a teacher."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_kd import losses
from tune_kd.compress import pruning
from tune_kd.models.taps import Taps
from tune_kd.recipe import Distill, stream
from tune_kd.training import context, loop
from tune_kd.training.report import EpochReport
from tune_kd.training.stages.base import Resume, Run, StageResult, report_end, report_epoch


@dataclass(frozen=True)
class DistillKind:
    """Carries out `Distill`: the network keeps its shapes."""

    stage: Distill
    code: Path | None = None  # the folder of a user's own files
    has_own_state = False

    def run(
        self, run: Run, model: nn.Module, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        """Train, one report per epoch."""

        def finish() -> StageResult:
            return StageResult(model=model, values=run.footprint(model, before=model))

        yield from train_stage(run, model, self.stage, resume=resume, finish=finish)

    def rebuild(
        self, model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor
    ) -> nn.Module:
        """Return the network as it is."""
        return model


def train_stage(
    run: Run,
    model: nn.Module,
    stage: Distill,
    *,
    resume: Resume | None,
    finish: Callable[[], StageResult],
) -> Iterator[tuple[EpochReport, nn.Module]]:
    """Train a network in place as `stage` says; yield one report per epoch.

    After the last epoch `finish` gives the network that the stage leaves, with its sizes; its
    scores are added.
    """
    learner = loop.TrainState(model, build_projections(run, model, stage), stage.optimizer)
    if resume:
        learner.load(resume.state)
    training = stage_inputs(run, model, stage)  # sees which weights are zero
    for epoch in loop.train(training, learner, epochs_done=resume.epoch if resume else 0):
        if epoch.last:
            result = finish()
            values = epoch.values | run.scores(result.model) | dict(result.values)
            end = replace(result, values=values)
            yield report_end(run, epoch.number, end), result.model
        else:
            yield report_epoch(run, epoch.number, epoch.values, learner.state()), model
        run = replace(run, began=time.monotonic())


def stage_inputs(run: Run, model: nn.Module, stage: Distill) -> loop.StageInputs:
    """Return what the loop needs: the teacher and its cached logits where the stage's weights ask for them."""
    recipe, teacher = run.recipe, run.teacher if stage.needs_teacher else None
    logit_cache = None
    if teacher and "logits" in stage.needs:
        logit_cache = context.logit_cache(recipe, teacher, run.images, ctx=run.ctx)
    earlier = recipe.stages[: run.number]
    return loop.StageInputs(
        stage=stage,
        number=run.number,
        first_step=planned_reports(recipe.stages[: run.number]),
        seed=run.seed,
        view_seed=recipe.images.view_seed,
        split=run.images,
        compute=recipe.compute,
        teacher=teacher,
        logit_cache=logit_cache,
        terms=_terms(run, stage),
        after_step=pruning.keep_zeros(model) if any(s.leaves_zeros for s in earlier) else None,
    )


def planned_reports(stages: tuple[Any, ...]) -> int:
    """Return the reports of stages, where none ends early: the views of the next go on from there."""
    return sum(stage.reports for stage in stages)


def _terms(run: Run, stage: Distill) -> losses.LossOptions:
    """Return the stage's losses with their options."""
    base = run.ctx.code
    return losses.LossOptions(
        logit_loss=losses.find_logit_loss(stage.logit_loss, stage.logit_options, base=base),
        feature_loss=losses.find_feature_loss(stage.feature_loss, stage.feature_options, base=base),
        label_smoothing=stage.label_smoothing,
    )


def build_projections(run: Run, model: nn.Module, stage: Distill) -> nn.Module:
    """Return student-side projections to the teacher's channels, by a dry forward of two images."""
    needs_projection = _terms(run, stage).feature_loss.needs_projection
    if run.teacher is None or "features" not in stage.needs or not needs_projection:
        return nn.Module()
    _, targets = run.teacher.outputs(run.sample)
    was_training = model.training
    taps = Taps(model, stage.levels)
    model.eval()
    with torch.no_grad():
        model(run.sample)
    features = dict(taps.features)
    taps.remove()
    model.train(was_training)
    targets = {level: targets[level] for level in stage.levels}
    projections = losses.Projections(features, targets, seed=stream(run.seed, "projections"))
    return context.place(projections, run.ctx, run.recipe.compute)
