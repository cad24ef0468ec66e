"""What is trained again after a search, with which seeds, and in which order.

The winner of each repeat and method is confirmed with fresh seeds, the same for all methods of the
repeat, and so are the method's default settings: a statement about a method rests on these. Before,
the best winners are re-evaluated on validation, so that one of each method can be recommended;
recommended students are confirmed with seeds in common.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from tune_kd.errors import UsageError
from tune_kd.recipe import Recipe
from tune_kd.study import recipe_builder, selection
from tune_kd.study.proposal import Proposal
from tune_kd.study.refit import refit_recipe
from tune_kd.study.results import Row, now
from tune_kd.study.study import Study
from tune_kd.study.trial_names import confirm_trial, measure_trial, refit_trial
from tune_kd.workflows import prerequisites

REEVALUATION_SEEDS = (700, 701)  # of the best winners, on validation
COMMON_SEEDS = (800, 801, 802, 803, 804)  # of recommended students, on test
DEFAULT_SEEDS = 2  # of each repeat
MIN_REPEATS = 3  # below, a report says nothing of a method, only of its student
SEEDS_OF_REPEAT = 1000  # repeat r has the seeds from 1000 (r + 1) on


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is looked at on the test split; fixed before it is opened."""

    repeats: tuple[int, ...]
    seeds: int  # of each repeat
    defaults: bool  # whether the default settings are confirmed as well

    def seeds_of(self, repeat: int) -> range:
        """Return the confirming seeds of a repeat, the same for all of its methods.

        >>> list(Design(repeats=(0, 1), seeds=2, defaults=True).seeds_of(1))
        [2000, 2001]
        """
        first = SEEDS_OF_REPEAT * (repeat + 1)
        return range(first, first + self.seeds)

    @property
    def runs_of_method(self) -> int:
        """Confirming runs of one method, at most."""
        each = len(self.repeats) * self.seeds
        return each * (1 + self.defaults) + len(COMMON_SEEDS)

    @property
    def reevaluations_of_method(self) -> int:
        """Runs of one method on validation before it recommends a student, at most."""
        count = min(selection.CANDIDATES, len(self.repeats))
        return count * len(REEVALUATION_SEEDS) if count > 1 else 0


def design(study: Study, *, seeds: int, defaults: bool) -> Design:
    """Return what is confirmed of a study: its whole repeats, or, while none is whole, what there is.

    Raises:
        UsageError: no trial has finished.
    """
    repeats = sorted({p.repeat for p in study.of("search")})
    confirmed_repeats = [repeat for repeat in repeats if _is_whole(study, repeat)] or repeats
    if not any(study.winners(method) for method in study.manifest.methods):
        raise UsageError(
            f"{study.storage.uri} has no finished trial to confirm; run the search first (or resume it)"
        )
    return Design(repeats=tuple(confirmed_repeats), seeds=seeds, defaults=defaults)


def _is_whole(study: Study, repeat: int) -> bool:
    """Whether every method has all trials of a repeat, whatever became of them."""
    each = study.manifest.trials_per_repeat
    trials = [
        [p for p in study.of("search", method, repeat=repeat) if p.trial in study.outcomes]
        for method in study.manifest.methods
    ]
    return all(len(finished) >= each for finished in trials)


def _rows(study: Study, design: Design) -> list[Row]:
    """Return the study's rows without searches that are not confirmed."""
    return [r for r in study.all_rows if r["phase"] != "search" or r["repeat"] in design.repeats]


def reevaluations(study: Study, design: Design) -> list[Proposal]:
    """Return the best winners of each method with fresh seeds, scored on validation; the test split stays sealed."""
    rows = _rows(study, design)
    sources = [
        row
        for method in study.manifest.methods
        for row in selection.candidates(
            rows, method, metric=study.metric, constraints=study.constraints
        )
    ]
    return [
        _again(study, row, phase="reevaluate", origin="best", seed=seed)
        for seed in REEVALUATION_SEEDS
        for row in sources
    ]


def confirmations(study: Study, design: Design) -> list[Proposal]:
    """Return the teacher's measurement, then repeats seed by seed, then the recommended students."""
    students = [
        _again(study, row, phase="confirm", origin=roles, seed=design.seeds_of(repeat)[at])
        for at in range(design.seeds)
        for repeat in design.repeats
        for row, roles in _of_repeat(study, repeat, defaults=design.defaults)
    ]
    students += [
        _again(study, row, phase="confirm", origin="recommended", seed=seed)
        for seed in COMMON_SEEDS
        for row in recommend(study, design).values()
    ]
    return [*_teacher(study), *_start(study, students), *students]


