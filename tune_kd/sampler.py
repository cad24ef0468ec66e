"""What is tried next, and which trials are stopped: Optuna's ask/tell behind Ray Tune's two hooks.

A proposal is a pure function of (study seed, method, number) and of the method's other trials: a fresh
Optuna study and a sampler seeded for this proposal hear of them in the order of their numbers. Rungs
belong to one method and are rebuilt from rows.
"""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune_kd.proposals import Proposal, dump
from tune_kd.recipe import Distill, Recipe, stream
from tune_kd.results import Row
from tune_kd.space import SearchSpace
from tune_kd.study import Study

REDUCTION = 3  # of trials that reach a rung, the best third goes on
POPULATION = 8  # of NSGA-II: a generation; Optuna's 50 are more than most methods have trials
LITERATURE_EVERY = 4  # at most a quarter of a method's trials come from the literature

optuna.logging.set_verbosity(optuna.logging.WARNING)


def random_start(trials: int) -> int:
    """How many of a method's trials are random before TPE: a third, at most 10."""
    return min(10, math.ceil(trials / 3))


def origin(number: int, *, settings: int, start: int) -> str:
    """Where a method's trial `number` comes from; `settings` counts textbook and literature.

    >>> [origin(n, settings=3, start=4) for n in (0, 1, 3, 7, 8, 11)]
    ['textbook', 'random', 'random', 'literature', 'sampled', 'literature']
    """
    if number == 0:
        return "textbook"
    if (
        number % LITERATURE_EVERY == LITERATURE_EVERY - 1
        and 0 < number // LITERATURE_EVERY < settings
    ):
        return "literature"
    return "random" if number < start else "sampled"


class Asked(NamedTuple):
    """What a sampler proposes: sampled values, and attributes of its own that it will look for."""

    config: dict[str, Any]
    attributes: dict[str, Any]


