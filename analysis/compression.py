"""Before and after: what pruning and quantizing did to a method, as numbers.

Both sides come from the same confirming runs, whose every stage was measured on the test split.
"""

from dataclasses import dataclass

from analysis import selection
from analysis.comparison import stats
from analysis.study import Study
from tune_kd.metrics import number
from tune_kd.recipe import Quantize, Stage, from_json
from tune_kd.study.results import Row


@dataclass(frozen=True, kw_only=True)
class Change:
    """A recommended student around its stages of one kind: the test metric over seeds, and sizes."""

    before: stats.Summary | None  # None where nothing is confirmed; n = 1 of a given student
    after: stats.Summary | None
    difference: stats.Estimate | None  # after minus before, paired by seed
    sizes_before: Row
    sizes_after: Row

    @property
    def only_zeros(self) -> bool:
        """Whether weights became zero while the network kept its shape (magnitude pruning)."""
        same = number(self.sizes_before, "num_params") == number(self.sizes_after, "num_params")
        return same and number(self.sizes_after, "nonzero_params") is not None


def change(study: Study, method: str, name: str) -> Change | None:
    """Return what the stages `name` (Prune or Quantize) changed in the trial that a method recommends.

    None where it has no such stage. Sizes are those of the first confirming run, of the search
    trial where nothing is confirmed.
    """
    trial = study.recommended_trial(method)
    if trial is None or not selection.compresses(study.stages[trial["trial"]], name):
        return None
    initial_row = study.initial_student("confirm")
    confirming = study.runs(trial, "recommended").items()
    runs = {
        seed: selection.before_and_after(rows, name, shared=initial_row)
        for seed, rows in confirming
    }
    before, after = (
        {s: number(r[side], study.test_metric) for s, r in runs.items()} for side in (0, 1)
    )
    values = [{s: v for s, v in side.items() if v is not None} for side in (before, after)]
    has_initial = any(
        first and initial_row and first["trial"] == initial_row["trial"]
        for first, _ in runs.values()
    )
    search_rows = selection.before_and_after(
        study.stages[trial["trial"]], name, shared=study.shared(method)
    )
    first, last = next(iter(runs.values()), search_rows)
    return Change(
        before=stats.summarise(list(values[0].values())[:1] if has_initial else values[0].values()),
        after=stats.summarise(values[1].values()),
        difference=stats.paired(values[1], values[0]),
        sizes_before=sizes(study, first),
        sizes_after=selection.latest_sizes([last] if last else []),
    )


def sizes(study: Study, row: Row | None) -> Row:
    """Return the sizes of a student at the end of a stage; what an uncut one lacks is the plain student's."""
    row_sizes = selection.latest_sizes([row] if row else [])
    student_sizes = selection.latest_sizes([selection.student_footprint(study.rows) or {}])
    has_same_shape = row_sizes.get("num_params") in (None, student_sizes.get("num_params"))
    return {**student_sizes, **row_sizes} if has_same_shape else row_sizes


def stages_of(row: Row | None) -> tuple[Stage, ...]:
    """Return the stages of a trial as its recipe has them; none where the row has no recipe."""
    text = (row or {}).get("recipe")
    return from_json(text).stages if text else ()


def quantization_kind(study: Study, method: str) -> str:
    """How a method's students become int8: "static", "QAT", or "" where they stay float."""
    trial = study.recommended_trial(method)
    if trial is None or not selection.compresses(study.stages[trial["trial"]], "Quantize"):
        return ""
    kinds = [stage for stage in stages_of(trial) if isinstance(stage, Quantize)]
    return "QAT" if any(stage.training for stage in kinds) else "static"
