"""What is trained before a study's first trial: the teacher, and first stages that trials share.

Each is imported, found beside earlier studies by its id, or trained on a worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tune_kd import files
from tune_kd.execution import runner
from tune_kd.execution.interrupt import CannotGoOnError
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


def teacher_trial_of(study_: Study) -> str:
    """Return the name of the trial that made the study's teacher, or of the next try at it."""
    return producing_trial(study_, teacher_trial(study_.manifest.teacher_model))


def start_trial_of(study_: Study) -> str:
    """Return the name of the trial that measured what is given in place of shared stages."""
    return producing_trial(study_, start_trial(study_.manifest.start.model))


def has_teacher(study_: Study) -> bool:
    """Whether the study has its teacher's weights and rows."""
    return _has(study_, teacher_trial_of(study_), study_.manifest.teacher_model)


def _has(study_: Study, trial: str, model_id: str) -> bool:
    found = study_.storage.exists(f"models/{model_id}.safetensors")
    return found and trial in study_.outcomes


def ensure_teacher(
    study_: Study, request: SearchRequest, *, session: Session, progress: Progress
) -> None:
    """Import, reuse or train the teacher. CannotGoOnError where that failed."""
    recipe = recipe_builder.teacher_recipe(
        study_.manifest, request.space, compute=study_.manifest.compute
    )
    model_id = study_.manifest.teacher_model
    seed, trial = study_.manifest.seed, teacher_trial_of(study_)
    made = _Made(trial=trial, method="", seed=seed, recipe=recipe, model_id=model_id)
    if request.teacher:
        made = replace(made, recipe=replace(recipe, initial=""), foreign=request.teacher)
    epochs = request.space.teacher.epochs
    said = f"training the teacher {request.space.teacher.network}, {epochs} epochs"
    _ensure([made], study_, request, workers=_Workers(session, progress), said=said)


def is_ready(study_: Study, request: SearchRequest) -> bool:
    """Whether nothing is left to be made before the first trial."""
    teacher = not study_.manifest.needs_teacher or has_teacher(study_)
    shared = _shared(study_, request)
    return teacher and all(_has(study_, m.trial, m.model_id) for m in shared)


def ensure_shared(
    study_: Study, request: SearchRequest, *, session: Session, progress: Progress
) -> None:
    """Import, reuse or train the first stages that the trials of a search have in common."""
    made = _shared(study_, request)
    names = ", ".join(dict.fromkeys(m.method for m in made))
    said = f"training what all trials of a search begin with, once for each of: {names}"
    _ensure(made, study_, request, workers=_Workers(session, progress), said=said)


@dataclass(frozen=True, kw_only=True)
class _Made:
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


def _shared(study_: Study, request: SearchRequest) -> list[_Made]:
    """Shared first stages, each once, and what is given in their place."""
    chosen, repeats = request.space, checks.budget(request, study_).repeats
    found: dict[str, _Made] = {}
    for method, recipe in recipe_builder.shared_recipes(study_.manifest, chosen).items():
        for repeat in range(repeats):
            seed = repeat_seed(study_.manifest.seed, repeat)
            model_id = recipe.recipe_id(seed)
            trial = producing_trial(study_, shared_trial(model_id))
            made = _Made(
                trial=trial, method=method, repeat=repeat, seed=seed, recipe=recipe, model_id=model_id
            )  # fmt: skip
            found.setdefault(model_id, made)
    starting = [method for method in chosen.methods if chosen.starts(method)]
    if request.start and starting:
        model = study_.manifest.start.model
        defaults = chosen.methods[starting[0]].settings()[0]
        recipe = recipe_builder.student_recipe(
            study_.manifest, chosen, method=starting[0], config=defaults
        )
        found[model] = _Made(
            trial=start_trial_of(study_),
            method=starting[0],
            seed=study_.manifest.seed,
            recipe=replace(recipe, teacher="", teacher_model=""),
            model_id=model,
            foreign=request.start,
        )
    return list(found.values())


class _Workers(NamedTuple):
    """Where models are made, and where it is said."""

    session: Session
    progress: Progress


