"""What one student is made of: frozen data that survives JSON and has a fingerprint.

A recipe names its images, its student, its frozen teacher and a sequence of stages (model in, model
out). A teacher is a recipe without a teacher; a measurement of a finished model is a recipe without
stages. A recipe and a seed give the same student on the same kind of device.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RECIPE_VERSION = 4  # raised when training changes, so that no model of older code is taken for new


def digest(*parts: str | bytes, length: int = 16) -> str:
    """A hexadecimal SHA-256 of the parts, cut to `length`; the parts cannot run into each other.

    >>> digest("a", "b") == digest("ab")
    False
    """
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()[:length]


def stream(*parts: object) -> int:
    """The seed of one random stream: a hash of what the stream is for, in [0, 2**63).

    >>> stream(0, "shuffle", 1) == stream(0, "shuffle", 1) != stream(0, "shuffle", 2)
    True
    """
    return int(digest(*(repr(part) for part in parts)), 16) >> 1


def _demand(rule: str, holds: bool, **given: object) -> None:
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"{rule} must hold, but got {values}")


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
            _demand(f"0 <= {name} < inf", 0 <= value < math.inf, **{name: value})
        _demand(
            "0 < temperature < inf", 0 < self.temperature < math.inf, temperature=self.temperature
        )
        total = self.alpha + self.beta + self.gamma
        _demand("alpha + beta + gamma > 0", total > 0, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer and its lr schedule; decays happen at fractions `decay_at` of the epochs."""

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
        _demand("optimizer in (sgd, adamw)", self.name in ("sgd", "adamw"), optimizer=self.name)
        known = ("cosine", "step", "constant")
        _demand(
            "schedule in (cosine, step, constant)", self.schedule in known, schedule=self.schedule
        )
        _demand("0 < lr < inf", 0 < self.lr < math.inf, lr=self.lr)
        ok = 0 <= self.weight_decay < math.inf
        _demand("0 <= weight_decay < inf", ok, weight_decay=self.weight_decay)
        _demand("0 <= momentum < 1", 0 <= self.momentum < 1, momentum=self.momentum)
        ok = 0 <= self.warmup_epochs < math.inf
        _demand("warmup_epochs >= 0", ok, warmup_epochs=self.warmup_epochs)
        ok = all(0 < at < 1 for at in self.decay_at) and sorted(self.decay_at) == list(
            self.decay_at
        )
        _demand("decay_at rises within (0, 1)", ok, decay_at=self.decay_at)
        _demand("0 < decay_factor <= 1", 0 < self.decay_factor <= 1, decay_factor=self.decay_factor)


