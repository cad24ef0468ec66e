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
    made = making.recipe(method, epochs=epochs, student=WIDE)
    return replace(made, stages=(*made.stages, *later), teacher="digits_teacher", teacher_model=making.TEACHER)  # fmt: skip


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
def where(tmp_path):
    return making.context_in(tmp_path / "cache")


def resumed(made, where, killed):
    last = killed.rows[-1]
    resume = trial.Resume(
        stage=last["stage"], epoch=last["epoch"], step=last["step"], state=killed.state
    )
    return making.run(made, where, resume=resume)


def sample(where) -> torch.Tensor:
    return context.sample_of(
        context.fold(making.digits(limit_train=making.LIMIT), where, "contiguous")
    )


@pytest.mark.parametrize("name", RECIPES)
def test_stages_survive_json_and_have_a_row_each(where, name):
    made = RECIPES[name]
    assert from_json(to_json(made)) == made
    rows = making.run(made, where).rows
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["last"] for row in rows] == [False] * (len(rows) - 1) + [True]
    for number, stage in enumerate(made.stages):
        own = [row["epoch"] for row in rows if row["stage"] == number]
        assert own == (list(range(1, stage.epochs + 1)) or [0])


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_after_any_row_is_uninterrupted(tmp_path, name):
    made = RECIPES[name]
    whole = making.run(made, making.context_in(tmp_path / "whole"))
    for after in range(1, len(whole.rows)):
        where = making.context_in(tmp_path / f"killed-{after}")
        killed = making.run_until(made, where, after)
        rest = resumed(made, where, killed)
        assert killed.rows + rest.rows == whole.rows
        making.assert_same_state(rest.state, whole.state)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantized_recipe_resumed_after_any_row_is_uninterrupted(tmp_path, name):
    made = QUANTISED[name]
    whole = making.run(made, making.context_in(tmp_path / "whole"))
    for after in range(1, len(whole.rows)):
        where = making.context_in(tmp_path / f"killed-{after}")
        killed = making.run_until(made, where, after)
        rest = resumed(made, where, killed)
        assert killed.rows + rest.rows == whole.rows
        making.assert_same_state(rest.state, whole.state)


@pytest.mark.slow
def test_a_resumed_training_of_integers_keeps_the_zeros_of_earlier_pruning(tmp_path):
    made = replace(
        recipe_of(MAGNITUDE, Quantize(training=replace(MEND, epochs=3)), epochs=1),
        student="digits_student",
    )
    whole = making.run(made, making.context_in(tmp_path / "whole"))
    where = making.context_in(tmp_path / "killed")
    killed = making.run_until(made, where, 3)
    rest = resumed(made, where, killed)
    assert killed.rows + rest.rows == whole.rows
    making.assert_same_state(rest.state, whole.state)


@pytest.mark.parametrize("name", ["channels", "weights", "gradually"])
def test_begun_from_the_shared_first_stage_is_trained_in_one_go(tmp_path, name):
    made = RECIPES[name]
    whole = making.run(made, making.context_in(tmp_path / "whole"))
    first = making.run(made.first(1), making.context_in(tmp_path / "first"))
    kept = tmp_path / "shared.safetensors"
    kept.write_bytes(plain(first.state))
    named = made.first(1).recipe_id(0)
    files = {named: kept, making.TEACHER: making.teacher_file()}
    where = making.context_in(tmp_path / "rest", model=lambda model_id: files[model_id])
    rest = making.run(made, where, resume=trial.Shared(stages=1))
    making.assert_same_state(rest.state, whole.state)
    late = [row for row in whole.rows if row["stage"] > 0]
    assert [{**row, "step": 0} for row in rest.rows] == [{**row, "step": 0} for row in late]
    assert [row["step"] for row in rest.rows] == list(range(1, len(late) + 1))


def plain(state) -> bytes:
    return safetensors.torch.save({k[6:]: v for k, v in state.items() if k.startswith("model.")})


