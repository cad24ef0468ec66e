"""Begins a study: what is measured first, its manifest, and what every trial's config has."""

import json
import os
import platform
import socket
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import tune_kd
from tune_kd.data import splits
from tune_kd.execution import worker
from tune_kd.execution.progress import Progress
from tune_kd.execution.resources import Resources
from tune_kd.execution.session import Session
from tune_kd.metrics import default_objective
from tune_kd.recipe import Compute, Images
from tune_kd.space import SearchSpace, distributions, search_space
from tune_kd.study import manifest, recipe_builder, results
from tune_kd.study.manifest import Manifest, Specification, StartWeights
from tune_kd.study.proposal import Proposal, dump
from tune_kd.study.study import Study
from tune_kd.study.trial_names import measure_trial
from tune_kd.training.external_weights import ExternalCheckpoint
from tune_kd.tuning import asha, samplers
from tune_kd.workflows.checks import (
    FIELDS_WITHOUT_EFFECT,
    budget,
    needs_teacher,
    specify,
)
from tune_kd.workflows.request import DatasetInfo, SearchRequest

PACKAGES = ("torch", "torchvision", "ray", "optuna", "pyarrow", "pandas")


def base_config(study: Study, request_data: Path | None, resources: Resources) -> dict[str, Any]:
    """Return what every trial's config has, whoever proposes it."""
    return {
        "study": study.storage.uri,
        "name": study.name,
        "marker": study.manifest.marker,
        "reference": _reference(study.manifest),
        **_worker_config(request_data, resources),
    }


def _seen_file(checkpoint: ExternalCheckpoint | None, images: Images) -> str:
    """Return the name of a model that may have seen validation images: one of which that is not known.

    A student of an earlier study on the very same split has not.
    """
    if checkpoint is None:
        return ""
    recipe = checkpoint.recipe
    same = recipe is not None and recipe.images == images and not recipe.start
    return "" if same else checkpoint.name


def _reference(manifest: Manifest) -> tuple[str, str]:
    """Return the teacher that confirmed students are compared with; no model where a study has none."""
    network, model = recipe_builder.teacher_of(manifest)
    return network, model if manifest.needs_teacher else ""


def _worker_config(folder: Path | None, resources: Resources) -> dict[str, Any]:
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "data": str(folder.absolute()) if folder else "",
        "gpus": resources.gpus,
        "threads": max(1, int(resources.cpus)),
        "umask": mask,
    }


def begin(
    request: SearchRequest, dataset: DatasetInfo, *, session: Session, progress: Progress
) -> Study:
    """Measure on a worker, then write the study's first files, the manifest last."""
    storage, space = request.storage, request.space
    specification = specify(request, dataset)
    for name, code in request.user_files.items():
        storage.write(f"space/{name}", code)
    progress.say("benchmarking a training step, and the latency of both networks")
    measurements = session.call(
        worker.prepare,
        {
            "study": storage.uri,
            "images": asdict(specification.images),
            "teacher": recipe_builder.staged_reference(space.teacher.network),
            "student": recipe_builder.staged_reference(space.student.network),
            "batch_size": space.student.batch_size,
            "compiled": "integers" in space.needs,
            "sources": list(specification.sources.values()),
            **_worker_config(request.data, session.resources),
        },
        progress=progress,
    )
    study_manifest = manifest_of(
        request, dataset, specification=specification, measurements=measurements
    )
    storage.write("marker", study_manifest.marker.encode())
    manifest.write(storage, study_manifest)
    study = Study(storage)
    for role, values in measurements["measured"].items():
        row = _measure_row(study, role, {"device": measurements["device"], **values})
        study.write_outcome(row["trial"], [row])
    return study


