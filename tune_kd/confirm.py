"""Repeat the best of every method with fresh seeds, and measure each once on the test split.

    python -m tune_kd.confirm runs/X --top 1 --seeds 5

Beside the best it confirms each method's textbook setting, so that the report can say what tuning
bought. Students are fitted on train and validation images together, for as many epochs as in the
search; every method gets the same seeds. The same command again goes on after any kill, and trains
nothing that has its row.
"""

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_kd import cli, options
from tune_kd.errors import UsageError

if TYPE_CHECKING:
    from tune_kd.proposals import Proposal
    from tune_kd.results import Row
    from tune_kd.session import Resources
    from tune_kd.study import Study

MODULE = "tune_kd.confirm"
FIRST_SEED = 1000  # so that no confirming seed is a study's own


def main(arguments: list[str]) -> int:
    """Confirm a study; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("study", metavar="STUDY", help="a study's folder, such as runs/cifar10_kd, or s3://...")
    add("--top", type=cli.positive_int, default=1, help="how many of each method's best trials [1]")
    add("--seeds", type=cli.positive_int, default=5, help="fresh seeds, 1000, 1001, ... [5]")
    add("--no-textbook", action="store_true", help="leave the textbook settings out")
    add("--data", type=Path, metavar="DIR", help="where the study's images lie now [as searched]")
    options.add_resources(parser)
    given = parser.parse(arguments)

    from tune_kd import environment

    environment.prepare(options.address_of(given))
    again = cli.command_line(MODULE, arguments)
    return confirm(given, options.wanted_resources(given), again)


def open_study(address: str) -> "Study":
    """A study by its folder; UsageError where there is none."""
    from tune_kd.storage import Storage
    from tune_kd.study import Study

    storage = Storage(address)
    try:
        return Study(storage)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{address} is no study: it has no manifest.json; name a folder that a search has written"
        ) from None


def confirm(given: Namespace, resources: "Resources", again: str) -> int:
    """Run what is missing of the list."""
    from tune_kd import opening, progress, runner, sampler, session
    from tune_kd.storage import locked

    with locked(open_study(given.study).storage):
        known = open_study(given.study)
        folder = data_folder(known, given.data)
        planned = proposals(known, given)
        missing = [p for p in planned if p.trial not in known.verdicts]
        shown = progress.Progress(quiet=given.quiet)
        budget = given.time_budget or float("inf")
        interrupt = session.Interrupt(deadline=time.monotonic() + budget, resume_command=again)
        if missing or unmeasured(known, planned):
            session.check_address(resources.address)
            if missing:
                record_opening(known, missing, again)
            try:
                with session.session(resources, interrupt) as started:
                    if resources.address:
                        started.check_nodes(known)
                    shown.follow(known, "confirm", len(planned))
                    base = opening.base_config(known, folder, resources)
                    runner.run(
                        known,
                        lambda: sampler.FixedPlan(known, planned),
                        ray_session=started,
                        base=base,
                        progress=shown,
                    )
                    opening.measure_students(
                        known, unmeasured(known, planned), session=started, config=base
                    )
            except session.CannotGoOnError as error:
                print(f"error: {error}; go on with: {again}", file=sys.stderr)
                return 1
            except session.StoppedError:
                pass  # told below
        known.clean()
        known.merge()
    return _tell(known, planned, again, interrupted=bool(interrupt.signals), budget_over=interrupt.out_of_time)  # fmt: skip


def data_folder(known: "Study", given: Path | None) -> Path | None:
    """Where the images are now; they must be the study's, which is told by their hash."""
    from tune_kd import site, worker
    from tune_kd.recipes import images_of

    recorded = known.manifest["data"]
    folder = given.expanduser().absolute() if given else Path(recorded) if recorded else None
    cache = worker.cache_folder()
    code = worker.local_code(known.storage, cache)
    try:
        site.load_train(images_of(known.manifest), site.Site(cache=cache, data=folder, code=code))
    except ValueError as error:
        raise UsageError(f"{error}; name the study's images by --data DIR") from None
    return folder


def proposals(known: "Study", given: Namespace) -> "list[Proposal]":
    """The teacher's measurement, then for each seed every method's chosen trials."""
    chosen = [
        (row, origin)
        for method in known.manifest["methods"]
        for row, origin in sources(known, method, top=given.top, textbook=not given.no_textbook)
    ]
    if not chosen:
        raise UsageError(f"{known.storage.uri} has no finished trial to confirm; run the search on")
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    students = [_student(known, row, origin, seed) for seed in seeds for row, origin in chosen]
    return [*_teacher(known), *_start(known, students), *students]


