"""The recipes of a study: pure functions of its manifest, its space and a trial's sampled values."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune_kd import plugins
from tune_kd.recipe import (
    Compute,
    Images,
    Recipe,
    Stage,
    digest,
    rebuild,
)
from tune_kd.space import SearchSpace, Training


def staged_reference(reference: str) -> str:
    """Return a user's reference as workers find it: the file's name within the study's own copies."""
    if not plugins.is_reference(reference):
        return reference
    file, _, function = reference.rpartition(":")
    return f"{Path(file).name}:{function}"


def images_of(manifest: Mapping[str, Any]) -> Images:
    """Return the images of a study, its task named as workers find it."""
    found: Images = rebuild(Images, manifest["images"])
    return replace(found, task=staged_reference(found.task))


def _compute(manifest: Mapping[str, Any]) -> Compute:
    found: Compute = rebuild(Compute, manifest["compute"])
    return found


def _sources(manifest: Mapping[str, Any], *references: str) -> tuple[str, ...]:
    """Hashes of the user's files that these references name: a recipe covers what it uses."""
    names = {Path(r.rpartition(":")[0]).name for r in references if plugins.is_reference(r)}
    return tuple(sorted(manifest["sources"][name] for name in names))


def _initial(training: Training) -> str:
    return "" if training.initial == "none" else training.initial


def teacher_recipe(manifest: Mapping[str, Any], chosen: SearchSpace) -> Recipe:
    """How a study's own teacher is trained: a recipe without a teacher."""
    return Recipe(
        images=images_of(manifest),
        student=staged_reference(chosen.teacher.network),
        stages=chosen.teacher_stages(),
        initial=_initial(chosen.teacher),
        compute=_compute(manifest),
        sources=_sources(manifest, chosen.task, chosen.teacher.network),
    )


def teacher_fingerprint(manifest: Mapping[str, Any], chosen: SearchSpace) -> str:
    """Return the name of the model that a study's trials listen to."""
    if manifest["teacher_hash"]:
        return digest("file", str(manifest["teacher_hash"]))  # as weights.file_fingerprint
    return teacher_recipe(manifest, chosen).fingerprint(manifest["seed"])


def student_recipe(
    manifest: Mapping[str, Any], chosen: SearchSpace, *, method: str, config: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a trial; one that needs no teacher does not name it."""
    stages = chosen.stages(method, config)
    needs_teacher = any(stage.needs_teacher for stage in stages)
    teacher, student = chosen.teacher.network, chosen.student.network
    # the same with and without a teacher: what trials share has one name
    used = (chosen.task, student, teacher, chosen.feature_loss, *references(stages))
    stages = tuple(stage.with_references(staged_reference) for stage in stages)
    return Recipe(
        images=images_of(manifest),
        student=staged_reference(student),
        stages=stages,
        teacher=staged_reference(teacher) if needs_teacher else "",
        teacher_model=manifest["teacher_model"] if needs_teacher else "",
        start=manifest["start"]["model"] if chosen.starts(method) else "",
        initial=_initial(chosen.student),
        compute=_compute(manifest),
        sources=_sources(manifest, *used),
    )


def references(stages: Iterable[Stage]) -> list[str]:
    """Return the user's own `file.py:function` that stages name, each once."""
    names = dict.fromkeys(name for stage in stages for name in stage.references)
    return [name for name in names if plugins.is_reference(name)]


def checked_stages(chosen: SearchSpace) -> list[Stage]:
    """One of each kind of stage that trials may have: of all settings, choices and ends of ranges.

    Stages that differ only in values, not in what they use, are one.
    """
    kinds: dict[str, Stage] = {}
    for name in chosen.methods:
        for setting in chosen.settings_to_check(name):
            for stage in chosen.stages(name, setting):
                kinds.setdefault(
                    repr((stage.kind, stage.needs, stage.references, _options(stage))), stage
                )
    return list(kinds.values())


def _options(stage: Stage) -> tuple[Mapping[str, Any], ...]:
    training = stage.training
    return (training.logit_options, training.feature_options) if training else ()


def shared_recipes(manifest: Mapping[str, Any], chosen: SearchSpace) -> dict[str, Recipe]:
    """Return what is trained once for all trials of a method, by method: its first stages."""
    found = {}
    for name, method in chosen.methods.items():
        if count := chosen.shared(name):
            defaults = method.settings()[0]
            recipe = student_recipe(manifest, chosen, method=name, config=defaults)
            found[name] = recipe.first(count)
    return found
