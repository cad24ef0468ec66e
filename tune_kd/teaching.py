"""The teacher that all trials of a study listen to: imported, found beside earlier studies, or trained."""

import json
from dataclasses import replace
from pathlib import Path

from tune_kd import recipes, results, runner, sampler, weights, worker
from tune_kd.opening import Request, base_config
from tune_kd.progress import Progress
from tune_kd.session import CannotGoOnError, Session
from tune_kd.storage import Storage
from tune_kd.study import Proposal, Study


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
    recipe = recipes.teacher_recipe(study_.manifest, request.space)
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
        raise CannotGoOnError(f"the teacher failed: {row['reason']}")
    if not request.teacher:
        _keep(study_, proposal.trial, fingerprint)


def _import_teacher(study_: Study, file: Path, fingerprint: str) -> None:
    """A foreign checkpoint becomes the study's teacher; nothing of it is unpickled."""
    from safetensors.torch import save

    plain = {name: value.contiguous() for name, value in weights.load_weights(file).items()}
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
