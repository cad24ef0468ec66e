"""A recipe from first to last: resumed, beside another, whatever the teacher, and the test split sealed."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.helpers import made_manifest, making
from tune_kd.data import classification, tasks
from tune_kd.errors import UsageError
from tune_kd.measure import profile
from tune_kd.models import registry
from tune_kd.recipe import Compute, LossWeights, Optimizer, Recipe
from tune_kd.space import loader
from tune_kd.study import recipe_builder
from tune_kd.training import context as places
from tune_kd.training import inference, trial

METHODS = list(making.WEIGHTS)
OPTIMISERS = {
    "sgd": Optimizer(lr=0.1, warmup_epochs=0.5),
    "adamw": Optimizer(name="adamw", lr=0.01, weight_decay=0.01),
    "plain sgd": Optimizer(lr=0.1, momentum=0.0, schedule="step", decay_at=(0.5,)),
}


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


def _resume_at(last, result):
    return trial.Resume(
        stage=last["stage"], epoch=last["epoch"], step=last["step"], state=result.state
    )


def _resume_run(recipe, ctx, part, *, seed=0, **options):
    """What a worker does after a kill: the last row's state from its bytes, in a fresh generator."""
    last = part.rows[-1]
    resume = _resume_at(last, part)
    return making.run(recipe, ctx, seed=seed, resume=resume, **options)


def _assert_resumes(recipe, tmp_path, *, after, seed=0):
    complete = making.run(recipe, making.context_in(tmp_path / "whole"), seed=seed)
    ctx = making.context_in(tmp_path / "killed")
    part = making.run_until(recipe, ctx, after, seed=seed)
    assert part.rows == complete.rows[:after]
    remainder = _resume_run(recipe, ctx, part, seed=seed)
    assert remainder.rows == complete.rows[after:]
    making.assert_same_state(remainder.state, complete.state)
    return complete


# Resumed is uninterrupted


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_uninterrupted(tmp_path, method, layout, optimizer):
    recipe = making.recipe(
        method,
        dropout=0.3,
        label_smoothing=0.1,
        optimizer=OPTIMISERS[optimizer],
        compute=Compute(layout=layout),
    )
    complete = _assert_resumes(recipe, tmp_path, after=2)
    assert any(name.startswith("projections.") for name in complete.last_of_training) == (
        method in ("feature", "combined")
    )


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_resumed_after_any_epoch_is_uninterrupted(tmp_path, after):
    _assert_resumes(making.recipe("combined", epochs=5, dropout=0.2), tmp_path, after=after, seed=7)


@pytest.mark.parametrize("method", ["response", "combined"])
def test_resumed_with_the_views_of_another_seed_is_uninterrupted(tmp_path, method):
    """As in all repeats but the first, whose weights and dropout have a seed of their own."""
    images = making.digits(limit_train=making.LIMIT, view_seed=3)
    recipe = making.recipe(method, epochs=4, dropout=0.2, images=images)
    _assert_resumes(recipe, tmp_path, after=2, seed=7)


def test_resumed_after_each_epoch_is_uninterrupted(tmp_path):
    recipe = making.recipe("combined", epochs=4, dropout=0.2)
    complete = making.run(recipe, making.context_in(tmp_path / "whole"))
    part = making.run_until(recipe, making.context_in(tmp_path / "parts"), 1)
    for epoch in (2, 3, 4):
        ctx, last = making.context_in(tmp_path / f"parts{epoch}"), part.rows[-1]
        resume = _resume_at(last, part)
        pairs = list(itertools.islice(making.reports(recipe, ctx, resume=resume), 1))
        part = making.RunResult([pairs[0][0]], [pairs[0][1]])
        assert part.rows[0] == complete.rows[epoch - 1]
    making.assert_same_state(part.state, complete.state)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_several_stages_resume_in_each(tmp_path, after):
    recipe = making.recipe("response", epochs=2, dropout=0.2)
    second = making.recipe("combined", epochs=3, optimizer=OPTIMISERS["adamw"]).stages[0]
    complete = _assert_resumes(
        replace(recipe, stages=(*recipe.stages, second)), tmp_path, after=after
    )
    assert [(r["stage"], r["epoch"], r["step"], r["last"]) for r in complete.rows] == [
        (0, 1, 1, False),
        (0, 2, 2, False),
        (1, 1, 3, False),
        (1, 2, 4, False),
        (1, 3, 5, True),
    ]


