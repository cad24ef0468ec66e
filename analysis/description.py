"""What a study was asked to be: its manifest by name, and how often its test split was opened."""

from dataclasses import dataclass, field
from functools import cached_property

from analysis import selection
from analysis.test_access import TestAccess, read_test_access
from tune_kd import objectives as fronts
from tune_kd.study.manifest import Manifest
from tune_kd.study.storage import Storage


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """Where a study lies and what its manifest says."""

    address: str  # as the user typed it
    storage: Storage = field(repr=False)
    manifest: Manifest

    @property
    def name(self) -> str:
        """The study's name."""
        return self.manifest.study

    @property
    def family(self) -> str:
        """Its key in report.json."""
        return self.manifest.family

    @property
    def methods(self) -> list[str]:
        """Names in the table's order, the baseline first where the study has it."""
        return sorted(self.manifest.methods, key=lambda name: name != selection.BASELINE)

    @property
    def kd_methods(self) -> list[str]:
        """The methods that distil."""
        return [name for name in self.methods if name != selection.BASELINE]

    @property
    def metric(self) -> str:
        """The validation metric that the search ranked by."""
        return self.manifest.metric

    @property
    def test_metric(self) -> str:
        """The same metric on the test split."""
        return f"test_{self.metric.removeprefix('val_')}"

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return self.manifest.dense

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers; empty where nobody named them."""
        return list(self.manifest.class_names)

    @property
    def objectives(self) -> list[str]:
        """What the search was for, the metric that it ranks and stops by first."""
        return list(self.manifest.objectives)

    @cached_property
    def constraints(self) -> list[fronts.Constraint]:
        """What a student must keep, such as `size_mb <= 3`."""
        return [fronts.parse(text) for text in self.manifest.constraints]

    @property
    def trials_per_repeat(self) -> int:
        """How many trials each search of a method has."""
        return self.manifest.trials_per_repeat

    @property
    def margin(self) -> float:
        """A difference of the test metric that is too small to matter, a fraction."""
        return self.manifest.margin

    @cached_property
    def test_access(self) -> TestAccess:
        """How often the test split was opened."""
        return read_test_access(self.storage)

    @property
    def looks(self) -> int:
        """How many designs were confirmed on the test split."""
        return self.test_access.looks

    @property
    def evaluations(self) -> int:
        """How often single networks were scored on it beside that."""
        return self.test_access.evaluations