def recommend(study: Study, design: Design) -> dict[str, Row]:
    """Return the search trial that each method recommends."""
    rows = _rows(study, design)
    trials = {
        method: selection.recommend(
            rows, method, metric=study.metric, constraints=study.constraints
        )
        for method in study.manifest.methods
    }
    return {method: row for method, row in trials.items() if row}


def _of_repeat(study: Study, repeat: int, *, defaults: bool) -> Iterator[tuple[Row, str]]:
    """Yield each method's winner of a repeat and its trial with the default settings, with their roles.

    The roles of a run are the same whatever else is confirmed: `defaults` may be asked for later.
    """
    for method in study.manifest.methods:
        best = study.winners(method).get(repeat)
        default = _default_trial(study, method, repeat)
        same = best is not None and default is not None and default["trial"] == best["trial"]
        if best is not None:
            yield best, "best+default" if same else "best"
        if defaults and default is not None and not same:
            yield default, "default"


def _default_trial(study: Study, method: str, repeat: int) -> Row | None:
    """Return the trial with the default settings of a repeat; None where it has not finished."""
    return next(
        (
            row
            for row in study.ranking(method)
            if row["repeat"] == repeat and row["origin"] == "default"
        ),
        None,
    )


def _again(study: Study, row: Row, *, phase: str, origin: str, seed: int) -> Proposal:
    """Return a search trial trained anew; confirming fits on train and validation images together."""
    source = study.proposals[row["trial"]]
    recipe = refit_recipe(study, source)
    opens_test = phase == "confirm"
    if recipe.start:
        origin = f"{origin}, begun from a file"
    images = replace(recipe.images, fit_on="train+val" if opens_test else "train", view_seed=seed)
    return Proposal(
        trial=refit_trial(phase, source=source.trial, seed=seed),
        phase=phase,
        method=source.method,
        repeat=source.repeat,
        number=seed % 100,  # 0 for the first: each family of seeds begins at a multiple of 100
        seed=seed,
        origin=origin,
        source=source.trial,
        config=source.config,
        recipe=replace(recipe, images=images),
        open_test=opens_test,
    )


def find_unmeasured(study: Study, proposals: list[Proposal]) -> dict[str, Proposal]:
    """Recommended students of an architecture of their own that have no latency yet, by their trial.

    The first seed's student stands for a trial.
    """
    students: dict[str, Proposal] = {}
    for proposal in proposals:
        rows = study.outcomes.get(proposal.trial)
        is_finished = rows is not None and rows[-1]["status"] == "finished"
        is_measured = measure_trial(proposal.source) in study.outcomes
        if (
            is_finished
            and proposal.keeps_weights
            and proposal.recipe.compresses
            and not is_measured
        ):
            students.setdefault(proposal.source, proposal)
    return students


def _teacher(study: Study) -> list[Proposal]:
    """Return the study's teacher measured as it is: a recipe without stages."""
    if not prerequisites.has_teacher(study):
        return []
    network, model = study.manifest.teacher, study.manifest.teacher_model
    source = prerequisites.teacher_trial_of(study)
    return [_as_it_is(study, confirm_trial("teacher"), network=network, model=model, source=source)]


def _start(study: Study, students: list[Proposal]) -> list[Proposal]:
    """Return the file that students begin from measured as it is: what was there before they were cut."""
    model = study.manifest.start.model
    if not model or all(proposal.recipe.start != model for proposal in students):
        return []
    network, source = study.manifest.student, prerequisites.start_trial_of(study)
    return [_as_it_is(study, confirm_trial("start"), network=network, model=model, source=source)]


def _as_it_is(study: Study, trial: str, *, network: str, model: str, source: str) -> Proposal:
    """One of the study's models measured on the test split: a recipe without stages."""
    recipe = Recipe(
        images=study.manifest.images,
        student=recipe_builder.staged_reference(network),
        start=model,
        compute=study.manifest.compute,
    )
    return Proposal(
        trial=trial,
        phase="confirm",
        method="",  # of none: only what a method's own runs gave is counted as its own
        number=0,
        seed=study.manifest.seed,
        origin="best",
        source=source,
        recipe=recipe,
        open_test=True,
    )


def log_test_access(
    study: Study, proposals: list[Proposal], design: Design, *, command: str
) -> None:
    """Each opening of the test split leaves a file in the study, with what was to be looked at."""
    number = len(study.storage.names("test_access")) + 1
    record: dict[str, Any] = {"time": now(), "command": command, "design": asdict(design)}
    record["trials"] = [proposal.trial for proposal in proposals]
    study.storage.write(f"test_access/{number:04d}.json", json.dumps(record, indent=1).encode())
