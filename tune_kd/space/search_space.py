"""A search space: task, teacher, student, and the methods to compare, each with ranges of its own.

    SPACE = SearchSpace(name="mine", task="cifar10", teacher="resnet18", student="resnet8",
                        methods=kd_methods({"lr": log_uniform(0.01, 0.3), ...}, recipe=...))

The methods that spaces share stand in `methods`. Tasks, networks and feature losses are strings: a key of the registry or `file.py:function`. Ranges
are Optuna's distributions. A space is found by name (a file of `search_spaces/`) or by path.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from tune_kd import notebook
from tune_kd import objectives as fronts
from tune_kd.errors import UsageError
from tune_kd.recipe import Distill, LossWeights, Optimizer, Stage

Config = Mapping[str, Any]
TRAINING = ("lr", "weight_decay", "dropout")  # what a method passes on to `SearchSpace.distill`
OBJECTIVES = (
    "val_accuracy", "val_miou", "val_loss", "num_params", "nonzero_params", "size_mb", "flops",
    "latency_ms", "throughput_per_s",
)  # fmt: skip
LEADING = ("val_accuracy", "val_miou")  # what a study may rank its trials by: more is better


def uniform(low: float, high: float) -> FloatDistribution:
    """A number in [low, high]."""
    return FloatDistribution(low, high)


def log_uniform(low: float, high: float) -> FloatDistribution:
    """A number in [low, high], uniform in its logarithm; low > 0."""
    return FloatDistribution(low, high, log=True)


def integer(low: int, high: int) -> IntDistribution:
    """A whole number in [low, high]."""
    return IntDistribution(low, high)


def choice(*values: Any) -> CategoricalDistribution:
    """One of the values (numbers, strings or booleans)."""
    return CategoricalDistribution(values)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the final table: how a student is made from sampled values.

    `stages(space, **values)` is a pure function; its keyword arguments are the names of `ranges`,
    where `**training` stands for those of TRAINING.
    `textbook` is the first trial, which runs to the end; `literature` are further settings to try,
    each a change of the textbook's. The first `shared` stages do not depend on sampled values: they
    are trained once for all trials, or replaced by the space's `start`.
    """

    stages: Callable[..., tuple[Stage, ...]]
    ranges: Mapping[str, BaseDistribution]
    textbook: Config
    literature: tuple[Config, ...] = ()
    fixed: Config = field(default_factory=dict)  # pinned by --set
    shared: int = 0

    def __post_init__(self) -> None:
        given = {**self.ranges, **self.fixed}
        parameters = list(inspect.signature(self.stages).parameters.values())[1:]
        wanted = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        wanted += TRAINING if len(wanted) < len(parameters) else ()
        if set(wanted) != set(given):
            raise ValueError(f"{self.stages.__name__} takes {wanted}, but ranges has {list(given)}")
        for setting in (self.textbook, *self.literature):
            for name, value in setting.items():
                known = self.ranges.get(name)
                if known is None and name not in self.fixed:
                    raise ValueError(f"textbook or literature sets {name}, which has no range")
                if known is not None and not known._contains(known.to_internal_repr(value)):
                    raise ValueError(f"{name}={value!r} lies outside its range {shown(known)}")
        missing = set(self.ranges) - set(self.textbook)
        if missing:
            raise ValueError(f"the textbook setting lacks {sorted(missing)}")

    def settings(self) -> list[dict[str, Any]]:
        """Textbook first, then the literature's, complete and each once, sampled names only."""
        unique: list[dict[str, Any]] = []
        for change in ({}, *self.literature):
            merged = {**self.textbook, **change}
            setting = {name: merged[name] for name in self.ranges}
            if setting not in unique:
                unique.append(setting)
        return unique

    def pin(self, name: str, value: Any) -> "Method":
        """This method with one range pinned to a value; unchanged where it has no such range."""
        if name not in self.ranges and name not in self.fixed:
            return self
        kept = {k: v for k, v in self.ranges.items() if k != name}
        book = {k: v for k, v in self.textbook.items() if k != name}
        others = tuple({k: v for k, v in s.items() if k != name} for s in self.literature)
        fixed = {**self.fixed, name: value}
        return dataclasses.replace(self, ranges=kept, textbook=book, literature=others, fixed=fixed)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is searched. Every plain field can be changed by `--set NAME=VALUE`."""

    name: str
    task: str
    teacher: str
    student: str
    methods: Mapping[str, Method]
    family: str = "cnn"  # the key in report.json
    trials: int = 40  # a total over all methods and repeats
    repeats: int = (
        5  # independent searches of every method, at most: as many as `trials` suffice for
    )
    val_share: float = 0.0  # of the training images, for validation; 0: data.validation_size
    margin: float = 0.005  # a difference of accuracy (or mIoU) that would not matter, a fraction
    epochs: int = 100  # of the student's main training stage
    teacher_epochs: int = 100
    batch_size: int = 128
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    decay_at: tuple[float, ...] = ()
    decay_factor: float = 0.1
    label_smoothing: float = 0.0
    teacher_lr: float = 0.1
    teacher_weight_decay: float = 5e-4
    teacher_dropout: float = 0.0
    levels: tuple[str, ...] = ("low", "mid", "high")
    feature_loss: str = "cosine"
    patience: int = 0  # epochs without a better validation after which training ends; 0: none
    clip: float = 0.0  # norm of the gradient, at most; 0: as it is
    mix: str = "none"  # mixup or cutmix: of the images that teacher and students are trained on
    mix_alpha: float = 1.0
    teacher_weights: str = "none"  # imagenet: what the teacher's training begins with
    finetune_epochs: int = 5  # after pruning, and with fake quantisation
    qat_lr: float = 0.01  # of training with fake quantisation
    calibration_images: int = 512  # of static quantisation
    start: str = "none"  # FILE or runs/X:METHOD, in place of a method's shared stages
    objectives: tuple[
        str, ...
    ] = ()  # metrics; the first drives early stopping; () = the task's own
    constraints: tuple[str, ...] = ()  # such as "size_mb <= 3"
    tables: tuple[str, ...] = ()  # of analysis.tables.common, written beside the common ones
    expected_teacher: float = 0.0  # below this share on test `evaluate` raises an alarm; 0: never
    expected_student: float = 0.0

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("a space needs at least one method")
        for rule, ok, value in (
            ("trials >= 1", self.trials >= 1, self.trials),
            ("repeats >= 1", self.repeats >= 1, self.repeats),
            ("0 <= val_share <= 0.5", 0 <= self.val_share <= 0.5, self.val_share),
            ("0 < margin < 1", 0 < self.margin < 1, self.margin),
            ("epochs >= 1", self.epochs >= 1, self.epochs),
            ("teacher_epochs >= 1", self.teacher_epochs >= 1, self.teacher_epochs),
            ("finetune_epochs >= 1", self.finetune_epochs >= 1, self.finetune_epochs),
            ("0 <= expected_teacher <= 1", 0 <= self.expected_teacher <= 1, self.expected_teacher),
            ("0 <= expected_student <= 1", 0 <= self.expected_student <= 1, self.expected_student),
            ("mix in (none, mixup, cutmix)", self.mix in ("none", "mixup", "cutmix"), self.mix),
            ("teacher_weights in (none, imagenet)", self.teacher_weights in ("none", "imagenet"), self.teacher_weights),
        ):  # fmt: skip
            if not ok:
                raise ValueError(f"{rule} must hold, but got {value}")
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(
                    f"objective {name!r} is not measured in a search; there are {', '.join(OBJECTIVES)}"
                )
        first = next(iter(self.objectives), LEADING[0])
        if first not in LEADING:
            raise ValueError(
                "the first objective ranks and stops trials and is what the report compares, so it must be "
                f"{' or '.join(LEADING)}; got {first}"
            )
        for text in self.constraints:
            fronts.parse(text)
        both = set(plain_fields(self)) & {r for m in self.methods.values() for r in m.ranges}
        if both:
            raise ValueError(f"{sorted(both)[0]} is both a field of the space and a range")

    def distill(
        self, weights: LossWeights, *, lr: float, weight_decay: float, dropout: float, **loss: Any
    ) -> Distill:
        """Return the student's main training stage under this space's fields.

        `loss` are fields of `Distill`: `logit_loss`, `logit_options`, `logit_warmup_epochs`, `feature_loss`
        (else the space's) and `feature_options`.
        """
        loss = {"feature_loss": self._feature_loss(weights), **loss}
        for name in ("logit_loss", "feature_loss"):  # a function, of a notebook's cell say
            if callable(loss.get(name)):
                loss[name] = notebook.reference(loss[name])
        stage = Distill(epochs=self.epochs, weights=weights, dropout=dropout, **loss)
        return self._training(stage, lr, weight_decay)

    def teacher_stages(self) -> tuple[Stage, ...]:
        """How the teacher is trained: on labels alone."""
        stage = Distill(epochs=self.teacher_epochs, dropout=self.teacher_dropout)
        return (self._training(stage, self.teacher_lr, self.teacher_weight_decay),)

    def _training(self, stage: Distill, lr: float, weight_decay: float) -> Distill:
        optimizer = Optimizer(
            name=self.optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            schedule=self.schedule,
            warmup_epochs=self.warmup_epochs,
            decay_at=self.decay_at,
            decay_factor=self.decay_factor,
        )
        return dataclasses.replace(
            stage,
            optimizer=optimizer,
            batch_size=self.batch_size,
            label_smoothing=self.label_smoothing,
            patience=self.patience,
            clip=self.clip,
            levels=self.levels if stage.weights.gamma > 0 else (),
        )

    def _feature_loss(self, weights: LossWeights) -> str:
        return self.feature_loss if weights.gamma > 0 else "cosine"

    def finetune(self, weights: LossWeights, *, lr: float, epochs: int) -> Distill:
        """Training after the main stage: shorter, with its own lr, cosine, without dropout or patience."""
        stage = Distill(epochs=epochs, weights=weights, feature_loss=self._feature_loss(weights))
        stage = self._training(stage, lr, 0.0)
        optimizer = dataclasses.replace(
            stage.optimizer, schedule="cosine", warmup_epochs=0.0, decay_at=()
        )
        return dataclasses.replace(stage, optimizer=optimizer, patience=0)

    def whole_stages(self, method: str, config: Config) -> tuple[Stage, ...]:
        """The stages of one trial from fresh weights on: a pure function of the sampled values."""
        chosen = self.methods[method]
        return chosen.stages(self, **{**config, **chosen.fixed})

    def starts(self, method: str) -> bool:
        """Whether a method's trials begin from the space's `start`."""
        return self.start != "none" and self.methods[method].shared > 0

    def stages(self, method: str, config: Config) -> tuple[Stage, ...]:
        """The stages of one trial, without those that `start` replaces."""
        skipped = self.methods[method].shared if self.starts(method) else 0
        return self.whole_stages(method, config)[skipped:]

    def shared(self, method: str) -> int:
        """How many of a trial's stages are trained once for all trials of the method."""
        return 0 if self.starts(method) else self.methods[method].shared

    def check(self) -> None:
        """Every method builds its stages, to the ends of its ranges; UsageError says which does not."""
        for name, method in self.methods.items():
            book = method.settings()[0]
            ends = [{n: end} for n, b in bounds(method.ranges).items() for end in b[:2]]
            try:
                self.teacher_stages()
                for change in ({}, *ends):
                    whole = self.whole_stages(name, {**book, **change})
                    shared = self.whole_stages(name, book)[: method.shared]
                    if whole[: method.shared] != shared:
                        raise ValueError(f"its first {method.shared} stages vary, but are shared")
            except (TypeError, ValueError) as error:
                raise UsageError(f"space {self.name}, method {name}: {error}") from None


def plain_fields(space: SearchSpace) -> dict[str, Any]:
    """The fields that `--set` may change, and that a study records."""
    hidden = ("name", "methods")
    return {
        f.name: getattr(space, f.name) for f in dataclasses.fields(space) if f.name not in hidden
    }


def default_fields() -> dict[str, Any]:
    """The defaults of the fields that `plain_fields` names, of those that have one."""
    return {
        f.name: f.default
        for f in dataclasses.fields(SearchSpace)
        if f.default is not dataclasses.MISSING
    }


def shown(distribution: BaseDistribution) -> str:
    """A range in words.

    >>> shown(log_uniform(1, 20)), shown(choice("a", "b"))
    ('1 .. 20 log', 'a | b')
    """
    if isinstance(distribution, FloatDistribution | IntDistribution):
        log = " log" if distribution.log else ""
        return f"{distribution.low:g} .. {distribution.high:g}{log}"
    assert isinstance(distribution, CategoricalDistribution)
    return " | ".join(str(value) for value in distribution.choices)


def bounds(ranges: Mapping[str, BaseDistribution]) -> dict[str, tuple[float, float, bool]]:
    """Low, high and whether on a log scale, of the ranges that are numbers."""
    return {
        name: (d.low, d.high, d.log)
        for name, d in ranges.items()
        if isinstance(d, FloatDistribution | IntDistribution)
    }


def to_json(distribution: BaseDistribution) -> str:
    """A range as Optuna writes it."""
    return str(distribution_to_json(distribution))


def column_type(distribution: BaseDistribution) -> str:
    """The Arrow type of a sampled value's column."""
    if isinstance(distribution, FloatDistribution):
        return "double"
    if isinstance(distribution, IntDistribution):
        return "int64"
    assert isinstance(distribution, CategoricalDistribution)
    kinds = {type(value) for value in distribution.choices}
    return {bool: "bool", int: "int64", float: "double"}.get(kinds.pop(), "string") if len(kinds) == 1 else "string"  # fmt: skip
