"""One training stage: a generator that yields after each epoch.

Random streams are seeded anew at each epoch from (seed, stage, epoch), so that resuming needs no saved
generator and two trials side by side are each as if alone. What a trial varies and a captured step
would read (lr, loss weights, temperature, dropout) are 0-dim tensors on the device.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tune_kd import data, losses, models
from tune_kd.recipe import Compute, Distill, Optimiser, stream
from tune_kd.teacher import Frozen, Tape, autocast

EVALUATION_BATCH = 512
FINITE_EVERY = 64  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Images on the device and which of them are fitted on and validated on, by index in the set."""

    images: data.Resident
    fit: Tensor  # int64, sorted
    validation: Tensor  # int64, may be empty
    num_images: int  # of the whole decoded set, which views are drawn for
    pad: int
    flip: bool

    def views(self, seed: int, epoch: int) -> Tensor:
        """The view of every image of the set in an epoch, on the images' device."""
        drawn = data.views(self.num_images, seed=seed, epoch=epoch, pad=self.pad, flip=self.flip)
        return drawn.to(self.fit.device)


class Learner:
    """What a stage trains: the student, its projections to the teacher's features, the optimiser."""

    def __init__(self, model: nn.Module, projections: nn.Module, optimiser: Optimiser) -> None:
        self.model, self.projections = model, projections
        self._parameters = parameters = [*model.parameters(), *projections.parameters()]
        self.lr = torch.tensor(float(optimiser.lr), device=parameters[0].device)
        if optimiser.name == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                parameters,
                lr=self.lr,
                weight_decay=optimiser.weight_decay,
                momentum=optimiser.momentum,
                nesterov=optimiser.nesterov and optimiser.momentum > 0,
                fused=True,
            )
        else:
            self.optimiser = torch.optim.AdamW(
                parameters, lr=self.lr, weight_decay=optimiser.weight_decay, fused=True
            )

    def state(self) -> dict[str, Tensor]:
        """Everything the next epoch goes on from, as flat names to tensors."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"projections.{k}": v for k, v in self.projections.state_dict().items()}
        for number, slots in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{slot}": v for slot, v in slots.items() if v is not None}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """What `state` returned, put back."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "projections": {}, "optimiser": {}}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        self.projections.load_state_dict(parts["projections"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, _, slot = name.partition(".")
            parameter = self._parameters[int(number)]
            if value.shape == parameter.shape:  # in the parameter's own memory layout
                value = torch.empty_like(parameter).copy_(value)
            slots.setdefault(int(number), {})[slot] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr  # load_state_dict copies it; the schedule writes to this one


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage together with what it needs: frozen teacher and tape are None where it has none."""

    stage: Distill
    number: int  # of the stage within the recipe
    first_step: int  # epochs trained in earlier stages
    seed: int
    fold: Fold
    compute: Compute
    teacher: Frozen | None
    tape: Tape | None
    feature_loss: Callable[..., Tensor]


def learning_rate(optimiser: Optimiser, *, epochs: float, at: float) -> float:
    """The lr when `at` of `epochs` epochs have been trained.

    >>> cosine = Optimiser(lr=0.2)
    >>> [round(learning_rate(cosine, epochs=10, at=at), 3) for at in (0, 5, 10)]
    [0.2, 0.1, 0.0]
    >>> step = Optimiser(lr=1.0, schedule="step", decay_at=(0.5, 0.75))
    >>> [round(learning_rate(step, epochs=8, at=at), 3) for at in (3, 4, 6)]
    [1.0, 0.1, 0.01]
    """
    warmup = min(optimiser.warmup_epochs, epochs)
    if at < warmup:
        return optimiser.lr * at / warmup
    if optimiser.schedule == "cosine":
        share = (at - warmup) / max(epochs - warmup, 1e-9)
        return optimiser.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    decays = sum(at >= fraction * epochs for fraction in optimiser.decay_at)
    return optimiser.lr * optimiser.decay_factor ** (decays if optimiser.schedule == "step" else 0)


def train(
    work: Training, learner: Learner, *, done: int = 0
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train from epoch `done` + 1 on; after each epoch its number and its losses, lr and metrics."""
    stage, fold = work.stage, work.fold
    weights = losses.Weights(stage.weights, device=fold.fit.device)
    taps = models.Taps(learner.model, stage.levels if weights.uses_features else ())
    try:
        for epoch in range(done + 1, stage.epochs + 1):
            values = _epoch(work, learner, weights=weights, taps=taps, epoch=epoch)
            if len(fold.validation):
                accuracy, loss = evaluate(learner.model, fold.images, fold.validation)
                values |= {"val_accuracy": accuracy, "val_loss": loss}
            if epoch == stage.epochs and work.teacher:
                work.teacher.assert_unchanged()
            yield epoch, values
    finally:
        taps.remove()


