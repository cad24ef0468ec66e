"""Search a space: its teacher, then the trials that are missing, then what is to be told of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from tune_kd import cli
from tune_kd.execution import runner
from tune_kd.execution.progress import Progress
from tune_kd.execution.session import Session
from tune_kd.metrics import format_value
from tune_kd.study import recipe_builder
from tune_kd.study.proposal import Proposal
from tune_kd.study.storage import lock_study
from tune_kd.study.study import Study
from tune_kd.study.trial_names import measure_trial
from tune_kd.tuning import search_plan
from tune_kd.workflows import checks, create_study, prerequisites
from tune_kd.workflows.confirm_plan import MIN_REPEATS
from tune_kd.workflows.driver import Driver, RunOptions
from tune_kd.workflows.request import SearchRequest


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """How far a search has come; `study` is None where it was interrupted before its first trial."""

    study: Study | None
    is_interrupted: bool  # by a signal
    is_out_of_time: bool

    @property
    def has_result(self) -> bool:
        """Whether any trial of the search has finished."""
        return self.study is not None and self.study.counts("search")["finished"] > 0


def search(request: SearchRequest, options: RunOptions) -> SearchOutcome:
    """Open or create the study, train its teacher and run the trials that are missing.

    Raises:
        UsageError: the request fits neither the data nor the networks nor the study that is there.
        SearchAborted: Ray failed again and again, or the teacher could not be trained.
    """
    dataset = checks.prepare_data(request)
    checks.check_networks(request, dataset)
    exists = checks.check_existing_study(request, dataset)
    driver = Driver(options)
    driver.check_cluster()
    with lock_study(request.storage):
        # asked again: another driver may have begun it before this one had the lock
        exists = exists or checks.check_existing_study(request, dataset)
        study = Study(request.storage) if exists else None
        if study is None or not is_complete(study, request):
            with driver.ray() as session:
                study = study or create_study.begin(
                    request, dataset, session=session, progress=driver.progress
                )
                _run(study, request, session=session, progress=driver.progress)
        if study is not None:
            study.clean()
            study.merge()
            warn_of_teacher(study, driver.progress)
    return SearchOutcome(
        study=study,
        is_interrupted=bool(driver.interrupt.signals),
        is_out_of_time=driver.interrupt.out_of_time,
    )


def is_complete(study: Study, request: SearchRequest) -> bool:
    """Whether every planned trial has its row already, so that Ray is not needed."""
    budget = checks.budget(request, study)
    proposed = [len(study.of("search", method)) for method in request.space.methods]
    ready = prerequisites.is_ready(study, request)
    has_rows = ready and min(proposed) >= budget.of_method and not study.open_trials("search")
    return has_rows and not (len(study.objectives) > 1 and _find_unmeasured(study, request))


def _run(study: Study, request: SearchRequest, *, session: Session, progress: Progress) -> None:
    """Run the teacher, then the trials that are missing."""
    study.clean()
    if session.resources.address:
        session.check_nodes(study)
    if study.manifest.needs_teacher:
        prerequisites.ensure_teacher(study, request, session=session, progress=progress)
    prerequisites.ensure_shared(study, request, session=session, progress=progress)
    space, budget = request.space, checks.budget(request, study)
    total = budget.of_method * len(space.methods)
    progress.follow(study, "search", total)
    progress.say(
        f"{total} trials of {space.student.epochs} epochs ({budget} for each of "
        f"{len(space.methods)} methods), {session.slots()} at once; rows in {study.storage.uri}"
    )
    runner.run(
        study,
        lambda: search_plan.SearchPlan(
            study,
            space,
            budget=budget,
            recipe=lambda method, config: recipe_builder.student_recipe(
                study.manifest, space, method=method, config=config
            ),
        ),
        ray_session=session,
        base=create_study.base_config(study, request.data, session.resources),
        progress=progress,
    )
    if len(study.objectives) > 1:
        _measure_front(study, request, session=session)


def _find_unmeasured(study: Study, request: SearchRequest) -> dict[str, Proposal]:
    """Trials of the front with an architecture of their own that has no latency yet."""
    rows = [row for method in request.space.methods for row in study.front(method)]
    proposals = {row["trial"]: study.proposals[row["trial"]] for row in rows}
    return {
        trial: proposal
        for trial, proposal in proposals.items()
        if proposal.recipe.compresses and measure_trial(trial) not in study.outcomes
    }


def _measure_front(study: Study, request: SearchRequest, *, session: Session) -> None:
    """Latencies of what no other trial beats, now that nothing else runs."""
    config = create_study.base_config(study, request.data, session.resources)
    create_study.measure_students(
        study, _find_unmeasured(study, request), session=session, config=config
    )


def summary(study: Study, request: SearchRequest, resume_command: str) -> Iterator[str]:
    """Yield the best of each method, and as the last line counts and how to go on."""
    budget = checks.budget(request, study)
    for method in request.space.methods:
        best = study.best(method)
        if best:
            texts = [_value(best, name) for name in study.manifest.config_types]
            values = ", ".join(value for value in texts if value)
            score = format_value(study.metric, best[study.metric])
            yield f"{method}: {study.metric} {score} % in trial {best['trial']} ({values})"
    if budget.repeats < MIN_REPEATS:
        more = cli.with_option(resume_command, "--repeats", MIN_REPEATS)
        yield (
            f"{budget.repeats} of {MIN_REPEATS} repeats: they recommend a student, but a verdict about a method "
            f"needs {MIN_REPEATS}; to add them: {more}"
            if budget.each >= checks.MIN_TRIALS
            else f"{budget.repeats} repeat of {budget.each} trials for each method: a quick look, which says nothing of a method"
        )
    counts = study.counts("search")
    total = budget.of_method * len(request.space.methods)
    tally = ", ".join(f"{counts[s]} {s}" for s in ("finished", "stopped", "failed"))
    then = f"next: python -m tune_kd.confirm {study.storage.uri}"
    if counts.total() < total:
        then = f"resume with: {resume_command}"
    yield f"{counts.total()} of {total} trials: {tally}; {then}"


def _value(row: dict[str, object], name: str) -> str:
    value = row.get(f"config.{name}")
    if value is None:
        return ""
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


def warn_of_teacher(study: Study, progress: Progress) -> None:
    """Say loudly that a teacher is below the baseline student."""
    rows = study.outcomes.get(prerequisites.teacher_trial_of(study), [])
    score = study.score(rows[-1]) if rows else None
    best = study.best("no_kd")
    if best and score is not None and score < best[study.metric]:
        progress.warn(
            f"THE TEACHER IS WORSE THAN THE BASELINE STUDENT: {study.metric} "
            f"{format_value(study.metric, score)} % against {format_value(study.metric, best[study.metric])} %; "
            "train it longer (--set teacher.epochs=N) or choose another"
        )
