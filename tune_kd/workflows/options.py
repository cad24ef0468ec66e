"""The options of commands and of calls from Python, and what they ask for: space, resources, request."""

import os
from argparse import Namespace
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tune_kd import cli
from tune_kd.errors import UsageError
from tune_kd.execution.resources import Resources

if TYPE_CHECKING:  # heavy: --help answers without them
    from tune_kd.space import SearchSpace
    from tune_kd.workflows.driver import RunOptions
    from tune_kd.workflows.request import SearchRequest

SAMPLERS, SCHEDULERS = ("tpe", "random", "gp", "nsga2"), ("asha", "none")
Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched on which images, and where the study lies; None leaves it to the space."""

    space: "str | SearchSpace"  # a name, a file or the space itself
    epochs: int | None = None
    data: Path | None = None
    limit_train: int = 0
    set: tuple[str, ...] = ()  # NAME=VALUE
    out: str = "runs"
    name: str | None = None
    seed: int = 0
    trials: int | None = None
    repeats: int | None = None
    methods: tuple[str, ...] = ()
    resume: bool = True
    sampler: str = "tpe"
    scheduler: str = "asha"
    teacher: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "trials", "repeats"):
            _at_least(name, getattr(self, name), 1)
        for name in ("limit_train", "seed"):
            _at_least(name, getattr(self, name), 0)


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise UsageError(f"{name} must be at least {least:g}, got {value:g}")


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """What a trial gets, and where it runs; None leaves it to the machine."""

    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    time_budget: float | None = None  # seconds
    address: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        _at_least("max_concurrent", self.max_concurrent, 1)
        _at_least("gpus_per_trial", self.gpus_per_trial, 0)
        if self.time_budget is not None and not self.time_budget > 0:
            raise UsageError(f"time_budget must be more than 0 seconds, got {self.time_budget:g}")

    @property
    def cluster(self) -> str | None:
        """The cluster to join, None for a Ray of one's own."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def prepare(self) -> None:
        """Set what Ray and the numeric libraries read when they are imported."""
        from tune_kd.execution import environment

        environment.prepare(self.cluster)

    def run_options(self, *, resume_command: str, is_command: bool = False) -> "RunOptions":
        """Return how a run is carried out with these; UsageError where this machine has not so much."""
        from tune_kd.workflows.driver import RunOptions

        return RunOptions(
            resources=self.allocate(),
            resume_command=resume_command,
            time_budget_s=self.time_budget,
            quiet=self.quiet,
            is_command=is_command,
        )

    def allocate(self) -> Resources:
        """Return a trial's resources and how many run at once; UsageError where there are not so many."""
        return _allocate(self)