def _epoch(
    work: Training, learner: Learner, *, weights: losses.Weights, taps: models.Taps, epoch: int
) -> dict[str, float]:
    """One pass over the fitted images; mean losses and the last lr."""
    stage, fold, device = work.stage, work.fold, work.fold.fit.device
    views = fold.views(work.seed, work.first_step + epoch)
    soft = None
    if work.tape and weights.uses_soft:
        soft = work.tape.epoch(work.first_step + epoch).to(device)
    order = _generator(work, epoch, "order", torch.device("cpu"))
    shuffled = torch.randperm(len(fold.fit), generator=order).to(device)
    models.set_dropout(
        learner.model, stage.dropout, generator=_generator(work, epoch, "dropout", device)
    )
    size = min(stage.batch_size, len(fold.fit))
    steps = len(fold.fit) // size  # the rest, less than a batch, is another one each epoch
    sums = torch.zeros(4, device=device)
    learner.model.train()
    learner.projections.train()
    for step in range(steps):
        position = shuffled[step * size : (step + 1) * size]
        index = fold.fit[position]
        at = epoch - 1 + step / steps
        learner.lr.fill_(learning_rate(stage.optimiser, epochs=stage.epochs, at=at))
        teacher = soft[position].float() if soft is not None else None
        parts = _step(work, learner, weights=weights, taps=taps, index=index, view=views[index], teacher=teacher)  # fmt: skip
        sums += torch.stack([part.detach() for part in parts])
        if (step % FINITE_EVERY == 0 or step == steps - 1) and not bool(torch.isfinite(sums[0])):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
    names = ("train_loss", "hard_loss", "soft_loss", "feature_loss")
    means = dict(zip(names, (sums / steps).tolist(), strict=True))
    return {**means, "lr": float(learner.lr)}


def _step(  # noqa: PLR0913 - a step's operands
    work: Training, learner: Learner, *, weights: losses.Weights, taps: models.Taps, index: Tensor, view: Tensor, teacher: Tensor | None
) -> losses.Parts:  # fmt: skip
    """Forward, losses in float32, backward, update."""
    images, labels = work.fold.images.batch(index, view), work.fold.images.labels[index]
    features: dict[str, Tensor] = {}
    if weights.uses_features:
        assert work.teacher is not None
        live, features = work.teacher.outputs(images)
        teacher = live if teacher is None else teacher
    with autocast(images.device, work.compute.precision):
        scores = learner.model(images)
        projected = learner.projections(taps.features) if weights.uses_features else {}
    parts = losses.total(
        losses.Outputs(scores, projected),
        None if teacher is None else losses.Outputs(teacher, features),
        batch=losses.Batch(images, labels, index),
        weights=weights,
        terms=losses.Terms(
            label_smoothing=work.stage.label_smoothing, feature_loss=work.feature_loss
        ),
    )
    parts.loss.backward()
    learner.optimiser.step()
    learner.optimiser.zero_grad()
    return parts


def _generator(work: Training, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
    seed = stream(work.seed, work.number, epoch, purpose)
    return torch.Generator(device=device).manual_seed(seed)


@torch.no_grad()
def evaluate(model: nn.Module, images: data.Resident, index: Tensor) -> tuple[float, float]:
    """Accuracy as a fraction and mean cross-entropy of the images `index`, in float32, centre view."""
    was_training = model.training
    model.eval()
    right, loss = 0.0, 0.0
    for chunk in index.split(EVALUATION_BATCH):
        scores, labels = model(images.batch(chunk, None)).float(), images.labels[chunk]
        right += float((scores.argmax(1) == labels).sum())
        loss += float(losses.hard_loss(scores, labels)) * len(chunk)
    model.train(was_training)
    return right / len(index), loss / len(index)
