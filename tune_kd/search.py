"""The main job: search a space for the best student of every method.

    python -m tune_kd.search --space cifar10_kd

Ray Tune runs the trials, Optuna proposes them, rows are written to OUT/NAME. Exit code 0: every planned
trial has its row, or the time budget is over; 1: no trial finished, or Ray cannot go on; 2: wrong usage;
130: interrupted. Any interrupted search goes on with the same command and --resume.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd import cli
from tune_kd.errors import UsageError, unknown

if TYPE_CHECKING:
    from argparse import Namespace

    from tune_kd.opening import Request
    from tune_kd.progress import Progress
    from tune_kd.runner import Resources, Session
    from tune_kd.space import SearchSpace
    from tune_kd.study import Study

SAMPLERS, SCHEDULERS = ("tpe", "random", "gp"), ("asha", "none")


def parser(module: str, summary: str, *, teach_only: bool = False) -> cli.Parser:
    """The options of `search`, or those of them that training a teacher ahead of time has."""
    made = cli.Parser(prog=f"python -m {module}", description=summary, allow_abbrev=False)
    add = made.add_argument
    add(
        "--space",
        required=True,
        metavar="NAME_OR_FILE",
        help="a file of search_spaces/ by name, or your own by path",
    )
    add(
        "--epochs",
        type=cli.positive_int,
        help="length of the student's main training stage; the teacher's shrinks in the same ratio [the space's]",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="own images: train/<class>/* and test/<class>/*, or train*.parquet and test*.parquet [the task's]",
    )
    add(
        "--limit-train",
        type=cli.positive_int,
        default=0,
        metavar="N",
        help="a stratified subset of the training images [all]",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="pin a range or change a field of the space; repeatable",
    )
    add(
        "--out",
        default="runs",
        help="the folder or s3://bucket/folder that holds studies [%(default)s]",
    )
    add("--name", help="the study [the space's name]")
    add(
        "--seed",
        type=cli.whole,
        default=0,
        help="of the split, the views, all trials and proposals [%(default)s]",
    )
    add("--cpus-per-trial", type=cli.amount, default=1.0, help="[%(default)g]")
    add(
        "--gpus-per-trial",
        type=cli.amount,
        help="fractions allowed [1 where this machine has a GPU, else 0; with an address it must be said]",
    )
    add(
        "--address",
        help="join a Ray cluster, such as auto or HOST:PORT [RAY_ADDRESS, else a Ray of its own]",
    )
    add("--quiet", action="store_true", help="results only")
    if teach_only:
        return made
    add(
        "--trials",
        type=cli.positive_int,
        help="a total, rounded up to equal counts a method; failed trials count [the space's]",
    )
    add("--methods", nargs="+", metavar="METHOD", help="a subset [all]")
    add("--resume", action="store_true", help="go on with the study; start it where there is none")
    add("--sampler", default="tpe", help=f"one of {', '.join(SAMPLERS)} [%(default)s]")
    add("--scheduler", default="asha", help=f"one of {', '.join(SCHEDULERS)} [%(default)s]")
    add(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="an own checkpoint (safetensors or a state dict) as teacher [trained here]",
    )
    add(
        "--max-concurrent",
        type=cli.positive_int,
        metavar="N",
        help="trials at once [cores or GPU slots]",
    )
    add(
        "--time-budget",
        type=cli.duration,
        metavar="TIME",
        help="stop after 90s, 45m or 2h; --resume goes on [none]",
    )
    add("--dry-run", action="store_true", help="print the plan and run nothing")
    return made  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run a search; the exit code."""
    from tune_kd import environment

    options = parser("tune_kd.search", (__doc__ or "").split("\n")[0]).parse(arguments)
    for given, kind, known in ((options.sampler, "sampler", SAMPLERS), (options.scheduler, "scheduler", SCHEDULERS)):  # fmt: skip
        if given not in known:
            raise unknown(kind, given, known)
    space, file = chosen_space(options)
    address = options.address or os.environ.get("RAY_ADDRESS") or None
    environment.prepare(address)
    resources = wanted_resources(options, address)
    request = make_request(options, (space, file), command=cli.command_line("tune_kd.search", arguments))  # fmt: skip
    if options.dry_run:
        from tune_kd import dryrun

        print(dryrun.plan(request, resources))
        return 0
    return search(request, resources, options, cli.command_line("tune_kd.search", arguments, "--resume"))  # fmt: skip


