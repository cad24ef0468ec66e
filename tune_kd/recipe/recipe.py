"""What one student is made of: frozen data that survives JSON and has an id.

A recipe names its images, its student, its frozen teacher and a sequence of stages (model in, model
out). A teacher is a recipe without a teacher; a measurement of a finished model is a recipe without
stages. A recipe and a seed give the same student on the same kind of device.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field

from tune_kd.recipe.canonical import demand, rebuild, to_builtins, to_json
from tune_kd.recipe.hashing import digest
from tune_kd.recipe.stages import Stage

RECIPE_VERSION = 4  # raised when training changes, so that no model of older code is taken for new


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a recipe is fitted on and how they are seen; paths do not matter, hashes do.

    The train split is split once, stratified, by `split_seed`: `val_share` of it is validation
    (0: as many as `data.validation_size` says). `limit_train` (0 = all) takes a stratified subset
    first. `view_seed` draws what training sees of each image in an epoch, and the order of batches:
    all trials of a search share it, so that they share one teacher's outputs; initial weights and
    dropout come from the seed that a recipe is run with. ClassificationImages pad by `pad` pixels
    of zeros. `dense`: every pixel has a label, and `scale` is the range of the random resizing
    before the crop. `mix` draws a partner and a share from Beta(`mix_alpha`, `mix_alpha`) for every
    image (MixUp: Zhang et al. 2018, eq. 1; CutMix: Yun et al. 2019, eq. 1 and 2), which the teacher
    sees as well.
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

    @property
    def task_kind(self) -> str:
        """The kind of task, of metrics.TASKS."""
        return "segmentation" if self.dense else "classification"

    def __post_init__(self) -> None:
        demand("two sides", len(self.size) == 2 and min(self.size) > 0, size=self.size)
        ok = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        demand("0 < scale[0] <= scale[1]", ok, scale=self.scale)
        demand(
            "mix in (none, mixup, cutmix)", self.mix in ("none", "mixup", "cutmix"), mix=self.mix
        )
        ok = self.mix == "none" or not self.dense
        demand("no mixing where every pixel has a label", ok, mix=self.mix)
        demand("0 < mix_alpha < inf", 0 < self.mix_alpha < math.inf, mix_alpha=self.mix_alpha)
        ok = self.fit_on in ("train", "train+val")
        demand("fit_on in (train, train+val)", ok, fit_on=self.fit_on)
        demand("num_classes >= 2", self.num_classes >= 2, num_classes=self.num_classes)
        demand("pad >= 0", self.pad >= 0, pad=self.pad)
        demand("0 <= val_share <= 0.5", 0 <= self.val_share <= 0.5, val_share=self.val_share)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Precision and memory layout of training, one choice a study."""

    precision: str = "float32"  # or bfloat16 (autocast; losses and evaluation stay float32)
    layout: str = "contiguous"  # or channels_last


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model is made.

    `student` and `teacher` name networks (a key of models.MODELS or file.py:function);
    `teacher_model` and `start` are ids of trained models: the frozen teacher, and what training
    begins from instead of fresh weights. Such a model id is the `recipe_id` of the model's own
    recipe and seed, or an external checkpoint's `external_model_id`. `initial` is "imagenet" for
    torchvision's weights below the classifier. `sources` are hashes of a user's own files.
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
        ok = not (self.quantizes and any(stage.changes_shapes for stage in self.stages))
        kinds = [
            stage.kind for stage in self.stages
        ]  # the int8 graph of other shapes is not rebuilt
        demand("no stage changes shapes in a network that is quantized", ok, stages=kinds)

    @property
    def epochs(self) -> int:
        """Training epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def needs(self) -> frozenset[str]:
        """What its stages need, of NEEDS."""
        return frozenset().union(*(stage.needs for stage in self.stages))

    @property
    def needs_teacher(self) -> bool:
        """Whether any stage is trained with the teacher."""
        return any(stage.needs_teacher for stage in self.stages)

    @property
    def compresses(self) -> bool:
        """Whether any stage makes the network smaller than the student's own."""
        return any(stage.compresses for stage in self.stages)

    @property
    def quantizes(self) -> bool:
        """Whether any stage gives integers."""
        return "integers" in self.needs

    def recipe_id(self, seed: int) -> str:
        """Return the hash of this recipe and this seed, which names their model: 1 and 1.0 are one number."""
        return digest(str(RECIPE_VERSION), to_json(from_json(to_json(self))), str(seed))

    def first(self, count: int) -> "Recipe":
        """Return the recipe that ends after `count` stages; what only later ones need is not named."""
        cut = dataclasses.replace(self, stages=self.stages[:count])
        if not cut.needs_teacher:
            cut = dataclasses.replace(cut, teacher="", teacher_model="")
        return cut


def from_json(text: str) -> Recipe:
    """Return the recipe that `to_json` wrote.

    >>> recipe = Recipe(images=Images(task="digits", train_hash="", num_classes=10), student="x")
    >>> from_json(to_json(recipe)) == recipe
    True
    """
    recipe = rebuild(Recipe, json.loads(text))
    assert isinstance(recipe, Recipe)
    return recipe


def stages_to_json(stages: tuple[Stage, ...]) -> str:
    """Stages as canonical JSON."""
    return json.dumps([to_builtins(stage) for stage in stages], sort_keys=True)


def stages_from_json(text: str) -> tuple[Stage, ...]:
    """Return the stages that `stages_to_json` wrote.

    >>> from tune_kd.recipe import Distill, Prune
    >>> stages_from_json(stages_to_json((Distill(epochs=1), Prune()))) == (Distill(epochs=1), Prune())
    True
    """
    return tuple(rebuild(Stage, item) for item in json.loads(text))
