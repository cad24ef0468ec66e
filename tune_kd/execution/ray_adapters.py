"""Ray Tune's two hooks, a searcher and a scheduler, over a plan and a rule: they remember nothing."""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune_kd.study.proposal import dump
from tune_kd.study.study import Study
from tune_kd.tuning.asha import AshaRule
from tune_kd.tuning.search_plan import Plan


class PlanSearcher(Searcher):
    """Ray Tune's view of a plan; writes how a trial ended."""

    def __init__(self, study: Study, plan: Plan, *, base: dict[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._plan, self._base = study, plan, base
        self.running: dict[str, str] = {}  # Ray's id, a new one at each start -> ours

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, or FINISHED."""
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
            self._study.end(trial, "failed", self._load_error(trial))
        elif rows and rows[-1]["last"]:
            self._study.end(trial, "finished")
        self._study.merge_now_and_then()

    def _load_error(self, trial: str) -> str:
        try:
            error = self._study.storage.read(f"checkpoints/{trial}/error.txt").decode()
        except OSError:
            error = "its worker or its node died"
        return f"{error}; tried three times"

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its searcher and scheduler at the start; nothing ever reads them."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's folder is the only memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class AshaScheduler(FIFOScheduler):
    """Ray Tune's view of a rule. No max_t: a trial ends by itself."""

    def __init__(self, rule: AshaRule, on_result: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule, self._on_result = rule, on_result

    def __getstate__(self) -> dict[str, Any]:
        """See PlanSearcher."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE."""
        stop = self._rule.on_report(trial.config["trial"], result)
        self._on_result()
        return str(self.STOP if stop else self.CONTINUE)
