"""Train what a search chose again with fresh seeds, first on validation, then once each on test."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tune_kd import files
from tune_kd.errors import UsageError
from tune_kd.execution import runner
from tune_kd.execution.session import Session
from tune_kd.metrics import format_value
from tune_kd.study import node_files
from tune_kd.study.proposal import Proposal
from tune_kd.study.storage import Storage, lock_study
from tune_kd.study.study import Study
from tune_kd.training import context
from tune_kd.tuning import search_plan
from tune_kd.workflows import confirm_plan, create_study
from tune_kd.workflows.confirm_plan import Design
from tune_kd.workflows.driver import Driver, RunOptions

ROLES = {
    "best": "winners of the repeats",
    "default": "default settings",
    "recommended": "recommended student",
}


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions:
    """What is confirmed of a study."""

    study: str  # its folder, or s3://...
    seeds: int = 2  # of each repeat
    defaults: bool = True  # whether the default settings are trained as well
    data: Path | None = None  # where the images are now
    unfinished: bool = False  # whether a search that has not ended may be confirmed

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"seeds must be at least 1, got {self.seeds}")


@dataclass(frozen=True, kw_only=True)
class ConfirmOutcome:
    """How far a confirmation has come."""

    study: Study
    design: Design
    is_interrupted: bool
    is_out_of_time: bool

    @property
    def has_result(self) -> bool:
        """Whether any confirming run has a result."""
        planned = confirm_plan.confirmations(self.study, self.design)
        rows = [self.study.outcomes[p.trial][-1] for p in planned if p.trial in self.study.outcomes]
        return any(row["status"] != "failed" for row in rows)


def confirm(options: ConfirmOptions, run_options: RunOptions) -> ConfirmOutcome:
    """Run what is missing: first on validation, then, once the test split is opened, on test.

    Raises:
        UsageError: no study, nothing to confirm in it, or other images than the study's.
        SearchAborted: Ray failed again and again.
    """
    with lock_study(open_study(options.study).storage):
        study = open_study(options.study)
        if not options.unfinished:
            check_finished(study)
        folder = data_folder(study, options.data)
        design = confirm_plan.design(study, seeds=options.seeds, defaults=options.defaults)
        driver = Driver(run_options)
        if not is_done(study, design):
            driver.check_cluster()
            with driver.ray() as session:
                if run_options.resources.address:
                    session.check_nodes(study)
                run(study, design, session=session, driver=driver, folder=folder)
        study.clean()
        study.merge()
    return ConfirmOutcome(
        study=study,
        design=design,
        is_interrupted=bool(driver.interrupt.signals),
        is_out_of_time=driver.interrupt.out_of_time,
    )


def open_study(address: str) -> Study:
    """Return a study by its folder; UsageError where there is none."""
    storage = Storage(address)
    try:
        return Study(storage)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{address} is not a study folder (no manifest.json); name a folder that a search has written"
        ) from None


def check_finished(study: Study) -> None:
    """Refuse a search that has not ended: the first look at the test split spends most of the error.

    Raises:
        UsageError: trials are missing in a study of which nothing was confirmed yet.
    """
    planned = study.repeats * study.manifest.trials_of_each_repeat
    ended = study.counts("search").total()
    if ended < planned and not study.of("confirm"):
        command = study.manifest.command
        if command.startswith("python ") and "--resume" not in command.split():
            command += " --resume"
        raise UsageError(
            f"{ended} of {planned} trials of the search have ended in {study.storage.uri}; resume it with: {command}; "
            "or open the test split for what there is (--unfinished, in Python unfinished=True)"
        )


def is_done(known: Study, chosen: Design) -> bool:
    """Whether all that is to be trained again has its row, so that Ray is not needed."""
    if missing(known, confirm_plan.reevaluations(known, chosen)):
        return False
    planned = confirm_plan.confirmations(known, chosen)
    return not missing(known, planned) and not confirm_plan.unmeasured(known, planned)


def missing(known: Study, planned: list[Proposal]) -> list[Proposal]:
    """Those without a verdict."""
    return [proposal for proposal in planned if proposal.trial not in known.outcomes]


def run(
    known: Study, chosen: Design, *, session: Session, driver: Driver, folder: Path | None
) -> None:
    """Run the re-evaluations, which say what is recommended, then all confirming runs."""
    progress = driver.progress
    base = create_study.base_config(known, folder, session.resources)

    def go_on(phase: str, planned: list[Proposal]) -> None:
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
        confirm_plan.log_test_access(known, left, chosen, command=driver.options.resume_command)
        progress.say(f"{len(planned)} confirming runs, each measured once on the test split")
        go_on("confirm", planned)
    unmeasured = confirm_plan.unmeasured(known, planned)
    create_study.measure_students(known, unmeasured, session=session, config=base)


def data_folder(known: Study, given: Path | None) -> Path | None:
    """Where the images are now; they must be the study's, which is told by their hash."""
    recorded = known.manifest.data
    folder = given.expanduser().absolute() if given else Path(recorded) if recorded else None
    cache = files.cache_folder()
    code = node_files.local_code(known.storage, cache)
    try:
        context.load_train(
            known.manifest.images,
            context.NodeContext(cache=cache, data=folder, code=code),
        )
    except ValueError as error:
        raise UsageError(f"{error}; name the study's images by --data DIR") from None
    return folder


def summary(outcome: ConfirmOutcome, resume_command: str) -> Iterator[str]:
    """Yield the means on test of what was confirmed, and as the last line counts and how to go on."""
    study, design = outcome.study, outcome.design
    metric = study.test_metric
    first = confirm_plan.reevaluations(study, design)
    planned = confirm_plan.confirmations(study, design)
    ended = [study.outcomes[p.trial][-1] for p in planned if p.trial in study.outcomes]
    for role in ROLES:
        for method in study.manifest.methods:
            rows = [r for r in ended if r["method"] == method and role in r["origin"].split(", ")[0].split("+")]  # fmt: skip
            values = [r[metric] for r in rows if r[metric] is not None]
            if values:
                mean = format_value(metric, statistics.fmean(values))
                yield f"{method}, {ROLES[role]}: {metric} {mean} %, n={len(values)}"
    total = len(first) + len(planned)
    done = total - len(missing(study, [*first, *planned]))
    failed = sum(r["status"] == "failed" for r in ended)
    then = f"next: python -m analysis.report {study.storage.uri}"
    if done < total:
        then = f"resume with: {resume_command}"
    yield f"{done} of {total} runs, {len(planned)} of them on test: {failed} failed; {then}"
