"""Opens a study or begins it: images, manifest, and the teacher that all its trials listen to."""

import json
import os
import platform
import socket
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

import tune_kd
from tune_kd import (
    compress,
    data,
    losses,
    models,
    plugins,
    recipes,
    results,
    sampler,
    site,
    space,
    spaces,
    study,
    tasks,
    weights,
    worker,
)
from tune_kd.errors import UsageError
from tune_kd.foreign import Foreign
from tune_kd.metrics import METRICS
from tune_kd.progress import Progress
from tune_kd.recipe import Images, digest
from tune_kd.session import Resources, Session
from tune_kd.space import SearchSpace
from tune_kd.storage import Storage
from tune_kd.study import Study

PACKAGES = ("torch", "torchvision", "ray", "optuna", "pyarrow", "pandas")
# fields of a space that change no trial
TOLD_LATER = ("trials", "tables", "expected_teacher", "expected_student")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for, checked as far as that goes without data."""

    space: SearchSpace
    file: Path  # that defines the space
    storage: Storage
    data: Path | None
    limit_train: int
    seed: int
    sampler: str
    scheduler: str
    teacher: Foreign | None  # a checkpoint, or a student of another study
    start: Foreign | None  # the like, in place of shared stages
    resume: bool
    command: str

    @property
    def each(self) -> int:
        """Trials of each method: the total, rounded up to equal counts."""
        return -(-self.space.trials // len(self.space.methods))


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images of a request, decoded into this node's cache."""

    images: Images
    num_train: int
    num_val: int
    class_names: tuple[str, ...]


def look_at_data(request: Request) -> Material:
    """Decode the train split here, so that its errors come before anything else is started."""
    base = request.file.parent
    task = tasks.find(request.space.task, base=base)
    tasks.check(task, request.data)
    cache = worker.cache_folder()
    decoded = tasks.decode(task, "train", folder=request.data, cache=cache)
    fit, validation = data.split(decoded, limit=request.limit_train, seed=request.seed)
    mean, std = data.normalisation(task, decoded, fit)
    images = Images(
        task=request.space.task,
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        channels=task.channels,
        size=task.sides,
        mean=mean,
        std=std,
        limit_train=request.limit_train,
        split_seed=request.seed,
        pad=task.pad,
        flip=task.flip,
        dense=task.dense,
        scale=task.scale,
        mix=request.space.mix,
        mix_alpha=request.space.mix_alpha,
    )
    return Material(
        images=images,
        num_train=len(fit),
        num_val=len(validation),
        class_names=decoded.class_names,
    )


def user_files(request: Request) -> dict[str, bytes]:
    """A user's own files by name: the space's, and those that its strings refer to."""
    chosen = request.space
    references = [chosen.task, chosen.teacher, chosen.student, chosen.feature_loss]
    paths = [plugins.path_of(r, base=request.file.parent) for r in references if plugins.is_reference(r)]  # fmt: skip
    if request.file.parent != spaces.folder():
        paths.append(request.file)
    found: dict[str, bytes] = {}
    for path in dict.fromkeys(paths):
        if path.name in found:
            raise UsageError(f"two files are called {path.name}; rename one of them")
        found[path.name] = path.read_bytes()
    return found


def described(request: Request, material: Material) -> dict[str, Any]:
    """The manifest as far as a resumed study must agree with it."""
    chosen = request.space
    fields = {k: v for k, v in space.plain_fields(chosen).items() if k not in TOLD_LATER}
    methods = {
        name: {
            "ranges": {k: space.shown(d) for k, d in method.ranges.items()},
            "bounds": space.bounds(method.ranges),
            "distributions": {k: space.to_json(d) for k, d in method.ranges.items()},
            "fixed": dict(method.fixed),
            "textbook": method.settings()[0],
            "settings": method.settings(),
        }
        for name, method in chosen.methods.items()
    }
    files = user_files(request)
    return {
        "schema": results.SCHEMA_VERSION,
        "space": chosen.name,
        "fields": fields,
        "methods": methods,
        "seed": request.seed,
        "limit_train": request.limit_train,
        "sampler": request.sampler,
        "scheduler": request.scheduler,
        "teacher_hash": request.teacher.hash if request.teacher else "",
        "start_hash": request.start.hash if request.start else "",
        "sources": {name: digest(code) for name, code in files.items()},
        "images": asdict(material.images),
    }


