"""What every shipped space promises: a new file of search_spaces/ is tested by being there."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from analysis import report
from analysis.study import load
from analysis.tables.common import TABLES
from tests.helpers import made_images, made_study
from tune_kd import losses
from tune_kd.compress import int8
from tune_kd.data import tasks
from tune_kd.execution import worker
from tune_kd.models import checkpoints, registry
from tune_kd.recipe import (
    Distill,
    Images,
    Prune,
    Quantize,
    Recipe,
    from_json,
    to_json,
)
from tune_kd.space import SearchSpace, distributions, loader, overrides
from tune_kd.space.method import TRAINING
from tune_kd.study import recipe_builder, results
from tune_kd.study.proposal import Proposal, repeat_seed
from tune_kd.study.study import Study
from tune_kd.study.trial_names import search_trial
from tune_kd.training import context as places
from tune_kd.training import inference, students, test_split, trial
from tune_kd.tuning.samplers import random_config, sample
from tune_kd.workflows import checks, confirm_plan, prerequisites
from tune_kd.workflows.options import SAMPLERS

NAMES = loader.names()
SPACES = {name: loader.load(name)[0] for name in NAMES}
METHODS = [(name, method) for name in NAMES for method in SPACES[name].methods]
LIGHT = {  # all methods of a space train within ten seconds on a CPU core
    "digits_teacher",
    "digits_student",
    "digits_medium",
    "resnet8",
    "resnet20",
    "resnet8x4",
}
SIDES = (48, 64)  # of these, far smaller than the tasks' own
FEW = {
    "student.epochs": 1,
    "teacher.epochs": 1,
    "finetune_epochs": 1,
    "student.batch_size": 6,
    "teacher.batch_size": 6,
    "calibration_images": 12,
    # three steps at a real one leave a deep teacher with scores beyond float16
    "teacher.optimizer.lr": 0.001,
}


def cost(name: str) -> list[pytest.MarkDecorator]:
    """Spaces of bigger networks are slow, and those that export networks to quantize them.

    Those that compress a big one take minutes.
    """
    space = SPACES[name]
    stages = [
        stage
        for method in space.methods
        for stage in space.whole_stages(method, space.methods[method].settings()[0])
    ]
    light = {space.teacher.network, space.student.network} <= LIGHT
    if light and not any(isinstance(stage, Quantize) for stage in stages):
        return []
    return [pytest.mark.slow] + [pytest.mark.long] * (space.compresses and not light)


def small(task: tasks.Task) -> tasks.Task:
    """The task with images that a CPU core trains on at once; those of one class are small already."""
    return replace(task, size=SIDES) if task.dense else task


@pytest.mark.parametrize("name", NAMES)
def test_is_named_as_its_file_and_of_known_parts(name):
    space = SPACES[name]
    assert space.name == name
    space.check()
    task = tasks.find(space.task)
    shape = registry.Shape(
        num_classes=task.num_classes or 10, channels=task.channels, size=task.sides
    )
    sizes = {}
    for role in ("teacher", "student"):
        network = registry.build(getattr(space, role).network, shape=shape, dropout=0.1)
        assert set(space.levels) <= set(network.taps)
        assert hasattr(network, "coarse") == task.dense
        sizes[role] = sum(p.numel() for p in network.parameters())
    assert sizes["student"] < sizes["teacher"]
    losses.find_feature_loss(space.feature_loss)
    assert set(space.tables) <= set(TABLES)
    assert max(space.student.batch_size, space.teacher.batch_size) <= 256
    assert space.start == "none"  # a shipped space needs no file of anybody's


@pytest.mark.parametrize("name", NAMES)
def test_has_the_baseline_first_and_a_budget_for_every_method(name, tmp_path):
    space = SPACES[name]
    assert next(iter(space.methods)) == "no_kd"
    (stage,) = space.stages("no_kd", space.methods["no_kd"].settings()[0])
    assert (stage.weights.beta, stage.weights.gamma) == (0, 0)
    # searches enough for a verdict about a method, each of trials enough to find something
    budget = checks.budget(made_study.request(tmp_path, space=space))
    assert budget.repeats >= confirm_plan.MIN_REPEATS
    assert 5 <= budget.each <= 8
    assert budget.of_method * len(space.methods) == space.trials  # nothing is rounded
    baseline = space.methods["no_kd"]
    assert set(baseline.ranges) == set(TRAINING)
    for method in space.methods.values():
        ranges = {key: method.ranges.get(key) for key in TRAINING}
        if method.shared:  # one student for all trials: nothing of its training is searched
            assert ranges == dict.fromkeys(TRAINING)
        else:  # the baseline is tuned over the same ranges
            assert ranges == dict(baseline.ranges)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_settings_lie_inside_the_ranges(name, method):
    spec = SPACES[name].methods[method]
    numbers = distributions.bounds(spec.ranges)
    for setting in spec.settings():
        assert setting.keys() == spec.ranges.keys()
        for key, (low, high, log) in numbers.items():
            assert low <= setting[key] <= high
            assert not log or low > 0
            assert low < high
        for key in spec.ranges.keys() - numbers.keys():
            assert isinstance(spec.ranges[key], CategoricalDistribution)
            assert setting[key] in spec.ranges[key].choices


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_stages_build_at_settings_corners_and_samples_and_survive_json(name, method):
    space = SPACES[name]
    spec = space.methods[method]
    ends = distributions.bounds(spec.ranges)
    corners = [{k: v[at] for k, v in ends.items()} for at in (0, 1)]
    corners = [{**spec.settings()[0], **corner} for corner in corners]
    samples = [
        sample(kind, [], dict(spec.ranges), seed=seed).config
        for kind in SAMPLERS
        if kind != "random"
        for seed in range(20)
    ]
    samples += [random_config(spec.ranges, seed=seed) for seed in range(20)]
    images = Images(task=space.task, train_hash="x", num_classes=10)
    first = space.stages(method, spec.settings()[0])[: spec.shared]
    for config in [*spec.settings(), *corners, *samples]:
        stages = space.stages(method, config)
        assert stages == space.stages(method, dict(config)) == space.whole_stages(method, config)
        recipe = Recipe(images=images, student=space.student.network, stages=stages)
        assert from_json(to_json(recipe)) == recipe
        assert stages[: spec.shared] == first  # what all trials share does not vary
        main, *later = stages
        _assert_weights(method, main.weights)
        assert main.epochs == space.student.epochs
        _assert_pruned(config, later, finetune=space.finetune_epochs)
        quantized = [isinstance(stage, Quantize) for stage in stages]
        assert quantized == [False] * (len(stages) - 1) + [method in ("static", "qat")]
        if method == "qat":
            assert later[-1].training.weights == main.weights
            assert later[-1].epochs == space.finetune_epochs


def _assert_weights(method: str, weights) -> None:
    """The loss of a method's main stage."""
    if method in ("response", "static", "qat", "kd+prune"):
        assert math.isclose(weights.alpha + weights.beta, 1.0)
        assert weights.beta > 0
        assert weights.gamma == 0
    if method in ("no_kd", "prune"):
        assert (weights.alpha, weights.beta, weights.gamma) == (1.0, 0.0, 0.0)
    if method == "feature":
        assert (weights.alpha, weights.beta) == (1.0, 0.0)
        assert weights.gamma > 0
    if method == "combined":
        assert min(weights.alpha, weights.beta, weights.gamma) > 0


