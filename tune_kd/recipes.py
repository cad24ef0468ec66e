"""The recipes of a study: pure functions of its manifest, its space and a trial's sampled values."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune_kd import plugins
from tune_kd.recipe import Compute, Images, LossWeights, Recipe, digest, rebuild
from tune_kd.space import SearchSpace


def shipped(reference: str) -> str:
    """A user's reference as workers find it: the file's name within the study's own copies."""
    if not plugins.is_reference(reference):
        return reference
    file, _, function = reference.rpartition(":")
    return f"{Path(file).name}:{function}"


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
