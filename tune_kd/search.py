"""The main job: search a space for the best student of every method.

    python -m tune_kd.search --space cifar10_kd

Ray Tune runs the trials, Optuna proposes them, rows are written to OUT/NAME. Exit code 0: every planned
trial has its row, or the time budget is over; 1: no trial finished, or Ray cannot go on; 2: wrong usage;
130: interrupted. Any interrupted search goes on with the same command and --resume.
"""

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from tune_kd import cli
from tune_kd.errors import unknown
from tune_kd.workflows import options

if TYPE_CHECKING:
    from tune_kd.execution.progress import Progress
    from tune_kd.execution.session import Resources, Session
    from tune_kd.study.proposal import Proposal
    from tune_kd.study.study import Study
    from tune_kd.workflows.checks import Request

MODULE = "tune_kd.search"


def main(arguments: list[str]) -> int:
    """Run a search; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    for add in (options.add_study, options.add_search, options.add_resources):
        add(parser)
    given = parser.parse(arguments)
    for value, kind, known in (
        (given.sampler, "sampler", options.SAMPLERS),
        (given.scheduler, "scheduler", options.SCHEDULERS),
    ):
        if value not in known:
            raise unknown(kind, value, known)

    from tune_kd.execution import environment

    environment.prepare(options.address_of(given))
    request = options.request(given, command=cli.command_line(MODULE, arguments))
    resources = options.wanted_resources(given)
    if given.dry_run:
        from tune_kd.workflows import dry_run

        print(dry_run.plan(request, resources))
        return 0
    return search(request, resources, given, cli.command_line(MODULE, arguments, "--resume"))


def search(request: "Request", resources: "Resources", given: Namespace, again: str) -> int:
    """Open or begin the study, train its teacher, run the trials that are missing."""
    from tune_kd.execution import progress, session
    from tune_kd.study import study
    from tune_kd.study.storage import locked
    from tune_kd.workflows import checks, create_study

    material = checks.look_at_data(request)
    checks.check_networks(request, material)
    there = checks.exists(request, material)
    session.check_address(resources.address)
    shown = progress.Progress(quiet=given.quiet)
    budget = given.time_budget or float("inf")
    interrupt = session.Interrupt(deadline=time.monotonic() + budget, resume_command=again)
    with locked(request.storage):
        # asked again: another driver may have begun it before this one had the lock
        there = there or checks.exists(request, material)
        known = study.Study(request.storage) if there else None
        if known is None or not planned_is_done(known, request):
            try:
                with session.session(resources, interrupt) as started:
                    known = known or create_study.begin(
                        request, material, session=started, progress=shown
                    )
                    _run(known, request, session=started, progress=shown)
            except session.CannotGoOnError as error:
                print(f"error: {error}; go on with: {again}", file=sys.stderr)
                return 1
            except session.StoppedError:
                pass  # by a signal or the time budget: told below
        code = 130 if interrupt.signals else 0
        if known is None:
            print(f"interrupted before the first trial; go on with: {again}", file=sys.stderr)
            return code
        known.clean()
        known.merge()
    _tell(known, request, again, shown)
    finished = known.counts("search")["finished"]
    return code or (0 if finished or interrupt.out_of_time else 1)


def planned_is_done(known: "Study", request: "Request") -> bool:
    """Whether every planned trial has its row already, so that Ray is not needed."""
    from tune_kd.workflows import checks, prerequisites

    planned = checks.budget(request, known)
    proposed = [len(known.of("search", method)) for method in request.space.methods]
    ready = prerequisites.is_ready(known, request)
    done = ready and min(proposed) >= planned.of_method and not known.open_trials("search")
    return done and not (len(known.objectives) > 1 and _unmeasured(known, request))


def _run(known: "Study", request: "Request", *, session: "Session", progress: "Progress") -> None:
    """The teacher, then the trials that are missing."""
    from tune_kd.execution import runner
    from tune_kd.study import recipe_builder
    from tune_kd.tuning import search_plan
    from tune_kd.workflows import checks, create_study, prerequisites

    known.clean()
    if session.resources.address:
        session.check_nodes(known)
    if known.manifest["needs_teacher"]:
        prerequisites.ensure_teacher(known, request, session=session, progress=progress)
    prerequisites.ensure_shared(known, request, session=session, progress=progress)
    space, budget = request.space, checks.budget(request, known)
    total = budget.of_method * len(space.methods)
    progress.follow(known, "search", total)
    progress.say(
        f"{total} trials of {space.epochs} epochs ({budget} for each of "
        f"{len(space.methods)} methods), {session.slots()} at once; rows in {known.storage.uri}"
    )
    runner.run(
        known,
        lambda: search_plan.SearchPlan(
            known,
            space,
            budget=budget,
            recipe=lambda method, config: recipe_builder.student_recipe(
                known.manifest, space, method=method, config=config
            ),
        ),
        ray_session=session,
        base=create_study.base_config(known, request.data, session.resources),
        progress=progress,
    )
    if len(known.objectives) > 1:
        _measure_front(known, request, session=session)


def _unmeasured(known: "Study", request: "Request") -> "dict[str, Proposal]":
    """Trials of the front with an architecture of their own that has no latency yet."""
    rows = [row for method in request.space.methods for row in known.front(method)]
    found = {row["trial"]: known.proposals[row["trial"]] for row in rows}
    return {
        trial: proposal
        for trial, proposal in found.items()
        if proposal.recipe.compresses and f"measure-{trial}" not in known.verdicts
    }


def _measure_front(known: "Study", request: "Request", *, session: "Session") -> None:
    """Latencies of what no other trial beats, now that nothing else runs."""
    from tune_kd.workflows import create_study

    config = create_study.base_config(known, request.data, session.resources)
    create_study.measure_students(
        known, _unmeasured(known, request), session=session, config=config
    )


def _tell(known: "Study", request: "Request", again: str, progress: "Progress") -> None:
    """The best of each method, warnings, and the last line: counts and how to go on."""
    from tune_kd.metrics import shown
    from tune_kd.workflows import checks
    from tune_kd.workflows.confirm_plan import MIN_REPEATS

    budget = checks.budget(request, known)
    for method in request.space.methods:
        best = known.best(method)
        if best:
            named = [_value(best, name) for name in known.manifest["config_types"]]
            values = ", ".join(value for value in named if value)
            score = shown(known.metric, best[known.metric])
            print(f"{method}: {known.metric} {score} % in trial {best['trial']} ({values})")
    if budget.repeats < MIN_REPEATS:
        print(
            f"{budget.repeats} of {MIN_REPEATS} repeats: they recommend a student, but a verdict about a method "
            f"needs {MIN_REPEATS}; to add them: {again} --repeats {MIN_REPEATS}"
            if budget.each >= checks.MIN_TRIALS
            else f"{budget.repeats} repeat of {budget.each} trials for each method: a quick look, which says nothing of a method"
        )
    warn_of_teacher(known, progress)
    counts = known.counts("search")
    total = budget.of_method * len(request.space.methods)
    tally = ", ".join(f"{counts[s]} {s}" for s in ("finished", "stopped", "failed"))
    then = f"next: python -m tune_kd.confirm {known.storage.uri}"
    if counts.total() < total:
        then = f"go on with: {again}"
    print(f"{counts.total()} of {total} trials: {tally}; {then}")


def _value(row: dict[str, object], name: str) -> str:
    value = row.get(f"config.{name}")
    if value is None:
        return ""
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


def warn_of_teacher(known: "Study", progress: "Progress") -> None:
    """A teacher below the baseline student is said loudly."""
    from tune_kd.metrics import shown
    from tune_kd.workflows import prerequisites

    rows = known.verdicts.get(prerequisites.teacher_trial(known), [])
    score = known.score(rows[-1]) if rows else None
    best = known.best("no_kd")
    if best and score is not None and score < best[known.metric]:
        progress.warn(
            f"THE TEACHER IS WORSE THAN THE BASELINE STUDENT: {known.metric} "
            f"{shown(known.metric, score)} % against {shown(known.metric, best[known.metric])} %; "
            "train it longer (--set teacher_epochs=N) or choose another"
        )


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
