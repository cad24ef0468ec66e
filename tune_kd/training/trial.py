"""A recipe from its first stage to its last: a generator of epoch reports.

Everything is measured before the last report is handed over, because nothing runs after it: a
scheduler's stop is raised inside whoever consumes the reports.
"""

import time
from collections.abc import Iterator

from torch import nn

from tune_kd.recipe import Recipe
from tune_kd.training import context, students
from tune_kd.training.context import NodeContext as NodeContext  # where callers find it
from tune_kd.training.report import EpochReport
from tune_kd.training.stages import stage_kind
from tune_kd.training.stages.base import Resume as Resume
from tune_kd.training.stages.base import Run, start_run
from tune_kd.training.stages.base import Shared as Shared
from tune_kd.training.stages.base import TestAccess as TestAccess
from tune_kd.training.stages.distill import planned_reports


def run(
    recipe: Recipe,
    *,
    seed: int,
    ctx: NodeContext,
    resume: Resume | Shared | None = None,
    access: TestAccess | None = None,
) -> Iterator[EpochReport]:
    """Train the recipe's student, from `resume` on; the last report has all measurements.

    With an `access` the test split is
    evaluated after each stage; a search never gives one. A recipe without stages measures the model
    that it starts from: one report of epoch 0.
    """
    began = time.monotonic()
    run_ = start_run(recipe, seed=seed, ctx=ctx, access=access)
    model, number, step = enter_stage(run_, resume)
    if not recipe.stages:
        yield _measure(run_, model, began=began)
        return
    while number < len(recipe.stages):
        within = resume if isinstance(resume, Resume) and resume.goes_on(number) else None
        kind = stage_kind(recipe.stages[number], code=ctx.code)
        at_stage = run_.at(number, step=step)
        for report, new_model in kind.run(at_stage, model, resume=within):  # noqa: B007
            yield report
        number, step, model = number + 1, report.step, new_model


def _measure(run: Run, model: nn.Module, *, began: float) -> EpochReport:
    return EpochReport(
        stage=0,
        stage_name="Measure",
        epoch=0,
        step=0,
        last=True,
        values=run.scores(model) | run.sizes(model),
        arrays=run.pictures(model),
        seconds=time.monotonic() - began,
    )


def enter_stage(run: Run, resume: Resume | Shared | None) -> tuple[nn.Module, int, int]:
    """Return the network, the stage that is next or goes on, and the rows before that stage."""
    recipe, ctx, sample = run.recipe, run.ctx, run.sample
    if not isinstance(resume, Resume):
        shared = resume.stages if resume else 0
        model = students.initial_student(recipe, ctx, sample=sample, seed=run.seed, shared=shared)
        return model, shared, 0
    before = planned_reports(recipe.stages[: resume.stage])
    step = resume.step or before + max(resume.epoch, 1)
    if not resume.is_over and stage_kind(recipe.stages[resume.stage]).has_own_state:
        model = context.build(recipe.student, recipe, ctx, seed=0)
        return model, resume.stage, step - resume.epoch
    next_stage = resume.stage + resume.is_over
    state = {k[6:]: v for k, v in resume.state.items() if k.startswith("model.")}
    model = students.rebuild_student(recipe, state, stages=next_stage, ctx=ctx, sample=sample)
    return model, next_stage, step if resume.is_over else step - resume.epoch