def test_a_network_of_residual_blocks_resumes(tmp_path):
    images = making.digits(limit_train=100)
    recipe = making.recipe(
        "combined", images=images, student="resnet8", dropout=0.2, levels=("high",)
    )
    _assert_resumes(replace(recipe, compute=Compute(layout="channels_last")), tmp_path, after=2)


@pytest.mark.parametrize("method", METHODS)
def test_resumed_in_bfloat16_is_uninterrupted(tmp_path, method):
    recipe = making.recipe(method, dropout=0.2, compute=Compute(precision="bfloat16"))
    _assert_resumes(recipe, tmp_path, after=2)


# Alone is beside


@pytest.mark.parametrize(("one", "other"), [("combined", "combined"), ("response", "no_kd")])
def test_beside_another_a_trial_is_as_if_alone(tmp_path, one, other):
    first = making.recipe(one, dropout=0.3)
    second = making.recipe(other, dropout=0.1, batch_size=32, optimizer=OPTIMISERS["adamw"])
    alone = [
        making.run(recipe, making.context_in(tmp_path / f"alone{seed}"), seed=seed)
        for seed, recipe in enumerate((first, second))
    ]
    ctx = making.context_in(tmp_path / "beside")
    turns = [making.reports(recipe, ctx, seed=seed) for seed, recipe in enumerate((first, second))]
    pairs = list(zip(*turns, strict=True))
    for number in (0, 1):
        turn = [pair[number] for pair in pairs]
        making.assert_same(
            making.RunResult([r for r, _ in turn], [s for _, s in turn]), alone[number]
        )


@pytest.mark.parametrize("method", METHODS)
def test_no_global_random_number_is_drawn_or_seeded(ctx, method):
    torch.manual_seed(11)
    np.random.seed(12)  # noqa: NPY002 - the global state is what must stay as it is
    random.seed(13)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    one = making.run(making.recipe(method, dropout=0.2), ctx)
    assert torch.equal(torch.get_rng_state(), before[0])
    now = np.random.get_state()  # noqa: NPY002
    assert now[0] == before[1][0]
    assert np.array_equal(now[1], before[1][1])
    assert now[2:] == before[1][2:]
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    making.assert_same(making.run(making.recipe(method, dropout=0.2), ctx), one)


def test_a_seed_gives_one_student_and_another_another(ctx):
    recipe = making.recipe("combined", dropout=0.2)
    one, same, other = (making.run(recipe, ctx, seed=seed) for seed in (4, 4, 5))
    making.assert_same(one, same)
    assert recipe.recipe_id(4) != recipe.recipe_id(5)
    assert other.rows != one.rows
    assert not torch.equal(other.state["model.fc.weight"], one.state["model.fc.weight"])


# The teacher matters where it is listened to


def test_a_baseline_does_not_depend_on_the_teacher(tmp_path):
    def nobody(model_id):
        raise AssertionError("the baseline asked for a model")

    recipe = making.recipe("no_kd")
    ctx = making.context_in(tmp_path / "one", model=nobody)
    one = making.run(recipe, ctx)
    assert not (ctx.cache / "logits").exists()
    with_teacher = replace(recipe, teacher="digits_teacher", teacher_model="any")
    making.assert_same(
        making.run(with_teacher, making.context_in(tmp_path / "other", model=nobody)), one
    )


def test_a_searchs_baseline_names_no_teacher_so_its_recipe_id_is_the_same_for_all():

    space, _ = loader.load("digits_kd")
    ids = {}
    for teacher in ("aaaa", "bbbb"):
        manifest = made_manifest.manifest(teacher_model=teacher)
        for method in space.methods:
            config = space.methods[method].settings()[0]
            recipe = recipe_builder.student_recipe(manifest, space, method=method, config=config)
            ids.setdefault(method, set()).add(recipe.recipe_id(0))
    assert {method: len(names) for method, names in ids.items()} == {
        "no_kd": 1,
        "response": 2,
        "feature": 2,
        "combined": 2,
    }


