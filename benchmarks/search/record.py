"""Records learning curves of random configurations, each trained by the product's own code.

    python -m benchmarks.search.record --space digits_kd --out benchmarks/search/digits.parquet

Configuration 0 of a method has its default settings, then come the published ones, then random
ones. All have seed 0, the first `--repeated` have `--seeds` seeds, each with weights, dropout,
views and batch order of its own, as confirming runs have. The teacher is trained once, as a study
trains it, and the split is a study's. Validation accuracy is that of every epoch, test accuracy
that of the last one. A killed recording goes on where it was when the same command is given again.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import common
from benchmarks.search import curves
from tune_kd import cli, files
from tune_kd.data import splits
from tune_kd.errors import UsageError
from tune_kd.recipe import Recipe, stream
from tune_kd.space import SearchSpace, loader, overrides
from tune_kd.study import recipe_builder
from tune_kd.study.storage import Storage
from tune_kd.training import context, inference, students, test_split, trial
from tune_kd.training.report import EpochReport
from tune_kd.training.scoring import Scores
from tune_kd.workflows import checks, create_study
from tune_kd.workflows.request import SearchRequest

TEACHER_SEED = 0
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One configuration to train with one seed."""

    method: str
    number: int
    seed: int
    origin: str
    config: dict[str, Any]

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it within a recording."""
        return self.method, self.number, self.seed


def plan_runs(space: SearchSpace, *, configurations: int, repeated: int, seeds: int) -> list[Run]:
    """All runs, those of low numbers first, so that a part of them is a smaller recording."""
    runs = []
    for number in range(configurations):
        for method in space.methods:
            origin, config = configuration(space, method, number)
            for seed in range(seeds if number < repeated else 1):
                runs.append(
                    Run(method=method, number=number, seed=seed, origin=origin, config=config)
                )
    return runs


def configuration(space: SearchSpace, method: str, number: int) -> tuple[str, dict[str, Any]]:
    """Where a method's configuration `number` comes from, and its sampled values."""
    settings = space.methods[method].settings()
    if number < len(settings):
        return ("published" if number else "default"), settings[number]
    seed = stream("recording", method, number) % 2**32
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return "random", dict(study.ask(dict(space.methods[method].ranges)).params)


class Studio:
    """A space's images, teacher and networks on one thread of this process's CPU."""

    def __init__(self, space: SearchSpace, file: Path, *, folder: Path | None, limit: int) -> None:
        """Trains the teacher, unless the cache has it."""
        cache = files.cache_folder()
        request = SearchRequest(
            space=space,
            file=file,
            storage=Storage(cache / "recording"),
            data=folder,
            limit_train=limit,
            seed=SPLIT_SEED,
            sampler="random",
            scheduler="none",
            teacher=None,
            start=None,
            resume=False,
            command="",
        )
        dataset = checks.prepare_data(request)
        self._space = space
        self._site = context.NodeContext(
            cache=cache,
            data=folder,
            code=file.parent,
            model=lambda model_id: cache / "models" / f"{model_id}.safetensors",
        )
        self._manifest = create_study.manifest_of(
            request,
            dataset,
            specification=checks.specify(request, dataset),
            measurements={
                "precision": "float32",
                "layout": "contiguous",
                "device": "",
                "hardware": {},
            },
        )
        self.images = {"fitted": dataset.num_train, "validation": dataset.num_val}
        self.teacher = self._teacher() if space.needs_teacher else {}
        self._split: splits.DeviceSplit | None = None
        self._exam: test_split.TestSplit | None = None

    def _teacher(self) -> dict[str, Any]:
        """Train the teacher or find it; its model id and what it reaches."""
        recipe = recipe_builder.teacher_recipe(
            self._manifest, self._space, compute=self._manifest.compute
        )
        model_id = recipe.recipe_id(TEACHER_SEED)
        assert self._site.model is not None
        path = self._site.model(model_id)
        if not path.exists():
            *_, last = trial.run(recipe, seed=TEACHER_SEED, ctx=self._site)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in _model_of(last).items()}, path)
        self._manifest = dataclasses.replace(self._manifest, teacher_model=model_id)
        model = context.load_model(self._space.teacher.network, recipe, self._site, model_id)
        split = context.device_split(recipe.images, self._site, recipe.compute.layout)
        opened = test_split.prepare(recipe, self._site, reference=None)
        return {
            "network": self._space.teacher.network,
            "fingerprint": model_id,
            "seed": TEACHER_SEED,
            "epochs": self._space.teacher.epochs,
            "val_accuracy": inference.evaluate(model, split, split.validation).accuracy,
            "test_accuracy": opened.evaluate(model).accuracy,
        }

    def rows(self, run: Run) -> list[curves.Row]:
        """Train one configuration to its end; a row an epoch."""
        recipe = recipe_builder.student_recipe(
            self._manifest, self._space, method=run.method, config=run.config
        )
        images = dataclasses.replace(recipe.images, view_seed=run.seed)
        recipe = dataclasses.replace(recipe, images=images)
        plain = {"method": run.method, "number": run.number, "origin": run.origin, "seed": run.seed}
        plain |= {f"config.{name}": value for name, value in run.config.items()}
        rows = []
        for report in trial.run(recipe, seed=run.seed, ctx=self._site):
            values = {"epoch": report.epoch, "val_accuracy": report.values["val_accuracy"]}
            rows.append({**plain, **values})
        rows[-1] |= self._evaluate(recipe, report, rows[-1]["val_accuracy"])
        return rows

    def _evaluate(self, recipe: Recipe, last: EpochReport, accuracy: float) -> curves.Row:
        """Return what the trained network gets right of the validation and of the test images."""
        if self._split is None or self._exam is None:
            self._split = context.device_split(recipe.images, self._site, recipe.compute.layout)
            self._exam = test_split.prepare(recipe, self._site, reference=None)
            self.images["test"] = len(self._exam.images.fit)
        sample = context.sample_of(self._split)
        count = len(recipe.stages)
        model = students.rebuild_student(
            recipe, _model_of(last), stages=count, ctx=self._site, sample=sample
        ).eval()
        val = inference.evaluate(model, self._split, self._split.validation, each_image=True)
        test = self._exam.evaluate(model)
        assert val.accuracy == accuracy, "the network scored is not the one that was trained"
        return {
            "test_accuracy": test.accuracy,
            "val_correct": _pack(val),
            "test_correct": _pack(test),
        }


