"""What is trained before a study's first trial: the teacher, and first stages that trials share.

Each is imported, found beside earlier studies by its id, or trained on a worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tune_kd import files
from tune_kd.execution import runner
from tune_kd.execution.interrupt import RunFailedError
from tune_kd.execution.progress import Progress
from tune_kd.execution.session import Session
from tune_kd.recipe import Recipe
from tune_kd.study import recipe_builder, results
from tune_kd.study.proposal import Proposal, repeat_seed
from tune_kd.study.refit import producing_trial
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study
from tune_kd.study.trial_names import shared_trial, start_trial, teacher_trial
from tune_kd.training.external_weights import ExternalCheckpoint
from tune_kd.tuning import search_plan
from tune_kd.workflows import checks
from tune_kd.workflows.create_study import base_config
from tune_kd.workflows.request import SearchRequest


def teacher_trial_of(study: Study) -> str:
    """Return the name of the trial that made the study's teacher, or of the next try at it."""
    return producing_trial(study, teacher_trial(study.manifest.teacher_model))


def start_trial_of(study: Study) -> str:
    """Return the name of the trial that measured what is given in place of shared stages."""
    return producing_trial(study, start_trial(study.manifest.start.model))


def has_teacher(study: Study) -> bool:
    """Whether the study has its teacher's weights and rows."""
    return _has(study, teacher_trial_of(study), study.manifest.teacher_model)


def _has(study: Study, trial: str, model_id: str) -> bool:
    has_weights = study.storage.exists(f"models/{model_id}.safetensors")
    return has_weights and trial in study.outcomes


def ensure_teacher(
    study: Study, request: SearchRequest, *, session: Session, progress: Progress
) -> None:
    """Import, reuse or train the teacher. RunFailedError where that failed."""
    recipe = recipe_builder.teacher_recipe(
        study.manifest, request.space, compute=study.manifest.compute
    )
    model_id = study.manifest.teacher_model
    seed, trial = study.manifest.seed, teacher_trial_of(study)
    model = _RequiredModel(trial=trial, method="", seed=seed, recipe=recipe, model_id=model_id)
    if request.teacher:
        model = replace(model, recipe=replace(recipe, initial=""), foreign=request.teacher)
    epochs = request.space.teacher.epochs
    message = f"training the teacher {request.space.teacher.network}, {epochs} epochs"
    _ensure([model], study, request, workers=_Workers(session, progress), message=message)


def is_ready(study: Study, request: SearchRequest) -> bool:
    """Whether nothing is left to be made before the first trial."""
    teacher = not study.manifest.needs_teacher or has_teacher(study)
    shared = _shared(study, request)
    return teacher and all(_has(study, m.trial, m.model_id) for m in shared)


def ensure_shared(
    study: Study, request: SearchRequest, *, session: Session, progress: Progress
) -> None:
    """Import, reuse or train the first stages that the trials of a search have in common."""
    models = _shared(study, request)
    names = ", ".join(dict.fromkeys(m.method for m in models))
    message = f"training what all trials of a search begin with, once for each of: {names}"
    _ensure(models, study, request, workers=_Workers(session, progress), message=message)


@dataclass(frozen=True, kw_only=True)
class _RequiredModel:
    """A model that must be there before the first trial, and how it is made."""

    trial: str
    method: str  # empty for a teacher
    seed: int
    repeat: int = 0
    recipe: Recipe
    model_id: str
    foreign: ExternalCheckpoint | None = None

    @property
    def origin(self) -> str:
        if self.foreign:
            return "file"
        return "shared" if self.method else "default"


def _shared(study: Study, request: SearchRequest) -> list[_RequiredModel]:
    """Shared first stages, each once, and what is given in their place."""
    space, repeats = request.space, checks.budget(request, study).repeats
    models: dict[str, _RequiredModel] = {}
    for method, recipe in recipe_builder.shared_recipes(study.manifest, space).items():
        for repeat in range(repeats):
            seed = repeat_seed(study.manifest.seed, repeat)
            model_id = recipe.recipe_id(seed)
            trial = producing_trial(study, shared_trial(model_id))
            model = _RequiredModel(
                trial=trial,
                method=method,
                repeat=repeat,
                seed=seed,
                recipe=recipe,
                model_id=model_id,
            )
            models.setdefault(model_id, model)
    starting = [method for method in space.methods if space.starts(method)]
    if request.start and starting:
        start_id = study.manifest.start.model
        defaults = space.methods[starting[0]].settings()[0]
        recipe = recipe_builder.student_recipe(
            study.manifest, space, method=starting[0], config=defaults
        )
        models[start_id] = _RequiredModel(
            trial=start_trial_of(study),
            method=starting[0],
            seed=study.manifest.seed,
            recipe=replace(recipe, teacher="", teacher_model=""),
            model_id=start_id,
            foreign=request.start,
        )
    return list(models.values())