def test_another_teacher_gives_another_distilled_student(tmp_path):
    other = safetensors.torch.load_file(making.teacher_file())
    other["fc.weight"].neg_()
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    ctx = making.context_in(tmp_path / "cache", model=lambda _: tmp_path / "other.safetensors")
    for method in ("response", "combined"):
        recipe = making.recipe(method, epochs=1)
        one = making.run(recipe, making.context_in(tmp_path / "one"))
        assert making.run(recipe, ctx).rows[0]["soft_loss"] != one.rows[0]["soft_loss"]


def test_without_beta_and_gamma_distillation_is_training_on_labels(tmp_path):
    weights = LossWeights(alpha=1.0, beta=0.0, gamma=0.0, temperature=7.0)
    recipe = making.recipe("response", weights=weights, dropout=0.2, levels=("high",))
    with_teacher = replace(recipe, teacher="digits_teacher", teacher_model=making.TEACHER)
    plain = making.run(making.recipe("no_kd", dropout=0.2), making.context_in(tmp_path / "one"))
    making.assert_same(making.run(with_teacher, making.context_in(tmp_path / "two")), plain)


@pytest.mark.parametrize("method", ["response", "feature", "combined"])
def test_a_teacher_changes_the_student(ctx, method):
    plain = making.run(making.recipe("no_kd", epochs=1), ctx)
    student = making.run(making.recipe(method, epochs=1), ctx)
    assert not torch.equal(student.state["model.fc.weight"], plain.state["model.fc.weight"])


USER = """
from torch import nn

from tune_kd.models import registry

def net(num_classes, channels, dropout):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, num_classes))

class Turned(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def load_state_dict(self, state, **options):
        return self.inner.load_state_dict(state, **options)

    def state_dict(self, **options):
        return self.inner.state_dict(**options)

    def forward(self, x):
        return SIGN * self.inner(x)

def teacher(num_classes, channels):
    return Turned(registry.build("digits_teacher", shape=registry.Shape(num_classes=10, channels=1)))
"""


def test_a_users_network_resumes_with_its_dropout(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    plain = making.recipe(student="user.py:net", epochs=3, dropout=0.4)
    still = replace(plain, stages=(*plain.stages, replace(plain.stages[0], epochs=2, dropout=0.0)))
    for recipe, after in ((plain, 1), (still, 1), (still, 4)):
        ctx = making.context_in(tmp_path / "cache", code=tmp_path)
        complete = making.run(recipe, ctx)
        part = making.run_until(recipe, ctx, after)
        remainder = _resume_run(recipe, ctx, part)
        assert part.rows + remainder.rows == complete.rows
        making.assert_same_state(remainder.state, complete.state)


# What is reported


def test_the_last_report_has_the_measurements_and_only_it(ctx):
    recipe = making.recipe("feature")
    rows = making.run(recipe, ctx).rows
    assert [row["last"] for row in rows] == [False, False, True]
    assert ["num_params" in row for row in rows] == [False, False, True]
    assert all("val_accuracy" in row and "test_accuracy" not in row for row in rows)
    student = registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))
    size = profile.footprint(student)  # without the projections
    assert {name: rows[-1][name] for name in size} == size


def test_a_recipe_without_stages_measures_what_it_starts_from(ctx):
    recipe = Recipe(images=making.digits(), student="digits_teacher", start=making.TEACHER)
    (row,) = making.run(recipe, ctx, access=trial.TestAccess()).rows
    assert (row["epoch"], row["step"], row["last"], row["stage_name"]) == (0, 0, True, "Measure")
    split = places.device_split(recipe.images, ctx, "contiguous")
    model = places.load_model("digits_teacher", recipe, ctx, making.TEACHER)
    expected = inference.evaluate(model, split, split.validation)
    assert (row["val_accuracy"], row["val_loss"]) == (expected.accuracy, expected.loss)
    assert 0.5 < row["test_accuracy"] < 1
    assert row["nonzero_params"] == row["num_params"]
    assert row["flops"] > 0


