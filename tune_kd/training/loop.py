"""One training stage: a generator that yields after each epoch.

Random streams are seeded anew at each epoch from (seed, stage, epoch), so that resuming needs no
saved generator and two trials side by side are each as if alone. What a trial varies and a captured
step would read (lr, loss weights, temperature, dropout) are 0-dim tensors on the device.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tune_kd import losses
from tune_kd.data import splits
from tune_kd.data.batch import Batch
from tune_kd.metrics import default_objective
from tune_kd.models import registry, segmentation
from tune_kd.models.taps import Taps
from tune_kd.recipe import Compute, Distill, Optimizer, stream
from tune_kd.training import inference
from tune_kd.training.logit_cache import LogitCache
from tune_kd.training.teacher import FrozenTeacher, autocast

FINITE_EVERY = 64  # steps between looks at the loss: each look waits for the device


class TrainState:
    """What a stage trains: the student, its projections to the teacher's features, the optimizer."""

    def __init__(self, model: nn.Module, projections: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.projections = model, projections
        self.best = torch.tensor([-math.inf, 0.0])  # best value of validation, and its epoch
        self.parameters = parameters = [*model.parameters(), *projections.parameters()]
        self.lr = torch.tensor(float(optimizer.lr), device=parameters[0].device)
        if optimizer.name == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters,
                lr=self.lr,
                weight_decay=optimizer.weight_decay,
                momentum=optimizer.momentum,
                nesterov=optimizer.nesterov and optimizer.momentum > 0,
                fused=True,
            )
        else:
            self.optimizer = torch.optim.AdamW(
                parameters, lr=self.lr, weight_decay=optimizer.weight_decay, fused=True
            )

    def state(self) -> dict[str, Tensor]:
        """Everything the next epoch goes on from, as flat names to tensors."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"projections.{k}": v for k, v in self.projections.state_dict().items()}
        tensors["progress.best"] = self.best
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{slot}": v for slot, v in slots.items() if v is not None
            }
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        parts: dict[str, dict[str, Tensor]] = {
            part: {} for part in ("model", "projections", "optimizer", "progress")
        }
        for name, value in state.items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        self.model.load_state_dict(parts["model"])
        self.projections.load_state_dict(parts["projections"])
        self.best = parts["progress"]["best"].clone()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, slot = name.partition(".")
            parameter = self.parameters[int(number)]
            if value.shape == parameter.shape:  # in the parameter's own memory layout
                value = torch.empty_like(parameter).copy_(value)
            slots.setdefault(int(number), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # load_state_dict copies it; the schedule writes to this one


@dataclass(frozen=True, kw_only=True)
class StageInputs:
    """A stage together with what it needs: frozen teacher and logit cache are None where it has none."""

    stage: Distill
    number: int  # of the stage within the recipe
    first_step: int  # reports of earlier stages
    seed: int  # of dropout
    view_seed: int  # of what is seen of the images, and of the order of batches
    split: splits.DeviceSplit
    compute: Compute
    teacher: FrozenTeacher | None
    logit_cache: LogitCache | None
    terms: losses.LossOptions
    after_step: Callable[[], None] | None = None  # keeps pruned weights at zero


def learning_rate(optimizer: Optimizer, *, epochs: float, at: float) -> float:
    """Return the lr when `at` of `epochs` epochs have been trained.

    >>> cosine = Optimizer(lr=0.2)
    >>> [round(learning_rate(cosine, epochs=10, at=at), 3) for at in (0, 5, 10)]
    [0.2, 0.1, 0.0]
    >>> step = Optimizer(lr=1.0, schedule="step", decay_at=(0.5, 0.75))
    >>> [round(learning_rate(step, epochs=8, at=at), 3) for at in (3, 4, 6)]
    [1.0, 0.1, 0.01]
    """
    warmup = min(optimizer.warmup_epochs, epochs)
    if at < warmup:
        return optimizer.lr * at / warmup
    if optimizer.schedule == "cosine":
        share = (at - warmup) / max(epochs - warmup, 1e-9)
        return optimizer.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    decays = sum(at >= fraction * epochs for fraction in optimizer.decay_at)
    return optimizer.lr * optimizer.decay_factor ** (decays if optimizer.schedule == "step" else 0)


@dataclass(frozen=True)
class Epoch:
    """An epoch that is over: its number, and its losses, lr and metrics by column."""

    number: int
    values: dict[str, Any]
    last: bool  # of the stage


class _Tools(NamedTuple):
    """The weights of the loss on the device, and the hooks on the student's features."""

    weights: losses.Weights
    taps: Taps


