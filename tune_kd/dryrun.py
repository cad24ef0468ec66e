"""The plan of a search, from the space and what is cached: it needs no data and runs nothing."""

from tune_kd import asking, opening, probes, sampler, space, tasks, teaching, worker
from tune_kd.asking import Request
from tune_kd.errors import UsageError
from tune_kd.progress import clock
from tune_kd.recipe import digest
from tune_kd.session import Resources
from tune_kd.storage import Storage


def plan(request: Request, resources: Resources) -> str:
    """Methods, ranges, budget, teacher, device and expected time, as text."""
    chosen, each = request.space, request.each
    lines = [
        f"study     {request.storage.uri} ({_state(request)})",
        f"task      {chosen.task}, images from {request.data or 'the task itself'}, "
        f"{request.limit_train or 'all'} training images",
        f"student   {chosen.student}, {chosen.epochs} epochs, batch {chosen.batch_size}",
        f"teacher   {_teacher(request)}",
        f"device    {_device(resources)}",
        f"trials    {each * len(chosen.methods)}: {each} a method; {_proposals(request)}",
        f"stopping  {_stopping(request)}",
        f"time      {_time(request, resources)}",
    ]
    if chosen.objectives:
        lines.append(f"aims      {', '.join(chosen.objectives)}; {', '.join(chosen.constraints) or 'no constraints'}")  # fmt: skip
    for name in chosen.methods:
        if count := chosen.shared(name):
            lines.append(
                f"once      the first {count} stages of {name} are trained before its trials"
            )
        if chosen.starts(name):
            lines.append(f"once      {name} begins from {chosen.start}")
    for name, method in chosen.methods.items():
        lines.append(f"{name}:")
        for parameter, distribution in method.ranges.items():
            book = method.textbook[parameter]
            textbook = f"{book:g}" if isinstance(book, float) else book
            lines.append(f"  {parameter:<13} {space.shown(distribution)} (textbook {textbook})")
        lines += [
            f"  {parameter:<13} {value} (pinned)" for parameter, value in method.fixed.items()
        ]
        if not method.ranges:
            lines.append("  nothing to search: every trial of this method is the same")
    return "\n".join(lines)


def _state(request: Request) -> str:
    if not request.storage.exists("manifest.json"):
        return "new"
    return "gone on with" if request.resume else "exists: add --resume or choose another --name"


def _teacher(request: Request) -> str:
    chosen = request.space
    if not asking.needs_teacher(request):
        return "none: no method listens to one"
    if request.teacher:
        return f"{chosen.teacher} from {request.teacher.name}"
    if request.storage.exists("manifest.json"):
        model = teaching.model_of(request.storage)
        if request.storage.exists(f"models/{model}.safetensors"):
            return f"{chosen.teacher}, found: {model}"
    kept = Storage(worker.cache_folder()).names("models", ".trials.parquet")
    maybe = f" unless it is one of {len(kept)} in the cache" if kept else ""
    return f"{chosen.teacher}, to be trained for {chosen.teacher_epochs} epochs{maybe}"


def _device(resources: Resources) -> str:
    if resources.address:
        return f"the cluster at {resources.address}, {_share(resources)}"
    name = probes.gpu_name() if resources.gpus else probes.cpu_name()
    return f"{name}, {_share(resources)}, {resources.max_concurrent} at once"


def _share(resources: Resources) -> str:
    gpus = f" and {resources.gpus:g} GPU" if resources.gpus else ""
    return f"{resources.cpus:g} CPU{gpus} a trial"


def _proposals(request: Request) -> str:
    start = sampler.random_start(request.each)
    parts: dict[str, int] = {}
    for method in request.space.methods.values():
        settings = len(method.settings())
        for number in range(request.each):
            kind = sampler.origin(number, settings=settings, start=start)
            parts[kind] = parts.get(kind, 0) + 1
    proposed = parts.pop("sampled", 0)
    named = ", ".join(f"{count} {kind}" for kind, count in parts.items())
    return f"{named}, {proposed} proposed by {request.sampler}"


def _stopping(request: Request) -> str:
    rungs = opening.study_rungs(request.space, request.scheduler)
    if not rungs:
        return "none: every trial runs to the end"
    at = ", ".join(map(str, rungs))
    return f"{request.scheduler}: after epoch {at} the best third of a method's trials goes on"


def _time(request: Request, resources: Resources) -> str:
    """From the cached probe of a training step, without early stopping."""
    chosen = request.space
    try:
        task = tasks.find(chosen.task, base=request.file.parent)
    except UsageError:
        return "not measured"
    images = request.limit_train or (task.num_train if request.data is None else None)
    if not images or task.num_classes is None:
        return "not measured"
    files = [digest(code) for code in asking.user_files(request).values()]
    key = probes.timing_key(
        ", ".join([chosen.student, f"{task.num_classes} classes", *files]),
        shape=(task.channels, *task.sides),
        device=probes.gpu_name() if resources.gpus else probes.cpu_name(),
        threads=max(1, int(resources.cpus)),
        detail=f"batch {chosen.batch_size}",
    )
    found = probes.read_probe(worker.cache_folder(), key)
    if found is None or resources.address:
        return "not measured"
    steps = int(images * 0.9) // chosen.batch_size * chosen.epochs
    trials = request.each * len(chosen.methods)
    seconds = found["train_step_s"] * steps * trials / resources.max_concurrent
    return f"at most about {clock(seconds)} for the students' own steps; teacher not counted (cached probe)"
