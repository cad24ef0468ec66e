"""Recipes of several stages: pruned, quantized, resumed after any row, begun from what was trained once."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.helpers import making
from tune_kd.compress import pruning
from tune_kd.execution import worker
from tune_kd.measure import profile
from tune_kd.models import checkpoints
from tune_kd.recipe import (
    Compute,
    Distill,
    LossWeights,
    Optimizer,
    Prune,
    Quantize,
    Recipe,
    Transform,
    from_json,
    to_json,
)
from tune_kd.training import context, students, test_split, trial

CHANNELS, MAGNITUDE = Prune(method="channel", ratio=0.5), Prune(method="magnitude", ratio=0.5)
MEND = Distill(epochs=2, optimizer=Optimizer(lr=0.02), batch_size=64)
TAUGHT = replace(MEND, weights=making.WEIGHTS["response"])
WIDE = "digits_medium"  # enough channels to lose half of them


def recipe_of(*later, method="response", epochs=2) -> Recipe:
    recipe = making.recipe(method, epochs=epochs, student=WIDE)
    return replace(
        recipe,
        stages=(*recipe.stages, *later),
        teacher="digits_teacher",
        teacher_model=making.TEACHER,
    )


RECIPES = {
    "channels": recipe_of(CHANNELS, MEND),
    "weights": recipe_of(MAGNITUDE, TAUGHT),
    "gradually": recipe_of(CHANNELS, MEND, CHANNELS, TAUGHT),
    "both": recipe_of(CHANNELS, MEND, MAGNITUDE, MEND),
    "low rank": recipe_of(Transform(name="low_rank", options={"rank": 4}), MEND),
}
QUANTISED = {
    "static": recipe_of(Quantize(calibration_images=50)),
    "qat": recipe_of(Quantize(training=TAUGHT)),
}


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


def resume_run(recipe, ctx, part):
    last = part.rows[-1]
    resume = trial.Resume(
        stage=last["stage"], epoch=last["epoch"], step=last["step"], state=part.state
    )
    return making.run(recipe, ctx, resume=resume)


def sample(ctx) -> torch.Tensor:
    return context.sample_of(
        context.device_split(making.digits(limit_train=making.LIMIT), ctx, "contiguous")
    )


@pytest.mark.parametrize("name", RECIPES)
def test_stages_survive_json_and_have_a_row_each(ctx, name):
    recipe = RECIPES[name]
    assert from_json(to_json(recipe)) == recipe
    rows = making.run(recipe, ctx).rows
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["last"] for row in rows] == [False] * (len(rows) - 1) + [True]
    for number, stage in enumerate(recipe.stages):
        epochs = [row["epoch"] for row in rows if row["stage"] == number]
        assert epochs == (list(range(1, stage.epochs + 1)) or [0])


@pytest.mark.parametrize(
    "name", [*RECIPES, *(pytest.param(name, marks=pytest.mark.slow) for name in QUANTISED)]
)
def test_resumed_after_any_row_is_uninterrupted(tmp_path, name):
    recipe = {**RECIPES, **QUANTISED}[name]
    complete = making.run(recipe, making.context_in(tmp_path / "whole"))
    for after in range(1, len(complete.rows)):
        ctx = making.context_in(tmp_path / f"killed-{after}")
        part = making.run_until(recipe, ctx, after)
        remainder = resume_run(recipe, ctx, part)
        assert part.rows + remainder.rows == complete.rows
        making.assert_same_state(remainder.state, complete.state)


@pytest.mark.slow
def test_a_resumed_training_of_integers_keeps_the_zeros_of_earlier_pruning(tmp_path):
    recipe = replace(
        recipe_of(MAGNITUDE, Quantize(training=replace(MEND, epochs=3)), epochs=1),
        student="digits_student",
    )
    complete = making.run(recipe, making.context_in(tmp_path / "whole"))
    ctx = making.context_in(tmp_path / "killed")
    part = making.run_until(recipe, ctx, 3)
    remainder = resume_run(recipe, ctx, part)
    assert part.rows + remainder.rows == complete.rows
    making.assert_same_state(remainder.state, complete.state)


@pytest.mark.parametrize("name", ["channels", "weights", "gradually"])
def test_begun_from_the_shared_first_stage_is_trained_in_one_go(tmp_path, name):
    recipe = RECIPES[name]
    complete = making.run(recipe, making.context_in(tmp_path / "whole"))
    first = making.run(recipe.first(1), making.context_in(tmp_path / "first"))
    path = tmp_path / "shared.safetensors"
    path.write_bytes(plain(first.state))
    recipe_id = recipe.first(1).recipe_id(0)
    files = {recipe_id: path, making.TEACHER: making.teacher_file()}
    ctx = making.context_in(tmp_path / "rest", model=lambda model_id: files[model_id])
    remainder = making.run(recipe, ctx, resume=trial.Shared(stages=1))
    making.assert_same_state(remainder.state, complete.state)
    late = [row for row in complete.rows if row["stage"] > 0]
    assert [{**row, "step": 0} for row in remainder.rows] == [{**row, "step": 0} for row in late]
    assert [row["step"] for row in remainder.rows] == list(range(1, len(late) + 1))


def plain(state) -> bytes:
    return safetensors.torch.save({k[6:]: v for k, v in state.items() if k.startswith("model.")})


def test_the_first_stages_alone_name_no_teacher_that_only_later_ones_need():
    recipe = recipe_of(CHANNELS, TAUGHT, method="no_kd")
    assert recipe.first(1).teacher == recipe.first(1).teacher_model == ""
    assert recipe.first(3) == recipe
    same = replace(recipe_of(CHANNELS, MEND, method="no_kd"), teacher="", teacher_model="")
    assert recipe.first(1).recipe_id(0) == same.first(1).recipe_id(0)


def test_pruned_channels_are_gone_and_the_network_loads_again(ctx):
    recipe = RECIPES["channels"]
    result = making.run(recipe, ctx)
    before, cut, *_, after = (row for row in result.rows if row["epoch"] in (0, 2))
    assert cut["stage_name"] == "Prune"
    assert cut["num_params"] == after["num_params"] < 0.5 * before["num_params"]
    assert cut["size_mb"] < 0.6 * before["size_mb"]
    assert cut["flops"] < 0.5 * before["flops"]
    state = safetensors.torch.load(plain(result.state))
    fresh = students.rebuild_student(recipe, state, stages=3, ctx=ctx, sample=sample(ctx))
    assert profile.footprint(fresh)["num_params"] == after["num_params"]
    checkpoints.checked_load(fresh, state, source="again")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_residual_network_of_few_channels_left_trains(ctx, layout):
    """In channels_last oneDNN's backward pass of its strided 1x1 convolutions ended the process."""
    cut = Prune(method="channel", ratio=0.5)
    recipe = recipe_of(cut, MEND, cut, MEND, epochs=1)
    result = making.run(replace(recipe, student="resnet8", compute=Compute(layout=layout)), ctx)
    assert result.rows[-1]["num_params"] < result.rows[0]["num_params"] / 9
    assert [row["last"] for row in result.rows] == [False] * 6 + [True]