def manifest_of(
    request: SearchRequest,
    dataset: DatasetInfo,
    *,
    specification: Specification,
    measurements: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of a new study; `measurements` are what `worker.prepare` gave."""
    space, search_budget = request.space, budget(request)
    compute = Compute(precision=measurements["precision"], layout=measurements["layout"])
    objectives = tuple(space.objectives) or (default_objective(dataset.images.task_kind),)
    return Manifest(
        **vars(specification),
        study=request.storage.name,
        fields=fields_of(space),
        family=space.family,
        task=space.task,
        teacher=space.teacher.network,
        student=space.student.network,
        trials=search_budget.of_method * len(space.methods),
        repeats=search_budget.repeats,
        trials_per_repeat=search_budget.each,
        margin=space.margin,
        epochs=space.student.epochs,
        teacher_epochs=space.teacher.epochs,
        num_train=dataset.num_train,
        num_val=dataset.num_val,
        validation_rule=validation_rule(space, dataset),
        class_names=dataset.class_names,
        compute=compute,
        rungs=tuple(study_rungs(space, request.scheduler)),
        random_start=samplers.random_start(search_budget.each),
        metric=objectives[0],
        objectives=objectives,
        constraints=tuple(space.constraints),
        dense=dataset.images.dense,
        needs_teacher=needs_teacher(request),
        tables=tuple(space.tables),
        config_types=config_types(space),
        versions=versions(),
        commit=commit(),
        device=measurements["device"],
        hardware=measurements["hardware"],
        host=socket.gethostname(),
        teacher_file=_seen_file(request.teacher, dataset.images),
        teacher_source=request.teacher.name if request.teacher else "",
        teacher_model=recipe_builder.teacher_model_id(specification, space, compute=compute),
        start=request.start.start_weights() if request.start else StartWeights(),
        start_file=_seen_file(request.start, dataset.images),
        marker=uuid.uuid4().hex,
        data=str(request.data.absolute()) if request.data else "",
        command=request.command,
        created=results.now(),
    )


def measure_students(
    study: Study, students: Mapping[str, Proposal], *, session: Session, config: dict[str, Any]
) -> None:
    """Rows of phase measure for finished students by the search trial that each stands for."""
    missing = {s: p for s, p in students.items() if measure_trial(s) not in study.outcomes}
    if not missing:
        return
    proposals = [dump(proposal) for proposal in missing.values()]
    worker_config = {**config, "proposals": proposals}
    measurements = session.call(
        worker.measure_students, worker_config, progress=Progress(quiet=True)
    )
    for source, proposal in missing.items():
        row = _measure_row(study, proposal.trial, measurements[proposal.trial])
        row |= {"trial": measure_trial(source), "source": source, "method": proposal.method}
        study.write_outcome(row["trial"], [row])


def _measure_row(study: Study, role: str, values: Mapping[str, Any]) -> results.Row:
    return {
        "schema": results.SCHEMA_VERSION,
        "study": study.name,
        "space": study.manifest.space,
        "family": study.manifest.family,
        "phase": "measure",
        "method": "",
        "repeat": 0,
        "trial": measure_trial(role),
        "number": 0,
        "seed": 0,
        "origin": study.manifest.teacher if role == "teacher" else study.manifest.student,
        "stage": 0,
        "status": "finished",
        "reason": "",
        "epochs": 0,
        "seconds": 0.0,
        **values,
        "host": socket.gethostname(),
        "versions": json.dumps(study.manifest.versions, sort_keys=True),
        "commit": study.manifest.commit,
        "ended": results.now(),
    }


def validation_rule(space: SearchSpace, dataset: DatasetInfo) -> str:
    """How many images are held out and why, in words."""
    if dataset.own_validation:
        return "the data set's own validation images"
    return (
        f"{space.val_share:g} of the training images" if space.val_share else splits.VALIDATION_RULE
    )


def study_rungs(space: SearchSpace, scheduler: str) -> list[int]:
    """Epochs at which trials are compared; with step decay none before the epoch after the first."""
    if scheduler == "none":
        return []
    epochs, optimizer = space.student.epochs, space.student.optimizer
    steps = optimizer.schedule == "step" and optimizer.decay_at
    first = int(optimizer.decay_at[0] * epochs) + 1 if steps else 0
    return asha.rungs(epochs, first=first)


def config_types(space: SearchSpace) -> dict[str, str]:
    """Arrow types of all values that the methods sample."""
    return {
        name: distributions.column_type(d)
        for m in space.methods.values()
        for name, d in m.ranges.items()
    }


def versions() -> dict[str, str]:
    """Of Python, the operating system, this package and those that matter for its numbers."""
    packages = {package: metadata.version(package) for package in PACKAGES}
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {**system, "tune_kd": tune_kd.__version__, **packages}


def fields_of(space: SearchSpace) -> dict[str, Any]:
    """Return the space's fields that change trials, for the report."""
    fields = search_space.plain_fields(space)
    return {name: value for name, value in fields.items() if name not in FIELDS_WITHOUT_EFFECT}


def commit() -> str:
    """Return the commit of the source tree that runs, empty where it is not a checkout."""
    folder = Path(tune_kd.__file__).parent
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()
