"""What all stages of one run share, and what a kind of stage must be able to do."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tune_kd.compress import int8, pruning
from tune_kd.data.splits import DeviceSplit
from tune_kd.measure import profile
from tune_kd.recipe import Recipe, Stage
from tune_kd.training import context, inference, test_split
from tune_kd.training.context import NodeContext
from tune_kd.training.report import EpochReport
from tune_kd.training.teacher import FrozenTeacher


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
    def is_over(self) -> bool:
        """Whether that row was the last of its stage."""
        return bool(self.state.get("progress.over", False))

    def goes_on(self, stage: int) -> bool:
        """Whether it is within this stage."""
        return self.stage == stage and not self.is_over


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The first `stages` of the recipe were trained once for several trials: their result is loaded."""

    stages: int


@dataclass(frozen=True, kw_only=True)
class TestAccess:
    """The test split is to be opened; `reference` is a teacher's network and model id to agree with."""

    reference: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe that is carried out: its images, its teacher, and where its rows and its stage begin."""

    recipe: Recipe
    seed: int
    ctx: NodeContext
    images: DeviceSplit
    teacher: FrozenTeacher | None
    access: TestAccess | None  # None: the test split stays sealed
    test: test_split.TestSplit | None
    sample: Tensor  # two images as a network sees them, for its shapes
    number: int = 0  # of the stage
    step: int = 0  # rows before the stage
    began: float = field(default_factory=time.monotonic)

    @property
    def stage(self) -> Stage:
        """The stage that is carried out."""
        return self.recipe.stages[self.number]

    def at(self, number: int, *, step: int) -> "Run":
        """Return the run at a stage, after so many rows."""
        return replace(self, number=number, step=step, began=time.monotonic())

    def on_device_of(self, model: nn.Module) -> "Run":
        """Return the run with its images where the network is: int8 ones are on the CPU."""
        if self.ctx.device == "cpu" or not int8.is_int8(model):
            return self
        ctx = replace(self.ctx, device="cpu")
        return start_run(self.recipe, seed=self.seed, ctx=ctx, access=self.access)

    def scores(self, model: nn.Module) -> dict[str, Any]:
        """Return the columns of validation where there is one, and of the test split where it is open."""
        values: dict[str, Any] = {}
        run = self.on_device_of(model)
        images = run.images
        if len(images.validation):
            scores = inference.evaluate(model, images, images.validation)
            values |= scores.values("val", dense=images.dense)
        if run.test:
            values |= test_split.columns(run.test.evaluate(model), dense=images.dense)
        return values

    def footprint(self, model: nn.Module, *, before: nn.Module) -> dict[str, float]:
        """Return parameters and size; FLOPs and what is not zero as well where the recipe compresses.

        `before` is the network of which an int8 one was made: it has as many parameters.
        """
        if int8.is_int8(model):
            return {**profile.footprint(before), "size_mb": int8.size_mb(model)}
        return self.sizes(model) if self.recipe.compresses else profile.footprint(model)

    def sizes(self, model: nn.Module) -> dict[str, float]:
        """Return all sizes of a float network, whatever was cut off it."""
        values = profile.footprint(model)
        values["nonzero_params"] = float(pruning.nonzero_params(model))
        values["flops"] = profile.flops(model, self.sample[:1])
        return values

    def pictures(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the arrays of test pictures where every pixel has a label and the test split is open."""
        run = self.on_device_of(model)
        if run.test is None or not run.images.dense:
            return {}
        return test_split.pictures(model, run.test)


def start_run(recipe: Recipe, *, seed: int, ctx: NodeContext, access: TestAccess | None) -> Run:
    """Return a recipe's run: its images on the device, its frozen teacher, its test split if it is opened."""
    images = context.device_split(recipe.images, ctx, recipe.compute.layout)
    test = test_split.prepare(recipe, ctx, reference=access.reference) if access else None
    return Run(
        recipe=recipe,
        seed=seed,
        ctx=ctx,
        images=images,
        teacher=context.frozen_teacher(recipe, ctx),
        access=access,
        test=test,
        sample=context.sample_of(images),
    )


class StageKind(Protocol):
    """How stages of one kind are carried out; made of the stage."""

    # Whether an unfinished stage's state is that of a network which only this kind makes.
    has_own_state: bool

    def run(
        self, run: Run, model: nn.Module, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        """Yield the stage's reports, each with the network as it is then."""
        ...

    def rebuild(
        self, model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor
    ) -> nn.Module:
        """Return a network with the shapes of one after this stage, whose state this is.

        `model` has the shapes of before, on the device; its values do not matter.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage that is over gives beside its network: the columns of its last row."""

    model: nn.Module
    values: Mapping[str, Any]


def report_epoch(
    run: Run, epoch: int, values: Mapping[str, Any], state: Mapping[str, Tensor]
) -> EpochReport:
    """Return the report of an epoch after which the stage goes on, from `state`."""
    return _report(run, epoch, values, state=state, last=False, arrays={})


def report_end(run: Run, epoch: int, result: StageResult) -> EpochReport:
    """Return the report that ends a stage; epoch 0 of one that does not train."""
    tensors = (
        int8.state_of(result.model) if int8.is_int8(result.model) else result.model.state_dict()
    )
    state = {f"model.{name}": value for name, value in tensors.items()}
    state["progress.over"] = torch.tensor(True)
    last = run.number == len(run.recipe.stages) - 1
    arrays = run.pictures(result.model) if last else {}
    return _report(run, epoch, result.values, state=state, last=last, arrays=arrays)


def _report(run: Run, epoch: int, values: Mapping[str, Any], **more: Any) -> EpochReport:
    return EpochReport(
        stage=run.number,
        stage_name=type(run.stage).__name__,
        epoch=epoch,
        step=run.step + max(epoch, 1),
        values=values,
        seconds=time.monotonic() - run.began,
        **more,
    )


def change_network(
    run: Run, model: nn.Module, new_model: nn.Module
) -> tuple[EpochReport, nn.Module]:
    """Return the one report of a stage that does not train, with the network that it gave."""
    values = run.scores(new_model) | run.footprint(new_model, before=model)
    return report_end(run, 0, StageResult(model=new_model, values=values)), new_model