@dataclass(frozen=True, kw_only=True)
class Distill:
    """One training stage. With beta = gamma = 0 it is ordinary training on labels.

    `patience` > 0 ends it when validation has not improved for so many epochs; `stop_after` > 0 ends
    it after so many of its `epochs`, which the lr schedule still counts. `clip` > 0 bounds the norm of
    the gradient of a step.
    """

    kind: str = field(default="distill", init=False)
    epochs: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    weights: LossWeights = field(default_factory=LossWeights)
    batch_size: int = 128
    dropout: float = 0.0  # before the classifier
    label_smoothing: float = 0.0
    levels: tuple[str, ...] = ("low", "mid", "high")  # of the features; matter where gamma > 0
    logit_loss: str = "kl"  # a key of losses.LOGIT_LOSSES or file.py:function
    logit_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logit_warmup_epochs: float = 0.0  # in which beta rises from 0 to its value
    feature_loss: str = "cosine"  # a key of losses.FEATURE_LOSSES or file.py:function
    feature_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    patience: int = 0
    stop_after: int = 0
    clip: float = 0.0

    def __post_init__(self) -> None:
        _demand("epochs >= 1", self.epochs >= 1, epochs=self.epochs)
        _demand("patience >= 0", self.patience >= 0, patience=self.patience)
        ok = 0 <= self.stop_after <= self.epochs
        _demand("0 <= stop_after <= epochs", ok, stop_after=self.stop_after)
        _demand("0 <= clip < inf", 0 <= self.clip < math.inf, clip=self.clip)
        _demand("batch_size >= 2", self.batch_size >= 2, batch_size=self.batch_size)
        _demand("0 <= dropout < 1", 0 <= self.dropout < 1, dropout=self.dropout)
        ok = 0 <= self.label_smoothing < 1
        _demand("0 <= label_smoothing < 1", ok, label_smoothing=self.label_smoothing)
        for options in (self.logit_options, self.feature_options):
            for name, value in options.items():
                ok = isinstance(value, bool | int | float | str)
                _demand("options are numbers, booleans or words", ok, **{name: value})
        ok = 0 <= self.logit_warmup_epochs < math.inf
        _demand("logit_warmup_epochs >= 0", ok, logit_warmup_epochs=self.logit_warmup_epochs)
        ok = self.weights.gamma == 0 or len(self.levels) > 0
        _demand("levels named where gamma > 0", ok, levels=self.levels)

    @property
    def listens(self) -> bool:
        """Whether it needs a teacher."""
        return self.weights.beta > 0 or self.weights.gamma > 0


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Takes the share `ratio` of what matters least by its L1 or L2 norm out of the network.

    `channel` removes whole channels (of every group of layers that share them, so about
    1 - (1 - ratio)^2 of the weights go); `magnitude` sets the smallest weights to zero, and keeps
    them zero in the stages after it.
    """

    kind: str = field(default="prune", init=False)
    method: str = "channel"
    ratio: float = 0.3

    def __post_init__(self) -> None:
        known = ("channel", "magnitude")
        _demand("prune method in (channel, magnitude)", self.method in known, method=self.method)
        _demand("0 < ratio < 1", 0 < self.ratio < 1, ratio=self.ratio)

    @property
    def epochs(self) -> int:
        """Training epochs: none."""
        return 0

    @property
    def listens(self) -> bool:
        """Whether it needs a teacher."""
        return False


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """To int8: calibrated on images (`training` None), or trained with fake quantisation (QAT)."""

    kind: str = field(default="quantize", init=False)
    calibration_images: int = 512
    training: Distill | None = None

    def __post_init__(self) -> None:
        ok = self.calibration_images >= 1
        _demand("calibration_images >= 1", ok, calibration_images=self.calibration_images)
        ok = self.training is None or self.training.weights.gamma == 0
        _demand("gamma = 0 while fake quantisation is trained", ok)

    @property
    def epochs(self) -> int:
        """Training epochs."""
        return self.training.epochs if self.training else 0

    @property
    def listens(self) -> bool:
        """Whether its training needs a teacher."""
        return self.training is not None and self.training.listens


Stage = Distill | Prune | Quantize
STAGES: dict[str, type[Stage]] = {"distill": Distill, "prune": Prune, "quantize": Quantize}


def training_of(stage: Stage) -> Distill | None:
    """How a stage trains; None for one that does not."""
    if isinstance(stage, Quantize):
        return stage.training
    return stage if isinstance(stage, Distill) else None


def reports_of(stage: Stage) -> int:
    """How many reports a stage gives: one an epoch, and one of a stage that does not train."""
    return max(stage.epochs, 1)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a recipe is fitted on and how they are seen; paths do not matter, hashes do.

    The train split is split once, stratified, by `split_seed`: `val_share` of it is validation
    (0: as many as `data.validation_size` says). `limit_train` (0 = all) takes a stratified subset
    first. `view_seed` draws what training sees of each image in an epoch, and the order of batches:
    all trials of a search share it, so that they share one teacher's outputs; initial weights and
    dropout come from the seed that a recipe is run with. Crops pad by `pad` pixels of zeros. `dense`: every pixel
    has a label, and `scale` is the range of the random resizing before the crop. `mix` draws a partner
    and a share from Beta(`mix_alpha`, `mix_alpha`) for every image (MixUp: Zhang et al. 2018, eq. 1;
    CutMix: Yun et al. 2019, eq. 1 and 2), which the teacher sees as well.
    """

    task: str
    train_hash: str
    num_classes: int
    channels: int = 3
    size: tuple[int, ...] = (32, 32)  # height and width
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    limit_train: int = 0
    split_seed: int = 0
    val_share: float = 0.0
    view_seed: int = 0
    fit_on: str = "train"  # or train+val, for confirming
    pad: int = 4
    flip: bool = True
    dense: bool = False
    scale: tuple[float, ...] = (1.0, 1.0)
    mix: str = "none"  # mixup or cutmix
    mix_alpha: float = 1.0

    def __post_init__(self) -> None:
        _demand("two sides", len(self.size) == 2 and min(self.size) > 0, size=self.size)
        ok = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        _demand("0 < scale[0] <= scale[1]", ok, scale=self.scale)
        _demand(
            "mix in (none, mixup, cutmix)", self.mix in ("none", "mixup", "cutmix"), mix=self.mix
        )
        ok = self.mix == "none" or not self.dense
        _demand("no mixing where every pixel has a label", ok, mix=self.mix)
        _demand("0 < mix_alpha < inf", 0 < self.mix_alpha < math.inf, mix_alpha=self.mix_alpha)
        ok = self.fit_on in ("train", "train+val")
        _demand("fit_on in (train, train+val)", ok, fit_on=self.fit_on)
        _demand("num_classes >= 2", self.num_classes >= 2, num_classes=self.num_classes)
        _demand("pad >= 0", self.pad >= 0, pad=self.pad)
        _demand("0 <= val_share <= 0.5", 0 <= self.val_share <= 0.5, val_share=self.val_share)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Precision and memory layout of training, one choice a study."""

    precision: str = "float32"  # or bfloat16 (autocast; losses and evaluation stay float32)
    layout: str = "contiguous"  # or channels_last


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model is made.

    `student` and `teacher` name networks (a key of models.MODELS or file.py:function);
    `teacher_model` and `start` are fingerprints of trained models: the frozen teacher, and what
    training begins from instead of fresh weights. `initial` is "imagenet" for torchvision's weights
    below the classifier. `sources` are hashes of a user's own files.
    """

    images: Images
    student: str
    stages: tuple[Stage, ...] = ()
    teacher: str = ""
    teacher_model: str = ""
    start: str = ""
    initial: str = ""
    compute: Compute = field(default_factory=Compute)
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        channels = any(isinstance(s, Prune) and s.method == "channel" for s in self.stages)
        ok = not (channels and self.quantises)  # the int8 graph of other widths is not rebuilt yet
        kinds = [type(stage).__name__ for stage in self.stages]
        _demand("no channels pruned in a network that is quantised", ok, stages=kinds)

    @property
    def epochs(self) -> int:
        """Training epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def compresses(self) -> bool:
        """Whether any stage gives a network of another architecture than the student's."""
        return any(not isinstance(stage, Distill) for stage in self.stages)

    @property
    def quantises(self) -> bool:
        """Whether any stage gives integers."""
        return any(isinstance(stage, Quantize) for stage in self.stages)

    @property
    def listens(self) -> bool:
        """Whether any stage needs the teacher."""
        return any(stage.listens for stage in self.stages)

    def fingerprint(self, seed: int) -> str:
        """Names the model that this recipe and this seed give: 1 and 1.0 are one number."""
        return digest(str(RECIPE_VERSION), to_json(from_json(to_json(self))), str(seed))

    def first(self, count: int) -> "Recipe":
        """The recipe that ends after `count` stages; what only later ones need is not named."""
        cut = dataclasses.replace(self, stages=self.stages[:count])
        if not cut.listens:
            cut = dataclasses.replace(cut, teacher="", teacher_model="")
        return cut