def test_the_first_stages_alone_name_no_teacher_that_only_later_ones_need():
    made = recipe_of(CHANNELS, TAUGHT, method="no_kd")
    assert made.first(1).teacher == made.first(1).teacher_model == ""
    assert made.first(3) == made
    same = recipe_of(CHANNELS, MEND, method="no_kd")
    assert made.first(1).recipe_id(0) == replace(same, teacher="", teacher_model="").first(1).recipe_id(0)  # fmt: skip


def test_pruned_channels_are_gone_and_the_network_loads_again(where):
    made = RECIPES["channels"]
    ran = making.run(made, where)
    before, cut, *_, after = (row for row in ran.rows if row["epoch"] in (0, 2))
    assert cut["stage_name"] == "Prune"
    assert cut["num_params"] == after["num_params"] < 0.5 * before["num_params"]
    assert cut["size_mb"] < 0.6 * before["size_mb"]
    assert cut["flops"] < 0.5 * before["flops"]
    state = safetensors.torch.load(plain(ran.state))
    fresh = students.rebuild_student(made, state, stages=3, ctx=where, sample=sample(where))
    assert profile.footprint(fresh)["num_params"] == after["num_params"]
    checkpoints.checked_load(fresh, state, what="again")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_residual_network_of_few_channels_left_trains(where, layout):
    """In channels_last oneDNN's backward pass of its strided 1x1 convolutions ended the process."""
    cut = Prune(method="channel", ratio=0.5)
    made = recipe_of(cut, MEND, cut, MEND, epochs=1)
    ran = making.run(replace(made, student="resnet8", compute=Compute(layout=layout)), where)
    assert ran.rows[-1]["num_params"] < ran.rows[0]["num_params"] / 9
    assert [row["last"] for row in ran.rows] == [False] * 6 + [True]


def test_zeros_stay_zero_while_the_network_recovers(where):
    made = RECIPES["weights"]
    ran = making.run(made, where)
    first = next(row for row in ran.rows if row["epoch"] == 0)
    last = ran.rows[-1]
    assert first["nonzero_params"] == last["nonzero_params"] < 0.6 * last["num_params"]
    fresh = students.rebuild_student(made, safetensors.torch.load(plain(ran.state)), stages=3, ctx=where, sample=sample(where))  # fmt: skip
    assert pruning.nonzero_params(fresh) == last["nonzero_params"]


def test_patience_ends_a_stage_and_confirming_trains_exactly_so_many(where):
    lazy = making.recipe("no_kd", epochs=12, optimizer=Optimizer(lr=1e-6, schedule="constant"), patience=2)  # fmt: skip
    ran = making.run(lazy, where)
    values = [row["val_accuracy"] for row in ran.rows]
    best = max(range(len(values)), key=lambda at: (values[at], -at))
    assert len(values) == best + 1 + 2 < 12
    assert ran.rows[-1]["last"]
    stage = replace(lazy.stages[0], patience=0, stop_after=len(values))
    making.assert_same_state(making.run(replace(lazy, stages=(stage,)), where).state, ran.state)


def test_patience_is_remembered_by_a_resumed_trial(tmp_path):
    lazy = making.recipe("no_kd", epochs=12, optimizer=Optimizer(lr=1e-6, schedule="constant"), patience=2)  # fmt: skip
    whole = making.run(lazy, making.context_in(tmp_path / "whole"))
    for after in range(1, len(whole.rows)):
        where = making.context_in(tmp_path / f"killed-{after}")
        killed = making.run_until(lazy, where, after)
        assert killed.rows + resumed(lazy, where, killed).rows == whole.rows


def test_patience_waits_for_nothing_where_nothing_is_held_out(where):
    images = making.digits(limit_train=making.LIMIT, fit_on="train+val")
    lazy = making.recipe("no_kd", epochs=4, optimizer=Optimizer(lr=1e-6), patience=1, images=images)
    assert len(making.run(lazy, where).rows) == 4


