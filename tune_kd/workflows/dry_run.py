"""The plan of a search, from the space and what is cached: it needs no data and runs nothing."""

from tune_kd import files
from tune_kd.data import splits, tasks
from tune_kd.errors import UsageError
from tune_kd.execution.progress import duration_text
from tune_kd.execution.resources import Resources
from tune_kd.measure import timing_cache
from tune_kd.space import distributions
from tune_kd.study import manifest
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study
from tune_kd.tuning import samplers
from tune_kd.tuning.search_plan import Budget
from tune_kd.workflows import checks, confirm_plan, create_study
from tune_kd.workflows.request import SearchRequest


def plan(request: SearchRequest, resources: Resources) -> str:
    """Methods, ranges, budget, teacher, device and expected time, as text."""
    space, budget = request.space, plan_budget(request)
    lines = [
        f"study     {request.storage.uri} ({_state(request)})",
        f"task      {space.task}, images from {request.data or 'the task itself'}, "
        f"{request.limit_train or 'all'} training images",
        f"student   {space.student.network}, {space.student.epochs} epochs, batch {space.student.batch_size}",
        f"teacher   {_teacher(request)}",
        f"device    {_device(resources)}",
        f"trials    {budget.of_method * len(space.methods)}: {budget} "
        f"for each of {len(space.methods)} methods; {_proposals(request, budget)}",
        f"verdict   {_verdict(budget)}",
        f"stopping  {_stopping(request)}",
        *_costs(request, resources, budget),
    ]
    if space.objectives:
        constraints = ", ".join(space.constraints) or "no constraints"
        lines.append(f"aims      {', '.join(space.objectives)}; {constraints}")
    for name in space.methods:
        if count := space.shared(name):
            lines.append(
                f"once      the first {count} stages of {name} are trained before its trials"
            )
        if space.starts(name):
            lines.append(f"once      {name} begins from {space.start}")
    for name, method in space.methods.items():
        lines.append(f"{name}:")
        for parameter, distribution in method.ranges.items():
            value = method.defaults[parameter]
            default = f"{value:g}" if isinstance(value, float) else value
            lines.append(
                f"  {parameter:<13} {distributions.range_text(distribution)} (default {default})"
            )
        lines += [
            f"  {parameter:<13} {value} (pinned)" for parameter, value in method.fixed.items()
        ]
        if not method.ranges:
            lines.append("  nothing to search: every trial of this method is the same")
    return "\n".join(lines)


def _state(request: SearchRequest) -> str:
    if not manifest.exists(request.storage):
        return "new"
    return "will be resumed" if request.resume else "exists: add --resume or use a new --name"


def _teacher(request: SearchRequest) -> str:
    space = request.space
    if not checks.needs_teacher(request):
        return "none: no method needs one"
    if request.teacher:
        return f"{space.teacher.network} from {request.teacher.name}"
    if manifest.exists(request.storage):
        model = manifest.read(request.storage).teacher_model
        if request.storage.exists(f"models/{model}.safetensors"):
            return f"{space.teacher.network}, found: {model}"
    names = Storage(files.cache_folder()).names("models", ".trials.parquet")
    maybe = f" unless it is one of {len(names)} in the cache" if names else ""
    return f"{space.teacher.network}, to be trained for {space.teacher.epochs} epochs{maybe}"


def _device(resources: Resources) -> str:
    if resources.address:
        return f"the cluster at {resources.address}, {_share(resources)}"
    name = timing_cache.gpu_name() if resources.gpus else timing_cache.cpu_name()
    return f"{name}, {_share(resources)}, {resources.max_concurrent} at once"


def _share(resources: Resources) -> str:
    gpus = f" and {resources.gpus:g} GPU" if resources.gpus else ""
    return f"{resources.cpus:g} CPU{gpus} a trial"


def plan_budget(request: SearchRequest) -> Budget:
    """Return the searches of the study: as it began where it is there."""
    study = Study(request.storage) if manifest.exists(request.storage) else None
    return checks.budget(request, study)


def _verdict(budget: Budget) -> str:
    few = budget.repeats < confirm_plan.MIN_REPEATS
    statement = "recommends students; too few repeats" if few else "enough repeats"
    return f"{statement} for a statement about a method (at least {confirm_plan.MIN_REPEATS})"


def _proposals(request: SearchRequest, budget: Budget) -> str:
    start = samplers.random_start(budget.each)
    parts: dict[str, int] = {}
    for method in request.space.methods.values():
        settings = len(method.settings())
        for number in range(budget.each):
            kind = samplers.origin(number, settings=settings, start=start)
            parts[kind] = parts.get(kind, 0) + budget.repeats
    proposed = parts.pop("sampled", 0)
    origins = ", ".join(f"{count} {kind}" for kind, count in parts.items())
    return f"{origins}, {proposed} proposed by {request.sampler}"


def _stopping(request: SearchRequest) -> str:
    rungs = create_study.study_rungs(request.space, request.scheduler)
    if not rungs:
        return "none: every trial runs to the end"
    at = ", ".join(map(str, rungs))
    return f"{request.scheduler}: after epoch {at} the best third of a search's trials goes on"


def _costs(request: SearchRequest, resources: Resources, budget: Budget) -> list[str]:
    """Return runs, epochs and time of searching and of confirming, apart."""
    methods, epochs = len(request.space.methods), request.space.student.epochs
    design = confirm_plan.Design(
        repeats=tuple(range(budget.repeats)), seeds=confirm_plan.DEFAULT_SEEDS, defaults=True
    )
    again = methods * (design.runs_of_method + design.reevaluations_of_method)
    step = _epoch_seconds(request, resources)
    lines = []
    for name, runs in (("search", budget.of_method * methods), ("confirm", again)):
        time = "not measured"
        if step is not None:
            time = f"about {duration_text(step * epochs * runs / resources.max_concurrent)} for the students' own steps"
        lines.append(f"{name:<9} at most {runs} runs, {runs * epochs:,} epochs: {time}")
    return lines


def _epoch_seconds(request: SearchRequest, resources: Resources) -> float | None:
    """Seconds of a student's epoch by the cached probe of a training step; None where there is none."""
    space = request.space
    try:
        task = tasks.find(space.task, base=request.base)
    except UsageError:
        return None
    images = request.limit_train or (task.num_train if request.data is None else None)
    if not images or task.num_classes is None:
        return None
    hashes = [checks.source_hash(n, c) for n, c in request.user_files.items()]
    key = timing_cache.timing_key(
        ", ".join([space.student.network, f"{task.num_classes} classes", *hashes]),
        shape=(task.channels, *task.sides),
        device=timing_cache.gpu_name() if resources.gpus else timing_cache.cpu_name(),
        threads=max(1, int(resources.cpus)),
        detail=f"batch {space.student.batch_size}",
    )
    probe = timing_cache.read_probe(files.cache_folder(), key)
    if probe is None or resources.address:
        return None
    fitted = images - splits.validation_size(images, share=space.val_share)
    return float(probe["train_step_s"]) * (fitted // space.student.batch_size)
