"""How a student of a study is trained again: from fresh weights on, each stage as long as it was."""

from dataclasses import replace

from tune_kd.recipe import Recipe, Stage, stages_from_json
from tune_kd.study.proposal import Proposal
from tune_kd.study.recipe_builder import teacher_of
from tune_kd.study.study import Study
from tune_kd.study.trial_names import retry_number, retry_trial, shared_trial


def producing_trial(known: Study, name: str) -> str:
    """Return the trial that made a model, or the next try at it, where those before have failed."""
    there = {p.trial for p in known.of("teacher")} | set(known.outcomes)
    numbers = {t: number for t in there if (number := retry_number(t, trial=name))}
    for trial in sorted(numbers, key=lambda t: numbers[t]):
        if trial not in known.outcomes or known.outcomes[trial][-1]["status"] == "finished":
            return trial
    return retry_trial(name, len(numbers) + 1)


def refit_recipe(known: Study, source: Proposal) -> Recipe:
    """Return a search trial's recipe from fresh weights on.

    Stages that waited for validation to improve take the epochs that they took. What began from the
    student of an earlier study trains that student's stages as well, with this study's teacher; what
    began from a file begins from it again, and keeps its `start`.
    """
    recipe = source.recipe
    stages = _as_long(recipe.stages, _epochs(known, source))
    lead = known.manifest.start.stages if recipe.start else ""
    if not lead:
        return replace(recipe, stages=stages)
    first = stages_from_json(lead)
    if any(stage.needs_teacher for stage in first):
        teacher, model = teacher_of(known.manifest)
        recipe = replace(recipe, teacher=teacher, teacher_model=model)
    return replace(recipe, start="", stages=(*first, *stages))


def _epochs(known: Study, source: Proposal) -> dict[int, int]:
    """How many epochs each stage of a search trial took, those that it shared with others included."""
    trials = [source.trial]
    if source.shared:
        first = source.recipe.first(source.shared).recipe_id(source.seed)
        trials = [producing_trial(known, shared_trial(first)), *trials]
    took = {}
    for trial in trials:
        before = 0  # a row counts the epochs of its trial up to its stage's end
        for row in known.outcomes.get(trial, []):
            took[row["stage"]] = row["epochs"] - before
            before = row["epochs"]
    return took


def _as_long(stages: tuple[Stage, ...], took: dict[int, int]) -> tuple[Stage, ...]:
    return tuple(
        replace(stage, patience=0, stop_after=took.get(number, stage.epochs))
        if stage.training is stage and stage.patience
        else stage
        for number, stage in enumerate(stages)
    )