def plain(value: Any) -> Any:
    """Return a dataclass as JSON data, without the values that equal their default.

    So a field that is added later leaves the JSON, and with it the hashes, of everything that does not use it
    as they were. A default may never change: a new one needs a new field, or a raised RECIPE_VERSION.

    >>> plain(Prune(ratio=0.5))
    {'kind': 'prune', 'ratio': 0.5}
    """
    if dataclasses.is_dataclass(value):
        found = {}
        for part in dataclasses.fields(value):
            own = getattr(value, part.name)
            if part.name == "kind" or own != _default(part):
                found[part.name] = plain(own)
        return found
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _default(part: "dataclasses.Field[Any]") -> Any:
    if part.default_factory is not dataclasses.MISSING:
        return part.default_factory()
    return part.default


def to_json(value: Any) -> str:
    """A dataclass as canonical JSON: sorted keys, no spaces, no values that equal their default."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> Recipe:
    """The recipe that `to_json` wrote.

    >>> recipe = Recipe(images=Images(task="digits", train_hash="", num_classes=10), student="x")
    >>> from_json(to_json(recipe)) == recipe
    True
    """
    recipe = rebuild(Recipe, json.loads(text))
    assert isinstance(recipe, Recipe)
    return recipe


def stages_to_json(stages: tuple[Stage, ...]) -> str:
    """Stages as canonical JSON."""
    return json.dumps([plain(stage) for stage in stages], sort_keys=True)


def stages_from_json(text: str) -> tuple[Stage, ...]:
    """The stages that `stages_to_json` wrote.

    >>> stages_from_json(stages_to_json((Distill(epochs=1), Prune()))) == (Distill(epochs=1), Prune())
    True
    """
    return tuple(rebuild(Stage, item) for item in json.loads(text))


def rebuild(kind: Any, value: Any) -> Any:
    """JSON data as the annotated type `kind`: a dataclass, a tuple of one type, or a plain value.

    Of several dataclasses (a stage) it is the one whose `kind` the data name; what is missing has its default.

    Raises:
        ValueError: a field that there is not, such as one of a newer version.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        named = STAGES[value["kind"]] if value.get("kind") in STAGES else None
        options = [option for option in typing.get_args(kind) if option is not types.NoneType]
        kind = named if named in options else options[0]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            name = getattr(kind, "__name__", "")
            raise ValueError(f"{name} has no field {unknown[0]}: a newer version wrote it")
        given = {k: rebuild(hints[k], v) for k, v in value.items() if k != "kind"}
        return typing.cast(Any, kind)(**given)
    if typing.get_origin(kind) is Mapping:
        return dict(value)
    if typing.get_origin(kind) is tuple:
        return tuple(rebuild(typing.get_args(kind)[0], item) for item in value)
    if isinstance(kind, types.GenericAlias) or not isinstance(kind, type):
        return value
    return kind(value)
