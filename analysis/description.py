"""What a study was asked to be: its manifest by name, and how often its test split was opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis import selection
from analysis.test_access import TestAccess, read_test_access
from tune_kd import objectives as fronts
from tune_kd.study.storage import Storage

MARGIN = (
    0.005  # a difference below half a point matters to nobody, where the space says nothing else
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """Where a study lies and what its manifest says."""

    address: str  # as the user typed it
    storage: Storage = field(repr=False)
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.manifest["study"])

    @property
    def family(self) -> str:
        """Its key in report.json."""
        return str(self.manifest["family"])

    @property
    def methods(self) -> list[str]:
        """Names in the table's order, the baseline first where the study has it."""
        return sorted(self.manifest["methods"], key=lambda name: name != selection.BASELINE)

    @property
    def kd_methods(self) -> list[str]:
        """The methods that distil."""
        return [name for name in self.methods if name != selection.BASELINE]

    @property
    def metric(self) -> str:
        """The validation metric that the search ranked by."""
        return str(self.manifest.get("metric", "val_accuracy"))

    @property
    def test_metric(self) -> str:
        """The same metric on the test split."""
        return f"test_{self.metric.removeprefix('val_')}"

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label."""
        return bool(self.manifest.get("dense"))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers; empty where nobody named them."""
        return [str(name) for name in self.manifest.get("class_names") or ()]

    @property
    def objectives(self) -> list[str]:
        """What the search was for, the metric that it ranks and stops by first."""
        return [str(name) for name in self.manifest.get("objectives") or (self.metric,)]

    @cached_property
    def constraints(self) -> list[fronts.Constraint]:
        """What a student must keep, such as `size_mb <= 3`."""
        return [fronts.parse(text) for text in self.manifest.get("constraints") or ()]

    @property
    def trials_per_repeat(self) -> int:
        """How many trials each search of a method has, 1 where the manifest does not say."""
        return int(self.manifest.get("trials_per_repeat") or 1)

    @property
    def margin(self) -> float:
        """A difference of the test metric that is too small to matter, a fraction."""
        return float(self.manifest.get("margin") or MARGIN)

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