def test_a_clipped_gradient_is_no_longer_than_asked_for(where, monkeypatch):
    seen = []
    step = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        seen.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    making.run(making.recipe("no_kd", epochs=1), where)
    free, seen = seen, []
    making.run(making.recipe("no_kd", epochs=1, clip=0.2), where)
    assert max(free) > 0.2
    assert max(seen) <= 0.2 * (1 + 1e-5)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_on_the_tape_as_the_teacher_sees_them(tmp_path, mix):
    """Taped equals live, to the logit cache's float16, when student and teacher see the mixed image."""
    made = making.recipe("response", epochs=2, images=making.digits(limit_train=making.LIMIT, mix=mix))  # fmt: skip
    where = making.context_in(tmp_path / "cache")
    fold = context.fold(made.images, where, "contiguous")
    frozen = context.frozen_teacher(made, where)
    logit_cache = context.logit_cache(made, frozen, fold, ctx=where)
    for epoch in (1, 2):
        batch = fold.seen(0, epoch)(fold.fit)
        live, _ = frozen.outputs(batch.images)
        assert torch.allclose(logit_cache.epoch(epoch).float(), live, atol=2e-2, rtol=2e-3)
        plain_ = context.fold(making.digits(limit_train=making.LIMIT), where, "contiguous")
        assert not torch.equal(plain_.seen(0, epoch)(fold.fit).images, batch.images)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_learned_with_both_labels_by_their_shares(where, mix):
    images = making.digits(limit_train=making.LIMIT, mix=mix)
    still = Optimizer(lr=1e-12, momentum=0.0, weight_decay=0.0)
    made = making.recipe("no_kd", epochs=1, images=images, optimizer=still, batch_size=1000)
    (row,) = making.run(made, where).rows
    fold = context.fold(images, where, "contiguous")
    network = students.initial_student(made, where, sample=sample(where), seed=0, shared=0).train()
    batch = fold.seen(0, 1)(fold.fit)
    chance = network(batch.images).log_softmax(1)
    own, other = (-chance.gather(1, side[:, None])[:, 0] for side in (batch.labels, batch.other))
    expected = (batch.share * own + (1 - batch.share) * other).mean()
    assert row["hard_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert set(batch.other.tolist()) > {0, 1}
    assert 0.1 < float(batch.share.mean()) < 0.9


def test_an_opened_test_split_is_scored_after_every_stage_with_its_teacher(where):
    made = RECIPES["channels"]
    access = trial.TestAccess(reference=("digits_teacher", making.TEACHER))
    rows = making.run(made, where, access=access).rows
    ends = [row for row in rows if "test_accuracy" in row]
    assert [row["stage"] for row in ends] == [0, 1, 2]
    prepared = test_split.prepare(made, where, reference=None)
    network = context.load_model("digits_teacher", made, where, making.TEACHER)
    student = students.rebuild_student(
        made, _state(made, where), stages=3, ctx=where, sample=sample(where)
    )
    with torch.no_grad():
        images = prepared.images.images.plain_batch(prepared.images.fit)
        mine, theirs = (m.eval()(images.images).argmax(1) for m in (student, network))
    labels = images.labels
    last = ends[-1]
    assert last["test_accuracy"] == pytest.approx(float((mine == labels).double().mean()), abs=1e-9)
    assert last["test_agreement"] == pytest.approx(
        float((mine == theirs).double().mean()), abs=1e-9
    )
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, said in zip(labels.tolist(), mine.tolist(), strict=True):
        counts[true, said] += 1
    assert last["test_confusion"] == counts.flatten().tolist()


def _state(made, where):
    return safetensors.torch.load(plain(making.run(made, where).state))


def test_impossible_stages_say_the_rule():
    with pytest.raises(ValueError, match="0 < ratio < 1"):
        Prune(ratio=1.0)
    with pytest.raises(ValueError, match="prune method in"):
        Prune(method="random")
    with pytest.raises(ValueError, match="calibration_images >= 1"):
        Quantize(calibration_images=0)
    with pytest.raises(ValueError, match="gamma = 0"):
        Quantize(training=replace(MEND, weights=LossWeights(gamma=1.0)))


def test_a_worker_saves_a_pruned_network_with_its_shapes(where):
    made = RECIPES["channels"]
    state = making.run(made, where).state
    data = worker._save({k[6:]: v for k, v in state.items() if k.startswith("model.")})
    again = students.rebuild_student(
        made, checkpoints.parse(data, what="x"), stages=3, ctx=where, sample=sample(where)
    )
    assert isinstance(again, nn.Module)
