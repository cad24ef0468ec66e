"""What every shipped space promises: a new file of search_spaces/ is tested by being there."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.tables import TABLES
from tune_kd import data, losses, models, results, space, spaces, tasks, trial, weights
from tune_kd.options import SAMPLERS
from tune_kd.recipe import Images, Recipe, from_json, to_json
from tune_kd.sampler import sample

NAMES = spaces.names()
SPACES = {name: spaces.load(name)[0] for name in NAMES}
METHODS = [(name, method) for name in NAMES for method in SPACES[name].methods]
HEAVY = {"resnet18", "resnet8_wide"}  # more than ten seconds an epoch on a CPU core
CLASSES, EACH = 10, 6
LIMIT = CLASSES * EACH


def cost(name: str) -> pytest.MarkDecorator | tuple[()]:
    chosen = SPACES[name]
    heavy = HEAVY & {chosen.teacher, chosen.student}
    return pytest.mark.slow if heavy else ()


def images_folder(folder: Path, task: tasks.Task) -> Path:
    """Random images of the task's shape as Parquet, one shade a class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), EACH)
    encoded = []
    for label in labels:
        shape = (task.size, task.size, task.channels)
        noise = random.integers(0, 40, shape) + 20 * label
        pixels = noise.astype(np.uint8).squeeze()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(encoded, kind), "label": pa.array(labels)})
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def recipe_of(chosen: space.SearchSpace, folder: Path, cache: Path, **changes) -> Recipe:
    """A recipe over the folder's images."""
    task = tasks.find(chosen.task)
    decoded = tasks.decode(task, "train", folder=folder, cache=cache)
    fit, _ = data.split(decoded.labels, limit=LIMIT)
    mean, std = data.normalisation(task, decoded, fit)
    images = Images(
        task=chosen.task, train_hash=decoded.hash, num_classes=CLASSES, channels=task.channels,
        size=task.size, mean=mean, std=std, limit_train=LIMIT, pad=task.pad, flip=task.flip,
    )  # fmt: skip
    return Recipe(**{"images": images, "student": chosen.student, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_is_named_as_its_file_and_of_known_parts(name):
    chosen = SPACES[name]
    assert chosen.name == name
    task = tasks.find(chosen.task)
    shape = models.Shape(num_classes=task.num_classes or 10, channels=task.channels)
    sizes = {}
    for role in ("teacher", "student"):
        network = models.build(getattr(chosen, role), shape=shape, dropout=0.1)
        assert set(chosen.levels) <= set(network.taps)
        sizes[role] = sum(p.numel() for p in network.parameters())
    assert sizes["student"] < sizes["teacher"]
    losses.find_feature_loss(chosen.feature_loss)
    assert set(chosen.tables) <= set(TABLES)
    assert chosen.batch_size <= 256


@pytest.mark.parametrize("name", NAMES)
def test_has_the_baseline_first_and_a_budget_for_every_method(name):
    chosen = SPACES[name]
    assert next(iter(chosen.methods)) == "no_kd"
    (stage,) = chosen.stages("no_kd", chosen.methods["no_kd"].settings()[0])
    assert (stage.weights.beta, stage.weights.gamma) == (0, 0)
    assert chosen.trials % len(chosen.methods) == 0
    assert chosen.trials // len(chosen.methods) >= 8
    for method in chosen.methods.values():  # the baseline is tuned over the same ranges
        for shared in space.TRAINING:
            assert method.ranges[shared] == chosen.methods["no_kd"].ranges[shared]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_settings_lie_inside_the_ranges(name, method):
    chosen = SPACES[name].methods[method]
    for setting in chosen.settings():
        assert setting.keys() == chosen.ranges.keys()
        for key, (low, high, log) in space.bounds(chosen.ranges).items():
            assert low <= setting[key] <= high
            assert not log or low > 0
            assert low < high


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_stages_build_at_settings_corners_and_samples_and_survive_json(name, method):
    chosen = SPACES[name]
    known = chosen.methods[method]
    ends = space.bounds(known.ranges)
    corners = [{k: v[at] for k, v in ends.items()} for at in (0, 1)]
    corners = [{**known.settings()[0], **corner} for corner in corners]
    drawn = [
        sample(kind, [], dict(known.ranges), seed=seed) for kind in SAMPLERS for seed in range(20)
    ]
    images = Images(task=chosen.task, train_hash="x", num_classes=10)
    for config in [*known.settings(), *corners, *drawn]:
        stages = chosen.stages(method, config)
        assert stages == chosen.stages(method, dict(config))
        made = Recipe(images=images, student=chosen.student, stages=stages)
        assert from_json(to_json(made)) == made
        weights = stages[-1].weights
        if method == "response":
            assert math.isclose(weights.alpha + weights.beta, 1.0)
            assert weights.gamma == 0
        if method == "feature":
            assert (weights.alpha, weights.beta) == (1.0, 0.0)
        if method == "combined":
            assert min(weights.alpha, weights.beta, weights.gamma) > 0
        assert made.epochs == chosen.epochs


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


@pytest.mark.parametrize("name", [pytest.param(n, marks=cost(n)) for n in NAMES])
def test_teacher_and_every_method_train_and_their_weights_load_again(name, tmp_path):
    chosen = replace(SPACES[name], epochs=1, teacher_epochs=1, batch_size=16)
    folder = images_folder(tmp_path / "images", tasks.find(chosen.task))
    site = trial.Site(cache=tmp_path / "cache", data=folder, model=lambda _: tmp_path / "teacher")
    plain = recipe_of(chosen, folder, site.cache)

    def trained(recipe: Recipe) -> dict[str, torch.Tensor]:
        (report,) = trial.run(recipe, seed=0, site=site)
        assert report.last
        assert 0 <= report.values["val_accuracy"] <= 1
        assert math.isfinite(report.values["train_loss"])
        assert "test_accuracy" not in report.values
        state = {k[6:]: v for k, v in report.state.items() if k.startswith("model.")}
        fold = trial.fold(recipe.images, site, recipe.compute.layout)
        network = trial.build(recipe.student, recipe, site, seed=9)
        weights.checked_load(network, state, what="the trained network")
        accuracy, loss = trial.train.evaluate(network, fold.images, fold.validation)
        assert accuracy == report.values["val_accuracy"]
        assert loss == pytest.approx(report.values["val_loss"], rel=1e-6)
        return state

    state = trained(replace(plain, student=chosen.teacher, stages=chosen.teacher_stages()))
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "teacher")
    seen = set()
    for method, known in chosen.methods.items():
        stages = chosen.stages(method, known.settings()[0])
        state = trained(
            replace(plain, stages=stages, teacher=chosen.teacher, teacher_model="teacher")
        )
        network = trial.build(chosen.student, plain, site, seed=0)
        weights.checked_load(network, state, what=method)
        seen.add(weights.fingerprint(network))
    assert len(seen) == len(chosen.methods)  # each method trains another student