def train(work: StageInputs, learner: TrainState, *, epochs_done: int = 0) -> Iterator[Epoch]:
    """Train from epoch `epochs_done` + 1 on, and hand over each epoch."""
    stage, split = work.stage, work.split
    weights = losses.Weights(stage.weights, device=split.fit.device)
    taps = Taps(learner.model, stage.levels if weights.uses_features else ())
    tools = _Tools(weights, taps)
    end = stage.stop_after or stage.epochs
    try:
        for number in range(epochs_done + 1, end + 1):
            values = _epoch(work, learner, tools, epoch=number)
            if len(split.validation):
                scores = inference.evaluate(learner.model, split, split.validation)
                values |= scores.values("val", dense=split.dense)
            last = number == end or _out_of_patience(work, learner, values, number)
            if last and work.teacher:
                work.teacher.assert_unchanged()
            yield Epoch(number, values, last)
            if last:
                return
    finally:
        taps.remove()


def _out_of_patience(
    work: StageInputs, learner: TrainState, values: Mapping[str, float], epoch: int
) -> bool:
    """Whether validation has not improved for as long as the stage waits; remembers the best."""
    kind = "segmentation" if work.split.dense else "classification"
    value = values.get(work.stage.monitor or default_objective(kind))
    if not work.stage.patience or value is None:
        return False
    if value > float(learner.best[0]):
        learner.best = torch.tensor([value, float(epoch)])
    return epoch - int(learner.best[1]) >= work.stage.patience


def _epoch(work: StageInputs, learner: TrainState, tools: _Tools, *, epoch: int) -> dict[str, Any]:
    """Pass once over the fitted images; return mean losses and the last lr."""
    weights = tools.weights
    stage, split, device = work.stage, work.split, work.split.fit.device
    augment = split.augmenter(work.view_seed, work.first_step + epoch)
    soft = None
    if work.logit_cache and weights.uses_soft:
        soft = work.logit_cache.epoch(work.first_step + epoch).to(device)
    order = _generator(work, epoch, "order", torch.device("cpu"))
    positions = torch.randperm(len(split.fit), generator=order).to(device)
    registry.set_dropout(
        learner.model, stage.dropout, generator=_generator(work, epoch, "dropout", device)
    )
    size = min(stage.batch_size, len(split.fit))
    steps = len(split.fit) // size  # the rest, less than a batch, is another one each epoch
    sums = torch.zeros(4, device=device)
    learner.model.train()
    learner.projections.train()
    for step in range(steps):
        position = positions[step * size : (step + 1) * size]
        at = epoch - 1 + step / steps
        weights.warm_up(at, epochs=stage.logit_warmup_epochs)
        learner.lr.fill_(learning_rate(stage.optimizer, epochs=stage.epochs, at=at))
        teacher = soft[position].float() if soft is not None else None
        batch = augment(split.fit[position])
        parts = _step(work, learner, tools, batch=batch, teacher=teacher)
        sums += torch.stack([part.detach() for part in parts])
        if (step % FINITE_EVERY == 0 or step == steps - 1) and not bool(torch.isfinite(sums[0])):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
    names = ("train_loss", "hard_loss", "soft_loss", "feature_loss")
    means = dict(zip(names, (sums / steps).tolist(), strict=True))
    return {**means, "lr": float(learner.lr)}


def _step(
    work: StageInputs, learner: TrainState, tools: _Tools, *, batch: Batch, teacher: Tensor | None
) -> losses.LossTerms:
    """Forward, losses in float32, backward, update."""
    images, (weights, taps) = batch.images, tools
    features: dict[str, Tensor] = {}
    if weights.uses_features:
        assert work.teacher is not None
        live, features = work.teacher.outputs(images)
        teacher = live if teacher is None else teacher
    with autocast(images.device, work.compute.precision):
        scores = learner.model(images)
        student_features = (
            _project_features(work, learner, taps.features) if weights.uses_features else {}
        )
    if teacher is not None and work.split.dense:
        teacher = segmentation.resize(teacher, scores.shape[2:])
    parts = losses.total(
        losses.Outputs(scores, student_features),
        None if teacher is None else losses.Outputs(teacher, features),
        batch=batch,
        weights=weights,
        terms=work.terms,
    )
    parts.loss.backward()
    if work.stage.clip:
        nn.utils.clip_grad_norm_(learner.parameters, work.stage.clip)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if work.after_step:
        work.after_step()
    return parts


def _project_features(
    work: StageInputs, learner: TrainState, features: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return the student's features as the loss wants them."""
    if work.terms.feature_loss.needs_projection:
        projections: Mapping[str, Tensor] = learner.projections(features)
        return projections
    return dict(features)


def _generator(
    work: StageInputs, epoch: int, purpose: str, device: torch.device
) -> torch.Generator:
    """Return the stream of an epoch: the order of batches is all trials' alike, dropout a trial's own."""
    seed = work.view_seed if purpose == "order" else work.seed
    return torch.Generator(device=device).manual_seed(stream(seed, work.number, epoch, purpose))
