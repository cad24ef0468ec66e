"""Which trial runs next: the proposals of a search, or a fixed list.

A study searches every method several times over. A proposal is a pure function of (study seed,
method, repeat, number) and of the other trials of that one search, told in the order of their
numbers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tune_kd.recipe import Recipe, stream
from tune_kd.space import SearchSpace
from tune_kd.study.proposal import Proposal, repeat_seed
from tune_kd.study.study import Study
from tune_kd.study.trial_names import search_trial
from tune_kd.tuning.samplers import PUBLISHED_EVERY, Goal, Suggestion, origin, random_config, sample

OPEN_TRIALS = 2  # of one search at once, where another search has trials left


class Plan(Protocol):
    """Gives proposals one by one; None when all that is planned has been proposed."""

    def next(self) -> Proposal | None:
        """Return the next trial to run, already on disk."""


class FixedPlan:
    """A list: the teacher, or what is to be confirmed. What has a verdict is not run again."""

    def __init__(self, study: Study, proposals: Sequence[Proposal]) -> None:
        self._study = study
        self._todo = [p for p in proposals if p.trial not in study.outcomes]

    def next(self) -> Proposal | None:
        """Return the next of the list."""
        if not self._todo:
            return None
        proposal = self._todo.pop(0)
        return self._study.proposals.get(proposal.trial) or self._study.add(proposal)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """So many independent searches of every method, each of so many trials.

    >>> print(Budget(repeats=5, each=8))
    5 repeats of 8
    """

    repeats: int
    each: int

    @property
    def of_method(self) -> int:
        """Trials of one method."""
        return self.repeats * self.each

    def __str__(self) -> str:
        return f"{self.repeats} repeat{'s' if self.repeats > 1 else ''} of {self.each}"


class SearchPlan:
    """First the unfinished trials, then new ones: of the earliest repeat that lacks some.

    Within a repeat the method with fewest trials is next. A search that waits for OPEN_TRIALS of
    its own is passed over while another has room, so that proposals hear of results and no slot is
    idle.
    """

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        *,
        budget: Budget,
        recipe: Callable[[str, dict[str, Any]], Recipe],
    ) -> None:
        self._study, self._space, self._budget, self._recipe = study, space, budget, recipe
        self._todo = study.open_trials("search")

    def next(self) -> Proposal | None:
        """Return an unfinished trial, or a new one; None when every search has its trials."""
        if self._todo:
            return self._todo.pop(0)
        place = self._place()
        return self._propose(*place) if place else None

    def _place(self) -> tuple[str, int, int] | None:
        """Return method, repeat and number of the next trial."""
        study = self._study
        proposed: Counter[tuple[str, int]] = Counter()
        waiting: Counter[tuple[str, int]] = Counter()
        for proposal in study.proposals.values():
            if proposal.phase == "search":
                proposed[proposal.method, proposal.repeat] += 1
                waiting[proposal.method, proposal.repeat] += proposal.trial not in study.outcomes
        order = {
            (waiting[method, repeat] >= OPEN_TRIALS, repeat, proposed[method, repeat], at): method
            for at, method in enumerate(self._space.methods)
            for repeat in range(self._budget.repeats)
            if proposed[method, repeat] < self._budget.each
        }
        if not order:
            return None
        (_, repeat, number, _), method = min(order.items())
        return method, repeat, number

    def _propose(self, method: str, repeat: int, number: int) -> Proposal:
        study = self._study
        settings = self._space.methods[method].settings()
        kind = origin(number, settings=len(settings), start=study.manifest.random_start)
        suggestion = self._suggest(kind, settings, method=method, repeat=repeat, number=number)
        return study.add(
            Proposal(
                trial=search_trial(method, repeat, number),
                phase="search",
                method=method,
                repeat=repeat,
                number=number,
                seed=repeat_seed(study.manifest.seed, repeat),
                origin=kind,
                config=suggestion.config,
                recipe=self._recipe(method, suggestion.config),
                shared=self._space.shared(method),
                attributes=suggestion.attributes,
            )
        )

    def _suggest(
        self, kind: str, settings: list[dict[str, Any]], *, method: str, repeat: int, number: int
    ) -> Suggestion:
        if kind in ("default", "published"):
            return Suggestion(settings[number // PUBLISHED_EVERY], {})
        study, ranges = self._study, self._study.distributions(method)
        seed = study.manifest.seed
        if "random" in (kind, study.manifest.sampler):
            return Suggestion(
                random_config(ranges, seed=stream(seed, repeat, number, "random")), {}
            )
        return sample(
            study.manifest.sampler,
            study.optuna_trials(method, repeat=repeat),
            ranges,
            seed=stream(seed, method, repeat, number, "proposal"),
            goal=Goal(directions=study.directions, constrained=bool(study.constraints)),
        )
