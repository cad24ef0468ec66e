"""Weights that a study did not train itself: somebody's file, or a student of an earlier study."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tune_kd.errors import UsageError, unknown
from tune_kd.models import checkpoints
from tune_kd.recipe import Recipe, external_model_id, file_id, stages_to_json
from tune_kd.study import manifest
from tune_kd.study.manifest import StartWeights
from tune_kd.study.refit import refit_recipe
from tune_kd.study.results import Row
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study


@dataclass(frozen=True, kw_only=True)
class ExternalCheckpoint:
    """A checkpoint's bytes and what is known of them: `recipe` where an earlier study made it."""

    name: str  # as it was given
    data: bytes = field(repr=False)
    recipe: Recipe | None = None  # from fresh weights on

    @property
    def file_id(self) -> str:
        """The hash of its bytes."""
        return file_id(self.data)

    @property
    def model_id(self) -> str:
        """The name that its model has in a study."""
        return external_model_id(self.file_id)

    def state(self) -> dict[str, Tensor]:
        """Its tensors; UsageError where it is no checkpoint."""
        return checkpoints.parse(self.data, source=self.name)

    def start_weights(self) -> StartWeights:
        """For the manifest: where it came from, and the stages that made it, where all are known."""
        complete = self.recipe is not None and not self.recipe.start
        stages = stages_to_json(self.recipe.stages) if self.recipe and complete else ""
        return StartWeights(name=self.name, model=self.model_id, stages=stages)


def find(name: str, *, option: str, confirmed: bool = False) -> ExternalCheckpoint:
    """`FILE`, `runs/X` (the best student of a study) or `runs/X:METHOD` (of one method).

    `option` is named in errors. A method's student is the one that it recommends, best is best on
    validation. As it was searched it has seen no validation image; `confirmed` takes the first of
    its confirming runs, which was fitted on these as well, where there is one.

    Raises:
        UsageError: neither a file nor a study, no such method, or nothing finished there.
    """
    file = Path(name).expanduser()
    if file.is_file():
        return ExternalCheckpoint(name=name, data=file.read_bytes())
    address, colon, method = name.rpartition(":")
    if not colon or "/" in method:
        address, method = name, ""
    storage = Storage(address)
    if not manifest.exists(storage):
        raise UsageError(
            f"{option} {name}: there is no such file and no such study; name a checkpoint, or a study "
            "as runs/NAME or runs/NAME:METHOD"
        )
    study = Study(storage)
    best = _recommended_row(study, method, name=name, option=option)
    return _student(study, best, confirmed=confirmed)


def _recommended_row(study: Study, method: str, *, name: str, option: str) -> Row:
    """Return the search trial that stands for a method, or of all methods the best on validation."""
    methods = list(study.manifest.methods)
    if method and method not in methods:
        raise unknown("method", method, methods, where=f"{study.storage.uri} has")
    candidates = [method] if method else methods
    rows = [row for one in candidates if (row := study.recommendation(one))]
    if not rows:
        raise UsageError(f"{option} {name}: no search trial has finished there")
    return max(rows, key=lambda row: float(row[study.metric]))


def _student(study: Study, row: Row, *, confirmed: bool) -> ExternalCheckpoint:
    """Return a search trial's student, or that of its first confirming run."""
    source = study.proposals[row["trial"]]
    recipe, trial = refit_recipe(study, source), source.trial
    runs = [p for p in study.of("confirm", source.method) if p.source == trial and p.keeps_weights]
    runs = [p for p in runs if study.storage.exists(f"students/{p.trial}.safetensors")]
    if confirmed and runs:
        first = min(runs, key=lambda p: p.seed)
        recipe, trial = first.recipe, first.trial
    data = study.storage.read(f"students/{trial}.safetensors")
    return ExternalCheckpoint(name=f"{study.storage.uri}:{source.method}", data=data, recipe=recipe)