def _ensure(
    wanted: Sequence[_Made], study_: Study, request: SearchRequest, *, workers: _Workers, said: str
) -> None:
    """Import or find what is not there yet, run the rest side by side, keep it for later studies."""
    session, progress = workers
    missing = [m for m in wanted if not _has(study_, m.trial, m.model_id)]
    missing = [m for m in missing if m.foreign or not _reuse(study_, m, progress)]
    if not missing:
        return
    proposals = []
    for made in missing:
        recipe = made.recipe
        if made.foreign:
            _import(study_, made.foreign, made.model_id)
            recipe = replace(recipe, stages=(), start=made.model_id)  # measured as it is
            progress.say(f"measuring {made.foreign.name}")
        proposals.append(
            Proposal(
                trial=made.trial,
                phase="teacher",
                method=made.method,
                repeat=made.repeat,
                number=0,
                seed=made.seed,
                origin=made.origin,
                recipe=recipe,
            )
        )
    if any(not made.foreign for made in missing):
        progress.say(said)
    progress.follow(study_, "teacher", study_.counts("teacher").total() + len(proposals))
    runner.run(
        study_,
        lambda: search_plan.FixedPlan(study_, proposals),
        ray_session=session,
        base=base_config(study_, request.data, session.resources),
        progress=progress,
    )
    for made in missing:
        row = study_.outcomes[made.trial][-1]
        if row["status"] != "finished":
            what = f"the first stage of {made.method}" if made.method else "the teacher"
            raise CannotGoOnError(f"{what} failed: {row['reason']}")
        if not made.foreign:
            _keep(study_, made)


def _import(study_: Study, given: ExternalCheckpoint, model_id: str) -> None:
    """Make an external checkpoint one of the study's models; nothing of it is unpickled."""
    from safetensors.torch import save

    plain = {name: value.contiguous() for name, value in given.state().items()}
    header = {"source": given.name, "fingerprint": model_id}
    study_.storage.write(f"models/{model_id}.safetensors", bytes(save(plain, metadata=header)))


def _keep(study_: Study, made: _Made) -> None:
    """Rows beside the weights, and a copy of both in this node's cache, for later studies."""
    schema = results.trial_schema({})
    verdict = study_.outcomes[made.trial]
    rows = [{k: v for k, v in r.items() if k in schema.names} for r in verdict]
    epochs = results.encode(study_.rows[made.trial], results.epoch_schema())
    name = f"models/{made.model_id}"
    study_.storage.write(f"{name}.epochs.parquet", epochs)
    study_.storage.write(f"{name}.trials.parquet", results.encode(rows, schema))
    _copy(made.model_id, study_.storage, Storage(files.cache_folder()))


def _reuse(study_: Study, made: _Made, progress: Progress) -> bool:
    """Return a model of the same recipe and seed that an earlier study trained: copied with its rows."""
    name = f"models/{made.model_id}"
    for place in _places(study_):
        if not place.exists(f"{name}.trials.parquet"):
            continue
        rows, _ = results.decode(place.read(f"{name}.trials.parquet"))
        epochs, _ = results.decode(place.read(f"{name}.epochs.parquet"))
        _copy(made.model_id, place, study_.storage)
        _copy(made.model_id, place, Storage(files.cache_folder()))
        origin = rows[-1]["study"]
        here = {
            "study": study_.name, "trial": made.trial, "method": made.method, "repeat": made.repeat,
        }  # fmt: skip
        epochs = [results.known_columns({**row, **here}, results.EPOCH_COLUMNS) for row in epochs]
        taken = {**here, "origin": made.origin, "reason": f"trained by study {origin}"}
        data_ = results.encode(epochs, results.epoch_schema())
        study_.storage.write(f"epochs/{made.trial}.0.parquet", data_)
        study_.rows[made.trial] = epochs
        study_.write_outcome(
            made.trial,
            [results.known_columns({**row, **taken}, results.TRIAL_COLUMNS) for row in rows],
        )
        what = "first stage" if made.method else "teacher"
        progress.say(f"{what} {made.model_id} reused from study {origin}")
        return True
    return False


def _copy(model_id: str, place: Storage, to: Storage) -> None:
    """Weights and rows of a model; the trials' rows last, since they say that all is there."""
    if place.uri != to.uri and not to.exists(f"models/{model_id}.trials.parquet"):
        for suffix in ("safetensors", "epochs.parquet", "trials.parquet"):
            name = f"models/{model_id}.{suffix}"
            to.write(name, place.read(name))


def _places(study_: Study) -> list[Storage]:
    """Where earlier models may lie: this node's cache, and the studies beside this one."""
    beside = study_.storage.parent()
    siblings = [beside.at(name) for name in beside.names("") if name != study_.name]
    return [Storage(files.cache_folder()), *siblings]