def test_zeros_stay_zero_while_the_network_recovers(ctx):
    recipe = RECIPES["weights"]
    result = making.run(recipe, ctx)
    first = next(row for row in result.rows if row["epoch"] == 0)
    last = result.rows[-1]
    assert first["nonzero_params"] == last["nonzero_params"] < 0.6 * last["num_params"]
    state = safetensors.torch.load(plain(result.state))
    fresh = students.rebuild_student(recipe, state, stages=3, ctx=ctx, sample=sample(ctx))
    assert pruning.nonzero_params(fresh) == last["nonzero_params"]


def slow_recipe() -> Recipe:
    """Return a recipe that learns too slowly for its patience."""
    optimizer = Optimizer(lr=1e-6, schedule="constant")
    return making.recipe("no_kd", epochs=12, optimizer=optimizer, patience=2)


def test_patience_ends_a_stage_and_confirming_trains_exactly_so_many(ctx):
    lazy = slow_recipe()
    result = making.run(lazy, ctx)
    values = [row["val_accuracy"] for row in result.rows]
    best = max(range(len(values)), key=lambda at: (values[at], -at))
    assert len(values) == best + 1 + 2 < 12
    assert result.rows[-1]["last"]
    stage = replace(lazy.stages[0], patience=0, stop_after=len(values))
    making.assert_same_state(making.run(replace(lazy, stages=(stage,)), ctx).state, result.state)


def test_patience_is_remembered_by_a_resumed_trial(tmp_path):
    lazy = slow_recipe()
    complete = making.run(lazy, making.context_in(tmp_path / "whole"))
    for after in range(1, len(complete.rows)):
        ctx = making.context_in(tmp_path / f"killed-{after}")
        part = making.run_until(lazy, ctx, after)
        assert part.rows + resume_run(lazy, ctx, part).rows == complete.rows


def test_patience_waits_for_nothing_where_nothing_is_held_out(ctx):
    images = making.digits(limit_train=making.LIMIT, fit_on="train+val")
    lazy = making.recipe("no_kd", epochs=4, optimizer=Optimizer(lr=1e-6), patience=1, images=images)
    assert len(making.run(lazy, ctx).rows) == 4


