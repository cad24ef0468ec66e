"""What can be wrong with a request before Ray starts: images, networks, an existing study."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from tune_kd import files, losses, notebook, plugins
from tune_kd.compress import pruning
from tune_kd.data import splits, tasks
from tune_kd.errors import UsageError
from tune_kd.metrics import METRICS, default_objective
from tune_kd.models import checkpoints, registry
from tune_kd.models.taps import Taps
from tune_kd.recipe import Images, digest, training_stages
from tune_kd.space import Method, SearchSpace, distributions, loader, plain_fields, search_space
from tune_kd.study import manifest, recipe_builder
from tune_kd.study.manifest import SearchedMethod, Setting, Specification
from tune_kd.study.study import Study
from tune_kd.training import context
from tune_kd.tuning.search_plan import Budget
from tune_kd.workflows.request import DatasetInfo, SearchRequest

# fields of a space that change no trial
FIELDS_WITHOUT_EFFECT = (
    "trials",
    "repeats",
    "margin",
    "tables",
    "expected_teacher",
    "expected_student",
)
MIN_TRIALS = 5  # of a repeat: its default settings and four more


def budget(request: SearchRequest, study: Study | None = None) -> Budget:
    """How many searches of every method, and of how many trials each.

    Of a study that is there, the trials of a search stay what they were, and the searches may
    become more. A new one has as many searches as its trials suffice for, at most the space's
    `repeats`, unless it is said how many.

    Raises:
        UsageError: fewer than MIN_TRIALS trials for each of several searches, or fewer than there
            are.
    """
    return _grow_budget(request, study) if study else _new_budget(request)


def _new_budget(request: SearchRequest) -> Budget:
    methods = len(request.space.methods)
    of_method = -(-request.space.trials // methods)
    repeats = request.repeats
    if repeats is None:
        repeats = max(1, min(request.space.repeats, of_method // MIN_TRIALS))
    if repeats > 1 and of_method < MIN_TRIALS * repeats:
        raise UsageError(
            f"--repeats {repeats}: {request.space.trials} trials are {of_method} for each of {methods} methods, "
            f"and a repeat needs {MIN_TRIALS} (its default settings and four more); take --repeats "
            f"{max(1, of_method // MIN_TRIALS)} or --trials {MIN_TRIALS * repeats * methods}"
        )
    return Budget(repeats=repeats, each=-(-of_method // repeats))


def _grow_budget(request: SearchRequest, study: Study) -> Budget:
    each, current = study.manifest.trials_per_repeat, study.repeats
    of_repeat = study.manifest.trials_of_each_repeat
    repeats, fewer = request.repeats, False
    if repeats is None and request.trials is not None:
        total = _new_budget(request).of_method * len(request.space.methods)
        if total != study.manifest.trials:  # not the very command that began it
            repeats, fewer = -(-total // of_repeat), total < current * of_repeat
    repeats = current if repeats is None else repeats
    if repeats < current or fewer:
        searches = f"{current} repeats" if current > 1 else "1 repeat"
        raise UsageError(
            f"{study.storage.uri} has {searches} of {of_repeat} trials; --repeats and --trials may only be "
            "raised"
        )
    if repeats > current and each < MIN_TRIALS:
        raise UsageError(
            f"{study.storage.uri} began with {each} trials for each method, and a repeat needs {MIN_TRIALS}; "
            f"begin another study (--name) with --trials {MIN_TRIALS * repeats * len(request.space.methods)}"
        )
    return Budget(repeats=repeats, each=each)


def prepare_data(request: SearchRequest) -> DatasetInfo:
    """Decode the train split here, so that its errors come before anything else is started."""
    base = request.base
    task = tasks.find(request.space.task, base=base)
    tasks.check(task, request.data)
    cache = files.cache_folder()
    decoded = tasks.decode(task, "train", folder=request.data, cache=cache)
    share = request.space.val_share
    if share and decoded.validation is not None:
        raise UsageError(
            f"val_share={share:g}: task {task.name} has validation images of its own; leave it out or take val_share=0"
        )
    fit, validation = splits.split(
        decoded, limit=request.limit_train, seed=request.seed, share=share
    )
    mean, std = splits.normalisation(task, decoded, fit)
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
        val_share=share,
        view_seed=request.seed,
        pad=task.pad,
        flip=task.flip,
        dense=task.dense,
        scale=task.scale,
        mix=request.space.mix,
        mix_alpha=request.space.mix_alpha,
    )
    return DatasetInfo(
        images=images,
        num_train=len(fit),
        num_val=len(validation),
        own_validation=decoded.validation is not None,
        class_names=decoded.class_names,
    )


def source_hash(name: str, code: bytes) -> str:
    """Return the hash of a user's file; that of a notebook's function is in its name already."""
    return digest(name if name.endswith(".pkl") else code)


def specify(request: SearchRequest, dataset: DatasetInfo) -> Specification:
    """Return the part of the manifest that a resumed study must agree with."""
    space = request.space
    images = replace(dataset.images, task=recipe_builder.staged_reference(dataset.images.task))
    return Specification(
        space=space.name,
        settings=_settings(space),
        methods={
            name: _describe_method(method, code_is_shipped=request.file is not None)
            for name, method in space.methods.items()
        },
        seed=request.seed,
        limit_train=request.limit_train,
        sampler=request.sampler,
        scheduler=request.scheduler,
        teacher_hash=request.teacher.file_id if request.teacher else "",
        start_hash=request.start.file_id if request.start else "",
        sources={name: source_hash(name, code) for name, code in request.user_files.items()},
        images=images,
    )


def _settings(space: SearchSpace) -> dict[str, Setting]:
    """Return the fields of a space that change trials and differ from their defaults."""
    field_defaults = search_space.default_fields()
    settings = {
        name: value
        for name, value in plain_fields(space).items()
        if name not in FIELDS_WITHOUT_EFFECT and value != field_defaults.get(name)
    }
    for name in loader.REFERENCES:  # by content, wherever the file lies
        if name in settings:
            settings[name] = recipe_builder.staged_reference(settings[name])
    return settings


def _describe_method(method: Method, *, code_is_shipped: bool) -> SearchedMethod:
    """Return what is searched of a method; of a file's methods the hash of the file speaks."""
    settings = tuple(method.settings())
    return SearchedMethod(
        ranges={name: distributions.range_text(d) for name, d in method.ranges.items()},
        bounds=distributions.bounds(method.ranges),
        distributions={name: distributions.to_json(d) for name, d in method.ranges.items()},
        fixed=dict(method.fixed),
        defaults=settings[0],
        settings=settings,
        code="" if code_is_shipped else notebook.code_hash(method.stages),
    )


