"""Train what a search chose again with fresh seeds, and measure each once on the test split.

    python -m tune_kd.confirm runs/X --seeds 2

It confirms the winner of each method in each repeat, each method's textbook setting, so that the report can
say what tuning bought, and the student that each method recommends. Students are fitted on train and
validation images together, for as many epochs as in the search; all methods get the same seeds. The same
command again goes on after any kill, and trains nothing that has its row.
"""

import statistics
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_kd import cli, files
from tune_kd.errors import UsageError
from tune_kd.workflows import options

if TYPE_CHECKING:
    from tune_kd.execution.progress import Progress
    from tune_kd.execution.session import Resources, Session
    from tune_kd.study.proposal import Proposal
    from tune_kd.study.study import Study
    from tune_kd.workflows.confirm_plan import Design

MODULE = "tune_kd.confirm"
ROLES = {
    "best": "winners of the repeats",
    "textbook": "textbook setting",
    "recommended": "recommended student",
}


def main(arguments: list[str]) -> int:
    """Confirm a study; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("study", metavar="STUDY", help="a study's folder, such as runs/cifar10_kd, or s3://...")
    add("--seeds", type=cli.positive_int, default=2, help="fresh seeds of each repeat; more at a later time are counted as another look at the test split [2]")  # fmt: skip
    add("--no-textbook", action="store_true", help="leave the textbook settings out")
    add("--data", type=Path, metavar="DIR", help="where the study's images lie now [as searched]")
    options.add_resources(parser)
    given = parser.parse(arguments)

    from tune_kd.execution import environment

    environment.prepare(options.address_of(given))
    again = cli.command_line(MODULE, arguments)
    return confirm(given, options.wanted_resources(given), again)


def open_study(address: str) -> "Study":
    """A study by its folder; UsageError where there is none."""
    from tune_kd.study.storage import Storage
    from tune_kd.study.study import Study

    storage = Storage(address)
    try:
        return Study(storage)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{address} is no study: it has no manifest.json; name a folder that a search has written"
        ) from None


def confirm(given: Namespace, resources: "Resources", again: str) -> int:
    """Run what is missing: first on validation, then, once the test split is opened, on test."""
    from tune_kd.execution import progress, session
    from tune_kd.study.storage import locked
    from tune_kd.workflows import confirm_plan

    with locked(open_study(given.study).storage):
        known = open_study(given.study)
        folder = data_folder(known, given.data)
        chosen = confirm_plan.design(known, seeds=given.seeds, textbook=not given.no_textbook)
        shown = progress.Progress(quiet=given.quiet)
        budget = given.time_budget or float("inf")
        interrupt = session.Interrupt(deadline=time.monotonic() + budget, resume_command=again)
        if not is_done(known, chosen):
            session.check_address(resources.address)
            try:
                with session.session(resources, interrupt) as started:
                    if resources.address:
                        started.check_nodes(known)
                    run(
                        known, chosen, session=started, progress=shown, folder=folder, command=again
                    )
            except session.CannotGoOnError as error:
                print(f"error: {error}; go on with: {again}", file=sys.stderr)
                return 1
            except session.StoppedError:
                pass  # told below
        known.clean()
        known.merge()
    return _tell(known, chosen, again, interrupted=bool(interrupt.signals), budget_over=interrupt.out_of_time)  # fmt: skip


def is_done(known: "Study", chosen: "Design") -> bool:
    """Whether all that is to be trained again has its row, so that Ray is not needed."""
    from tune_kd.workflows import confirm_plan

    if missing(known, confirm_plan.reevaluations(known, chosen)):
        return False
    planned = confirm_plan.confirmations(known, chosen)
    return not missing(known, planned) and not confirm_plan.unmeasured(known, planned)


def missing(known: "Study", planned: "list[Proposal]") -> "list[Proposal]":
    """Those without a verdict."""
    return [proposal for proposal in planned if proposal.trial not in known.verdicts]


def run(  # noqa: PLR0913 - a run's circumstances
    known: "Study", chosen: "Design", *, session: "Session", progress: "Progress", folder: Path | None, command: str
) -> None:  # fmt: skip
    """The re-evaluations, which say what is recommended, then all confirming runs."""
    from tune_kd.execution import runner
    from tune_kd.tuning import search_plan
    from tune_kd.workflows import confirm_plan, create_study

    base = create_study.base_config(known, folder, session.resources)

    def go_on(phase: str, planned: "list[Proposal]") -> None:
        progress.follow(known, phase, len(planned))
        runner.run(
            known,
            lambda: search_plan.FixedPlan(known, planned),
            ray_session=session,
            base=base,
            progress=progress,
        )

    first = confirm_plan.reevaluations(known, chosen)
    if missing(known, first):
        progress.say(f"{len(first)} runs on validation say which winner each method recommends")
        go_on("reevaluate", first)
    planned = confirm_plan.confirmations(known, chosen)
    if left := missing(known, planned):
        confirm_plan.record_opening(known, left, chosen, command=command)
        progress.say(f"{len(planned)} confirming runs, each measured once on the test split")
        go_on("confirm", planned)
    unmeasured = confirm_plan.unmeasured(known, planned)
    create_study.measure_students(known, unmeasured, session=session, config=base)


def data_folder(known: "Study", given: Path | None) -> Path | None:
    """Where the images are now; they must be the study's, which is told by their hash."""
    from tune_kd.execution import worker
    from tune_kd.study.recipe_builder import images_of
    from tune_kd.training import context

    recorded = known.manifest["data"]
    folder = given.expanduser().absolute() if given else Path(recorded) if recorded else None
    cache = files.cache_folder()
    code = worker.local_code(known.storage, cache)
    try:
        context.load_train(
            images_of(known.manifest), context.Site(cache=cache, data=folder, code=code)
        )
    except ValueError as error:
        raise UsageError(f"{error}; name the study's images by --data DIR") from None
    return folder


def _tell(
    known: "Study", chosen: "Design", again: str, *, interrupted: bool, budget_over: bool
) -> int:
    """The means on test of what was confirmed, counts, and the exit code."""
    from tune_kd.metrics import shown
    from tune_kd.workflows import confirm_plan

    metric = "test_miou" if known.manifest["dense"] else "test_accuracy"
    again_first = confirm_plan.reevaluations(known, chosen)
    planned = confirm_plan.confirmations(known, chosen)
    ended = [known.verdicts[p.trial][-1] for p in planned if p.trial in known.verdicts]
    for role in ROLES:
        for method in known.manifest["methods"]:
            rows = [r for r in ended if r["method"] == method and role in r["origin"].split(", ")[0].split("+")]  # fmt: skip
            values = [r[metric] for r in rows if r[metric] is not None]
            if values:
                mean = shown(metric, statistics.fmean(values))
                print(f"{method}, {ROLES[role]}: {metric} {mean} %, n={len(values)}")
    total = len(again_first) + len(planned)
    done = total - len(missing(known, [*again_first, *planned]))
    failed = sum(r["status"] == "failed" for r in ended)
    then = f"next: python -m analysis.report {known.storage.uri}"
    if done < total:
        then = f"go on with: {again}"
    print(f"{done} of {total} runs, {len(planned)} of them on test: {failed} failed; {then}")
    if interrupted:
        return 130
    return 0 if budget_over or len(ended) > failed else 1


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
