"""How a student of a study is trained again: from fresh weights on, each stage as long as it was."""

from dataclasses import replace

from tune_kd.recipe import Recipe, Stage, stages_from_json
from tune_kd.study.proposal import Proposal
from tune_kd.study.recipe_builder import teacher_of
from tune_kd.study.study import Study
from tune_kd.study.trial_names import retry_number, retry_trial, shared_trial


def producing_trial(study: Study, name: str) -> str:
    """Return the trial that made a model, or the next try at it, where those before have failed."""
    trials = {p.trial for p in study.of("teacher")} | set(study.outcomes)
    numbers = {t: number for t in trials if (number := retry_number(t, trial=name))}
    for trial in sorted(numbers, key=lambda t: numbers[t]):
        if trial not in study.outcomes or study.outcomes[trial][-1]["status"] == "finished":
            return trial
    return retry_trial(name, len(numbers) + 1)


def refit_recipe(study: Study, source: Proposal) -> Recipe:
    """Return a search trial's recipe from fresh weights on.

    Stages that waited for validation to improve take the epochs that they took. What began from the
    student of an earlier study trains that student's stages as well, with this study's teacher;
    what began from a file begins from it again, and keeps its `start`.
    """
    recipe = source.recipe
    stages = _as_long(recipe.stages, _epochs(study, source))
    lead = study.manifest.start.stages if recipe.start else ""
    if not lead:
        return replace(recipe, stages=stages)
    first = stages_from_json(lead)
    if any(stage.needs_teacher for stage in first):
        teacher, model = teacher_of(study.manifest)
        recipe = replace(recipe, teacher=teacher, teacher_model=model)
    return replace(recipe, start="", stages=(*first, *stages))


def _epochs(study: Study, source: Proposal) -> dict[int, int]:
    """How many epochs each stage of a search trial took, those that it shared with others included."""
    trials = [source.trial]
    if source.shared:
        first = source.recipe.first(source.shared).recipe_id(source.seed)
        trials = [producing_trial(study, shared_trial(first)), *trials]
    epochs = {}
    for trial in trials:
        total = 0  # a row counts the epochs of its trial up to its stage's end
        for row in study.outcomes.get(trial, []):
            epochs[row["stage"]] = row["epochs"] - total
            total = row["epochs"]
    return epochs


def _as_long(stages: tuple[Stage, ...], epochs: dict[int, int]) -> tuple[Stage, ...]:
    return tuple(
        replace(stage, patience=0, stop_after=epochs.get(number, stage.epochs))
        if stage.training is stage and stage.patience
        else stage
        for number, stage in enumerate(stages)
    )