def chosen_space(options: "Namespace") -> "tuple[SearchSpace, Path]":
    """The space with all that the options change, checked."""
    import dataclasses

    from tune_kd import space as spaces

    space, file = spaces.load(options.space)
    if getattr(options, "methods", None):
        space = spaces.subset(space, options.methods)
    if options.epochs:
        ratio = options.epochs / space.epochs
        shrunk = max(1, round(space.teacher_epochs * ratio))
        space = dataclasses.replace(space, epochs=options.epochs, teacher_epochs=shrunk)
    if getattr(options, "trials", None):
        space = dataclasses.replace(space, trials=options.trials)
    for assignment in options.set:
        space = spaces.change(space, assignment)
    space.check()
    return space, file


def wanted_resources(options: "Namespace", address: str | None) -> "Resources":
    """What a trial gets and how many run at once; UsageError where this machine has not so much."""
    from tune_kd import machine
    from tune_kd.runner import Resources

    gpus = options.gpus_per_trial
    if address and gpus is None:
        raise UsageError("--gpus-per-trial must be said with an address: 0 for none, 0.25 for four trials a GPU")  # fmt: skip
    concurrent = getattr(options, "max_concurrent", None)
    if address:
        concurrent = concurrent or machine.CLUSTER_CONCURRENCY
        return Resources(cpus=options.cpus_per_trial, gpus=gpus, max_concurrent=concurrent, address=address)  # fmt: skip
    have = machine.gpus() if gpus is None or gpus > 0 else 0
    gpus = (1.0 if have else 0.0) if gpus is None else gpus
    if gpus > have:
        raise UsageError(f"--gpus-per-trial {gpus:g}: this machine has {have} GPUs; ask for at most that, or join a cluster by --address")  # fmt: skip
    cores = machine.cores()
    if options.cpus_per_trial > cores:
        raise UsageError(f"--cpus-per-trial {options.cpus_per_trial:g}: this machine has {cores} cores")  # fmt: skip
    slots = int(have / gpus + 1e-9) if gpus else max(1, int(cores / max(options.cpus_per_trial, 0.01)))  # fmt: skip
    return Resources(cpus=options.cpus_per_trial, gpus=gpus, max_concurrent=concurrent or slots)


def make_request(
    options: "Namespace", found: "tuple[SearchSpace, Path]", *, command: str
) -> "Request":
    """What is asked for, as one value."""
    from tune_kd.opening import Request
    from tune_kd.storage import Storage

    space, file = found
    name = options.name or space.name
    if "/" in name or name.startswith("."):
        raise UsageError(f"--name {name}: a plain name is wanted; --out is the folder that holds studies")  # fmt: skip
    teacher = getattr(options, "teacher", None)
    if teacher is not None and not teacher.is_file():
        raise UsageError(f"--teacher {teacher}: there is no such file")
    return Request(
        space=space,
        file=file,
        storage=Storage(options.out).at(name),
        data=options.data.expanduser().absolute() if options.data else None,
        limit_train=options.limit_train,
        seed=options.seed,
        sampler=getattr(options, "sampler", "tpe"),
        scheduler=getattr(options, "scheduler", "asha"),
        teacher=teacher,
        resume=getattr(options, "resume", True),
        command=command,
    )


