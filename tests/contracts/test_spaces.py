"""What every shipped space promises: a new file of search_spaces/ is tested by being there."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from safetensors.torch import save_file

from analysis.tables import TABLES
from tests import made_images
from tune_kd import data, losses, models, results, space, spaces, tasks, train, trial, worker
from tune_kd import site as places
from tune_kd.options import SAMPLERS
from tune_kd.recipe import (
    Distill,
    Images,
    Prune,
    Quantize,
    Recipe,
    from_json,
    reports_of,
    to_json,
    training_of,
)
from tune_kd.sampler import sample

NAMES = spaces.names()
SPACES = {name: spaces.load(name)[0] for name in NAMES}
METHODS = [(name, method) for name in NAMES for method in SPACES[name].methods]
LIGHT = {  # all methods of a space train within ten seconds on a CPU core
    "digits_teacher", "digits_student", "digits_medium", "resnet8", "resnet20", "resnet8x4",
    "resnet56", "lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_small",
}  # fmt: skip
SIDES = (48, 64)  # of these, far smaller than the tasks' own
FEW = {
    "epochs": 1, "teacher_epochs": 1, "finetune_epochs": 1, "batch_size": 6,
    "calibration_images": 12,
    "teacher_lr": 0.001,  # three steps at a real one leave a deep teacher with scores beyond float16
}  # fmt: skip


def cost(name: str) -> pytest.MarkDecorator | tuple[()]:
    """Spaces of bigger networks are slow, and those that export networks to quantise them."""
    chosen = SPACES[name]
    stages = [
        stage
        for method in chosen.methods
        for stage in chosen.whole_stages(method, chosen.methods[method].settings()[0])
    ]
    light = {chosen.teacher, chosen.student} <= LIGHT
    return () if light and not any(isinstance(s, Quantize) for s in stages) else pytest.mark.slow


def small(task: tasks.Task) -> tasks.Task:
    """The task with images that a CPU core trains on at once; those of one class are small already."""
    return replace(task, size=SIDES) if task.dense else task


def recipe_of(chosen: space.SearchSpace, folder: Path, cache: Path, **changes) -> Recipe:
    """A recipe over the folder's images."""
    task = tasks.find(chosen.task)
    decoded = tasks.decode(task, "train", folder=folder, cache=cache)
    fit, _ = data.split(decoded)
    mean, std = data.normalisation(task, decoded, fit)
    images = Images(
        task=chosen.task, train_hash=decoded.hash, num_classes=len(decoded.class_names),
        channels=task.channels, size=task.sides, mean=mean, std=std, pad=task.pad, flip=task.flip,
        dense=task.dense, scale=task.scale, mix=chosen.mix, mix_alpha=chosen.mix_alpha,
    )  # fmt: skip
    return Recipe(**{"images": images, "student": chosen.student, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_is_named_as_its_file_and_of_known_parts(name):
    chosen = SPACES[name]
    assert chosen.name == name
    chosen.check()
    task = tasks.find(chosen.task)
    shape = models.Shape(
        num_classes=task.num_classes or 10, channels=task.channels, size=task.sides
    )
    sizes = {}
    for role in ("teacher", "student"):
        network = models.build(getattr(chosen, role), shape=shape, dropout=0.1)
        assert set(chosen.levels) <= set(network.taps)
        assert hasattr(network, "coarse") == task.dense
        sizes[role] = sum(p.numel() for p in network.parameters())
    assert sizes["student"] < sizes["teacher"]
    losses.find_feature_loss(chosen.feature_loss)
    assert set(chosen.tables) <= set(TABLES)
    assert chosen.batch_size <= 256
    assert chosen.start == "none"  # a shipped space needs no file of anybody's


@pytest.mark.parametrize("name", NAMES)
def test_has_the_baseline_first_and_a_budget_for_every_method(name):
    chosen = SPACES[name]
    assert next(iter(chosen.methods)) == "no_kd"
    (stage,) = chosen.stages("no_kd", chosen.methods["no_kd"].settings()[0])
    assert (stage.weights.beta, stage.weights.gamma) == (0, 0)
    assert chosen.trials % len(chosen.methods) == 0
    assert chosen.trials // len(chosen.methods) >= 8
    baseline = chosen.methods["no_kd"]
    assert set(baseline.ranges) == set(space.TRAINING)
    for method in chosen.methods.values():
        own = {key: method.ranges.get(key) for key in space.TRAINING}
        if method.shared:  # one student for all trials: nothing of its training is searched
            assert own == dict.fromkeys(space.TRAINING)
        else:  # the baseline is tuned over the same ranges
            assert own == dict(baseline.ranges)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_settings_lie_inside_the_ranges(name, method):
    chosen = SPACES[name].methods[method]
    numbers = space.bounds(chosen.ranges)
    for setting in chosen.settings():
        assert setting.keys() == chosen.ranges.keys()
        for key, (low, high, log) in numbers.items():
            assert low <= setting[key] <= high
            assert not log or low > 0
            assert low < high
        for key in chosen.ranges.keys() - numbers.keys():
            assert isinstance(chosen.ranges[key], CategoricalDistribution)
            assert setting[key] in chosen.ranges[key].choices


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_stages_build_at_settings_corners_and_samples_and_survive_json(name, method):
    chosen = SPACES[name]
    known = chosen.methods[method]
    ends = space.bounds(known.ranges)
    corners = [{k: v[at] for k, v in ends.items()} for at in (0, 1)]
    corners = [{**known.settings()[0], **corner} for corner in corners]
    drawn = [
        sample(kind, [], dict(known.ranges), seed=seed).config
        for kind in SAMPLERS
        for seed in range(20)
    ]
    images = Images(task=chosen.task, train_hash="x", num_classes=10)
    first = chosen.stages(method, known.settings()[0])[: known.shared]
    for config in [*known.settings(), *corners, *drawn]:
        stages = chosen.stages(method, config)
        assert stages == chosen.stages(method, dict(config)) == chosen.whole_stages(method, config)
        made = Recipe(images=images, student=chosen.student, stages=stages)
        assert from_json(to_json(made)) == made
        assert stages[: known.shared] == first  # what all trials share does not vary
        main, *later = stages
        _assert_weights(method, main.weights)
        assert main.epochs == chosen.epochs
        _assert_pruned(config, later, finetune=chosen.finetune_epochs)
        quantised = [isinstance(stage, Quantize) for stage in stages]
        assert quantised == [False] * (len(stages) - 1) + [method in ("static", "qat")]
        if method == "qat":
            assert later[-1].training.weights == main.weights
            assert later[-1].epochs == chosen.finetune_epochs


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
    assert {mend.optimiser.lr for mend in mends} == {config["finetune_lr"]}
    assert {mend.listens for mend in mends} == {config.get("recover") == "teacher"}
    assert {mend.epochs for mend in mends} == {max(1, finetune // len(cuts))}


@pytest.mark.parametrize("name", NAMES)
def test_columns_and_optunas_json_hold_all_ranges(name):
    methods = SPACES[name].methods.values()
    types = {k: space.column_type(d) for m in methods for k, d in m.ranges.items()}
    for method in methods:
        row = {f"config.{k}": v for k, v in method.settings()[0].items()}
        (found,), _ = results.decode(results.encode([row], results.trial_schema(types)))
        assert {k: found[k] for k in row} == row
        for distribution in method.ranges.values():
            text = space.to_json(distribution)
            assert optuna.distributions.json_to_distribution(text) == distribution


TRAINED = [
    *(pytest.param(name, "cpu", marks=cost(name), id=name) for name in NAMES),
    *(pytest.param(name, "cuda", marks=pytest.mark.gpu, id=f"{name}-cuda") for name in NAMES),
]


@pytest.mark.parametrize(("name", "device"), TRAINED)
def test_teacher_and_every_method_train_and_their_weights_load_again(
    name, device, tmp_path, monkeypatch
):
    chosen = replace(SPACES[name], **FEW)
    monkeypatch.setitem(tasks.TASKS, chosen.task, small(tasks.TASKS[chosen.task]))
    folder = made_images.of_task(tasks.find(chosen.task), tmp_path / "set")
    site = trial.Site(
        cache=tmp_path / "cache",
        data=folder,
        device=device,
        model=lambda _: tmp_path / "teacher",
    )
    plain = recipe_of(chosen, folder, site.cache)
    state = _trained(replace(plain, student=chosen.teacher, stages=chosen.teacher_stages()), site)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "teacher")
    seen = set()
    trained = 0
    for method, known in chosen.methods.items():
        settings = known.settings()
        for config in settings if known.shared else settings[:1]:  # each way of pruning
            stages = chosen.whole_stages(method, config)
            made = replace(plain, stages=stages, teacher=chosen.teacher, teacher_model="teacher")
            seen.add(hashlib.sha256(worker._save(_trained(made, site))).hexdigest())
            trained += 1
    assert len(seen) == trained  # each method and setting trains another student


def _trained(recipe: Recipe, site: trial.Site) -> dict[str, torch.Tensor]:
    """The state of a recipe's last stage, which gives the same scores in a fresh network."""
    reports = list(trial.run(recipe, seed=0, site=site))
    assert len(reports) == sum(map(reports_of, recipe.stages))
    assert [r.last for r in reports] == [False] * (len(reports) - 1) + [True]
    before: dict[str, float] = {}
    for report in reports:
        stage = recipe.stages[report.stage]
        assert 0 <= report.values["val_accuracy"] <= 1
        assert recipe.images.dense == ("val_miou" in report.values)
        assert math.isfinite(report.values["val_loss"])
        if training_of(stage):
            assert math.isfinite(report.values["train_loss"])
        assert not [column for column in report.values if column.startswith("test_")]
        _assert_smaller(stage, before, report.values)
        before = report.values
    last = reports[-1]
    state = {k[6:]: v for k, v in last.state.items() if k.startswith("model.")}
    fold = places.fold(recipe.images, site, recipe.compute.layout)
    network = places.rebuilt(
        recipe, state, stages=len(recipe.stages), site=site, sample=places.sample_of(fold)
    )
    found = train.evaluate(network, fold, fold.validation)
    assert found.accuracy == last.values["val_accuracy"]
    assert found.loss == pytest.approx(last.values["val_loss"], rel=1e-6)
    assert not recipe.images.dense or found.miou == last.values["val_miou"]
    return state


def _assert_smaller(stage, before: dict[str, float], now: dict[str, float]) -> None:
    """What a stage of pruning or quantising does to the network."""
    if isinstance(stage, Prune) and stage.method == "channel":
        assert now["num_params"] < before["num_params"]
        assert now["flops"] < before["flops"]
    if isinstance(stage, Prune) and stage.method == "magnitude":
        assert now["num_params"] == before["num_params"]
        assert now["nonzero_params"] < before["nonzero_params"]
    if isinstance(stage, Quantize):
        assert now["size_mb"] < before["size_mb"] / 2