def exists(request: Request, material: Material) -> bool:
    """Whether the study is there already; UsageError where it may not be gone on with."""
    request.storage.check_writable()
    if not request.storage.exists("manifest.json"):
        return False
    if not request.resume:
        raise UsageError(
            f"{request.storage.uri} exists; add --resume to go on with it, or --name for another study"
        )
    known = Study(request.storage)
    lines = study.differences(known.manifest, described(request, material))
    planned = max(known.manifest["trials"], len(known.of("search")))
    if not lines and planned > request.each * len(request.space.methods):
        raise UsageError(
            f"{request.storage.uri} has {planned} trials already; --trials may only be raised"
        )
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UsageError(f"{request.storage.uri} is another study: {lines[0]}{more}; choose another --name")  # fmt: skip
    return True


def check_networks(request: Request, material: Material) -> None:
    """Networks, taps, losses and a foreign checkpoint must fit the space; said before Ray starts.

    Raises:
        UsageError: an unknown network or loss, one that lacks a level or the dropout that is searched,
            one for other labels than the task's, or a checkpoint of another architecture.
    """
    chosen, base = request.space, request.file.parent
    shape = site.shape_of(material.images)
    methods = chosen.methods.values()
    wanted = any("dropout" in m.ranges or m.fixed.get("dropout") for m in methods)
    dropout = 0.1 if wanted else 0.0
    student = models.build(chosen.student, shape=shape, dropout=dropout, base=base)
    teacher = models.build(chosen.teacher, shape=shape, dropout=chosen.teacher_dropout, base=base)
    losses.find_feature_loss(chosen.feature_loss, base=base)
    for name, model in ((chosen.student, student), (chosen.teacher, teacher)):
        _check_kind(name, model, material.images)
        models.Taps(model, chosen.levels if recipes.uses_features(chosen) else ()).remove()
    if request.teacher is not None:
        weights.checked_load(
            teacher, request.teacher.state(), what=f"--teacher {request.teacher.name}"
        )
    if request.start is not None:
        state = request.start.state()
        if compress.is_pruned(student, state):
            compress.reshape(student, state)
        weights.checked_load(student, state, what=f"start={request.start.name}")
    if recipes.compresses(chosen):
        compress.check_installed(chosen.name)
        timed = [name for name in chosen.objectives if METRICS[name].timed]
        if timed:
            raise UsageError(
                f"objective {timed[0]}: where every trial has an architecture of its own, times are measured "
                "for the front when the search is over; take size_mb, num_params or flops"
            )


def _check_kind(name: str, model: nn.Module, images: Images) -> None:
    """A network of ours scores images, or every pixel; a user's own shows it when it is run."""
    if not plugins.is_reference(name) and hasattr(model, "coarse") != images.dense:
        given, wanted = ("images", "every pixel") if images.dense else ("every pixel", "images")
        raise UsageError(
            f"network {name} scores {given}, but task {images.task} has labels of {wanted}; "
            f"choose a network that scores {wanted}"
        )


def base_config(study_: Study, request_data: Path | None, resources: Resources) -> dict[str, Any]:
    """What every trial's config has, whoever proposes it."""
    return {
        "study": study_.storage.uri,
        "name": study_.name,
        "marker": study_.manifest["marker"],
        "reference": _reference(study_.manifest),
        **_worker_config(request_data, resources),
    }


def _seen_file(given: Foreign | None, images: Images) -> str:
    """The name of a teacher that may have seen validation images: one of which that is not known.

    A student of an earlier study on the very same split has not.
    """
    if given is None:
        return ""
    same = given.recipe is not None and given.recipe.images == images
    return "" if same else given.name


