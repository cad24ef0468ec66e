"""Starts or joins Ray, and runs a plan: a sampler's proposals or a fixed list, to the last verdict.

`environment.prepare` must have been called before this module is imported.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from tune_kd import errors
from tune_kd.errors import UsageError
from tune_kd.execution import worker
from tune_kd.execution.interrupt import RunFailedError, RunInterruptedError
from tune_kd.execution.progress import Progress
from tune_kd.execution.ray_adapters import AshaScheduler, PlanSearcher
from tune_kd.execution.session import RETRIES, WAIT, Session
from tune_kd.study.study import Study
from tune_kd.tuning.asha import AshaRule
from tune_kd.tuning.search_plan import FixedPlan, Plan

RESTARTS = 3  # of Ray itself, without a verdict in between


def run(
    study: Study,
    plan: Callable[[], Plan],
    *,
    ray_session: Session,
    base: dict[str, Any],
    progress: Progress,
) -> None:
    """Run a plan to its last verdict.

    A worker killed for memory makes Ray raise for the whole run: a fresh Ray goes on over the same
    record, the trials that ran then alone first.

    Raises:
        RunInterruptedError: a signal came, or the time budget is over.
        RunFailedError: Ray failed again and again.
        UsageError: a node does not see the study.
    """
    restarts, suspects = RESTARTS, OomSuspects(study)
    while True:
        before = len(study.outcomes)
        rule = ray_session.interrupt.rule = AshaRule(study, at=study.manifest.rungs)
        suspected = [study.proposals[name] for name in suspects.names]
        searcher = PlanSearcher(
            study, FixedPlan(study, suspected) if suspected else plan(), base=base
        )
        progress.running = functools.partial(_names, searcher)
        try:
            _fit(searcher, rule, ray_session, progress=progress, alone=bool(suspected))
        except RuntimeError as error:
            if ray_session.interrupt.stop_all():
                raise RunInterruptedError from None
            progress.say(f"Ray failed ({errors.explain(error)}); restarting it and resuming")
            suspects.add(list(searcher.running.values()))
            restarts = RESTARTS if len(study.outcomes) > before else restarts - 1
            if restarts < 0:
                raise RunFailedError(errors.explain(error)) from None
            ray_session.restart()
            continue
        if rule.fatal:
            raise UsageError(rule.fatal)
        if ray_session.interrupt.stop_all():
            raise RunInterruptedError
        if not suspects.clear():
            return


def _names(searcher: PlanSearcher) -> list[str]:
    return list(searcher.running.values())


class OomSuspects:
    """Trials that were running when Ray was killed for memory; one that kills it alone has failed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self.names: list[str] = []

    def add(self, running: list[str]) -> None:
        """Remember the trials that ran when it happened."""
        if len(running) == 1 and running[0] in self.names:
            self._study.end(running[0], "failed", "out of memory, even when run alone")
        self.names = [trial for trial in running if trial not in self._study.outcomes]

    def clear(self) -> bool:
        """After a run alone; True if there was one, so that the others are still to be run."""
        any_suspect, self.names = bool(self.names), []
        return any_suspect


def _fit(
    searcher: PlanSearcher, rule: AshaRule, ray_session: Session, *, progress: Progress, alone: bool
) -> None:
    """One Tuner over the plan. What it keeps on disk is never read."""
    resources = ray_session.resources
    folder = Path(tempfile.mkdtemp(prefix="tune-", dir=ray_session._folder))
    tuner = tune.Tuner(
        tune.with_resources(worker.run_trial, resources.bundle()),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=AshaScheduler(rule, progress.update),
            num_samples=-1,  # the searcher says when it is FINISHED
            max_concurrent_trials=1 if alone else ray_session.slots(),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            stop=ray_session.interrupt,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    progress.concurrent = 1 if alone else ray_session.slots()
    waiting = ray_session.waiting_text if resources.address else None
    with progress.live(waiting, every=WAIT):
        tuner.fit()