class _Workers(NamedTuple):
    """Where models are made, and where it is said."""

    session: Session
    progress: Progress


def _ensure(
    models: Sequence[_RequiredModel],
    study: Study,
    request: SearchRequest,
    *,
    workers: _Workers,
    message: str,
) -> None:
    """Import or find what is not there yet, run the rest side by side, keep it for later studies."""
    session, progress = workers
    missing = [m for m in models if not _has(study, m.trial, m.model_id)]
    missing = [m for m in missing if m.foreign or not _reuse(study, m, progress)]
    if not missing:
        return
    proposals = []
    for model in missing:
        recipe = model.recipe
        if model.foreign:
            _import(study, model.foreign, model.model_id)
            recipe = replace(recipe, stages=(), start=model.model_id)  # measured as it is
            progress.say(f"measuring {model.foreign.name}")
        proposals.append(
            Proposal(
                trial=model.trial,
                phase="teacher",
                method=model.method,
                repeat=model.repeat,
                number=0,
                seed=model.seed,
                origin=model.origin,
                recipe=recipe,
            )
        )
    if any(not model.foreign for model in missing):
        progress.say(message)
    progress.follow(study, "teacher", study.counts("teacher").total() + len(proposals))
    runner.run(
        study,
        lambda: search_plan.FixedPlan(study, proposals),
        ray_session=session,
        base=base_config(study, request.data, session.resources),
        progress=progress,
    )
    for model in missing:
        row = study.outcomes[model.trial][-1]
        if row["status"] != "finished":
            label = f"the first stage of {model.method}" if model.method else "the teacher"
            raise RunFailedError(f"{label} failed: {row['reason']}")
        if not model.foreign:
            _keep(study, model)


def _import(study: Study, checkpoint: ExternalCheckpoint, model_id: str) -> None:
    """Make an external checkpoint one of the study's models; nothing of it is unpickled."""
    from safetensors.torch import save

    plain = {name: value.contiguous() for name, value in checkpoint.state().items()}
    header = {"source": checkpoint.name, "fingerprint": model_id}
    study.storage.write(f"models/{model_id}.safetensors", bytes(save(plain, metadata=header)))


def _keep(study: Study, model: _RequiredModel) -> None:
    """Rows beside the weights, and a copy of both in this node's cache, for later studies."""
    schema = results.trial_schema({})
    verdict = study.outcomes[model.trial]
    rows = [{k: v for k, v in r.items() if k in schema.names} for r in verdict]
    epochs = results.encode(study.rows[model.trial], results.epoch_schema())
    name = f"models/{model.model_id}"
    study.storage.write(f"{name}.epochs.parquet", epochs)
    study.storage.write(f"{name}.trials.parquet", results.encode(rows, schema))
    _copy(model.model_id, study.storage, Storage(files.cache_folder()))


def _reuse(study: Study, model: _RequiredModel, progress: Progress) -> bool:
    """Return a model of the same recipe and seed that an earlier study trained: copied with its rows."""
    name = f"models/{model.model_id}"
    for place in _places(study):
        if not place.exists(f"{name}.trials.parquet"):
            continue
        rows, _ = results.decode(place.read(f"{name}.trials.parquet"))
        epochs, _ = results.decode(place.read(f"{name}.epochs.parquet"))
        _copy(model.model_id, place, study.storage)
        _copy(model.model_id, place, Storage(files.cache_folder()))
        origin = rows[-1]["study"]
        identity = {
            "study": study.name,
            "trial": model.trial,
            "method": model.method,
            "repeat": model.repeat,
        }
        epochs = [
            results.known_columns({**row, **identity}, results.EPOCH_COLUMNS) for row in epochs
        ]
        verdict = {**identity, "origin": model.origin, "reason": f"trained by study {origin}"}
        data = results.encode(epochs, results.epoch_schema())
        study.storage.write(f"epochs/{model.trial}.0.parquet", data)
        study.rows[model.trial] = epochs
        study.write_outcome(
            model.trial,
            [results.known_columns({**row, **verdict}, results.TRIAL_COLUMNS) for row in rows],
        )
        label = "first stage" if model.method else "teacher"
        progress.say(f"{label} {model.model_id} reused from study {origin}")
        return True
    return False


def _copy(model_id: str, place: Storage, to: Storage) -> None:
    """Weights and rows of a model; the trials' rows last, since they say that all is there."""
    if place.uri != to.uri and not to.exists(f"models/{model_id}.trials.parquet"):
        for suffix in ("safetensors", "epochs.parquet", "trials.parquet"):
            name = f"models/{model_id}.{suffix}"
            to.write(name, place.read(name))


def _places(study: Study) -> list[Storage]:
    """Where earlier models may lie: this node's cache, and the studies beside this one."""
    beside = study.storage.parent()
    siblings = [beside.at(name) for name in beside.names("") if name != study.name]
    return [Storage(files.cache_folder()), *siblings]
