"""What is asked for, and what can be wrong with it before Ray starts: images, networks, an existing study."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tune_kd import (
    compress,
    data,
    losses,
    manifest,
    models,
    plugins,
    recipes,
    results,
    site,
    space,
    spaces,
    tasks,
    weights,
    worker,
)
from tune_kd.errors import UsageError
from tune_kd.foreign import Foreign
from tune_kd.metrics import METRICS
from tune_kd.recipe import Images, digest
from tune_kd.space import SearchSpace
from tune_kd.storage import Storage
from tune_kd.study import Study

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


def needs_teacher(request: Request) -> bool:
    """Whether any method listens to one, or the student of another study that its trials begin from did.

    That student is trained again when the study is confirmed.
    """
    chosen, given = request.space, request.start
    began = given is not None and given.recipe is not None and given.recipe.listens
    return recipes.needs_teacher(chosen) or (began and any(map(chosen.starts, chosen.methods)))


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
    lines = manifest.differences(known.manifest, described(request, material))
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
    if "val_miou" in chosen.objectives and not material.images.dense:
        raise UsageError(
            f"objective val_miou: task {chosen.task} has one label an image; take val_accuracy"
        )
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
