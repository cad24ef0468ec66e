"""What happens to one student, stage by stage, and the optimizer and losses of a stage that trains."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from tune_kd.metrics import LEADING
from tune_kd.recipe.canonical import demand

# What a stage may need or do, which a method declares (`space.Method.needs`).
NEEDS = ("logits", "features", "pruning", "integers")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the three loss terms, each >= 0 and finite, and the softmax temperature, > 0.

    `alpha` weighs the cross-entropy with the labels, `beta` the KL divergence to the teacher times
    temperature squared (Hinton et al. 2015, section 2), `gamma` the features.
    """

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            demand(f"0 <= {name} < inf", 0 <= value < math.inf, **{name: value})
        demand(
            "0 < temperature < inf", 0 < self.temperature < math.inf, temperature=self.temperature
        )
        total = self.alpha + self.beta + self.gamma
        demand("alpha + beta + gamma > 0", total > 0, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer and its schedule of the learning rate; decays happen at fractions `decay_at` of the epochs."""

    name: str = "sgd"  # sgd or adamw
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9  # of sgd
    nesterov: bool = True
    schedule: str = "cosine"  # cosine, step or constant
    warmup_epochs: float = 0.0
    decay_at: tuple[float, ...] = ()
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        demand("optimizer in (sgd, adamw)", self.name in ("sgd", "adamw"), optimizer=self.name)
        schedules = ("cosine", "step", "constant")
        demand(
            "schedule in (cosine, step, constant)",
            self.schedule in schedules,
            schedule=self.schedule,
        )
        demand("0 < lr < inf", 0 < self.lr < math.inf, lr=self.lr)
        ok = 0 <= self.weight_decay < math.inf
        demand("0 <= weight_decay < inf", ok, weight_decay=self.weight_decay)
        demand("0 <= momentum < 1", 0 <= self.momentum < 1, momentum=self.momentum)
        ok = 0 <= self.warmup_epochs < math.inf
        demand("warmup_epochs >= 0", ok, warmup_epochs=self.warmup_epochs)
        numbers = all(isinstance(at, int | float) for at in self.decay_at)
        ok = numbers and all(0 < at < 1 for at in self.decay_at)
        ok = ok and list(self.decay_at) == sorted(self.decay_at)
        demand("decay_at rises within (0, 1)", ok, decay_at=self.decay_at)
        demand("0 < decay_factor <= 1", 0 < self.decay_factor <= 1, decay_factor=self.decay_factor)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained, whatever it is trained for.

    `patience` > 0 ends training when validation has not improved for so many epochs. `clip` > 0
    bounds the norm of the gradient of a step.
    """

    epochs: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch_size: int = 128
    dropout: float = 0.0  # before the classifier
    label_smoothing: float = 0.0
    patience: int = 0
    clip: float = 0.0

    def __post_init__(self) -> None:
        demand("epochs >= 1", self.epochs >= 1, epochs=self.epochs)
        demand("batch_size >= 2", self.batch_size >= 2, batch_size=self.batch_size)
        demand("0 <= dropout < 1", 0 <= self.dropout < 1, dropout=self.dropout)
        ok = 0 <= self.label_smoothing < 1
        demand("0 <= label_smoothing < 1", ok, label_smoothing=self.label_smoothing)
        demand("patience >= 0", self.patience >= 0, patience=self.patience)
        demand("0 <= clip < inf", 0 <= self.clip < math.inf, clip=self.clip)

    def training_options(self) -> dict[str, Any]:
        """Return the fields that every kind of training has, by name.

        >>> Distill(epochs=3, clip=1.0, logit_loss="dkd").training_options()["clip"]
        1.0
        """
        return {part.name: getattr(self, part.name) for part in fields(TrainingOptions)}


class Stage:
    """One step on the way from fresh weights to a student: a network goes in, a network comes out.

    This says what is done. How, is said by the class of `training.stages` for the same `kind`.
    """

    kind: ClassVar[str] = ""
    compresses: ClassVar[bool] = True  # its network is smaller than what went in

    if TYPE_CHECKING:

        @property
        def epochs(self) -> int:
            """Epochs of training, 0 for a stage that does not train."""

    @property
    def training(self) -> "Distill | None":
        """How it trains; None for a stage that does not."""
        return None

    @property
    def needs(self) -> frozenset[str]:
        """What it needs, of NEEDS."""
        return self.training.needs if self.training else frozenset()

    @property
    def needs_teacher(self) -> bool:
        """Whether it is trained with a teacher."""
        return bool(self.needs & {"logits", "features"})

    @property
    def changes_shapes(self) -> bool:
        """Whether parameters have other shapes or names after it."""
        return False

    @property
    def leaves_zeros(self) -> bool:
        """Whether it sets weights to zero, which later stages must keep."""
        return False

    @property
    def references(self) -> tuple[str, ...]:
        """Names of registered functions, or `file.py:function`, that it uses."""
        return self.training.references if self.training else ()

    def with_references(self, rename: Callable[[str], str]) -> "Stage":
        """Return the stage with each of its references renamed."""
        return self

    @property
    def reports(self) -> int:
        """How many reports it gives: one per epoch, one if it does not train."""
        return max(self.epochs, 1)

    @classmethod
    def kinds(cls) -> "Mapping[str, type[Stage]]":
        """Return the classes by the `kind` that their JSON names."""
        return STAGES


@dataclass(frozen=True, kw_only=True)
class Distill(TrainingOptions, Stage):
    """One training stage. With beta = gamma = 0 it is ordinary training on labels.

    `stop_after` > 0 ends it after so many of its `epochs`, which the schedule still counts.
    """

    kind: ClassVar[str] = "distill"
    compresses: ClassVar[bool] = False

    epochs: int
    weights: LossWeights = field(default_factory=LossWeights)
    levels: tuple[str, ...] = ("low", "mid", "high")  # of the features; matter where gamma > 0
    logit_loss: str = "kl"  # a key of losses.LOGIT_LOSSES or file.py:function
    logit_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logit_warmup_epochs: float = 0.0  # in which beta rises from 0 to its value
    feature_loss: str = "cosine"  # a key of losses.FEATURE_LOSSES or file.py:function
    feature_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stop_after: int = 0
    monitor: str = ""  # the leading metric that `patience` waits for; "": the task's

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = 0 <= self.stop_after <= self.epochs
        demand("0 <= stop_after <= epochs", ok, stop_after=self.stop_after)
        ok = self.monitor in ("", *LEADING)
        demand(f"monitor in ({', '.join(LEADING)})", ok, monitor=self.monitor)
        demand_options(self.logit_options)
        demand_options(self.feature_options)
        ok = 0 <= self.logit_warmup_epochs < math.inf
        demand("logit_warmup_epochs >= 0", ok, logit_warmup_epochs=self.logit_warmup_epochs)
        ok = self.weights.gamma == 0 or len(self.levels) > 0
        demand("levels named where gamma > 0", ok, levels=self.levels)

    @property
    def training(self) -> "Distill":
        """Itself."""
        return self

    @property
    def needs(self) -> frozenset[str]:
        """The teacher's logits where beta > 0, its features where gamma > 0."""
        logits = {"logits"} if self.weights.beta > 0 else set()
        return frozenset(logits | ({"features"} if self.weights.gamma > 0 else set()))

    @property
    def references(self) -> tuple[str, ...]:
        """Both of its losses."""
        return (self.logit_loss, self.feature_loss)

    def with_references(self, rename: Callable[[str], str]) -> "Distill":
        """Return the stage with its losses renamed."""
        logit, feature = rename(self.logit_loss), rename(self.feature_loss)
        return replace(self, logit_loss=logit, feature_loss=feature)


@dataclass(frozen=True, kw_only=True)
class Prune(Stage):
    """Takes the share `ratio` of what matters least by its L1 or L2 norm out of the network.

    `channel` removes whole channels (of every group of layers that share them, so about
    1 - (1 - ratio)^2 of the weights go); `magnitude` sets the smallest weights to zero, and keeps
    them zero in the stages after it.
    """

    kind: ClassVar[str] = "prune"
    epochs: ClassVar[int] = 0

    method: str = "channel"
    ratio: float = 0.3

    def __post_init__(self) -> None:
        methods = ("channel", "magnitude")
        demand("prune method in (channel, magnitude)", self.method in methods, method=self.method)
        demand("0 < ratio < 1", 0 < self.ratio < 1, ratio=self.ratio)

    @property
    def needs(self) -> frozenset[str]:
        """The library that prunes."""
        return frozenset({"pruning"})

    @property
    def changes_shapes(self) -> bool:
        """Whether whole channels go."""
        return self.method == "channel"

    @property
    def leaves_zeros(self) -> bool:
        """Whether single weights go."""
        return self.method == "magnitude"


@dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """To int8: calibrated on images (`training` None), or trained with fake quantization (QAT)."""

    kind: ClassVar[str] = "quantize"

    calibration_images: int = 512
    training: Distill | None = None

    def __post_init__(self) -> None:
        ok = self.calibration_images >= 1
        demand("calibration_images >= 1", ok, calibration_images=self.calibration_images)
        ok = self.training is None or self.training.weights.gamma == 0
        demand("gamma = 0 while fake quantization is trained", ok)

    @property
    def epochs(self) -> int:
        """Epochs of training with fake quantization."""
        return self.training.epochs if self.training else 0

    @property
    def needs(self) -> frozenset[str]:
        """The library that makes integers, and what its training needs."""
        return super().needs | {"integers"}

    def with_references(self, rename: Callable[[str], str]) -> "Quantize":
        """Return the stage with the losses of its training renamed."""
        training = self.training and self.training.with_references(rename)
        return replace(self, training=training)


@dataclass(frozen=True, kw_only=True)
class Transform(Stage):
    """Changes the network without training it: a key of `compress.TRANSFORMS` or `file.py:Class`, with options."""

    kind: ClassVar[str] = "transform"
    epochs: ClassVar[int] = 0

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        demand_options(self.options)

    @property
    def changes_shapes(self) -> bool:
        """Always, as far as anybody can tell."""
        return True

    @property
    def references(self) -> tuple[str, ...]:
        """Its own name."""
        return (self.name,)

    def with_references(self, rename: Callable[[str], str]) -> "Transform":
        """Return the stage with its name changed."""
        return replace(self, name=rename(self.name))


STAGES: dict[str, type[Stage]] = {s.kind: s for s in (Distill, Prune, Quantize, Transform)}


def demand_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError where an option is not a number, a boolean or a word."""
    for name, value in options.items():
        ok = isinstance(value, bool | int | float | str)
        demand("options are numbers, booleans or words", ok, **{name: value})


def training_stages(stages: Iterable[Stage]) -> list[Distill]:
    """Return how the stages that train do it."""
    return [stage.training for stage in stages if stage.training]
