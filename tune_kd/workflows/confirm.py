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
from tune_kd.study.results import Row
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
        proposals = confirm_plan.confirmations(self.study, self.design)
        rows = [
            self.study.outcomes[p.trial][-1] for p in proposals if p.trial in self.study.outcomes
        ]
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
    total = study.repeats * study.manifest.trials_of_each_repeat
    count = study.counts("search").total()
    if count < total and not study.of("confirm"):
        command = study.manifest.command
        if command.startswith("python ") and "--resume" not in command.split():
            command += " --resume"
        raise UsageError(
            f"{count} of {total} trials of the search have ended in {study.storage.uri}; resume it with: {command}; "
            "or open the test split for what there is (--unfinished, in Python unfinished=True)"
        )


def is_done(study: Study, design: Design) -> bool:
    """Whether all that is to be trained again has its row, so that Ray is not needed."""
    if find_missing(study, confirm_plan.reevaluations(study, design)):
        return False
    proposals = confirm_plan.confirmations(study, design)
    return not find_missing(study, proposals) and not confirm_plan.find_unmeasured(study, proposals)


def find_missing(study: Study, proposals: list[Proposal]) -> list[Proposal]:
    """Those without a verdict."""
    return [proposal for proposal in proposals if proposal.trial not in study.outcomes]


def run(
    study: Study, design: Design, *, session: Session, driver: Driver, folder: Path | None
) -> None:
    """Run the re-evaluations, which say what is recommended, then all confirming runs."""
    progress = driver.progress
    base = create_study.base_config(study, folder, session.resources)

    def go_on(phase: str, proposals: list[Proposal]) -> None:
        progress.follow(study, phase, len(proposals))
        runner.run(
            study,
            lambda: search_plan.FixedPlan(study, proposals),
            ray_session=session,
            base=base,
            progress=progress,
        )

    first = confirm_plan.reevaluations(study, design)
    if find_missing(study, first):
        progress.say(f"{len(first)} runs on validation say which winner each method recommends")
        go_on("reevaluate", first)
    proposals = confirm_plan.confirmations(study, design)
    if missing := find_missing(study, proposals):
        confirm_plan.log_test_access(study, missing, design, command=driver.options.resume_command)
        progress.say(f"{len(proposals)} confirming runs, each measured once on the test split")
        go_on("confirm", proposals)
    unmeasured = confirm_plan.find_unmeasured(study, proposals)
    create_study.measure_students(study, unmeasured, session=session, config=base)


def data_folder(study: Study, data: Path | None) -> Path | None:
    """Where the images are now; they must be the study's, which is told by their hash."""
    recorded = study.manifest.data
    folder = data.expanduser().absolute() if data else Path(recorded) if recorded else None
    cache = files.cache_folder()
    code = node_files.local_code(study.storage, cache)
    try:
        context.load_train(
            study.manifest.images,
            context.NodeContext(cache=cache, data=folder, code=code),
        )
    except ValueError as error:
        raise UsageError(f"{error}; name the study's images by --data DIR") from None
    return folder


def _roles(row: Row) -> list[str]:
    """Return the roles of a confirming run; its origin may say as well that it begins from a file."""
    roles, _, _ = str(row["origin"]).partition(", ")
    return roles.split("+")


def summary(outcome: ConfirmOutcome, resume_command: str) -> Iterator[str]:
    """Yield the means on test of what was confirmed, and as the last line counts and how to go on."""
    study, design = outcome.study, outcome.design
    metric = study.test_metric
    first = confirm_plan.reevaluations(study, design)
    proposals = confirm_plan.confirmations(study, design)
    verdicts = [study.outcomes[p.trial][-1] for p in proposals if p.trial in study.outcomes]
    for role in ROLES:
        for method in study.manifest.methods:
            rows = [row for row in verdicts if row["method"] == method and role in _roles(row)]
            values = [row[metric] for row in rows if row[metric] is not None]
            if values:
                mean = format_value(metric, statistics.fmean(values))
                yield f"{method}, {ROLES[role]}: {metric} {mean} %, n={len(values)}"
    total = len(first) + len(proposals)
    count = total - len(find_missing(study, [*first, *proposals]))
    failed = sum(r["status"] == "failed" for r in verdicts)
    then = f"next: python -m analysis.report {study.storage.uri}"
    if count < total:
        then = f"resume with: {resume_command}"
    yield f"{count} of {total} runs, {len(proposals)} of them on test: {failed} failed; {then}"