def _reference(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The teacher that confirmed students are compared with; nothing where a study has none."""
    model = manifest["teacher_model"] if manifest["needs_teacher"] else ""
    return recipes.shipped(manifest["teacher"]), model


def _worker_config(folder: Path | None, resources: Resources) -> dict[str, Any]:
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "data": str(folder.absolute()) if folder else "",
        "gpus": resources.gpus,
        "threads": max(1, int(resources.cpus)),
        "umask": mask,
    }


def begin(request: Request, material: Material, *, session: Session, progress: Progress) -> Study:
    """Measure on a worker, then write the study's first files, the manifest last."""
    storage, chosen = request.storage, request.space
    files = user_files(request)
    for name, code in files.items():
        storage.write(f"space/{name}", code)
    progress.say("measuring a training step, and both networks' latency, before the first trial")
    found = session.call(
        worker.prepare,
        {
            "study": storage.uri,
            "images": asdict(replace(material.images, task=recipes.shipped(chosen.task))),
            "teacher": recipes.shipped(chosen.teacher),
            "student": recipes.shipped(chosen.student),
            "batch_size": chosen.batch_size,
            "compiled": recipes.quantises(chosen),
            "sources": [digest(code) for code in files.values()],
            **_worker_config(request.data, session.resources),
        },
        progress=progress,
    )
    objectives = list(chosen.objectives) or [
        "val_miou" if material.images.dense else "val_accuracy"
    ]
    marker = uuid.uuid4().hex
    storage.write("marker", marker.encode())
    manifest = {
        **described(request, material),
        "study": storage.name,
        "family": chosen.family,
        "task": chosen.task,
        "teacher": chosen.teacher,
        "student": chosen.student,
        "trials": request.each * len(chosen.methods),
        "epochs": chosen.epochs,
        "teacher_epochs": chosen.teacher_epochs,
        "num_train": material.num_train,
        "num_val": material.num_val,
        "class_names": material.class_names,
        "compute": {"precision": found["precision"], "layout": found["layout"]},
        "rungs": study_rungs(chosen, request.scheduler),
        "random_start": sampler.random_start(request.each),
        "metric": objectives[0],
        "objectives": objectives,
        "constraints": list(chosen.constraints),
        "dense": material.images.dense,
        "needs_teacher": recipes.needs_teacher(chosen),
        "tables": list(chosen.tables),
        "config_types": config_types(chosen),
        "versions": versions(),
        "commit": commit(),
        "device": found["device"],
        "hardware": found["hardware"],
        "host": socket.gethostname(),
        "teacher_file": _seen_file(request.teacher, material.images),
        "teacher_source": request.teacher.name if request.teacher else "",
        "teacher_model": "",
        "start": request.start.described() if request.start else {},
        "marker": marker,
        "data": str(request.data.absolute()) if request.data else "",
        "command": request.command,
        "created": study.now(),
    }
    manifest["teacher_model"] = recipes.teacher_fingerprint(manifest, chosen)
    storage.write("manifest.json", json.dumps(manifest, indent=1).encode())
    begun = Study(storage)
    for role, values in found["measured"].items():
        row = _measure_row(begun, role, {"device": found["device"], **values})
        begun.put_verdict(f"measure-{role}", [row])
    return begun


def measure_students(
    known: Study, chosen: Mapping[str, study.Proposal], *, session: Session, config: dict[str, Any]
) -> None:
    """Rows of phase measure for finished students by the search trial that each stands for."""
    missing = {s: p for s, p in chosen.items() if f"measure-{s}" not in known.verdicts}
    if not missing:
        return
    proposals = [study.dump(proposal) for proposal in missing.values()]
    asked = {**config, "proposals": proposals}
    found = session.call(worker.measure_students, asked, progress=Progress(quiet=True))
    for source, proposal in missing.items():
        row = _measure_row(known, proposal.trial, found[proposal.trial])
        row |= {"trial": f"measure-{source}", "source": source, "method": proposal.method}
        known.put_verdict(f"measure-{source}", [row])


def _measure_row(known: Study, role: str, values: Mapping[str, Any]) -> results.Row:
    return {
        "schema": results.SCHEMA_VERSION,
        "study": known.name,
        "space": known.manifest["space"],
        "family": known.manifest["family"],
        "phase": "measure",
        "method": "",
        "trial": f"measure-{role}",
        "number": 0,
        "seed": 0,
        "origin": known.manifest.get(role, known.manifest["student"]),
        "stage": 0,
        "status": "finished",
        "reason": "",
        "epochs": 0,
        "seconds": 0.0,
        **values,
        "host": socket.gethostname(),
        "versions": json.dumps(known.manifest["versions"], sort_keys=True),
        "commit": known.manifest["commit"],
        "ended": study.now(),
    }


def study_rungs(chosen: SearchSpace, scheduler: str) -> list[int]:
    """Epochs at which trials are compared; with step decay none before the epoch after the first."""
    if scheduler == "none":
        return []
    steps = chosen.schedule == "step" and chosen.decay_at
    first = int(chosen.decay_at[0] * chosen.epochs) + 1 if steps else 0
    return sampler.rungs(chosen.epochs, first=first)


def config_types(chosen: SearchSpace) -> dict[str, str]:
    """Arrow types of all values that the methods sample."""
    return {
        name: space.column_type(d) for m in chosen.methods.values() for name, d in m.ranges.items()
    }


def versions() -> dict[str, str]:
    """Of Python, the operating system, this package and those that matter for its numbers."""
    found = {package: metadata.version(package) for package in PACKAGES}
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {**system, "tune_kd": tune_kd.__version__, **found}


def commit() -> str:
    """The commit of the source tree that runs, empty where it is not a checkout."""
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
