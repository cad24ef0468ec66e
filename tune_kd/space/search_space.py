"""A search space: task, teacher, student, and the methods to compare, each with ranges of its own.

    SPACE = SearchSpace(name="mine", task="cifar10", teacher=Training("resnet18"),
    student=Training("resnet8"),
                        methods=kd_methods({"lr": log_uniform(0.01, 0.3), ...}, recipe=...))

The methods that spaces share stand in `methods`. Tasks, networks and losses are strings: a key of
the registry or `file.py:function`. A space is found by name (a file of `search_spaces/`) or by
path.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tune_kd import notebook
from tune_kd import objectives as fronts
from tune_kd.errors import UsageError
from tune_kd.metrics import LEADING, OBJECTIVES
from tune_kd.recipe import Distill, LossWeights, Stage, TrainingOptions
from tune_kd.recipe.canonical import demand
from tune_kd.space.distributions import bounds
from tune_kd.space.method import Config, Method


@dataclass(frozen=True)
class Training(TrainingOptions):
    """A network, and how it is trained where a method samples nothing else.

    `initial="imagenet"` begins with torchvision's weights for ImageNet, where the network has some.

    >>> from tune_kd.recipe import Optimizer
    >>> Training("resnet8", epochs=60, optimizer=Optimizer(name="adamw", lr=0.001)).batch_size
    128
    """

    network: str  # a key of models.MODELS or file.py:function
    initial: str = field(default="none", kw_only=True)
    epochs: int = field(default=100, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = ("none", "imagenet")
        demand("initial in (none, imagenet)", self.initial in sources, initial=self.initial)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is searched. Every plain field can be changed by `--set NAME=VALUE`, by its dotted path.

    `teacher` and `student` may be given as the network alone.
    """

    name: str
    task: str
    teacher: Training
    student: Training
    methods: Mapping[str, Method]
    family: str = "cnn"  # the key in report.json
    trials: int = 40  # a total over all methods and repeats
    repeats: int = (
        5  # independent searches of every method, at most: as many as `trials` suffice for
    )
    val_share: float = 0.0  # of the training images, for validation; 0: data.validation_size
    margin: float = 0.005  # a difference of accuracy (or mIoU) that would not matter, a fraction
    levels: tuple[str, ...] = ("low", "mid", "high")
    feature_loss: str = "cosine"
    mix: str = "none"  # mixup or cutmix: of the images that teacher and students are trained on
    mix_alpha: float = 1.0
    finetune_epochs: int = 5  # after pruning, and with fake quantization
    qat_lr: float = 0.01  # of training with fake quantization
    calibration_images: int = 512  # of static quantization
    start: str = "none"  # FILE or runs/X:METHOD, in place of a method's shared stages
    objectives: tuple[str, ...] = ()  # metrics; the first ranks and stops trials; () = the task's
    constraints: tuple[str, ...] = ()  # such as "size_mb <= 3"
    tables: tuple[str, ...] = ()  # of analysis.tables.common, written beside the common ones
    expected_teacher: float = 0.0  # below this share on test `evaluate` raises an alarm; 0: never
    expected_student: float = 0.0

    def __post_init__(self) -> None:
        for role in ("teacher", "student"):
            if not isinstance(network := getattr(self, role), Training):
                object.__setattr__(self, role, Training(network))
        if not self.methods:
            raise ValueError("a space needs at least one method")
        self._demand_numbers()
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(
                    f"objective {name!r} is not measured in a search; there are "
                    f"{', '.join(OBJECTIVES)}"
                )
        first = next(iter(self.objectives), LEADING[0])
        if first not in LEADING:
            raise ValueError(
                "the first objective ranks and stops trials and is what the report compares, so "
                f"it must be {' or '.join(LEADING)}; got {first}"
            )
        for text in self.constraints:
            fronts.parse(text)
        both = set(plain_fields(self)) & {r for m in self.methods.values() for r in m.ranges}
        if both:
            raise ValueError(f"{sorted(both)[0]} is both a field of the space and a range")

    def _demand_numbers(self) -> None:
        for name in ("trials", "repeats", "finetune_epochs"):
            demand(f"{name} >= 1", getattr(self, name) >= 1, **{name: getattr(self, name)})
        demand("0 <= val_share <= 0.5", 0 <= self.val_share <= 0.5, val_share=self.val_share)
        demand("0 < margin < 1", 0 < self.margin < 1, margin=self.margin)
        for name in ("expected_teacher", "expected_student"):
            value = getattr(self, name)
            demand(f"0 <= {name} <= 1", 0 <= value <= 1, **{name: value})
        mixes = ("none", "mixup", "cutmix")
        demand("mix in (none, mixup, cutmix)", self.mix in mixes, mix=self.mix)

    def distill(
        self,
        weights: LossWeights,
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        dropout: float | None = None,
        **loss: Any,
    ) -> Distill:
        """Return the student's main training stage, as `student` says where a value is not given.

        `loss` are fields of `Distill`: `logit_loss`, `logit_options`, `logit_warmup_epochs`,
        `feature_loss` (else the space's) and `feature_options`.
        """
        options = self.student.training_options()
        sampled = {"lr": lr, "weight_decay": weight_decay}
        changes: dict[str, Any] = {n: value for n, value in sampled.items() if value is not None}
        options["optimizer"] = replace(self.student.optimizer, **changes)
        options |= {} if dropout is None else {"dropout": dropout}
        if self.student.patience and self.objectives:
            options["monitor"] = self.objectives[0]
        for name in ("logit_loss", "feature_loss"):  # a function, of a notebook's cell say
            if callable(loss.get(name)):
                loss[name] = notebook.reference(loss[name])
        return Distill(weights=weights, **options, **{**self._features(weights), **loss})

    def _features(self, weights: LossWeights) -> dict[str, Any]:
        """Which features are compared, and how; nothing where they do not count."""
        if weights.gamma == 0:
            return {"levels": ()}
        return {"levels": self.levels, "feature_loss": self.feature_loss}

    def finetune(self, weights: LossWeights, *, lr: float, epochs: int) -> Distill:
        """Training after the main stage: shorter, with its own lr, cosine, without dropout or patience."""
        stage = self.distill(weights, lr=lr, weight_decay=0.0, dropout=0.0)
        optimizer = replace(stage.optimizer, schedule="cosine", warmup_epochs=0.0, decay_at=())
        return replace(stage, epochs=epochs, optimizer=optimizer, patience=0)

    def teacher_stages(self) -> tuple[Stage, ...]:
        """How the teacher is trained: on labels alone."""
        return (Distill(levels=(), **self.teacher.training_options()),)

    @cached_property
    def needs(self) -> frozenset[str]:
        """What its methods declare that they need, of `recipe.NEEDS`."""
        return frozenset(need for method in self.methods.values() for need in method.needs)

    @property
    def needs_teacher(self) -> bool:
        """Whether any method is trained with one."""
        return bool(self.needs & {"logits", "features"})

    @cached_property
    def compresses(self) -> bool:
        """Whether any method makes the student smaller."""
        return any(
            stage.compresses
            for name, method in self.methods.items()
            for stage in self.stages(name, method.settings()[0])
        )

    def whole_stages(self, method: str, config: Config) -> tuple[Stage, ...]:
        """Return the stages of one trial from fresh weights on: a pure function of the sampled values."""
        return self.methods[method].build(self, config)

    def starts(self, method: str) -> bool:
        """Whether a method's trials begin from the space's `start`."""
        return self.start != "none" and self.methods[method].shared > 0

    def stages(self, method: str, config: Config) -> tuple[Stage, ...]:
        """Return the stages of one trial, without those that `start` replaces."""
        skipped = self.methods[method].shared if self.starts(method) else 0
        return self.whole_stages(method, config)[skipped:]

    def shared(self, method: str) -> int:
        """How many of a trial's stages are trained once for all trials of the method."""
        return 0 if self.starts(method) else self.methods[method].shared

    def settings_to_check(self, method: str) -> list[dict[str, Any]]:
        """Return a method's own settings, its default ones with each choice, and with both ends of each range."""
        spec = self.methods[method]
        settings = spec.settings()
        changes = [
            {name: value}
            for name, range_ in spec.ranges.items()
            for value in getattr(range_, "choices", ())
        ]
        changes += [{n: end} for n, b in bounds(spec.ranges).items() for end in b[:2]]
        return settings + [{**settings[0], **change} for change in changes]

    def check(self) -> None:
        """Every method builds its stages, to the ends of its ranges; UsageError says which does not."""
        for name, method in self.methods.items():
            try:
                first, *others = [self.whole_stages(name, s) for s in self.settings_to_check(name)]
                if any(stages[: method.shared] != first[: method.shared] for stages in others):
                    raise ValueError(f"its first {method.shared} stages vary, but are shared")
            except (TypeError, ValueError) as error:
                raise UsageError(f"space {self.name}, method {name}: {error}") from None


def plain_fields(space: SearchSpace) -> dict[str, Any]:
    """Return the fields that `--set` may change, and that a study records, by dotted path."""
    return {path: value for path, value in _leaves(space) if path not in ("name", "methods")}


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for part in dataclasses.fields(value):
        inner, path = getattr(value, part.name), f"{prefix}{part.name}"
        if dataclasses.is_dataclass(inner):
            yield from _leaves(inner, f"{path}.")
        else:
            yield path, inner


def default_fields() -> dict[str, Any]:
    """Return the defaults of the fields that `plain_fields` names, of those that have one."""
    blank = Training("")
    defaults = {
        f"{role}.{path}": value for role in ("teacher", "student") for path, value in _leaves(blank)
    }
    defaults |= {
        part.name: part.default
        for part in dataclasses.fields(SearchSpace)
        if part.default is not dataclasses.MISSING
    }
    return {path: value for path, value in defaults.items() if not path.endswith(".network")}