def read(kind: type[Options], args: Namespace) -> Options:
    """Return options of a kind from a parsed command line; what it does not offer keeps its default."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return kind(**{n: () if v is None and n == "methods" else v for n, v in values.items()})


def add_study(parser: cli.Parser) -> None:
    """Add the options that say what is trained on what, and where the study lies."""
    add = parser.add_argument
    add(
        "--space",
        required=True,
        metavar="NAME_OR_FILE",
        help="a file of search_spaces/ by name, or your own by path",
    )
    add(
        "--epochs",
        type=cli.positive_int,
        help="epochs of the student's main training stage; the teacher's change in proportion [the space's]",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="own images: train/<class>/* and test/<class>/*, or train*.parquet and test*.parquet, or a task's own layout [the task's]",
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
        help="pin a range or change a field of the space, such as temperature=4 or teacher.optimizer.lr=0.05; repeatable",
    )
    add(
        "--out",
        default="runs",
        help="the folder or s3://bucket/folder that holds studies [%(default)s]",
    )
    add("--name", help="the study [the space's name]")
    add(
        "--seed",
        type=cli.non_negative_int,
        default=0,
        help="of the split, the augmentation, all trials and proposals [%(default)s]",
    )


def add_search(parser: cli.Parser) -> None:
    """How many trials of what, and how they are proposed and stopped."""
    add = parser.add_argument
    add(
        "--trials",
        type=cli.positive_int,
        help="a total, rounded up to equal counts per method and repeat; failed trials count [the space's]",
    )
    add(
        "--repeats",
        type=cli.positive_int,
        metavar="K",
        help="independent searches of every method, which a verdict about a method rests on [as many as the trials suffice for, at most 5]",
    )
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="which of the space's methods, such as no_kd response [all]",
    )
    add(
        "--resume",
        action="store_true",
        help="resume the study, or start it if it does not exist",
    )
    add("--sampler", default="tpe", help=f"one of {', '.join(SAMPLERS)} [%(default)s]")
    add("--scheduler", default="asha", help=f"one of {', '.join(SCHEDULERS)} [%(default)s]")
    add(
        "--teacher",
        metavar="FILE",
        help="checkpoint (safetensors or a state dict) to use as the teacher, or runs/X[:METHOD]: the best student of another study [trained here]",
    )
    add("--dry-run", action="store_true", help="print the plan and run nothing")


def add_resources(parser: cli.Parser) -> None:
    """Add the options that say what a trial gets, and where it runs."""
    add = parser.add_argument
    add(
        "--cpus-per-trial",
        type=cli.amount,
        default=1.0,
        help="CPU cores of a trial [1]",
    )
    add(
        "--gpus-per-trial",
        type=cli.amount,
        help="GPUs of a trial; 0.25 puts four on one GPU [1 where this machine has a GPU, else 0; with an address it must be said]",
    )
    add(
        "--max-concurrent",
        type=cli.positive_int,
        metavar="N",
        help="trials at once [cores or GPU slots, of a cluster those that it has at the start]",
    )
    add(
        "--time-budget",
        type=cli.duration,
        metavar="TIME",
        help="time limit such as 90s, 45m or 2h; continue later with --resume [none]",
    )
    add(
        "--address",
        help="join a Ray cluster, such as auto or HOST:PORT [RAY_ADDRESS, else a Ray of its own]",
    )
    add("--quiet", action="store_true", help="results only")


def chosen_space(options: SearchOptions) -> "tuple[SearchSpace, Path | None]":
    """Return the space with all that the options change, checked, and the file that defines it."""
    from tune_kd.space import loader, overrides

    space, file = loader.find(options.space)
    if options.methods:
        space = overrides.subset(space, list(options.methods))
    if options.epochs:
        space = overrides.with_epochs(space, options.epochs)
    if options.trials:
        space = replace(space, trials=options.trials)
    for assignment in options.set:
        if assignment.partition("=")[0].strip() == "repeats":
            raise UsageError(f"--set {assignment}: write --repeats {assignment.partition('=')[2]}")
    space = overrides.change(space, options.set)
    space.check()
    return space, file


def _allocate(options: ResourceOptions) -> Resources:
    from tune_kd.measure import hardware

    address, gpus, cpus = options.cluster, options.gpus_per_trial, options.cpus_per_trial
    if cpus <= 0:
        raise UsageError(f"--cpus-per-trial {cpus:g}: must be positive, such as 1 or 0.5")
    if address:
        if gpus is None:
            raise UsageError(
                "--gpus-per-trial must be said with an address: 0 for none, 0.25 for four trials a GPU"
            )
        at_once = options.max_concurrent or 0  # 0: what the cluster has room for
        return Resources(cpus=cpus, gpus=gpus, max_concurrent=at_once, address=address)
    have = hardware.gpus() if gpus is None or gpus > 0 else 0
    gpus = float(have > 0) if gpus is None else gpus
    if gpus > have:
        raise UsageError(
            f"--gpus-per-trial {gpus:g}: this machine has {have} GPUs; ask for at most that, "
            "or join a cluster by --address"
        )
    cores = hardware.cores()
    if cpus > cores:
        raise UsageError(f"--cpus-per-trial {cpus:g}: this machine has {cores} cores")
    slots = int(have / gpus + 1e-9) if gpus else int(cores / cpus)
    return Resources(cpus=cpus, gpus=gpus, max_concurrent=options.max_concurrent or slots)


def request(options: SearchOptions, *, command: str, name: str = "") -> "SearchRequest":
    """Return what is asked for, as one value; `name` is the study's where --name says nothing."""
    from tune_kd.space import loader
    from tune_kd.study.storage import Storage
    from tune_kd.training import external_weights
    from tune_kd.workflows.checks import budget
    from tune_kd.workflows.request import SearchRequest

    space, file = chosen_space(options)
    asked_trials = space.trials != loader.find(options.space)[0].trials
    name = options.name or name or space.name
    if "/" in name or name.startswith("."):
        raise UsageError(
            f"--name {name}: a plain name is wanted; --out is the folder that holds studies"
        )
    teacher = options.teacher
    search_request = SearchRequest(
        space=space,
        file=file,
        storage=Storage(options.out).at(name),
        data=options.data.expanduser().absolute() if options.data else None,
        limit_train=options.limit_train,
        seed=options.seed,
        sampler=options.sampler,
        scheduler=options.scheduler,
        teacher=external_weights.find(teacher, option="--teacher") if teacher else None,
        start=None
        if space.start == "none"
        else external_weights.find(space.start, option="--set start"),
        resume=options.resume,
        command=command,
        repeats=options.repeats,
        trials=space.trials if asked_trials or options.trials else None,
    )
    if not search_request.resume:
        budget(search_request)  # what does not fit is said before anything is read
    return search_request