def test_a_recipe_may_begin_with_a_trained_model(ctx):
    still = Optimizer(lr=1e-30, momentum=0.0, weight_decay=0.0)  # too little to move a weight
    recipe = making.recipe(student="digits_teacher", epochs=1, optimizer=still)
    state = making.run(replace(recipe, start=making.TEACHER), ctx).state
    weights = safetensors.torch.load_file(making.teacher_file())
    for name in ("stage1.0.weight", "stage3.1.bias", "fc.weight"):
        assert torch.equal(state[f"model.{name}"], weights[name])


def test_images_that_are_not_the_studys_are_refused(ctx):
    recipe = making.recipe(images=making.digits(train_hash="other"))
    with pytest.raises(ValueError, match="are not the study's"):
        making.run(recipe, ctx)


# The test split is sealed


def _folder(path, *, garbage):
    """Digits as class folders of 12 training and 8 test images; garbage cannot be read."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label in range(3):
            place = path / split / "abc"[label]
            place.mkdir(parents=True)
            for number in range(count):
                file = place / f"{number:02d}.png"
                pixels = random.integers(60 * label, 60 * label + 130, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
                if garbage and split == "test":
                    file.write_bytes(b"this is no image")
    return path


def _from_folder(folder, cache):
    decoded = tasks.decode(tasks.find("digits"), "train", folder=folder, cache=cache)
    images = making.digits(train_hash=decoded.hash, num_classes=3)
    ctx = trial.NodeContext(cache=cache, data=folder)
    return making.recipe(images=images, batch_size=10, epochs=2), ctx


def test_a_search_never_opens_a_test_file(tmp_path):
    recipe, ctx = _from_folder(_folder(tmp_path / "data", garbage=True), tmp_path / "cache")
    for path in (ctx.data / "test").rglob("*.png"):
        assert path.read_bytes() == b"this is no image"
    rows = making.run(recipe, ctx).rows
    assert len(rows) == 2
    assert not list(ctx.cache.glob("data/*-test-*"))
    with pytest.raises(UsageError, match=r"test.*is not a readable image"):
        making.run(recipe, ctx, access=trial.TestAccess())


# Which images


def test_confirming_fits_on_all_images_and_validates_on_none(ctx):
    search = places.device_split(making.digits(), ctx, "contiguous")
    confirm = places.device_split(making.digits(fit_on="train+val"), ctx, "contiguous")
    assert confirm.fit.tolist() == list(range(1257))
    assert not len(confirm.validation)
    assert sorted([*search.fit.tolist(), *search.validation.tolist()]) == list(range(1257))
    subset = places.device_split(
        making.digits(fit_on="train+val", limit_train=300), ctx, "contiguous"
    )
    parts = places.device_split(making.digits(limit_train=300), ctx, "contiguous")
    assert subset.fit.tolist() == sorted([*parts.fit.tolist(), *parts.validation.tolist()])
    recipe = making.recipe("response", images=making.digits(fit_on="train+val", limit_train=300))
    result = making.run(recipe, ctx, seed=1000, access=trial.TestAccess())
    assert not any("val_accuracy" in row for row in result.rows)
    assert result.rows[-1]["test_accuracy"] > 0


def test_validation_images_are_never_trained_on(ctx, monkeypatch):
    indices = set()
    batch = classification.ClassificationImages.batch

    def spy(self, index, view=None):
        if view is not None:
            indices.update(index.tolist())
        return batch(self, index, view)

    monkeypatch.setattr(classification.ClassificationImages, "batch", spy)
    making.run(making.recipe("combined", epochs=4, batch_size=16), ctx)
    split = places.device_split(making.digits(limit_train=making.LIMIT), ctx, "contiguous")
    assert indices == set(split.fit.tolist())


# Training trains


def test_a_teacher_of_ten_epochs_knows_its_digits(ctx):
    recipe = making.recipe(
        student="digits_teacher", epochs=10, images=making.digits(), optimizer=Optimizer(lr=0.05)
    )
    rows = making.run(recipe, ctx).rows
    assert rows[-1]["val_accuracy"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