def test_a_clipped_gradient_is_no_longer_than_asked_for(ctx, monkeypatch):
    norms = []
    step = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    making.run(making.recipe("no_kd", epochs=1), ctx)
    unclipped, norms = norms, []
    making.run(making.recipe("no_kd", epochs=1, clip=0.2), ctx)
    assert max(unclipped) > 0.2
    assert max(norms) <= 0.2 * (1 + 1e-5)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_in_the_logit_cache_as_the_teacher_sees_them(tmp_path, mix):
    """To the cache's float16 its logits are the live teacher's of the same mixed images."""
    images = making.digits(limit_train=making.LIMIT, mix=mix)
    recipe = making.recipe("response", epochs=2, images=images)
    ctx = making.context_in(tmp_path / "cache")
    split = context.device_split(recipe.images, ctx, "contiguous")
    frozen = context.frozen_teacher(recipe, ctx)
    logit_cache = context.logit_cache(recipe, frozen, split, ctx=ctx)
    for epoch in (1, 2):
        batch = split.augmenter(0, epoch)(split.fit)
        live, _ = frozen.outputs(batch.images)
        assert torch.allclose(logit_cache.epoch(epoch).float(), live, atol=2e-2, rtol=2e-3)
        plain_ = context.device_split(making.digits(limit_train=making.LIMIT), ctx, "contiguous")
        assert not torch.equal(plain_.augmenter(0, epoch)(split.fit).images, batch.images)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_learned_with_both_labels_by_their_shares(ctx, mix):
    images = making.digits(limit_train=making.LIMIT, mix=mix)
    still = Optimizer(lr=1e-12, momentum=0.0, weight_decay=0.0)
    recipe = making.recipe("no_kd", epochs=1, images=images, optimizer=still, batch_size=1000)
    (row,) = making.run(recipe, ctx).rows
    split = context.device_split(images, ctx, "contiguous")
    network = students.initial_student(recipe, ctx, sample=sample(ctx), seed=0, shared=0).train()
    batch = split.augmenter(0, 1)(split.fit)
    chance = network(batch.images).log_softmax(1)
    loss, other_loss = (
        -chance.gather(1, side[:, None])[:, 0] for side in (batch.labels, batch.other)
    )
    expected = (batch.share * loss + (1 - batch.share) * other_loss).mean()
    assert row["hard_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert set(batch.other.tolist()) > {0, 1}
    assert 0.1 < float(batch.share.mean()) < 0.9


def test_an_opened_test_split_is_scored_after_every_stage_with_its_teacher(ctx):
    recipe = RECIPES["channels"]
    access = trial.TestAccess(reference=("digits_teacher", making.TEACHER))
    rows = making.run(recipe, ctx, access=access).rows
    ends = [row for row in rows if "test_accuracy" in row]
    assert [row["stage"] for row in ends] == [0, 1, 2]
    split = test_split.prepare(recipe, ctx, reference=None)
    network = context.load_model("digits_teacher", recipe, ctx, making.TEACHER)
    student = students.rebuild_student(
        recipe, _state(recipe, ctx), stages=3, ctx=ctx, sample=sample(ctx)
    )
    with torch.no_grad():
        images = split.images.images.plain_batch(split.images.fit)
        mine, theirs = (m.eval()(images.images).argmax(1) for m in (student, network))
    labels = images.labels
    last = ends[-1]
    assert last["test_accuracy"] == pytest.approx(float((mine == labels).double().mean()), abs=1e-9)
    assert last["test_agreement"] == pytest.approx(
        float((mine == theirs).double().mean()), abs=1e-9
    )
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, guess in zip(labels.tolist(), mine.tolist(), strict=True):
        counts[true, guess] += 1
    assert last["test_confusion"] == counts.flatten().tolist()


def _state(recipe, ctx):
    return safetensors.torch.load(plain(making.run(recipe, ctx).state))


def test_impossible_stages_say_the_rule():
    with pytest.raises(ValueError, match="0 < ratio < 1"):
        Prune(ratio=1.0)
    with pytest.raises(ValueError, match="prune method in"):
        Prune(method="random")
    with pytest.raises(ValueError, match="calibration_images >= 1"):
        Quantize(calibration_images=0)
    with pytest.raises(ValueError, match="gamma = 0"):
        Quantize(training=replace(MEND, weights=LossWeights(gamma=1.0)))


def test_a_worker_saves_a_pruned_network_with_its_shapes(ctx):
    recipe = RECIPES["channels"]
    state = making.run(recipe, ctx).state
    data = worker._save({k[6:]: v for k, v in state.items() if k.startswith("model.")})
    again = students.rebuild_student(
        recipe, checkpoints.parse(data, source="x"), stages=3, ctx=ctx, sample=sample(ctx)
    )
    assert isinstance(again, nn.Module)
