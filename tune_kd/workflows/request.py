"""What a command asks for, and what is known of its images once they are decoded."""

from dataclasses import dataclass
from pathlib import Path

from tune_kd.recipe import Images
from tune_kd.space import SearchSpace
from tune_kd.study.storage import Storage
from tune_kd.training.external_weights import ExternalCheckpoint


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What is asked for, checked as far as that goes without data."""

    space: SearchSpace
    file: Path | None  # that defines the space
    storage: Storage
    data: Path | None
    limit_train: int
    seed: int
    sampler: str
    scheduler: str
    teacher: ExternalCheckpoint | None  # a checkpoint, or a student of another study
    start: ExternalCheckpoint | None  # the like, in place of shared stages
    resume: bool
    command: str
    repeats: int | None = None  # as asked for by name
    trials: int | None = None  # the like

    @property
    def base(self) -> Path:
        """The folder that names of files in the space are relative to."""
        return self.file.parent if self.file else Path.cwd()


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The images of a request, decoded into this node's cache."""

    images: Images
    num_train: int
    num_val: int
    own_validation: bool  # whether the data set says which images these are
    class_names: tuple[str, ...]
