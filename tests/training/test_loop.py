"""One training stage: schedules, batches, dropout, projections, feature losses, state."""

import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from tests.helpers import making
from tune_kd import losses
from tune_kd.execution import worker
from tune_kd.models.taps import Taps
from tune_kd.recipe import Compute, LossWeights, Optimizer
from tune_kd.training import context as places
from tune_kd.training import loop

FIT = 270  # of making.LIMIT images


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


def _train(bench, epochs_done=0):
    return [
        (e.number, e.values) for e in loop.train(bench.work, bench.learner, epochs_done=epochs_done)
    ]


# The lr


def test_cosine_by_hand():
    optimizer = Optimizer(lr=0.4)
    rates = [loop.learning_rate(optimizer, epochs=8, at=at) for at in (0, 1, 2, 4, 6, 8)]
    root = math.sqrt(0.5)
    expected = [0.4, 0.2 * (1 + math.cos(math.pi / 8)), 0.2 * (1 + root), 0.2, 0.2 * (1 - root), 0]
    assert rates == pytest.approx(expected, abs=1e-15)


def test_warm_up_rises_from_nothing_and_the_cosine_begins_after_it():
    optimizer = Optimizer(lr=0.4, warmup_epochs=2)
    rates = [loop.learning_rate(optimizer, epochs=10, at=at) for at in (0, 0.5, 1, 1.5, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.2, 0], abs=1e-15)


def test_steps_decay_at_fractions_of_the_epochs():
    optimizer = Optimizer(lr=1.0, schedule="step", decay_at=(0.5, 0.75), decay_factor=0.2)
    at = (0, 49.99, 50, 74.99, 75, 99.99)
    rates = [loop.learning_rate(optimizer, epochs=100, at=epoch) for epoch in at]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_a_constant_lr_stays_after_its_warm_up():
    optimizer = Optimizer(lr=0.3, schedule="constant", warmup_epochs=1, decay_at=(0.5,))
    rates = [loop.learning_rate(optimizer, epochs=4, at=at) for at in (0, 0.5, 1, 2, 3.9)]
    assert rates == pytest.approx([0, 0.15, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("warmup_epochs", [3.0, 9.0])
def test_a_warm_up_of_all_epochs_still_ends(warmup_epochs):
    optimizer = Optimizer(lr=0.3, warmup_epochs=warmup_epochs)
    rates = [loop.learning_rate(optimizer, epochs=3, at=at) for at in (0, 1, 2)]
    assert rates == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_epochs": 0.5},
        {"schedule": "step", "decay_at": (0.25, 0.5), "decay_factor": 0.5},
        {"schedule": "constant"},
    ],
)
def test_the_optimizer_moves_the_weights_by_the_lr_of_the_schedule(ctx, changes):
    optimizer = Optimizer(lr=0.2, momentum=0.0, nesterov=False, weight_decay=0.0, **changes)
    bench = making.bench(making.recipe(epochs=2, optimizer=optimizer), ctx)
    weight = bench.learner.model.fc.weight
    moves = []

    def before(*_):
        moves.append((weight.detach().clone(), weight.grad.clone()))

    def after(*_):
        start, gradient = moves[-1]
        moves[-1] = ((start - weight.detach()).norm() / gradient.norm()).item()

    bench.learner.optimizer.register_step_pre_hook(before)
    bench.learner.optimizer.register_step_post_hook(after)
    rows = _train(bench)
    steps = FIT // 64
    expected = [
        loop.learning_rate(optimizer, epochs=2, at=epoch + step / steps)
        for epoch in range(2)
        for step in range(steps)
    ]
    assert moves == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert [values["lr"] for _, values in rows] == pytest.approx(
        [expected[steps - 1], expected[-1]]
    )


def test_a_resumed_optimizer_follows_the_schedule(ctx):
    recipe = making.recipe(epochs=2, optimizer=Optimizer(name="adamw", lr=0.01))
    bench, other = making.bench(recipe, ctx), making.bench(recipe, ctx)
    next(loop.train(bench.work, bench.learner))
    other.learner.load(safetensors.torch.load(worker._save(bench.learner.state())))
    rates = []
    other.learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"].item())
    )
    _train(other, epochs_done=1)
    assert rates == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * (1 + step / 4) / 2)) for step in range(4)], rel=1e-5
    )