def sample(  # noqa: PLR0913 - a proposal's circumstances
    kind: str,
    trials: Sequence[FrozenTrial],
    ranges: dict[str, BaseDistribution],
    *,
    seed: int,
    directions: Sequence[str] = ("maximize",),
    constrained: bool = False,
) -> Asked:
    """The next values of a method, after hearing of all its trials, one value a direction each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental arguments that newer versions make default
        sampler = _sampler(kind, seed, constrained)
        ways = [StudyDirection[direction.upper()] for direction in directions]
        study = optuna.create_study(directions=ways, sampler=sampler)
        study.add_trials(list(trials))
        params = dict(study.ask(ranges).params)
        attributes = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
        # Optuna's GPSampler does not hear of stopped trials and may repeat one; a generation
        # of NSGA-II may inherit all of a parent
        if params and params in [trial.params for trial in trials]:
            random = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
            params = dict(random.ask(ranges).params)
        return Asked(params, attributes)


def _sampler(kind: str, seed: int, constrained: bool) -> BaseSampler:
    seed %= 2**32
    told = _told_constraints if constrained else None
    if kind == "tpe":
        return TPESampler(
            seed=seed,
            n_startup_trials=1,
            multivariate=True,
            constant_liar=True,
            constraints_func=told,
        )
    if kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, constraints_func=told)
    if kind == "nsga2":
        return optuna.samplers.NSGAIISampler(
            seed=seed, population_size=POPULATION, constraints_func=told
        )
    return RandomSampler(seed=seed)


def _told_constraints(trial: FrozenTrial) -> Sequence[float]:
    """Never called: all trials that a sampler hears of have ended, with their constraints."""
    return tuple(trial.system_attrs["constraints"])


class Plan(Protocol):
    """Gives proposals one by one; None when all that is planned has been proposed."""

    def next(self) -> Proposal | None:
        """The next trial to run, already on disk."""


class FixedPlan:
    """A list: the teacher, or what is to be confirmed. What has a verdict is not run again."""

    def __init__(self, study: Study, proposals: Sequence[Proposal]) -> None:
        self._study = study
        self._todo = [p for p in proposals if p.trial not in study.verdicts]

    def next(self) -> Proposal | None:
        """The next of the list."""
        if not self._todo:
            return None
        proposal = self._todo.pop(0)
        return self._study.proposals.get(proposal.trial) or self._study.add(proposal)


class SearchPlan:
    """First the unfinished trials, then new ones: of the method that has fewest."""

    def __init__(
        self, study: Study, space: SearchSpace, *, each: int, recipe: Callable[[str, dict[str, Any]], Recipe]
    ) -> None:  # fmt: skip
        self._study, self._space, self._each, self._recipe = study, space, each, recipe
        self._todo = study.open_trials("search")

    def next(self) -> Proposal | None:
        """An unfinished trial, or a new one; None when every method has `each`."""
        if self._todo:
            return self._todo.pop(0)
        study = self._study
        counts = {method: len(study.of("search", method)) for method in self._space.methods}
        method = min(counts, key=lambda m: counts[m])  # the first of those that have fewest
        number = counts[method]
        if number >= self._each:
            return None
        settings = self._space.methods[method].settings()
        kind = origin(number, settings=len(settings), start=study.manifest["random_start"])
        asked = self._ask(method, number, kind, settings)
        return study.add(
            Proposal(
                trial=f"{method}-{number:04d}",
                phase="search",
                method=method,
                number=number,
                seed=study.manifest["seed"],
                origin=kind,
                config=asked.config,
                recipe=self._recipe(method, asked.config),
                shared=self._space.shared(method),
                attributes=asked.attributes,
            )
        )

    def _ask(self, method: str, number: int, kind: str, settings: list[dict[str, Any]]) -> Asked:
        if kind in ("textbook", "literature"):
            return Asked(settings[number // LITERATURE_EVERY], {})
        manifest = self._study.manifest
        chosen = "random" if kind == "random" else manifest["sampler"]
        seed = stream(manifest["seed"], method, number, "proposal")
        return sample(
            chosen,
            self._study.optuna_trials(method),
            self._study.distributions(method),
            seed=seed,
            directions=self._study.directions,
            constrained=bool(self._study.constraints),
        )


def rungs(epochs: int, *, first: int = 0) -> list[int]:
    """Epochs at which trials are compared: from a third of them (or `first`) on, times three.

    >>> rungs(30), rungs(15), rungs(1), rungs(240, first=151)
    ([10], [5], [], [151])
    """
    rung = max(math.ceil(epochs / REDUCTION), first)
    found = []
    while rung < epochs:
        found.append(rung)
        rung *= REDUCTION
    return found


class Judge:
    """Must a trial stop? ASHA's rule (Li et al. 2020) within a method, and every misfortune."""

    def __init__(self, study: Study, *, at: Sequence[int]) -> None:
        self._study, self._at = study, frozenset(at)
        self._rungs: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        self.fatal = ""  # why the whole run cannot go on
        for proposal in study.of("search"):
            self._enter(proposal, study.judged[proposal.trial])

    def _enter(self, proposal: Proposal, judged: int) -> None:
        """Put the rows that were judged into their rungs, each once."""
        for row in self._study.rows.get(proposal.trial, [])[:judged]:
            score = self._study.score(row)
            if self._is_rung(proposal, row) and score is not None:
                self._rungs[proposal.method, row["step"]].setdefault(proposal.trial, score)

    def _is_rung(self, proposal: Proposal, row: Row) -> bool:
        """Trials are compared in their main training stage, where that is the first."""
        return row["stage"] == 0 and row["epoch"] in self._at and isinstance(proposal.recipe.stages[0], Distill)  # fmt: skip

    def hear(self, trial: str, report: dict[str, Any]) -> bool:
        """Take in a report; True if the trial must stop. Then its verdict is on disk."""
        study = self._study
        if "error" in report:
            if report["fatal"]:
                self.fatal = self.fatal or report["error"]
                return True
            study.end(trial, "failed", report["error"])
            return True
        row: Row = json.loads(report["row"])
        study.hear(row)
        if row["step"] <= study.judged[trial] and row["step"] > 0:
            return False  # an attempt repeats the row that it goes on from
        proposal = study.proposals[trial]
        self._enter(proposal, row["step"] - 1)
        study.judged[trial] = row["step"]
        if study.score(row) is None and proposal.phase == "search":
            study.end(trial, "failed", f"{study.metric} is {row.get(study.metric)}")
        elif proposal.phase == "search" and not row["last"] and self._is_rung(proposal, row):
            self._compare(proposal, row)
        return trial in study.verdicts

    def _compare(self, proposal: Proposal, row: Row) -> None:
        score = self._study.score(row)
        assert score is not None
        rung = self._rungs[proposal.method, row["step"]]
        if rung and proposal.number > 0:  # a method's textbook trial runs to the end
            cutoff = float(np.percentile(list(rung.values()), 100 - 100 / REDUCTION))
            if score < cutoff:
                reason = f"rung {row['step']}: {score:.4f} is below {cutoff:.4f}, of {len(rung)} trials"  # fmt: skip
                self._study.end(proposal.trial, "stopped", reason)
        rung[proposal.trial] = score


class PlanSearcher(Searcher):
    """Ray Tune's view of a plan; writes how a trial ended."""

    def __init__(self, study: Study, plan: Plan, *, base: dict[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._plan, self._base = study, plan, base
        self.running: dict[str, str] = {}  # Ray's id, a new one at each start -> ours

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED."""
        proposal = self._plan.next()
        if proposal is None:
            return Searcher.FINISHED
        self.running[trial_id] = proposal.trial
        return {**self._base, "trial": proposal.trial, "proposal": dump(proposal)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Not called for a trial that a signal cuts off: it stays without verdict."""
        trial = self.running.pop(trial_id)
        rows = self._study.rows.get(trial, [])
        if error:
            self._study.end(trial, "failed", self._last_words(trial))
        elif rows and rows[-1]["last"]:
            self._study.end(trial, "finished")
        self._study.merge_now_and_then()

    def _last_words(self, trial: str) -> str:
        try:
            words = self._study.storage.read(f"checkpoints/{trial}/error.txt").decode()
        except OSError:
            words = "its worker or its node died"
        return f"{words}; tried three times"

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its searcher and scheduler at the start; nothing ever reads them."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's folder is the only memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class JudgeScheduler(FIFOScheduler):
    """Ray Tune's view of a judge. No max_t: a trial ends by itself."""

    def __init__(self, judge: Judge, heard: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge, self._heard = judge, heard

    def __getstate__(self) -> dict[str, Any]:
        """See PlanSearcher."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE."""
        stop = self._judge.hear(trial.config["trial"], result)
        self._heard()
        return str(self.STOP if stop else self.CONTINUE)
