"""The recipes of a study: pure functions of its manifest, its space and a trial's sampled values."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from tune_kd import plugins
from tune_kd.recipe import (
    Compute,
    Distill,
    Images,
    Quantize,
    Recipe,
    Stage,
    digest,
    rebuild,
    training_of,
)
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
        initial="" if chosen.teacher_weights == "none" else chosen.teacher_weights,
        compute=_compute(manifest),
        sources=_sources(manifest, chosen.task, chosen.teacher),
    )


def teacher_fingerprint(manifest: Mapping[str, Any], chosen: SearchSpace) -> str:
    """The name of the model that a study's trials listen to."""
    if manifest["teacher_hash"]:
        return digest("file", str(manifest["teacher_hash"]))  # as weights.file_fingerprint
    return teacher_recipe(manifest, chosen).fingerprint(manifest["seed"])


def student_recipe(
    manifest: Mapping[str, Any], chosen: SearchSpace, *, method: str, config: Mapping[str, Any]
) -> Recipe:
    """The recipe of a trial; one that listens to no teacher does not name it."""
    stages = chosen.stages(method, config)
    listens = any(stage.listens for stage in stages)
    # the same whether it listens or not: what trials share has one name
    used = (chosen.task, chosen.student, chosen.teacher, chosen.feature_loss, *references(stages))
    stages = tuple(_shipped(stage) for stage in stages)
    return Recipe(
        images=images_of(manifest),
        student=shipped(chosen.student),
        stages=stages,
        teacher=shipped(chosen.teacher) if listens else "",
        teacher_model=manifest["teacher_model"] if listens else "",
        start=manifest["start"]["model"] if chosen.starts(method) else "",
        compute=_compute(manifest),
        sources=_sources(manifest, *used),
    )


def _shipped(stage: Stage) -> Stage:
    """A stage whose losses are named as workers find them."""
    if isinstance(stage, Distill):
        logit, feature = shipped(stage.logit_loss), shipped(stage.feature_loss)
        return replace(stage, logit_loss=logit, feature_loss=feature)
    if isinstance(stage, Quantize) and stage.training is not None:
        training = _shipped(stage.training)
        assert isinstance(training, Distill)
        return replace(stage, training=training)
    return stage


def references(stages: Iterable[Stage]) -> list[str]:
    """The losses that stages name, each once; of a user's own `file.py:function`."""
    training = [found for stage in stages if (found := training_of(stage))]
    names = [name for stage in training for name in (stage.logit_loss, stage.feature_loss)]
    return [name for name in dict.fromkeys(names) if plugins.is_reference(name)]


def losses_of(chosen: SearchSpace) -> list[Distill]:
    """The training stages of all methods' settings, one of each pair of losses with their options."""
    training = [found for stage in _textbook_stages(chosen) if (found := training_of(stage))]
    return list(
        {
            (s.logit_loss, s.feature_loss, str(s.logit_options), str(s.feature_options)): s
            for s in training
        }.values()
    )


def shared_recipes(manifest: Mapping[str, Any], chosen: SearchSpace) -> dict[str, Recipe]:
    """What is trained once for all trials of a method, by method: its first stages."""
    found = {}
    for name, method in chosen.methods.items():
        if count := chosen.shared(name):
            book = method.settings()[0]
            recipe = student_recipe(manifest, chosen, method=name, config=book)
            found[name] = recipe.first(count)
    return found


def _textbook_stages(chosen: SearchSpace) -> list[Stage]:
    """Of each method's own settings, and of its textbook one with each choice that it may sample."""
    found: list[Stage] = []
    for name, method in chosen.methods.items():
        settings = method.settings()
        choices = [
            {**settings[0], key: value}
            for key, range_ in method.ranges.items()
            if isinstance(range_, CategoricalDistribution)
            for value in range_.choices
        ]
        found += [s for setting in (*settings, *choices) for s in chosen.stages(name, setting)]
    return found


def needs_teacher(chosen: SearchSpace) -> bool:
    """Whether any method listens to one."""
    return any(stage.listens for stage in _textbook_stages(chosen))


def uses_features(chosen: SearchSpace) -> bool:
    """Whether any method listens to the teacher's features."""
    training = [training_of(stage) for stage in _textbook_stages(chosen)]
    return any(found.weights.gamma > 0 for found in training if found)


def quantises(chosen: SearchSpace) -> bool:
    """Whether any method ends with integers."""
    return any(isinstance(stage, Quantize) for stage in _textbook_stages(chosen))


def compresses(chosen: SearchSpace) -> bool:
    """Whether any method prunes or quantises."""
    return any(not isinstance(stage, Distill) for stage in _textbook_stages(chosen))