def search(request: "Request", resources: "Resources", options: "Namespace", again: str) -> int:
    """Open or begin the study, train its teacher, run the trials that are missing."""
    from tune_kd import opening, progress, runner, study

    material = opening.look_at_data(request)
    opening.check_teacher(request, material)
    there = opening.exists(request, material)
    shown = progress.Progress(quiet=options.quiet, concurrent=resources.max_concurrent)
    budget = options.time_budget or float("inf")
    interrupt = runner.Interrupt(deadline=time.monotonic() + budget, resume_command=again)
    with study.locked(request.storage):
        known = study.Study(request.storage) if there else None
        if known is None or not planned_is_done(known, request):
            try:
                with runner.session(resources, interrupt) as session:
                    known = _run(known, request, material, session=session, progress=shown)
            except runner.CannotGoOnError as error:
                print(f"error: {error}; go on with: {again}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                pass  # reported below
        code = 130 if interrupt.signals else 0
        if known is None:
            print(f"interrupted; go on with: {again}", file=sys.stderr)
            return code or 1
        known.clean()
        known.merge()
    _tell(known, request, again, shown)
    finished = known.counts("search")["finished"]
    return code or (0 if finished or interrupt.out_of_time else 1)


def planned_is_done(known: "Study", request: "Request") -> bool:
    """Whether every planned trial has its row already, so that Ray is not needed."""
    from tune_kd import opening

    each = [len(known.of("search", method)) for method in request.space.methods]
    teacher = not opening.needs_teacher(request.space) or opening.has_teacher(known)
    return teacher and min(each) >= request.each and not known.open_trials("search")


def _run(
    known: "Study | None", request: "Request", material: Any, *, session: "Session", progress: "Progress"
) -> "Study":  # fmt: skip
    from tune_kd import opening, runner, sampler

    if known is None:
        known = opening.begin(request, material, session=session, progress=progress)
    else:
        known.clean()
    if session.resources.address:
        session.check_nodes(known)
    if opening.needs_teacher(request.space) and not opening.ensure_teacher(
        known, request, session=session, progress=progress
    ):
        return known
    found, space = known, request.space
    total = request.each * len(space.methods)
    progress.follow(found, "search", total)
    progress.say(f"{total} trials of {space.epochs} epochs, {session.resources.max_concurrent} at once; rows in {found.storage.uri}")  # fmt: skip
    runner.run(
        found,
        lambda: sampler.SearchPlan(
            found,
            space,
            each=request.each,
            recipe=lambda method, config: opening.student_recipe(
                found.manifest, space, method, config
            ),  # fmt: skip
        ),
        ray_session=session,
        base=opening.base_config(found, request.data, session.resources),
        rungs=list(found.manifest["rungs"]),
        progress=progress,
    )
    return found


def _tell(known: "Study", request: "Request", again: str, progress: "Progress") -> None:
    """The best of each method, warnings, and the last line: counts and how to go on."""
    from tune_kd.metrics import shown

    for method in request.space.methods:
        best = known.best(method)
        if best:
            values = ", ".join(f"{k[7:]} {v:.3g}" if isinstance(v, float) else f"{k[7:]} {v}" for k, v in sorted(best.items()) if k.startswith("config.") and v is not None)  # fmt: skip
            print(f"{method}: {known.metric} {shown(known.metric, best[known.metric])} % in trial {best['trial']} ({values})")  # fmt: skip
    warn_of_teacher(known, progress)
    counts = known.counts("search")
    total = request.each * len(request.space.methods)
    tally = ", ".join(f"{counts[s]} {s}" for s in ("finished", "stopped", "failed"))
    missing = total - counts.total()
    if missing > 0:
        print(f"{counts.total()} of {total} trials: {tally}; go on with: {again}")
    else:
        print(f"{counts.total()} of {total} trials: {tally}; next: python -m tune_kd.confirm {known.storage.uri}")  # fmt: skip


def warn_of_teacher(known: "Study", progress: "Progress") -> None:
    """A teacher below the baseline student is said loudly."""
    from tune_kd import opening
    from tune_kd.metrics import shown

    rows = known.verdicts.get(opening.teacher_trial(known), [])
    score = known.score(rows[-1]) if rows else None
    for method in known.manifest["methods"]:
        best = known.best(method)
        if method == "no_kd" and best and score is not None and score < best[known.metric]:
            progress.warn(
                f"THE TEACHER IS WORSE THAN THE BASELINE STUDENT: {known.metric} "
                f"{shown(known.metric, score)} % against {shown(known.metric, best[known.metric])} %; "
                "train it longer (--set teacher_epochs=N) or choose another"
            )


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
