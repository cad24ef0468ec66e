"""A recipe from its first stage to its last: a generator of epoch reports.

Everything is measured before the last report is handed over, because nothing runs after it: a
scheduler's stop is raised inside whoever consumes the reports.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tune_kd import losses
from tune_kd.compress import int8, pruning
from tune_kd.measure import profile
from tune_kd.models import registry
from tune_kd.recipe import Distill, Prune, Quantize, Recipe, Stage, reports_of, stream, training_of
from tune_kd.study.results import EpochReport
from tune_kd.training import context, loop, test_split
from tune_kd.training.context import Site as Site  # where callers find it
from tune_kd.training.teacher import Frozen


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where an earlier attempt stopped: its last row's stage and epoch, and the state with it.

    `step` counts the rows so far (0: as many as the stages before it plan).
    """

    stage: int
    epoch: int
    state: Mapping[str, Tensor]
    step: int = 0

    @property
    def over(self) -> bool:
        """Whether that row was the last of its stage."""
        return bool(self.state.get("progress.over", False))


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The test split is to be opened; `reference` is a teacher's network and fingerprint to agree with."""

    reference: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all stages of one run have in common."""

    recipe: Recipe
    seed: int
    site: Site
    images: loop.Fold
    teacher: Frozen | None
    opening: Opening | None  # None: the test split stays sealed
    exam: test_split.Exam | None
    sample: Tensor  # two images as a network sees them, for its shapes

    def seen_by(self, model: nn.Module) -> "_Run":
        """This run with its images where the network is: int8 ones are on the CPU."""
        if self.site.device == "cpu" or not isinstance(model, int8.Converted):
            return self
        where = replace(self.site, device="cpu")
        return _prepared(self.recipe, seed=self.seed, where=where, opening=self.opening)


def run(  # noqa: PLR0913 - a run's circumstances
    recipe: Recipe,
    *,
    seed: int,
    site: Site,
    resume: Resume | None = None,
    opening: Opening | None = None,
    shared: int = 0,
) -> Iterator[EpochReport]:
    """Train the recipe's student, from `resume` on; the last report has all measurements.

    The result of the first `shared` stages is loaded, not trained. With an `opening` the test split is
    evaluated after each stage; a search never gives one. A recipe without stages measures the model
    that it starts from: one report of epoch 0.
    """
    began = time.monotonic()
    work = _prepared(recipe, seed=seed, where=site, opening=opening)
    model, number, step = _entered(work, resume, shared)
    if not recipe.stages:
        yield EpochReport(
            stage=0,
            stage_name="Measure",
            epoch=0,
            step=0,
            last=True,
            values=_scored(work, model) | _sizes(work, model),
            arrays=_pictures(work, model),
            seconds=time.monotonic() - began,
        )
        return
    while number < len(recipe.stages):
        within = resume if resume and resume.stage == number and not resume.over else None
        for report, changed in _stage(work, model, number, step=step, resume=within):  # noqa: B007
            yield report
        number, step, model = number + 1, report.step, changed


def _prepared(recipe: Recipe, *, seed: int, where: Site, opening: Opening | None) -> _Run:
    images = context.fold(recipe.images, where, recipe.compute.layout)
    opened = None
    if opening:
        opened = test_split.prepare(recipe, where, reference=opening.reference)
    return _Run(
        recipe=recipe,
        seed=seed,
        site=where,
        images=images,
        teacher=context.frozen_teacher(recipe, where),
        opening=opening,
        exam=opened,
        sample=context.sample_of(images),
    )


def _entered(work: _Run, resume: Resume | None, shared: int) -> tuple[nn.Module, int, int]:
    """The network, the stage that is next or goes on, and the rows before that stage."""
    recipe = work.recipe
    if resume is None:
        model = context.begun(recipe, work.site, sample=work.sample, seed=work.seed, shared=shared)
        return model, shared, 0
    step = resume.step or planned(recipe, resume.stage) + max(resume.epoch, 1)
    state = {k[6:]: v for k, v in resume.state.items() if k.startswith("model.")}
    if isinstance(recipe.stages[resume.stage], Quantize) and not resume.over:
        # its tensors are those of a prepared graph, which its stage makes and loads
        return context.build(recipe.student, recipe, work.site, seed=0), resume.stage, step - resume.epoch  # fmt: skip
    done = resume.stage + 1 if resume.over else resume.stage
    model = context.rebuilt(recipe, state, stages=done, site=work.site, sample=work.sample)
    return model, done, step if resume.over else step - resume.epoch


def planned(recipe: Recipe, stage: int) -> int:
    """Reports of the stages before this one, where none ends early: the views go on from there."""
    return sum(reports_of(earlier) for earlier in recipe.stages[:stage])


def _stage(
    work: _Run, model: nn.Module, number: int, *, step: int, resume: Resume | None
) -> Iterator[tuple[EpochReport, nn.Module]]:
    """The reports of one stage, after `step` rows, each with the network as it is then."""
    stage = work.recipe.stages[number]
    if (stage_training := training_of(stage)) is None:
        began = time.monotonic()
        changed = _compressed(work, model, stage)
        values = _scored(work, changed) | _footprint(work, changed, before=model)
        yield _told(work, number, 0, step=step + 1, model=changed, values=values, began=began)
        return
    began = time.monotonic()
    fake = None
    if isinstance(stage, Quantize):
        fake = int8.prepare(model, sample=work.sample.cpu(), qat=True).to(work.sample.device)
    unseen, untrained = (int8.ranges(fake), int8.weights(fake)) if fake else ({}, {})
    student: nn.Module = fake if fake is not None else model
    projections = _projections(work, student, stage_training)
    learner = loop.Learner(student, projections, stage_training.optimizer)
    if resume:
        learner.load(resume.state)
    training = _training(work, number, student, stage=stage_training)  # sees which weights are zero
    for epoch in loop.train(training, learner, done=resume.epoch if resume else 0):
        values, changed = epoch.values, student
        state: Mapping[str, Tensor] | None = learner.state()
        if epoch.last:
            if fake is not None:
                int8.assert_active(fake, unseen, untrained=untrained)
                changed = _integers(fake)
            values = values | _scored(work, changed) | _footprint(work, changed, before=model)
            state = None
        yield _told(
            work, number, epoch.number, step=step + epoch.number, model=changed, values=values, began=began, state=state
        )  # fmt: skip
        began = time.monotonic()


def _told(  # noqa: PLR0913 - a report's parts
    work: _Run, number: int, epoch: int, *, step: int, model: nn.Module, values: dict[str, Any], began: float, state: Mapping[str, Tensor] | None = None
) -> tuple[EpochReport, nn.Module]:  # fmt: skip
    """A report with its network; without a `state` of training it ends its stage."""
    over = state is None
    last = over and number == len(work.recipe.stages) - 1
    if state is None:
        integers = model if isinstance(model, int8.Converted) else None
        tensors = int8.state_of(integers) if integers else model.state_dict()
        state = {f"model.{name}": value for name, value in tensors.items()}
        state["progress.over"] = torch.tensor(True)
    report = EpochReport(
        stage=number,
        stage_name=type(work.recipe.stages[number]).__name__,
        epoch=epoch,
        step=step,
        last=last,
        values=values,
        arrays=_pictures(work, model) if last else {},
        seconds=time.monotonic() - began,
        state=state,
    )
    return report, model


def _compressed(work: _Run, model: nn.Module, stage: Stage) -> nn.Module:
    """The network after a stage that does not train."""
    if isinstance(stage, Prune):
        pruning.prune(model, stage, sample=work.sample)
        return context.place(model, work.site, work.recipe.compute)
    assert isinstance(stage, Quantize), stage
    prepared = int8.prepare(model, sample=work.sample.cpu(), qat=False)
    generator = torch.Generator().manual_seed(stream(work.seed, "calibration"))
    fit = work.images.fit
    order = torch.randperm(len(fit), generator=generator)[: stage.calibration_images]
    parts = loop.chunks(fit[order.to(fit.device)], work.images)
    unseen = int8.ranges(prepared)
    int8.calibrate(prepared, (work.images.images.whole(part).images.cpu() for part in parts))
    int8.assert_active(prepared, unseen)
    return _integers(prepared)


def _integers(prepared: int8.Prepared) -> int8.Converted:
    """The int8 network, with the certainty that its operators are."""
    converted = int8.convert(prepared)
    int8.report(converted)
    return converted


def _training(work: _Run, number: int, model: nn.Module, *, stage: Distill) -> loop.Training:
    """The stage with the teacher and the tape, where its weights ask for them."""
    recipe, frozen = work.recipe, work.teacher if stage.listens else None
    tape = None
    if frozen and stage.weights.beta > 0:
        tape = context.teacher_tape(recipe, frozen, work.images, site=work.site)
    sparse = any(isinstance(s, Prune) and s.method == "magnitude" for s in recipe.stages[:number])
    return loop.Training(
        stage=stage,
        number=number,
        first_step=planned(recipe, number),
        seed=work.seed,
        view_seed=recipe.images.view_seed,
        fold=work.images,
        compute=recipe.compute,
        teacher=frozen,
        tape=tape,
        terms=_terms(work, stage),
        after_step=pruning.keep_zeros(model) if sparse else None,
    )


def _terms(work: _Run, stage: Distill) -> losses.Terms:
    """The stage's losses with their options."""
    base = work.site.code
    return losses.Terms(
        logit_loss=losses.find_logit_loss(stage.logit_loss, stage.logit_options, base=base),
        feature_loss=losses.find_feature_loss(stage.feature_loss, stage.feature_options, base=base),
        label_smoothing=stage.label_smoothing,
    )


