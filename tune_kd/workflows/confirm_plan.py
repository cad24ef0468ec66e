"""What is trained again after a search, with which seeds, and in which order.

The winner of each repeat and method is confirmed with fresh seeds, the same for all methods of the repeat,
and so are the method's default settings: a statement about a method rests on these. Before, the best
winners are re-evaluated on validation, so that one of each method can be recommended; recommended students
are confirmed with seeds in common.
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


def design(known: Study, *, seeds: int, defaults: bool) -> Design:
    """Return what is confirmed of a study: its whole repeats, or, while none is whole, what there is.

    Raises:
        UsageError: no trial has finished.
    """
    begun = sorted({p.repeat for p in known.of("search")})
    found = [repeat for repeat in begun if _is_whole(known, repeat)] or begun
    if not any(known.winners(method) for method in known.manifest.methods):
        raise UsageError(
            f"{known.storage.uri} has no finished trial to confirm; run the search first (or resume it)"
        )
    return Design(repeats=tuple(found), seeds=seeds, defaults=defaults)


def _is_whole(known: Study, repeat: int) -> bool:
    """Whether every method has all trials of a repeat, whatever became of them."""
    each = known.manifest.trials_per_repeat
    ended = [
        [p for p in known.of("search", method, repeat=repeat) if p.trial in known.outcomes]
        for method in known.manifest.methods
    ]
    return all(len(trials) >= each for trials in ended)


def _rows(known: Study, chosen: Design) -> list[Row]:
    """Return the study's rows without searches that are not confirmed."""
    return [r for r in known.all_rows if r["phase"] != "search" or r["repeat"] in chosen.repeats]


def reevaluations(known: Study, chosen: Design) -> list[Proposal]:
    """Return the best winners of each method with fresh seeds, scored on validation; the test split stays sealed."""
    rows = _rows(known, chosen)
    sources = [
        row
        for method in known.manifest.methods
        for row in selection.candidates(
            rows, method, metric=known.metric, constraints=known.constraints
        )
    ]
    return [
        _again(known, row, phase="reevaluate", origin="best", seed=seed)
        for seed in REEVALUATION_SEEDS
        for row in sources
    ]


def confirmations(known: Study, chosen: Design) -> list[Proposal]:
    """Return the teacher's measurement, then repeats seed by seed, then the recommended students."""
    students = [
        _again(known, row, phase="confirm", origin=roles, seed=chosen.seeds_of(repeat)[at])
        for at in range(chosen.seeds)
        for repeat in chosen.repeats
        for row, roles in _of_repeat(known, repeat, defaults=chosen.defaults)
    ]  # fmt: skip
    students += [
        _again(known, row, phase="confirm", origin="recommended", seed=seed)
        for seed in COMMON_SEEDS
        for row in recommended(known, chosen).values()
    ]
    return [*_teacher(known), *_start(known, students), *students]


def recommended(known: Study, chosen: Design) -> dict[str, Row]:
    """Return the search trial that each method recommends."""
    rows = _rows(known, chosen)
    found = {
        method: selection.recommend(
            rows, method, metric=known.metric, constraints=known.constraints
        )
        for method in known.manifest.methods
    }
    return {method: row for method, row in found.items() if row}


def _of_repeat(known: Study, repeat: int, *, defaults: bool) -> Iterator[tuple[Row, str]]:
    """Yield each method's winner of a repeat and its trial with the default settings, with their roles.

    The roles of a run are the same whatever else is confirmed: `defaults` may be asked for later.
    """
    for method in known.manifest.methods:
        best = known.winners(method).get(repeat)
        default = _default_trial(known, method, repeat)
        same = best is not None and default is not None and default["trial"] == best["trial"]
        if best is not None:
            yield best, "best+default" if same else "best"
        if defaults and default is not None and not same:
            yield default, "default"


def _default_trial(known: Study, method: str, repeat: int) -> Row | None:
    """Return the trial with the default settings of a repeat; None where it has not finished."""
    return next(
        (
            row
            for row in known.ranking(method)
            if row["repeat"] == repeat and row["origin"] == "default"
        ),
        None,
    )


def _again(known: Study, row: Row, *, phase: str, origin: str, seed: int) -> Proposal:
    """Return a search trial trained anew; confirming fits on train and validation images together."""
    source = known.proposals[row["trial"]]
    recipe = refit_recipe(known, source)
    opened = phase == "confirm"
    if recipe.start:
        origin = f"{origin}, begun from a file"
    images = replace(recipe.images, fit_on="train+val" if opened else "train", view_seed=seed)
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
        open_test=opened,
    )


def unmeasured(known: Study, planned: list[Proposal]) -> dict[str, Proposal]:
    """Recommended students of an architecture of their own that have no latency yet, by their trial.

    The first seed's student stands for a trial.
    """
    found: dict[str, Proposal] = {}
    for proposal in planned:
        ended = known.outcomes.get(proposal.trial)
        finished = ended is not None and ended[-1]["status"] == "finished"
        measured = measure_trial(proposal.source) in known.outcomes
        if finished and proposal.keeps_weights and proposal.recipe.compresses and not measured:
            found.setdefault(proposal.source, proposal)
    return found


def _teacher(known: Study) -> list[Proposal]:
    """Return the study's teacher measured as it is: a recipe without stages."""
    if not prerequisites.has_teacher(known):
        return []
    network, model = known.manifest.teacher, known.manifest.teacher_model
    source = prerequisites.teacher_trial_of(known)
    return [_as_it_is(known, confirm_trial("teacher"), network=network, model=model, source=source)]


def _start(known: Study, students: list[Proposal]) -> list[Proposal]:
    """Return the file that students begin from measured as it is: what was there before they were cut."""
    given = known.manifest.start.model
    if not given or all(proposal.recipe.start != given for proposal in students):
        return []
    network, source = known.manifest.student, prerequisites.start_trial_of(known)
    return [_as_it_is(known, confirm_trial("start"), network=network, model=given, source=source)]


def _as_it_is(known: Study, trial: str, *, network: str, model: str, source: str) -> Proposal:
    """One of the study's models measured on the test split: a recipe without stages."""
    recipe = Recipe(
        images=known.manifest.images,
        student=recipe_builder.staged_reference(network),
        start=model,
        compute=known.manifest.compute,
    )
    return Proposal(
        trial=trial,
        phase="confirm",
        method="",  # of none: only what a method's own runs gave is counted as its own
        number=0,
        seed=known.manifest.seed,
        origin="best",
        source=source,
        recipe=recipe,
        open_test=True,
    )


def log_test_access(known: Study, missing: list[Proposal], chosen: Design, *, command: str) -> None:
    """Each opening of the test split leaves a file in the study, with what was to be looked at."""
    number = len(known.storage.names("test_access")) + 1
    record: dict[str, Any] = {"time": now(), "command": command, "design": asdict(chosen)}
    record["trials"] = [proposal.trial for proposal in missing]
    known.storage.write(f"test_access/{number:04d}.json", json.dumps(record, indent=1).encode())