def _assert_pruned(config, later, *, finetune: int) -> None:
    """As many steps as asked for take the asked-for share of all, each mended in its part of the epochs."""
    cuts = [stage for stage in later if isinstance(stage, Prune)]
    assert len(cuts) == config.get("prune_steps", 0)
    if not cuts:
        return
    assert [type(stage) for stage in later] == [Prune, Distill] * len(cuts)
    assert {cut.method for cut in cuts} == {config["prune_method"]}
    assert math.prod(1 - cut.ratio for cut in cuts) == pytest.approx(1 - config["prune_ratio"])
    mends = [stage for stage in later if isinstance(stage, Distill)]
    assert {mend.optimizer.lr for mend in mends} == {config["finetune_lr"]}
    assert {mend.needs_teacher for mend in mends} == {config.get("recover") == "teacher"}
    assert {mend.epochs for mend in mends} == {max(1, finetune // len(cuts))}


@pytest.mark.parametrize("name", NAMES)
def test_columns_and_optunas_json_hold_all_ranges(name):
    methods = SPACES[name].methods.values()
    types = {k: distributions.column_type(d) for m in methods for k, d in m.ranges.items()}
    for method in methods:
        row = {f"config.{k}": v for k, v in method.settings()[0].items()}
        (stored,), _ = results.decode(results.encode([row], results.trial_schema(types)))
        assert {k: stored[k] for k in row} == row
        for distribution in method.ranges.values():
            text = distributions.to_json(distribution)
            assert optuna.distributions.json_to_distribution(text) == distribution


TRAINED = [
    *(pytest.param(name, "cpu", marks=cost(name), id=name) for name in NAMES),
    *(pytest.param(name, "cuda", marks=pytest.mark.gpu, id=f"{name}-cuda") for name in NAMES),
]


@pytest.mark.parametrize(("name", "device"), TRAINED)
def test_every_method_trains_is_confirmed_and_reported_and_its_weights_load_again(
    name, device, tmp_path, monkeypatch, capsys
):
    """All but the search: of that there are rows, made up, for each way of a method's settings."""
    space = overrides.with_fields(SPACES[name], FEW)
    monkeypatch.setitem(tasks.TASKS, space.task, small(tasks.TASKS[space.task]))
    request = made_study.request(
        tmp_path / name,
        space=space,
        file=loader.load(name)[1],
        data=made_images.of_task(tasks.find(space.task), tmp_path / "set"),
    )
    study = made_study.begin(request, checks.prepare_data(request))
    folder = study.storage.local
    ctx = trial.NodeContext(
        cache=tmp_path / "cache",
        data=request.data,
        device=device,
        model=lambda model_id: folder / f"models/{model_id}.safetensors",
    )
    _run(study, _teacher(study, space), ctx)
    for proposal in _search_proposals(study, space):
        study.add(proposal)
        for row in _stage_rows(study, proposal):
            study.on_report(row)
        study.end(proposal.trial, "finished")
    design = confirm_plan.design(study, seeds=1, defaults=False)
    teacher, *planned = confirm_plan.confirmations(study, design)
    winners = [p for p in planned if "best" in p.origin.split("+")]
    assert {p.source for p in winners} == {p.trial for p in study.of("search")}
    recommended = {p.method: p for p in reversed(planned) if p.origin == "recommended"}
    assert recommended.keys() == space.methods.keys()
    # each method and setting trains another student, and each seed
    run = [*winners, *recommended.values()]
    assert len({_run(study, proposal, ctx) for proposal in run}) == len(run)
    _run(study, teacher, ctx)
    assert study.storage.names("students", ".safetensors") == sorted(
        f"{proposal.trial}.safetensors" for proposal in recommended.values()
    )

    assert report.main([str(folder)]) == 0
    output, page = capsys.readouterr().out, (folder / "report/report.md").read_text()
    for method in ("teacher", *space.methods):
        assert re.search(rf"\|[^|]*\b{re.escape(method)}\b.*\(n = 1\)", output), output
    for table in space.tables:
        title, content = TABLES[table](load(str(folder)))
        assert len(content) > 0
        assert title in page


def _teacher(study: Study, space: SearchSpace) -> Proposal:
    name = prerequisites.teacher_trial_of(study)
    recipe = recipe_builder.teacher_recipe(study.manifest, space, compute=study.manifest.compute)
    assert recipe.recipe_id(0) == study.manifest.teacher_model
    return Proposal(
        trial=name, phase="teacher", method="", number=0, seed=0, origin="default", recipe=recipe
    )


def _search_proposals(study: Study, space: SearchSpace) -> Iterator[Proposal]:
    """Of each method the trial with the default settings, and where a method prunes one for each other setting.

    Each stands for a repeat of its own, so that all of them are winners.
    """
    for method, spec in space.methods.items():
        settings = spec.settings() if spec.shared else spec.settings()[:1]
        for number, config in enumerate(settings):
            yield Proposal(
                trial=search_trial(method, number, number),
                phase="search",
                method=method,
                repeat=number,
                number=number,
                seed=repeat_seed(0, number),
                origin="published" if number else "default",
                recipe=recipe_builder.student_recipe(
                    study.manifest, space, method=method, config=config
                ),
                config=config,
                shared=space.shared(method),
            )


def _stage_rows(study: Study, proposal: Proposal) -> Iterator[results.Row]:
    """A row a stage, the trial with the default settings the best."""
    stages = proposal.recipe.stages
    for step, stage in enumerate(stages):
        yield made_study.row(
            study,
            proposal,
            step + 1,
            0.5 - 0.01 * proposal.number,
            stage=step,
            stage_name=type(stage).__name__,
            epoch=stage.epochs,
            last=step == len(stages) - 1,
            val_miou=0.5,
        )


def _run(study: Study, proposal: Proposal, ctx: trial.NodeContext) -> str:
    """Run a proposal as a worker does, its rows and weights kept; a hash of the last stage's state."""
    recipe, seed = proposal.recipe, proposal.seed
    study.add(proposal)
    reference = (study.manifest.teacher, study.manifest.teacher_model)
    access = trial.TestAccess(reference=reference) if proposal.open_test else None
    rows: list[results.Row] = []
    before: dict[str, float] = {}
    for epoch_report in trial.run(recipe, seed=seed, ctx=ctx, access=access):
        row = worker._row(proposal, epoch_report, attempt="1-made", ctx=ctx, study_name=study.name)
        rows.append(worker._commit(study.storage, proposal, epoch_report, row, rows))
        study.on_report(rows[-1])
        stage = recipe.stages[epoch_report.stage] if recipe.stages else None
        _assert_measured(recipe, epoch_report.values, "test" if access else "val")
        if stage is not None and stage.training:
            assert math.isfinite(epoch_report.values["train_loss"])
        _assert_smaller(stage, before, epoch_report.values)
        before = epoch_report.values
    study.end(proposal.trial, "finished")
    assert len(rows) == max(1, sum(stage.reports for stage in recipe.stages))
    assert [row["last"] for row in rows] == [False] * (len(rows) - 1) + [True]
    if recipe.stages and proposal.keeps_weights:
        _assert_loads(study, proposal, ctx, rows[-1])
    return hashlib.sha256(worker._save(epoch_report.state)).hexdigest()


def _assert_measured(recipe: Recipe, values: dict[str, float], split: str) -> None:
    """The sealed split has columns where it is opened, and only there; what is fitted on has none."""
    splits = {"val": recipe.images.fit_on == "train", "test": split == "test"}
    for name, expected in splits.items():
        assert expected == (f"{name}_accuracy" in values)
        assert (expected and recipe.images.dense) == (f"{name}_miou" in values)
        if expected and name == split:
            assert 0 <= values[f"{name}_accuracy"] <= 1
    assert (split == "test") == ("test_agreement" in values)


def _assert_loads(
    study: Study, proposal: Proposal, ctx: trial.NodeContext, last: results.Row
) -> None:
    """The weights on disk give the same scores in a fresh network."""
    recipe = proposal.recipe
    file = study.storage.local / worker._weights_name(proposal)
    device_split = places.device_split(recipe.images, ctx, recipe.compute.layout)
    network = students.rebuild_student(
        recipe,
        checkpoints.load_weights(file),
        stages=len(recipe.stages),
        ctx=ctx,
        sample=places.sample_of(device_split),
    )
    ctx = replace(ctx, device="cpu") if int8.is_int8(network) else ctx
    if proposal.open_test:
        scores, split = test_split.prepare(recipe, ctx, reference=None).evaluate(network), "test"
    else:
        scores, split = inference.evaluate(network, device_split, device_split.validation), "val"
    values = scores.values(split, dense=recipe.images.dense)
    assert values.pop(f"{split}_loss") == pytest.approx(last[f"{split}_loss"], rel=1e-6)
    assert values == {name: last[name] for name in values}


def _assert_smaller(stage, before: dict[str, float], now: dict[str, float]) -> None:
    """What a stage of pruning or quantizing does to the network."""
    if isinstance(stage, Prune) and stage.method == "channel":
        assert now["num_params"] < before["num_params"]
        assert now["flops"] < before["flops"]
    if isinstance(stage, Prune) and stage.method == "magnitude":
        assert now["num_params"] == before["num_params"]
        assert now["nonzero_params"] < before["nonzero_params"]
    if isinstance(stage, Quantize):
        assert now["size_mb"] < before["size_mb"] / 2