def _projections(work: _Run, model: nn.Module, stage: Distill) -> nn.Module:
    """Student-side projections to the teacher's channels, built by a dry forward of two images."""
    needed = _terms(work, stage).feature_loss.needs_projection
    if work.teacher is None or stage.weights.gamma == 0 or not needed:
        return nn.Module()
    _, wanted = work.teacher.outputs(work.sample)
    was_training = model.training
    taps = registry.Taps(model, stage.levels)
    model.eval()
    with torch.no_grad():
        model(work.sample)
    found = dict(taps.features)
    taps.remove()
    model.train(was_training)
    wanted = {level: wanted[level] for level in stage.levels}
    built = losses.Projections(found, wanted, seed=stream(work.seed, "projections"))
    return context.place(built, work.site, work.recipe.compute)


def _scored(work: _Run, model: nn.Module) -> dict[str, Any]:
    """Validation where a fold has one, and the test split where it is open."""
    values: dict[str, Any] = {}
    work = work.seen_by(model)
    images = work.images
    if len(images.validation):
        found = loop.evaluate(model, images, images.validation)
        values |= found.values("val", dense=images.dense)
    if work.exam:
        values |= test_split.columns(work.exam.take(model), dense=images.dense)
    return values


def _footprint(work: _Run, model: nn.Module, *, before: nn.Module) -> dict[str, float]:
    """Parameters and size; FLOPs and what is not zero as well where a recipe compresses.

    `before` is the network of which an int8 one was made: it has as many parameters.
    """
    values = profile.footprint(before)
    if isinstance(model, int8.Converted):
        return {**values, "size_mb": int8.size_mb(model)}
    return _sizes(work, model) if work.recipe.compresses else profile.footprint(model)


def _sizes(work: _Run, model: nn.Module) -> dict[str, float]:
    """All sizes of a float network, whatever was cut off it."""
    values = profile.footprint(model)
    values["nonzero_params"] = float(pruning.nonzero_params(model))
    values["flops"] = profile.flops(model, work.sample[:1])
    return values


def _pictures(work: _Run, model: nn.Module) -> Mapping[str, Any]:
    work = work.seen_by(model)
    if work.exam is None or not work.images.dense:
        return {}
    return test_split.pictures(model, work.exam)