# Batches


def _spy_batches(bench, monkeypatch):
    """The training batches' images by index; evaluation asks for whole images and is left out."""
    batches, batch = [], bench.work.split.images.batch

    def spy(index, view=None):
        if view is not None:
            batches.append((index.tolist(), view.tolist()))
        return batch(index, view)

    monkeypatch.setattr(bench.work.split.images, "batch", spy)
    return batches


@pytest.mark.parametrize("batch_size", [64, 90, 200, 270, 1000])
def test_an_epoch_is_whole_batches_of_different_images(ctx, monkeypatch, batch_size):
    bench = making.bench(making.recipe(epochs=1, batch_size=batch_size), ctx)
    batches = _spy_batches(bench, monkeypatch)
    _train(bench)
    size = min(batch_size, FIT)
    assert [len(index) for index, _ in batches] == [size] * (FIT // size)
    indices = [i for index, _ in batches for i in index]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(bench.work.split.fit.tolist())


def test_the_images_left_out_are_others_in_each_epoch(ctx, monkeypatch):
    bench = making.bench(making.recipe(epochs=3), ctx)
    batches = _spy_batches(bench, monkeypatch)
    _train(bench)
    every = set(bench.work.split.fit.tolist())
    leftovers = [every - {i for index, _ in batches[k : k + 4] for i in index} for k in (0, 4, 8)]
    assert [len(one) for one in leftovers] == [14, 14, 14]
    assert leftovers[0] != leftovers[1]
    assert leftovers[1] != leftovers[2]
    assert batches[0][0] != batches[4][0]


def test_what_is_seen_of_an_image_depends_neither_on_batches_nor_on_the_subset(ctx, monkeypatch):
    def views(batch_size, limit):
        images = making.digits(limit_train=limit)
        bench = making.bench(making.recipe(epochs=2, batch_size=batch_size, images=images), ctx)
        batches = _spy_batches(bench, monkeypatch)
        _train(bench)
        half = len(batches) // 2
        return [
            {i: v for pair in part for i, v in zip(*pair, strict=True)}
            for part in (batches[:half], batches[half:])
        ]

    one, other, less = views(64, 300), views(17, 300), views(64, 200)
    for epoch in (0, 1):
        for two in (other, less):
            common = one[epoch].keys() & two[epoch].keys()
            assert len(common) > 20
            assert all(one[epoch][i] == two[epoch][i] for i in common)
    common = one[0].keys() & one[1].keys()
    assert any(one[0][i] != one[1][i] for i in common)


# Losses


def test_a_loss_that_is_not_finite_ends_the_stage(ctx):
    recipe = making.recipe(optimizer=Optimizer(lr=1e30, momentum=0.0))
    with pytest.raises(FloatingPointError, match="not finite in epoch 1"):
        _train(making.bench(recipe, ctx))


def test_the_first_batchs_loss_is_the_label_smoothed_one(ctx):
    def first(smoothing):
        bench = making.bench(
            making.recipe(epochs=1, batch_size=FIT, label_smoothing=smoothing), ctx
        )
        return bench, _train(bench)[0][1]["hard_loss"]

    bench, loss = first(0.3)
    split = bench.work.split
    model = making.bench(making.recipe(epochs=1), ctx).learner.model.train()
    with torch.no_grad():
        scores = model(split.augmenter(0, 1)(split.fit).images).log_softmax(1)
    exact = -scores[torch.arange(FIT), split.images.labels[split.fit]].mean().item()
    uniform = -scores.mean().item()
    assert loss == pytest.approx(0.7 * exact + 0.3 * uniform, rel=1e-5)
    assert first(0.0)[1] == pytest.approx(exact, rel=1e-5)


def test_rows_hold_the_weighted_sum_and_its_terms(ctx):
    _, values = _train(making.bench(making.recipe("combined", epochs=1), ctx))[0]
    weights = making.WEIGHTS["combined"]
    total = (
        weights.alpha * values["hard_loss"]
        + weights.beta * values["soft_loss"]
        + weights.gamma * values["feature_loss"]
    )
    assert values["train_loss"] == pytest.approx(total, rel=1e-5)
    assert min(values["hard_loss"], values["soft_loss"], values["feature_loss"]) > 0


@pytest.mark.parametrize(
    ("method", "absent"),
    [("no_kd", ("soft", "feature")), ("response", ("feature",)), ("feature", ("soft",))],
)
def test_a_term_without_weight_is_zero(ctx, method, absent):
    _, values = _train(making.bench(making.recipe(method, epochs=1), ctx))[0]
    assert all(values[f"{name}_loss"] == 0 for name in absent)


# Dropout


def test_dropout_is_applied_in_training_only(ctx):
    bench = making.bench(making.recipe(epochs=1, dropout=0.5), ctx)
    dropout = bench.learner.model.fc.dropout
    shares = {True: [], False: []}

    def look(module, args, output):
        shares[module.training].append(((output == 0) & (args[0] != 0)).float().mean().item())

    dropout.register_forward_hook(look)
    _train(bench)
    assert len(shares[True]) == FIT // 64
    assert all(0.3 < share < 0.7 for share in shares[True])
    assert shares[False] == [0.0]


def test_dropout_changes_training_and_its_numbers_change_with_the_epoch(ctx):
    def mask(epoch):
        bench = making.bench(making.recipe(epochs=1, dropout=0.5), ctx)
        masks = []
        bench.learner.model.fc.dropout.register_forward_hook(
            lambda module, args, output: masks.append(output == 0)
        )
        work = replace(bench.work, stage=replace(bench.work.stage, epochs=epoch))
        next(loop.train(work, bench.learner, epochs_done=epoch - 1))
        return masks[0]

    assert torch.equal(mask(1), mask(1))
    assert not torch.equal(mask(1), mask(2))
    with_it = making.run(making.recipe(dropout=0.5), ctx)
    without = making.run(making.recipe(), ctx)
    assert with_it.rows[0]["train_loss"] != without.rows[0]["train_loss"]


def test_the_order_of_images_does_not_depend_on_dropout(ctx, monkeypatch):
    batches = []
    for dropout in (0.0, 0.3):
        bench = making.bench(making.recipe(epochs=1, dropout=dropout), ctx)
        batches.append(_spy_batches(bench, monkeypatch))
        _train(bench)
    assert batches[0] == batches[1]


# Projections and feature losses


@pytest.mark.parametrize("method", ["feature", "combined"])
def test_projections_are_trained_and_belong_to_the_state(ctx, method):
    optimizer = Optimizer(lr=0.1, weight_decay=0.0)
    bench = making.bench(making.recipe(method, epochs=1, optimizer=optimizer), ctx)
    before = {k: v.clone() for k, v in bench.learner.projections.state_dict().items()}
    assert sorted(before) == sorted(
        f"levels.{level}.{part}" for level in ("low", "mid", "high") for part in ("weight", "bias")
    )
    ids = {id(p) for group in bench.learner.optimizer.param_groups for p in group["params"]}
    parameters = [*bench.learner.model.parameters(), *bench.learner.projections.parameters()]
    assert ids == {id(p) for p in parameters}
    _train(bench)
    state = bench.learner.state()
    for name, start in before.items():
        assert not torch.equal(state[f"projections.{name}"], start), name
    momenta = [name for name in state if name.endswith(".momentum_buffer")]
    assert len(momenta) == len(parameters)


def test_without_a_feature_term_there_are_no_projections(ctx):
    bench = making.bench(making.recipe("response", epochs=1), ctx)
    assert not list(bench.learner.projections.parameters())
    assert not [name for name in bench.learner.state() if name.startswith("projections")]


def test_the_feature_term_alone_trains_the_student_below_its_taps(ctx):
    only = LossWeights(alpha=0.0, gamma=1.0)
    optimizer = Optimizer(lr=0.1, weight_decay=0.0)
    recipe = making.recipe("feature", weights=only, epochs=2, optimizer=optimizer)
    bench = making.bench(recipe, ctx)
    before = {k: v.clone() for k, v in bench.learner.model.state_dict().items()}
    rows = _train(bench)
    after = bench.learner.model.state_dict()
    for name in ("stage1.0.weight", "stage2.0.weight", "stage3.0.weight"):
        assert not torch.equal(after[name], before[name])
    assert torch.equal(after["fc.weight"], before["fc.weight"])
    assert rows[1][1]["feature_loss"] < rows[0][1]["feature_loss"]


def test_levels_choose_what_is_compared(ctx):
    bench = making.bench(making.recipe("feature", epochs=1, levels=("high",)), ctx)
    assert {name.split(".")[1] for name in bench.learner.projections.state_dict()} == {"high"}
    _train(bench)


USERS = """\
import torch
CALLS = []

def loss(student, teacher, batch):
    CALLS.append((student, teacher, batch))
    return (student.logits - teacher.logits).pow(2).mean()

def wrong(student, teacher, batch):
    return student.logits
"""


def test_a_users_feature_loss_gets_both_networks_and_the_batch(tmp_path):
    (tmp_path / "mine.py").write_text(USERS)
    ctx = making.context_in(tmp_path / "cache", code=tmp_path)
    recipe = making.recipe("feature", epochs=1, feature_loss="mine.py:loss", levels=("high",))
    bench = making.bench(recipe, ctx)
    (_, values), *_ = _train(bench)
    calls = (
        losses.find_feature_loss("mine.py:loss", base=tmp_path)
        .function.args[0]
        .__globals__["CALLS"]
    )
    assert len(calls) == FIT // 64
    augment = bench.work.split.augmenter(0, 1)
    network = places.load_model("digits_teacher", recipe, ctx, making.TEACHER).eval()
    for student, teacher, batch in calls:
        assert student.logits.shape == teacher.logits.shape == (64, 10)
        assert student.logits.requires_grad
        assert not teacher.logits.requires_grad
        assert student.features["high"].shape == teacher.features["high"].shape
        assert torch.equal(batch.images, augment(batch.index).images)
        assert torch.equal(batch.labels, bench.work.split.images.labels[batch.index])
        with torch.no_grad(), Taps(network, ["high"]) as taps:
            assert torch.equal(
                teacher.logits, network(batch.images)
            )  # live, not from a logit cache
        assert torch.equal(teacher.features["high"], taps.features["high"])
    expected = sum((s.logits - t.logits).pow(2).mean().item() for s, t, _ in calls) / len(calls)
    assert values["feature_loss"] == pytest.approx(expected, rel=1e-5)


def test_trial_run_finds_a_users_feature_loss(tmp_path):
    from tune_kd.errors import UsageError

    (tmp_path / "mine.py").write_text(USERS)
    ctx = making.context_in(tmp_path / "cache", code=tmp_path)
    recipe = making.recipe("feature", epochs=1, feature_loss="mine.py:loss")
    assert making.run(recipe, ctx).rows[0]["feature_loss"] > 0
    with pytest.raises(UsageError, match="returned shape"):
        making.run(making.recipe("feature", epochs=1, feature_loss="mine.py:wrong"), ctx)


# The learner's state


def _strides(tensor):
    """Without those of single rows, which mean nothing."""
    return [step for step, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_learners_state_survives_its_way_over_the_disk(ctx, name, layout):
    recipe = making.recipe(
        "combined",
        epochs=1,
        optimizer=Optimizer(name=name, lr=0.01),
        compute=Compute(layout=layout),
    )
    one, other = making.bench(recipe, ctx), making.bench(recipe, ctx, seed=1)
    _train(one)
    data = worker._save(one.learner.state())
    other.learner.load(safetensors.torch.load(data))
    assert worker._save(other.learner.state()) == data
    slots = one.learner.optimizer.state, other.learner.optimizer.state
    for mine, its in zip(one.learner.parameters, other.learner.parameters, strict=True):
        assert _strides(mine) == _strides(its)
        for slot, value in slots[0][mine].items():
            assert torch.equal(slots[1][its][slot], value)
            assert _strides(slots[1][its][slot]) == _strides(value)
            assert slots[1][its][slot].dtype == value.dtype


def test_a_state_is_that_of_its_epoch_once_it_is_saved(ctx):
    bench = making.bench(making.recipe(epochs=2), ctx)
    work = loop.train(bench.work, bench.learner)
    next(work)
    first = worker._save(bench.learner.state())
    next(work)
    assert worker._save(bench.learner.state()) != first
