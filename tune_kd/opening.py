"""Opens a study or begins it: images, manifest, and the teacher that all its trials listen to."""

import hashlib
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

import tune_kd
from tune_kd import (
    data,
    losses,
    models,
    plugins,
    results,
    runner,
    sampler,
    space,
    study,
    tasks,
    worker,
)
from tune_kd.errors import UsageError
from tune_kd.progress import Progress
from tune_kd.recipe import Compute, Images, LossWeights, Recipe, digest, rebuild
from tune_kd.runner import Session
from tune_kd.space import SearchSpace
from tune_kd.storage import Storage
from tune_kd.study import Proposal, Study

PACKAGES = ("torch", "torchvision", "ray", "optuna", "pyarrow", "pandas")


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
    teacher: Path | None  # a foreign checkpoint
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
    fit, validation = data.split(decoded.labels, limit=request.limit_train, seed=request.seed)
    mean, std = data.normalisation(task, decoded, fit)
    images = Images(
        task=request.space.task,
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        channels=task.channels,
        size=task.size,
        mean=mean,
        std=std,
        limit_train=request.limit_train,
        split_seed=request.seed,
        pad=task.pad,
        flip=task.flip,
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
    if request.file.parent != space.folder():
        paths.append(request.file)
    found: dict[str, bytes] = {}
    for path in dict.fromkeys(paths):
        if path.name in found:
            raise UsageError(f"two files are called {path.name}; rename one of them")
        found[path.name] = path.read_bytes()
    return found


def shipped(reference: str) -> str:
    """A user's reference as workers find it: the file's name within the study's own copies."""
    if not plugins.is_reference(reference):
        return reference
    file, _, function = reference.rpartition(":")
    return f"{Path(file).name}:{function}"


def described(request: Request, material: Material) -> dict[str, Any]:
    """The manifest as far as a resumed study must agree with it."""
    chosen = request.space
    fields = {k: v for k, v in space.plain_fields(chosen).items() if k not in ("trials", "tables")}
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
        "teacher_hash": _file_hash(request.teacher),
        "sources": {name: digest(code) for name, code in files.items()},
        "images": asdict(material.images),
    }


def _file_hash(file: Path | None) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file else ""


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
            or a checkpoint of another architecture.
    """
    chosen, base = request.space, request.file.parent
    images = material.images
    shape = models.Shape(num_classes=images.num_classes, channels=images.channels)
    searched = any("dropout" in method.ranges for method in chosen.methods.values())
    dropout = 0.1 if searched else 0.0
    student = models.build(chosen.student, shape=shape, dropout=dropout, base=base)
    teacher = models.build(chosen.teacher, shape=shape, base=base)
    losses.find_feature_loss(chosen.feature_loss, base=base)
    for model in (student, teacher):
        models.Taps(model, chosen.levels if uses_features(chosen) else ()).remove()
    if request.teacher is not None:
        state = models.load_weights(request.teacher)
        models.checked_load(teacher, state, what=f"--teacher {request.teacher}")


def base_config(
    study_: Study, request_data: Path | None, resources: runner.Resources
) -> dict[str, Any]:
    """What every trial's config has, whoever proposes it."""
    return {
        "study": study_.storage.uri,
        "name": study_.name,
        "marker": study_.manifest["marker"],
        **_worker_config(request_data, resources),
    }


def _worker_config(folder: Path | None, resources: runner.Resources) -> dict[str, Any]:
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
            "images": asdict(replace(material.images, task=shipped(chosen.task))),
            "teacher": shipped(chosen.teacher),
            "student": shipped(chosen.student),
            "batch_size": chosen.batch_size,
            "sources": [digest(code) for code in files.values()],
            **_worker_config(request.data, session.resources),
        },
        progress=progress,
    )
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
        "metric": "val_accuracy",
        "tables": list(chosen.tables),
        "config_types": config_types(chosen),
        "versions": versions(),
        "commit": commit(),
        "device": found["device"],
        "host": socket.gethostname(),
        "teacher_file": str(request.teacher or ""),
        "teacher_model": "",
        "marker": marker,
        "data": str(request.data.absolute()) if request.data else "",
        "command": request.command,
        "created": study.now(),
    }
    manifest["teacher_model"] = teacher_fingerprint(manifest, chosen)
    storage.write("manifest.json", json.dumps(manifest, indent=1).encode())
    begun = Study(storage)
    for role, values in found["measured"].items():
        begun.put_verdict(f"measure-{role}", [_measure_row(begun, role, values, found["device"])])
    return begun


