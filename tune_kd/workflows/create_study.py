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
    TOLD_LATER,
    budget,
    described,
    needs_teacher,
)
from tune_kd.workflows.request import DatasetInfo, SearchRequest

PACKAGES = ("torch", "torchvision", "ray", "optuna", "pyarrow", "pandas")


def base_config(study_: Study, request_data: Path | None, resources: Resources) -> dict[str, Any]:
    """Return what every trial's config has, whoever proposes it."""
    return {
        "study": study_.storage.uri,
        "name": study_.name,
        "marker": study_.manifest.marker,
        "reference": _reference(study_.manifest),
        **_worker_config(request_data, resources),
    }


def _seen_file(given: ExternalCheckpoint | None, images: Images) -> str:
    """Return the name of a model that may have seen validation images: one of which that is not known.

    A student of an earlier study on the very same split has not.
    """
    if given is None:
        return ""
    recipe = given.recipe
    same = recipe is not None and recipe.images == images and not recipe.start
    return "" if same else given.name


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
    request: SearchRequest, material: DatasetInfo, *, session: Session, progress: Progress
) -> Study:
    """Measure on a worker, then write the study's first files, the manifest last."""
    storage, chosen = request.storage, request.space
    specification = described(request, material)
    for name, code in request.user_files.items():
        storage.write(f"space/{name}", code)
    progress.say("benchmarking a training step, and the latency of both networks")
    found = session.call(
        worker.prepare,
        {
            "study": storage.uri,
            "images": asdict(specification.images),
            "teacher": recipe_builder.staged_reference(chosen.teacher.network),
            "student": recipe_builder.staged_reference(chosen.student.network),
            "batch_size": chosen.student.batch_size,
            "compiled": "integers" in chosen.needs,
            "sources": list(specification.sources.values()),
            **_worker_config(request.data, session.resources),
        },
        progress=progress,
    )
    made = manifest_of(request, material, specification=specification, measured=found)
    storage.write("marker", made.marker.encode())
    manifest.write(storage, made)
    begun = Study(storage)
    for role, values in found["measured"].items():
        row = _measure_row(begun, role, {"device": found["device"], **values})
        begun.write_outcome(row["trial"], [row])
    return begun


def manifest_of(
    request: SearchRequest,
    material: DatasetInfo,
    *,
    specification: Specification,
    measured: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of a new study; `measured` is what `worker.prepare` gave."""
    chosen, planned = request.space, budget(request)
    compute = Compute(precision=measured["precision"], layout=measured["layout"])
    objectives = tuple(chosen.objectives) or (default_objective(material.images.task_kind),)
    return Manifest(
        **vars(specification),
        study=request.storage.name,
        fields=fields_of(chosen),
        family=chosen.family,
        task=chosen.task,
        teacher=chosen.teacher.network,
        student=chosen.student.network,
        trials=planned.of_method * len(chosen.methods),
        repeats=planned.repeats,
        trials_per_repeat=planned.each,
        margin=chosen.margin,
        epochs=chosen.student.epochs,
        teacher_epochs=chosen.teacher.epochs,
        num_train=material.num_train,
        num_val=material.num_val,
        validation_rule=validation_rule(chosen, material),
        class_names=material.class_names,
        compute=compute,
        rungs=tuple(study_rungs(chosen, request.scheduler)),
        random_start=samplers.random_start(planned.each),
        metric=objectives[0],
        objectives=objectives,
        constraints=tuple(chosen.constraints),
        dense=material.images.dense,
        needs_teacher=needs_teacher(request),
        tables=tuple(chosen.tables),
        config_types=config_types(chosen),
        versions=versions(),
        commit=commit(),
        device=measured["device"],
        hardware=measured["hardware"],
        host=socket.gethostname(),
        teacher_file=_seen_file(request.teacher, material.images),
        teacher_source=request.teacher.name if request.teacher else "",
        teacher_model=recipe_builder.teacher_model_id(specification, chosen, compute=compute),
        start=request.start.start_weights() if request.start else StartWeights(),
        start_file=_seen_file(request.start, material.images),
        marker=uuid.uuid4().hex,
        data=str(request.data.absolute()) if request.data else "",
        command=request.command,
        created=results.now(),
    )


def measure_students(
    known: Study, chosen: Mapping[str, Proposal], *, session: Session, config: dict[str, Any]
) -> None:
    """Rows of phase measure for finished students by the search trial that each stands for."""
    missing = {s: p for s, p in chosen.items() if measure_trial(s) not in known.outcomes}
    if not missing:
        return
    proposals = [dump(proposal) for proposal in missing.values()]
    asked = {**config, "proposals": proposals}
    found = session.call(worker.measure_students, asked, progress=Progress(quiet=True))
    for source, proposal in missing.items():
        row = _measure_row(known, proposal.trial, found[proposal.trial])
        row |= {"trial": measure_trial(source), "source": source, "method": proposal.method}
        known.write_outcome(row["trial"], [row])


def _measure_row(known: Study, role: str, values: Mapping[str, Any]) -> results.Row:
    return {
        "schema": results.SCHEMA_VERSION,
        "study": known.name,
        "space": known.manifest.space,
        "family": known.manifest.family,
        "phase": "measure",
        "method": "",
        "repeat": 0,
        "trial": measure_trial(role),
        "number": 0,
        "seed": 0,
        "origin": known.manifest.teacher if role == "teacher" else known.manifest.student,
        "stage": 0,
        "status": "finished",
        "reason": "",
        "epochs": 0,
        "seconds": 0.0,
        **values,
        "host": socket.gethostname(),
        "versions": json.dumps(known.manifest.versions, sort_keys=True),
        "commit": known.manifest.commit,
        "ended": results.now(),
    }


def validation_rule(chosen: SearchSpace, material: DatasetInfo) -> str:
    """How many images are held out and why, in words."""
    if material.own_validation:
        return "the data set's own validation images"
    return (
        f"{chosen.val_share:g} of the training images"
        if chosen.val_share
        else splits.VALIDATION_RULE
    )


def study_rungs(chosen: SearchSpace, scheduler: str) -> list[int]:
    """Epochs at which trials are compared; with step decay none before the epoch after the first."""
    if scheduler == "none":
        return []
    epochs, optimizer = chosen.student.epochs, chosen.student.optimizer
    steps = optimizer.schedule == "step" and optimizer.decay_at
    first = int(optimizer.decay_at[0] * epochs) + 1 if steps else 0
    return asha.rungs(epochs, first=first)


def config_types(chosen: SearchSpace) -> dict[str, str]:
    """Arrow types of all values that the methods sample."""
    return {
        name: distributions.column_type(d)
        for m in chosen.methods.values()
        for name, d in m.ranges.items()
    }


def versions() -> dict[str, str]:
    """Of Python, the operating system, this package and those that matter for its numbers."""
    found = {package: metadata.version(package) for package in PACKAGES}
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {**system, "tune_kd": tune_kd.__version__, **found}


def fields_of(chosen: SearchSpace) -> dict[str, Any]:
    """Return the space's fields that change trials, for the report."""
    fields = search_space.plain_fields(chosen)
    return {name: value for name, value in fields.items() if name not in TOLD_LATER}


def commit() -> str:
    """Return the commit of the source tree that runs, empty where it is not a checkout."""
    here = Path(tune_kd.__file__).parent
    command = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
