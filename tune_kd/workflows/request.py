"""What a command asks for, and what is known of its images once they are decoded."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tune_kd import plugins
from tune_kd.errors import UsageError
from tune_kd.recipe import Images
from tune_kd.space import SearchSpace, loader, plain_fields
from tune_kd.study import recipe_builder
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

    @cached_property
    def user_files(self) -> dict[str, bytes]:
        """A user's own files by name: the space's, and those that its strings refer to.

        They are read once, so that what is shipped to workers is what the study records.

        Raises:
            UsageError: two files have the same name.
        """
        references = [plain_fields(self.space)[name] for name in loader.REFERENCES]
        references += recipe_builder.references(recipe_builder.checked_stages(self.space))
        paths = [plugins.path_of(r, base=self.base) for r in references if plugins.is_reference(r)]
        if self.file and self.base != loader.folder():
            paths.append(self.file)
        contents: dict[str, bytes] = {}
        for path in dict.fromkeys(paths):
            if path.name in contents:
                raise UsageError(f"two files are called {path.name}; rename one of them")
            contents[path.name] = path.read_bytes()
        return contents


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The images of a request, decoded into this node's cache."""

    images: Images
    num_train: int
    num_val: int
    own_validation: bool  # whether the data set says which images these are
    class_names: tuple[str, ...]