def _measure_row(begun: Study, role: str, values: Mapping[str, float], device: str) -> results.Row:
    network = begun.manifest[role]
    return {
        "schema": results.SCHEMA_VERSION,
        "study": begun.name,
        "space": begun.manifest["space"],
        "family": begun.manifest["family"],
        "phase": "measure",
        "method": "",
        "trial": f"measure-{role}",
        "number": 0,
        "seed": 0,
        "origin": network,
        "stage": 0,
        "status": "finished",
        "reason": "",
        "epochs": 0,
        "seconds": 0.0,
        **values,
        "device": device,
        "host": socket.gethostname(),
        "versions": json.dumps(begun.manifest["versions"], sort_keys=True),
        "commit": begun.manifest["commit"],
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


# ---------------------------------------------------------------- recipes and the teacher


def images_of(manifest: Mapping[str, Any]) -> Images:
    """The images of a study, its task named as workers find it."""
    found: Images = rebuild(Images, manifest["images"])
    return replace(found, task=shipped(found.task))


def _compute(manifest: Mapping[str, Any]) -> Compute:
    found: Compute = rebuild(Compute, manifest["compute"])
    return found


def _sources(manifest: Mapping[str, Any], *references: str) -> tuple[str, ...]:
    """Hashes of the user's files that these references name: a recipe covers what it uses."""
    names = {Path(r.rpartition(":")[0]).name for r in references if plugins.is_reference(r)}
    return tuple(sorted(manifest["sources"][name] for name in names))


def teacher_recipe(manifest: Mapping[str, Any], chosen: SearchSpace) -> Recipe:
    """How a study's own teacher is trained: a recipe without a teacher."""
    return Recipe(
        images=images_of(manifest),
        student=shipped(chosen.teacher),
        stages=chosen.teacher_stages(),
        compute=_compute(manifest),
        sources=_sources(manifest, chosen.task, chosen.teacher),
    )


def teacher_fingerprint(manifest: Mapping[str, Any], chosen: SearchSpace) -> str:
    """The name of the model that a study's trials listen to."""
    if manifest["teacher_hash"]:
        return digest("file", str(manifest["teacher_hash"]))
    return teacher_recipe(manifest, chosen).fingerprint(manifest["seed"])


def student_recipe(
    manifest: Mapping[str, Any], chosen: SearchSpace, *, method: str, config: Mapping[str, Any]
) -> Recipe:
    """The recipe of a trial; one that listens to no teacher does not name it."""
    stages = chosen.stages(method, config)
    listens = any(stage.weights.beta > 0 or stage.weights.gamma > 0 for stage in stages)
    taught = [chosen.teacher, *(stage.feature_loss for stage in stages)] if listens else []
    stages = tuple(replace(s, feature_loss=shipped(s.feature_loss)) for s in stages)
    return Recipe(
        images=images_of(manifest),
        student=shipped(chosen.student),
        stages=stages,
        teacher=shipped(chosen.teacher) if listens else "",
        teacher_model=manifest["teacher_model"] if listens else "",
        compute=_compute(manifest),
        sources=_sources(manifest, chosen.task, chosen.student, *taught),
    )


def _textbook_weights(chosen: SearchSpace) -> list[LossWeights]:
    first = [chosen.stages(n, m.settings()[0]) for n, m in chosen.methods.items()]
    return [stage.weights for stages in first for stage in stages]


def needs_teacher(chosen: SearchSpace) -> bool:
    """Whether any method listens to one."""
    return any(w.beta > 0 or w.gamma > 0 for w in _textbook_weights(chosen))


def uses_features(chosen: SearchSpace) -> bool:
    """Whether any method listens to the teacher's features."""
    return any(w.gamma > 0 for w in _textbook_weights(chosen))


def model_of(storage: Storage) -> str:
    """The fingerprint of an existing study's teacher."""
    return str(json.loads(storage.read("manifest.json"))["teacher_model"])


def teacher_trial(study_: Study) -> str:
    """The name of the trial that made the study's teacher, or of the next try at it."""
    tries = [p.trial for p in study_.of("teach")] + [
        trial for trial, rows in study_.verdicts.items() if rows[-1]["phase"] == "teach"
    ]
    tries = list(dict.fromkeys(tries))
    for trial in tries:
        if trial not in study_.verdicts or study_.verdicts[trial][-1]["status"] == "finished":
            return trial
    name = f"teacher-{study_.manifest['teacher_model'][:8]}"
    return f"{name}-{len(tries) + 1}" if tries else name


def has_teacher(study_: Study) -> bool:
    """Whether the study has its teacher's weights and rows."""
    found = study_.storage.exists(f"models/{study_.manifest['teacher_model']}.safetensors")
    return found and teacher_trial(study_) in study_.verdicts


def ensure_teacher(
    study_: Study, request: Request, *, session: Session, progress: Progress
) -> None:
    """Import, reuse or train the teacher. CannotGoOnError where that failed."""
    if has_teacher(study_):
        return
    fingerprint = study_.manifest["teacher_model"]
    if not request.teacher and _reuse(study_, fingerprint, progress):
        return
    recipe = teacher_recipe(study_.manifest, request.space)
    if request.teacher:
        _import_teacher(study_, request.teacher, fingerprint)
        recipe = replace(recipe, stages=(), start=fingerprint)  # measured as it is
        progress.say(f"measuring the teacher {request.teacher}")
    else:
        epochs = request.space.teacher_epochs
        progress.say(f"training the teacher {request.space.teacher}, {epochs} epochs")
    proposal = Proposal(
        trial=teacher_trial(study_),
        phase="teach",
        method="",
        number=0,
        seed=study_.manifest["seed"],
        origin="file" if request.teacher else "textbook",
        recipe=recipe,
    )
    progress.follow(study_, "teach", 1)
    runner.run(
        study_,
        lambda: sampler.FixedPlan(study_, [proposal]),
        ray_session=session,
        base=base_config(study_, request.data, session.resources),
        progress=progress,
    )
    row = study_.verdicts[proposal.trial][-1]
    if row["status"] != "finished":
        raise runner.CannotGoOnError(f"the teacher failed: {row['reason']}")
    if not request.teacher:
        _keep(study_, proposal.trial, fingerprint)


def _import_teacher(study_: Study, file: Path, fingerprint: str) -> None:
    """A foreign checkpoint becomes the study's teacher; nothing of it is unpickled."""
    from safetensors.torch import save

    plain = {name: value.contiguous() for name, value in models.load_weights(file).items()}
    header = {"source": file.name, "fingerprint": fingerprint}
    study_.storage.write(f"models/{fingerprint}.safetensors", bytes(save(plain, metadata=header)))


def _keep(study_: Study, trial: str, fingerprint: str) -> None:
    """Rows beside the weights, and a copy of both in this node's cache, for later studies."""
    schema = results.trial_schema({})
    rows = [{k: v for k, v in r.items() if k in schema.names} for r in study_.verdicts[trial]]
    epochs = results.encode(study_.rows[trial], results.epoch_schema())
    study_.storage.write(f"models/{fingerprint}.epochs.parquet", epochs)
    study_.storage.write(f"models/{fingerprint}.trials.parquet", results.encode(rows, schema))
    _copy(fingerprint, study_.storage, Storage(worker.cache_folder()))


def _reuse(study_: Study, fingerprint: str, progress: Progress) -> bool:
    """A teacher of the same recipe and seed that an earlier study trained: copied with its rows."""
    name = f"models/{fingerprint}"
    for place in _places(study_):
        if not place.exists(f"{name}.trials.parquet"):
            continue
        rows, _ = results.decode(place.read(f"{name}.trials.parquet"))
        epochs, _ = results.decode(place.read(f"{name}.epochs.parquet"))
        _copy(fingerprint, place, study_.storage)
        _copy(fingerprint, place, Storage(worker.cache_folder()))
        trial, origin = teacher_trial(study_), rows[-1]["study"]
        epochs = [{**row, "study": study_.name, "trial": trial} for row in epochs]
        taken = {"study": study_.name, "trial": trial, "reason": f"trained by study {origin}"}
        data_ = results.encode(epochs, results.epoch_schema())
        study_.storage.write(f"epochs/{trial}.0.parquet", data_)
        study_.rows[trial] = epochs
        study_.put_verdict(trial, [{**row, **taken} for row in rows])
        progress.say(f"teacher {fingerprint} found: {taken['reason']}")
        return True
    return False


def _copy(fingerprint: str, place: Storage, to: Storage) -> None:
    """Weights and rows of a model; the trials' rows last, since they say that all is there."""
    if place.uri != to.uri and not to.exists(f"models/{fingerprint}.trials.parquet"):
        for suffix in ("safetensors", "epochs.parquet", "trials.parquet"):
            name = f"models/{fingerprint}.{suffix}"
            to.write(name, place.read(name))


def _places(study_: Study) -> list[Storage]:
    """Where earlier teachers may lie: this node's cache, and the studies beside this one."""
    beside = study_.storage.parent()
    siblings = [beside.at(name) for name in beside.names("") if name != study_.name]
    return [Storage(worker.cache_folder()), *siblings]