def needs_teacher(request: SearchRequest) -> bool:
    """Whether any method needs one, or the student of another study that its trials begin from did.

    That student is trained again when the study is confirmed.
    """
    space, start = request.space, request.start
    needs_for_start = start is not None and start.recipe is not None and start.recipe.needs_teacher
    return space.needs_teacher or (needs_for_start and any(map(space.starts, space.methods)))


def check_existing_study(request: SearchRequest, dataset: DatasetInfo) -> bool:
    """Whether the study is there already; UsageError where it may not be gone on with, or not begun."""
    request.storage.check_writable()
    if not manifest.exists(request.storage):
        budget(request)
        return False
    if not request.resume:
        raise UsageError(
            f"{request.storage.uri} exists; add --resume to continue it, or --name for another study"
        )
    study = Study(request.storage)
    lines = manifest.differences(study.manifest, specify(request, dataset))
    if not lines:
        budget(request, study)
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UsageError(
            f"{request.storage.uri} was created with other settings: {lines[0]}{more}; "
            "use a new --name"
        )
    return True


def check_networks(request: SearchRequest, dataset: DatasetInfo) -> None:
    """Networks, taps, losses and a foreign checkpoint must fit the space; said before Ray starts.

    Raises:
        UsageError: an unknown network or loss, one that lacks a level or the dropout that is
            searched, one for other labels than the task's, or a checkpoint of another architecture.
    """
    space, base = request.space, request.base
    shape = context.shape_of(dataset.images)
    methods = space.methods.values()
    has_dropout = any("dropout" in m.ranges or m.fixed.get("dropout") for m in methods)
    dropout = 0.1 if has_dropout else 0.0
    student = registry.build(space.student.network, shape=shape, dropout=dropout, base=base)
    rate = space.teacher.dropout
    teacher = registry.build(space.teacher.network, shape=shape, dropout=rate, base=base)
    losses.find_feature_loss(space.feature_loss, base=base)
    _check_losses(space, base)
    for role, model in ((space.student, student), (space.teacher, teacher)):
        _check_kind(role.network, model, dataset.images)
        if role.initial == "imagenet":
            registry.check_imagenet(role.network)
        Taps(model, space.levels if "features" in space.needs else ()).remove()
    if request.teacher is not None:
        checkpoints.checked_load(
            teacher, request.teacher.state(), source=f"--teacher {request.teacher.name}"
        )
    if request.start is not None:
        state = request.start.state()
        if pruning.is_pruned(student, state):
            pruning.reshape(student, state)
        checkpoints.checked_load(student, state, source=f"start={request.start.name}")
    kind = dataset.images.task_kind
    for name in space.objectives:
        if kind not in METRICS[name].tasks:
            raise UsageError(
                f"objective {name} needs a {' or '.join(METRICS[name].tasks)} task, but {space.task} is "
                f"{kind}; use {default_objective(kind)}"
            )
    if space.needs & {"pruning", "integers"}:
        pruning.check_installed(space.name)
    if space.compresses:
        timed = [name for name in space.objectives if METRICS[name].timed]
        if timed:
            raise UsageError(
                f"objective {timed[0]}: where every trial has an architecture of its own, times are measured "
                "for the front when the search is over; take size_mb, num_params or flops"
            )


def _check_losses(space: SearchSpace, base: Path) -> None:
    """Every method's losses are there, take their options, and have a meaning for these images."""
    for stage in training_stages(recipe_builder.checked_stages(space)):
        losses.find_feature_loss(stage.feature_loss, stage.feature_options, base=base)
        loss = losses.find_logit_loss(stage.logit_loss, stage.logit_options, base=base)
        if space.mix != "none" and not loss.mixes:
            raise UsageError(
                f"loss {stage.logit_loss} needs one label per image, but mix={space.mix} gives two; take "
                "--set mix=none, or another method"
            )


def _check_kind(name: str, model: nn.Module, images: Images) -> None:
    """Raise UsageError for a network of ours whose kind is not the task's; a user's own shows it when it runs."""
    if not plugins.is_reference(name) and hasattr(model, "coarse") != images.dense:
        network_kind, task_kind = (
            ("images", "every pixel") if images.dense else ("every pixel", "images")
        )
        raise UsageError(
            f"network {name} scores {network_kind}, but task {images.task} has labels of {task_kind}; "
            f"choose a network that scores {task_kind}"
        )
