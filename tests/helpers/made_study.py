"""Studies made on disk without Ray and without training: begun by the real code, played by made scores."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from tune_kd.execution import environment
from tune_kd.recipe import Images
from tune_kd.space import loader, overrides, search_space
from tune_kd.study import recipe_builder, results
from tune_kd.study.proposal import Proposal
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study

# what Ray reads when imported; later tests start Rays of their own
with mock.patch.dict(os.environ):
    environment.prepare(None)
    from tune_kd.execution import ray_adapters
    from tune_kd.execution.progress import Progress
    from tune_kd.execution.resources import Resources
    from tune_kd.tuning import asha, search_plan
    from tune_kd.workflows import checks, create_study
    from tune_kd.workflows.request import DatasetInfo, SearchRequest

Score = Callable[[Proposal, int], float | None]
IMAGES = Images(
    task="digits",
    train_hash="made",
    num_classes=10,
    channels=1,
    size=(8, 8),
    mean=(0.3,),
    std=(0.4,),
)


class FakeSession:
    """In place of a Ray session: what a worker would have measured."""

    resources = Resources()

    def call(self, function: Any, *arguments: Any, progress: Progress) -> dict[str, Any]:
        measured = {"num_params": 7.0, "size_mb": 0.1, "latency_ms": 0.2, "latency_ms_sd": 0.01}
        return {
            "precision": "float32",
            "layout": "contiguous",
            "measured": {"teacher": measured, "student": measured},
            "device": "cpu: made",
            "hardware": {"cores": 2},
        }


def request(folder: Path, **changes: Any) -> SearchRequest:
    """What `python -m tune_kd.search --space digits_kd --epochs 9` asks for, with changes.

    A change of a field of the space goes into the space; `epochs` and other fields of training are
    the student's, with `teacher_` before them the teacher's.
    """
    space, file = loader.load("digits_kd")
    paths = {*search_space.plain_fields(space), "methods"}
    fields = {"student.epochs": 9, "trials": 24}
    for name in ("teacher", "student"):
        if isinstance(changes.get(name), str):  # of a network; a checkpoint is the request's
            fields[name] = changes.pop(name)
    for name in list(changes):
        role, _, suffix = name.partition("teacher_")
        training = f"teacher.{suffix}" if suffix and not role else f"student.{name}"
        candidates = (name, training, f"student.optimizer.{name}")
        if path := next((p for p in candidates if p in paths), None):
            fields[path] = changes.pop(name)
    values = {
        "space": overrides.with_fields(space, fields),
        "file": file,
        "storage": Storage(folder),
        "data": None,
        "limit_train": 0,
        "seed": 0,
        "sampler": "tpe",
        "scheduler": "asha",
        "teacher": None,
        "start": None,
        "resume": True,
        "command": "made",
    }
    return SearchRequest(**(values | changes))


def dataset() -> DatasetInfo:
    names = tuple(map(str, range(10)))
    return DatasetInfo(
        images=IMAGES, num_train=900, num_val=100, own_validation=False, class_names=names
    )


def begin(request: SearchRequest, images: DatasetInfo | None = None) -> Study:
    """The study as a search begins it, of those images or of made ones."""
    return create_study.begin(
        request, images or dataset(), session=FakeSession(), progress=Progress(quiet=True)
    )


def plan(study: Study, request: SearchRequest) -> search_plan.SearchPlan:
    """The plan of a search."""
    return search_plan.SearchPlan(
        study,
        request.space,
        budget=checks.budget(request, study),
        recipe=lambda method, config: recipe_builder.student_recipe(
            study.manifest, request.space, method=method, config=config
        ),
    )


def row(study: Study, proposal: Proposal, step: int, score: float | None, **values: Any) -> dict:
    """An epoch's row as a worker writes it."""
    return {
        "schema": results.SCHEMA_VERSION,
        "study": study.name,
        "phase": proposal.phase,
        "method": proposal.method,
        "repeat": proposal.repeat,
        "trial": proposal.trial,
        "number": proposal.number,
        "seed": proposal.seed,
        "attempt": "1-made",
        "stage": 0,
        "stage_name": "Distill",
        "epoch": step,
        "step": step,
        "last": step == proposal.recipe.epochs,
        "seconds": 1.0,
        "val_accuracy": score,
        "val_loss": 0.5,
        "device": "cpu: made",
        "host": "made",
        "pid": 1,
        "checkpoint": "",
    } | values


def commit(study: Study, rows: list[dict], attempt: str = "1-made") -> None:
    """Rows of one attempt on disk."""
    data = results.encode(rows, results.epoch_schema())
    study.storage.write(f"epochs/{rows[0]['trial']}.{attempt}.parquet", data)


def as_report(row: dict) -> dict[str, Any]:
    """A row as a worker reports it."""
    return {"row": json.dumps(row)}


def play(
    study: Study, request: SearchRequest, score: Score, *, trials: int = 10**6
) -> asha.AshaRule:
    """Run so many trials one after the other, through the searcher and the rule that Ray sees.

    A score of None is an exception in that epoch.
    """
    rule = asha.AshaRule(study, at=study.manifest.rungs)
    searcher = ray_adapters.PlanSearcher(study, plan(study, request), base={})
    for number in range(trials):
        config = searcher.suggest(str(number))
        if not isinstance(config, dict):
            break
        proposal = study.proposals[config["trial"]]
        rows: list[dict] = list(study.rows.get(proposal.trial, []))
        for step in range(len(rows) + 1, proposal.recipe.epochs + 1):
            value = score(proposal, step)
            if value is None:
                report = {"error": "ValueError: made", "fatal": False}
            else:
                rows.append(row(study, proposal, step, value))
                commit(study, rows)
                report = as_report(rows[-1])
            if rule.on_report(proposal.trial, report):
                break
        searcher.on_trial_complete(str(number))
    return rule


def uneven_score(proposal: Proposal, step: int) -> float | None:
    """Better with every epoch; what a trial reaches depends on its lr; two trials of a search break."""
    if proposal.number in (2, 4) and proposal.method == "response" and step == 2:
        return None
    return 0.9 - 0.05 * abs(math.log(proposal.config["lr"] / 0.1)) - 0.1 / step


def reopen(study: Study) -> Study:
    """The same folder, read anew."""
    return Study(study.storage)