def _model_of(report: EpochReport) -> dict[str, Tensor]:
    assert report.state is not None
    return {k[6:]: v for k, v in report.state.items() if k.startswith("model.")}


def _pack(scores: Scores) -> bytes:
    """Which images were classified correctly, a bit an image."""
    assert scores.images is not None
    return np.packbits(scores.images.numpy()).tobytes()


def record(
    studio: Studio, runs: Sequence[Run], old_rows: list[curves.Row]
) -> Iterator[list[curves.Row]]:
    """All rows so far, after each run that was missing; progress on stderr."""
    keys = {(r["method"], r["number"], r["seed"]) for r in old_rows}
    missing = [run for run in runs if run.key not in keys]
    began, rows = time.monotonic(), list(old_rows)
    for count, run in enumerate(missing, 1):
        rows += studio.rows(run)
        each = (time.monotonic() - began) / count
        remaining = each * (len(missing) - count)
        fraction = f"{len(runs) - len(missing) + count}/{len(runs)} runs"
        progress = f"{fraction}, {each:.1f} s each, {remaining / 60:.0f} min left"
        accuracy = (
            f"{run.method} {run.number} seed {run.seed}: {100 * rows[-1]['val_accuracy']:.1f} %"
        )
        print(f"{progress}; {accuracy}", file=sys.stderr, flush=True)
        yield rows


def parser() -> cli.Parser:
    """Return the options."""
    command = cli.Parser(
        prog="python -m benchmarks.search.record", description=(__doc__ or "").split("\n")[0]
    )
    add = command.add_argument
    add("--space", required=True, metavar="NAME", help="a shipped space, or a file")
    add("--methods", metavar="NAMES", help="separated by commas [all of the space]")
    add(
        "--configurations",
        type=cli.positive_int,
        default=150,
        metavar="N",
        help="of each method [150]",
    )
    add(
        "--repeated",
        type=cli.non_negative_int,
        default=40,
        metavar="N",
        help="of these with several seeds [40]",
    )
    add("--seeds", type=cli.positive_int, default=3, metavar="N", help="of those [3]")
    add("--epochs", type=cli.positive_int, metavar="N", help="of a student [the space's]")
    add("--teacher-epochs", type=cli.positive_int, metavar="N", help="[the space's]")
    add(
        "--limit-train",
        type=cli.non_negative_int,
        default=0,
        metavar="N",
        help="training images, 0 for all [0]",
    )
    add("--data", type=Path, metavar="DIR", help="where the images are")
    add("--out", type=Path, required=True, metavar="FILE", help="the recording")
    return command


def main(arguments: list[str]) -> int:
    """Record, or go on recording; the exit code."""
    options = parser().parse(arguments)
    space, file = loader.load(options.space)
    if options.methods:
        space = overrides.subset(space, options.methods.split(","))
    lengths = {"student.epochs": options.epochs, "teacher.epochs": options.teacher_epochs}
    space = overrides.with_fields(space, {k: v for k, v in lengths.items() if v})
    torch.set_num_threads(1)
    runs = plan_runs(
        space, configurations=options.configurations, repeated=options.repeated, seeds=options.seeds
    )
    settings = {
        "space": space.name,
        "methods": list(space.methods),
        "epochs": space.student.epochs,
        "teacher_epochs": space.teacher.epochs,
        "limit_train": options.limit_train,
        "split_seed": SPLIT_SEED,
        "test_accuracy": "of the last epoch",
    }
    old_rows: list[curves.Row] = []
    if options.out.exists():
        old_rows, old_about = curves.read_rows(options.out)
        differing = sorted(k for k, v in settings.items() if old_about.get(k) != v)
        if differing:
            raise UsageError(
                f"{options.out} is a recording with {differing[0]} {old_about.get(differing[0])}, "
                f"but {settings[differing[0]]} is asked for; choose another --out"
            )
    studio = Studio(space, file, folder=options.data, limit=options.limit_train)
    names = sorted({name for method in space.methods.values() for name in method.ranges})
    print(f"teacher: {studio.teacher}", file=sys.stderr, flush=True)
    about = {
        **settings,
        "command": cli.command_line("benchmarks.search.record", arguments),
        "commit": create_study.commit(),
        "machine": common.about(),
        "teacher": studio.teacher,
        "validation_rule": splits.VALIDATION_RULE,
    }
    for rows in record(studio, runs, old_rows):
        curves.write(options.out, rows, names=names, about={**about, "images": studio.images})
    print(f"{options.out}: {len(runs)} runs, {options.out.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
