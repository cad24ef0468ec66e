"""The commands as functions: they return values, raise, and leave the process and its signals alone.

A search that was interrupted (by the kernel's stop button, too) keeps its rows: the same call goes
on.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd.errors import SearchAborted, UsageError, unknown
from tune_kd.workflows import options

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from analysis.study import Study as StudyReport
    from tune_kd.space import SearchSpace
    from tune_kd.study.results import Row


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One finished trial of a search."""

    name: str
    method: str
    repeat: int
    number: int  # within its repeat
    seed: int
    params: dict[str, Any]  # what was sampled, by name
    value: float  # the study's metric on validation, a fraction
    row: "Row" = field(repr=False)  # all columns


class Study:
    """A study on disk. Its rows are read anew by each call, so one that still runs can be watched."""

    def __init__(self, address: str) -> None:
        """Open a study by its folder (or s3://bucket/folder).

        Raises:
            UsageError: there is no study, or another version of tune_kd wrote it.
        """
        self.address = address
        study = self._read()
        self.name: str = study.name
        self.metric: str = study.metric
        self.methods: list[str] = list(study.methods)

    def __repr__(self) -> str:
        """Name the study and its methods."""
        return f"Study({self.address!r}, methods={self.methods})"

    def _read(self) -> "StudyReport":
        from analysis.study import load

        return load(self.address)

    def _check_method(self, method: str) -> str:
        if method not in self.methods:
            raise unknown("method", method, self.methods, where=f"{self.address} has")
        return method

    def trials_dataframe(self) -> "pd.DataFrame":
        """Return one row per trial of any phase (search, confirm, ...), its columns those of the Parquet files.

        Accuracies are fractions; sampled values are `config.NAME`.
        """
        import pandas as pd

        return pd.DataFrame([stages[-1] for stages in self._read().stages.values()])

    def epochs_dataframe(self) -> "pd.DataFrame":
        """Return one row per epoch of each trial."""
        return self._read().epochs

    def best_trial(self, method: str) -> Trial:
        """Return the trial that a method recommends, chosen on validation.

        Raises:
            UsageError: no such method, or none of its trials has finished.
        """
        study = self._read()
        row = study.recommended_trial(self._check_method(method))
        if row is None:
            raise UsageError(f"{self.address}: no trial of {method} has finished")
        values = {k.removeprefix("config."): v for k, v in row.items() if k.startswith("config.")}
        return Trial(
            name=row["trial"],
            method=method,
            repeat=row["repeat"],
            number=row["number"],
            seed=row["seed"],
            params={name: value for name, value in values.items() if value is not None},
            value=float(row[study.metric]),
            row=row,
        )

    def confirm(
        self,
        *,
        seeds: int = 2,
        defaults: bool = True,
        data: str | Path | None = None,
        unfinished: bool = False,
        cpus_per_trial: float = 1.0,
        gpus_per_trial: float | None = None,
        max_concurrent: int | None = None,
        time_budget: float | None = None,
        address: str | None = None,
        progress: bool = True,
    ) -> "Study":
        """Train what the search chose again with fresh seeds and measure it once on the test split.

        It opens the test split, and the study keeps a record of that. Arguments are those of
        `python -m tune_kd.confirm`; `time_budget` is in seconds.

        Raises:
            UsageError: there is nothing to confirm, or the images are not the study's.
            SearchAborted: Ray failed again and again.
        """
        resources = options.ResourceOptions(
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            max_concurrent=max_concurrent,
            time_budget=time_budget,
            address=address,
            quiet=not progress,
        )
        _prepare(resources)
        from tune_kd.workflows import confirm

        confirm_options = confirm.ConfirmOptions(
            study=self.address,
            seeds=seeds,
            defaults=defaults,
            data=_path(data),
            unfinished=unfinished,
        )
        resume_call = f"tune_kd.load_study({self.address!r}).confirm(seeds={seeds})"
        confirm.confirm(confirm_options, resources.run_options(resume_command=resume_call))
        return self

    def summary(self) -> "pd.DataFrame":
        """Return the report's main table: one row per method, with n, spread, difference and verdict.

        Test values are missing until the study is confirmed.
        """
        from analysis import summary

        return summary.raw(self._read())

    def report(
        self,
        out: str | Path | None = None,
        *,
        tables: "Sequence[str | Callable[[StudyReport], Any]]" = (),
    ) -> Path:
        """Write the page of results with its tables and pictures; return the path of index.html.

        `tables` are tables of your own beside ours: functions of the study, or their names
        `file.py:function` (docs/customizing.md).

        Raises:
            UsageError: there is no such file or function, or it raised or returned no table: then
                the report is written without its table.
        """
        from analysis import report
        from analysis.tables.custom import load_functions
        from tune_kd.study.storage import Storage

        functions = load_functions(tables)
        study = self._read()
        folder = Storage(str(out)) if out else study.storage.at("report")
        folder.check_writable()
        errors = report.write([study], folder, functions)
        page = Path(folder.at("index.html").uri)
        if errors:
            raise UsageError(f"{'; '.join(errors)}; the rest of the report is {page}")
        return page

    def load_student(self, method: str) -> "nn.Module":
        """Return the network that a method recommends, in evaluation mode on the CPU.

        It is the first of its confirming runs where there is one, else the search's. It takes
        float32 images [B, C, H, W], normalised as in training: (image / 255 - mean) / std with the
        mean and standard deviation of `normalization()`.

        Raises:
            UsageError: no such method, or none of its trials has finished.
        """
        from tune_kd.evaluation.checkpoint import load_student

        return load_student(f"{self.address}:{self._check_method(method)}")

    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel, of images in 0 to 1."""
        images = self._read().manifest.images
        return images.mean, images.std


def run_search(
    space: "str | SearchSpace",
    *,
    trials: int | None = None,
    repeats: int | None = None,
    methods: Sequence[str] = (),
    epochs: int | None = None,
    data: str | Path | None = None,
    limit_train: int = 0,
    overrides: Sequence[str] = (),
    out: str = "runs",
    name: str | None = None,
    seed: int = 0,
    resume: bool = True,
    sampler: str = "tpe",
    scheduler: str = "asha",
    teacher: str | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    time_budget: float | None = None,
    address: str | None = None,
    progress: bool = True,
) -> Study:
    """Search a space for the best student of every method; block until it is done, and return the study.

    `space` is a name, a file, or a SearchSpace; its task, networks and feature loss may be
    functions or classes, from a file that can be imported or from a notebook's cell. Other
    arguments are those of `python -m tune_kd.search`: `overrides` are its `--set` (such as
    "temperature=4"), `time_budget` is in seconds. With `resume` (the default) the same call goes on
    with a study that is there.

    Raises:
        UsageError: what was asked for does not fit; the message says what is allowed.
        SearchAborted: Ray failed again and again, the teacher could not be trained, or the time
            budget ended before the first trial.
        KeyboardInterrupt: it was interrupted; rows are kept, and the same call goes on.
    """
    for value, kind, names in (
        (sampler, "sampler", options.SAMPLERS),
        (scheduler, "scheduler", options.SCHEDULERS),
    ):
        if value not in names:
            raise unknown(kind, value, names)
    search_options = options.SearchOptions(
        space=space,
        trials=trials,
        repeats=repeats,
        methods=tuple(methods),
        epochs=epochs,
        data=_path(data),
        limit_train=limit_train,
        set=tuple(overrides),
        out=out,
        name=name,
        seed=seed,
        resume=resume,
        sampler=sampler,
        scheduler=scheduler,
        teacher=teacher,
    )
    resources = options.ResourceOptions(
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        max_concurrent=max_concurrent,
        time_budget=time_budget,
        address=address,
        quiet=not progress,
    )
    _prepare(resources)
    from tune_kd.workflows import search

    label = space if isinstance(space, str) else space.name
    resume_call = f"tune_kd.run_search({label!r}, ..., resume=True)"
    request = options.request(search_options, command=resume_call)
    outcome = search.search(request, resources.run_options(resume_command=resume_call))
    if outcome.study is None:
        raise SearchAborted(
            f"the time budget ended before the first trial; resume with: {resume_call}"
        )
    return Study(outcome.study.storage.uri)


def load_study(path: str | Path) -> Study:
    """Open a study that a search has written, whether it has ended or still runs. Loads neither torch nor Ray."""
    return Study(str(path))


def evaluate_checkpoint(
    space: "str | SearchSpace",
    weights: str | Path,
    *,
    network: str | None = None,
    against: str | Path | None = None,
    data: str | Path | None = None,
    batch_size: int = 100,
    out: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Check a network on the test split: accuracy, classes, confusion, size, speed, alarms.

    `weights` is a file, or "runs/X:METHOD", the best student of a study. Arguments are those of
    `python -m tune_kd.evaluate`; each call opens the test split once and leaves a record.
    """
    _prepare(options.ResourceOptions())
    from tune_kd.workflows import evaluate

    evaluate_options = evaluate.EvaluateOptions(
        space=space,
        weights=str(weights),
        network=network,
        against=str(against) if against else None,
        data=_path(data),
        batch_size=batch_size,
        out=out,
        quiet=not progress,
    )
    return evaluate.evaluate(
        evaluate_options, f"tune_kd.evaluate_checkpoint(..., {str(weights)!r})"
    )


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _prepare(resources: options.ResourceOptions) -> None:
    """Set what Ray reads when it is imported; refuse a Ray that this process has started already."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise UsageError("Ray runs already in this process; call ray.shutdown() first")
    resources.prepare()
