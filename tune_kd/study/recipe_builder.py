"""The recipes of a study: pure functions of its manifest, its space and a trial's sampled values."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tune_kd import plugins
from tune_kd.recipe import Compute, Recipe, Stage, external_model_id
from tune_kd.space import SearchSpace, Training
from tune_kd.study.manifest import Manifest, Specification


def staged_reference(reference: str) -> str:
    """Return a user's reference as workers find it: the file's name within the study's own copies."""
    if not plugins.is_reference(reference):
        return reference
    file, _, function = reference.rpartition(":")
    return f"{Path(file).name}:{function}"


def _sources(specification: Specification, *references: str) -> tuple[str, ...]:
    """Hashes of the user's files that these references name: a recipe covers what it uses."""
    names = {Path(r.rpartition(":")[0]).name for r in references if plugins.is_reference(r)}
    return tuple(sorted(specification.sources[name] for name in names))


def _initial(training: Training) -> str:
    return "" if training.initial == "none" else training.initial


def teacher_recipe(specification: Specification, space: SearchSpace, *, compute: Compute) -> Recipe:
    """How a study's own teacher is trained: a recipe without a teacher."""
    return Recipe(
        images=specification.images,
        student=staged_reference(space.teacher.network),
        stages=space.teacher_stages(),
        initial=_initial(space.teacher),
        compute=compute,
        sources=_sources(specification, space.task, space.teacher.network),
    )


def teacher_model_id(specification: Specification, space: SearchSpace, *, compute: Compute) -> str:
    """Return the name of the model that a study's trials listen to."""
    if specification.teacher_hash:
        return external_model_id(specification.teacher_hash)
    recipe = teacher_recipe(specification, space, compute=compute)
    return recipe.recipe_id(specification.seed)


def teacher_of(manifest: Manifest) -> tuple[str, str]:
    """Return a study's teacher: the network as workers find it, and the id of the trained model."""
    return staged_reference(manifest.teacher), manifest.teacher_model


def student_recipe(
    manifest: Manifest, space: SearchSpace, *, method: str, config: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a trial; one that needs no teacher does not name it."""
    stages = space.stages(method, config)
    needs_teacher = any(stage.needs_teacher for stage in stages)
    teacher, student = space.teacher.network, space.student.network
    # the same with and without a teacher: what trials share has one name
    used = (space.task, student, teacher, space.feature_loss, *references(stages))
    stages = tuple(stage.with_references(staged_reference) for stage in stages)
    return Recipe(
        images=manifest.images,
        student=staged_reference(student),
        stages=stages,
        teacher=staged_reference(teacher) if needs_teacher else "",
        teacher_model=manifest.teacher_model if needs_teacher else "",
        start=manifest.start.model if space.starts(method) else "",
        initial=_initial(space.student),
        compute=manifest.compute,
        sources=_sources(manifest, *used),
    )


def references(stages: Iterable[Stage]) -> list[str]:
    """Return the user's own `file.py:function` that stages name, each once."""
    names = dict.fromkeys(name for stage in stages for name in stage.references)
    return [name for name in names if plugins.is_reference(name)]


def checked_stages(space: SearchSpace) -> list[Stage]:
    """One of each kind of stage that trials may have: of all settings, choices and ends of ranges.

    Stages that differ only in values, not in what they use, are one.
    """
    kinds: dict[str, Stage] = {}
    for name in space.methods:
        for setting in space.settings_to_check(name):
            for stage in space.stages(name, setting):
                kinds.setdefault(
                    repr((stage.kind, stage.needs, stage.references, _options(stage))), stage
                )
    return list(kinds.values())


def _options(stage: Stage) -> tuple[Mapping[str, Any], ...]:
    training = stage.training
    return (training.logit_options, training.feature_options) if training else ()


def shared_recipes(manifest: Manifest, space: SearchSpace) -> dict[str, Recipe]:
    """Return what is trained once for all trials of a method, by method: its first stages."""
    recipes = {}
    for name, method in space.methods.items():
        if count := space.shared(name):
            defaults = method.settings()[0]
            recipe = student_recipe(manifest, space, method=name, config=defaults)
            recipes[name] = recipe.first(count)
    return recipes