def sources(known: "Study", method: str, *, top: int, textbook: bool) -> "list[tuple[Row, str]]":
    """The trials of a method that are confirmed, with what each of them is."""
    ranked = known.ranked(method)
    best = ranked[:top]
    book = [row for row in ranked if row["origin"] == "textbook"] if textbook else []
    found = [(row, "best+textbook" if row in book else "best") for row in best]
    return found + [(row, "textbook") for row in book if row not in best]


def _student(known: "Study", row: "Row", origin: str, seed: int) -> "Proposal":
    from tune_kd.proposals import Proposal
    from tune_kd.retraining import anew

    source = known.proposals[row["trial"]]
    recipe = anew(known, source)
    if recipe.start:
        origin = f"{origin}, begun from a file"
    images = replace(recipe.images, fit_on="train+val")
    return Proposal(
        trial=f"confirm-{source.trial}-s{seed}",
        phase="confirm",
        method=source.method,
        number=seed - FIRST_SEED,
        seed=seed,
        origin=origin,
        source=source.trial,
        config=source.config,
        recipe=replace(recipe, images=images),
        open_test=True,
    )


def unmeasured(known: "Study", planned: "list[Proposal]") -> "dict[str, Proposal]":
    """Confirmed students of an architecture of their own that have no latency yet, by their trial.

    The first seed's student stands for a trial.
    """
    chosen: dict[str, Proposal] = {}
    for proposal in planned:
        ended = known.verdicts.get(proposal.trial)
        finished = ended is not None and ended[-1]["status"] == "finished"
        measured = f"measure-{proposal.source}" in known.verdicts
        if finished and proposal.recipe.compresses and not measured:
            chosen.setdefault(proposal.source, proposal)
    return chosen


def _teacher(known: "Study") -> "list[Proposal]":
    """The study's teacher measured as it is: a recipe without stages."""
    from tune_kd import teaching

    if not teaching.has_teacher(known):
        return []
    network, model = known.manifest["teacher"], known.manifest["teacher_model"]
    source = teaching.teacher_trial(known)
    return [_as_it_is(known, "confirm-teacher", network=network, model=model, source=source)]


def _start(known: "Study", students: "list[Proposal]") -> "list[Proposal]":
    """The file that students begin from measured as it is: what was there before they were cut."""
    from tune_kd import teaching

    given = known.manifest["start"].get("model")
    if given is None or all(proposal.recipe.start != given for proposal in students):
        return []
    network, source = known.manifest["student"], teaching.start_trial(known)
    return [_as_it_is(known, "confirm-start", network=network, model=given, source=source)]


def _as_it_is(known: "Study", trial: str, *, network: str, model: str, source: str) -> "Proposal":
    """One of the study's models measured on the test split: a recipe without stages."""
    from tune_kd import recipes
    from tune_kd.proposals import Proposal
    from tune_kd.recipe import Compute, Recipe, rebuild

    recipe = Recipe(
        images=recipes.images_of(known.manifest),
        student=recipes.shipped(network),
        start=model,
        compute=rebuild(Compute, known.manifest["compute"]),
    )
    return Proposal(
        trial=trial,
        phase="confirm",
        method="",  # of none: only what a method's own runs gave is counted as its own
        number=0,
        seed=known.manifest["seed"],
        origin="best",
        source=source,
        recipe=recipe,
        open_test=True,
    )


def record_opening(known: "Study", missing: "list[Proposal]", command: str) -> None:
    """Each opening of the test split leaves a file in the study."""
    from tune_kd.results import now

    number = len(known.storage.names("openings")) + 1
    record = {"time": now(), "command": command, "trials": [p.trial for p in missing]}
    known.storage.write(f"openings/{number:04d}.json", json.dumps(record, indent=1).encode())


def _tell(
    known: "Study", planned: "list[Proposal]", again: str, *, interrupted: bool, budget_over: bool
) -> int:
    """The mean on test of what was confirmed, counts, and the exit code."""
    from tune_kd.metrics import shown

    metric = "test_miou" if known.manifest["dense"] else "test_accuracy"

    ended = [known.verdicts[p.trial][-1] for p in planned if p.trial in known.verdicts]
    for source in dict.fromkeys(p.source for p in planned):
        rows = [r for r in ended if r["source"] == source and r[metric] is not None]
        if rows:
            mean = sum(r[metric] for r in rows) / len(rows)
            role = rows[0]["method"] or rows[0]["trial"].removeprefix("confirm-")
            print(f"{role} ({source}, {rows[0]['origin']}): {metric} {shown(metric, mean)} %, n={len(rows)}")  # fmt: skip
    failed = sum(r["status"] == "failed" for r in ended)
    then = f"next: python -m analysis.report {known.storage.uri}"
    if len(ended) < len(planned):
        then = f"go on with: {again}"
    print(f"{len(ended)} of {len(planned)} confirming runs: {failed} failed; {then}")
    if interrupted:
        return 130
    return 0 if budget_over or len(ended) > failed else 1


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
