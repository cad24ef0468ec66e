"""What a study's repeats have in common, and what each of them has of its own."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import making
from tune_kd.study.proposal import repeat_seed
from tune_kd.training import loop, teacher

SEEDS = [repeat_seed(0, repeat) for repeat in range(3)]


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


def _recipe(method="no_kd", *, view_seed=0, **changes):
    images = making.digits(limit_train=making.LIMIT, view_seed=view_seed, flip=True)
    return making.recipe(method, **{"epochs": 2, "dropout": 0.5, "images": images, **changes})


def _batches(recipe, ctx, seed, monkeypatch):
    """Each training batch of a run: which images, and how they were seen."""
    bench, batches = making.bench(recipe, ctx, seed=seed), []
    images = bench.work.split.images
    batch = images.batch

    def spy(index, view=None):
        if view is not None:
            batches.append((index.tolist(), view.tolist()))
        return batch(index, view)

    monkeypatch.setattr(images, "batch", spy)
    for _ in loop.train(bench.work, bench.learner):
        pass
    return batches


def _views_by_image(batches):
    return {
        image: view for images, views in batches for image, view in zip(images, views, strict=True)
    }


def test_repeats_see_the_same_views_in_the_same_order(ctx, monkeypatch):
    runs = [_batches(_recipe(), ctx, seed, monkeypatch) for seed in SEEDS]
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 2 * (270 // 64)
    # of an image: other views in the two epochs
    first, second = _views_by_image(runs[0][:4]), _views_by_image(runs[0][4:])
    assert any(first[index] != second[index] for index in first.keys() & second.keys())


def test_other_views_come_in_another_order(ctx, monkeypatch):
    first, *_ = _batches(_recipe(), ctx, 0, monkeypatch)
    other, *_ = _batches(_recipe(view_seed=1000), ctx, 0, monkeypatch)
    assert first[0] != other[0]  # the images
    views, other_views = _views_by_image([first]), _views_by_image([other])
    common = views.keys() & other_views.keys()
    assert any(views[image] != other_views[image] for image in common)


def _weights(recipe, ctx, seed):
    learner = making.bench(recipe, ctx, seed=seed).learner
    projections = {f"projection.{k}": v for k, v in learner.projections.state_dict().items()}
    return {k: v.clone() for k, v in {**learner.model.state_dict(), **projections}.items()}


def test_repeats_begin_with_weights_and_projections_of_their_own(ctx):
    one, other, views = (
        _weights(_recipe("feature", view_seed=view_seed), ctx, seed)
        for seed, view_seed in ((SEEDS[0], 0), (SEEDS[1], 0), (SEEDS[0], 1000))
    )
    names = [name for name, value in one.items() if name.endswith("weight") and value.dim() > 1]
    assert any(name.startswith("projection.") for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)
    assert all(torch.equal(one[name], views[name]) for name in one)


def _dropped_units(ctx, *, seed, view_seed=0):
    """Which units the first batch drops, of one network whatever the seeds are."""
    bench = making.bench(_recipe(view_seed=view_seed), ctx, seed=seed)
    same = making.bench(_recipe(), ctx, seed=0).learner.model.state_dict()
    bench.learner.model.load_state_dict(same)
    masks = []

    def look(module, arguments, output):
        """Where a unit is not 0 by itself: whether it was dropped, else unknown."""
        if module.training:
            masks.append(torch.where(arguments[0] != 0, (output == 0).double(), torch.nan))

    bench.learner.model.fc.dropout.register_forward_hook(look)
    next(loop.train(bench.work, bench.learner))
    return masks[0]


def test_repeats_drop_other_units_and_views_drop_none(ctx):
    one, again, other = (_dropped_units(ctx, seed=seed) for seed in (SEEDS[0], SEEDS[0], SEEDS[1]))
    assert torch.equal(one.nan_to_num(2), again.nan_to_num(2))
    mask = ~one.isnan() & ~other.isnan()
    assert mask.sum() > 100
    assert (one != other)[mask].any()
    views = _dropped_units(ctx, seed=SEEDS[0], view_seed=1000)
    mask = ~one.isnan() & ~views.isnan()
    assert torch.equal(one[mask], views[mask])


def test_repeats_share_one_tape_of_the_teacher(ctx, monkeypatch):
    batch_sizes = []
    outputs = teacher.FrozenTeacher.outputs

    def counting(self, images):
        batch_sizes.append(len(images))
        return outputs(self, images)

    monkeypatch.setattr(teacher.FrozenTeacher, "outputs", counting)
    first = making.run(_recipe("response"), ctx, seed=SEEDS[0])
    assert sum(batch_sizes) >= 2 * 270  # every fitted image in each of two epochs
    logit_cache = {file: file.read_bytes() for file in (ctx.cache / "logits").rglob("*.npy")}
    assert len(logit_cache) == 2
    assert len(list((ctx.cache / "logits").iterdir())) == 1
    batch_sizes.clear()
    second = making.run(_recipe("response"), ctx, seed=SEEDS[1])
    assert batch_sizes == []
    assert {
        file: file.read_bytes() for file in (ctx.cache / "logits").rglob("*.npy")
    } == logit_cache
    assert second.rows != first.rows
    # a confirming run has views of its own, and so a logit cache of its own
    making.run(_recipe("response", view_seed=1000), ctx, seed=1000)
    assert sum(batch_sizes) >= 2 * 270
    assert len(list((ctx.cache / "logits").iterdir())) == 2


def test_a_second_repeat_is_as_if_there_had_been_no_first(ctx, tmp_path):
    """It reads the logit cache that another has filled."""
    making.run(_recipe("response"), ctx, seed=SEEDS[0])
    second = making.run(_recipe("response"), ctx, seed=SEEDS[1])
    alone = making.run(_recipe("response"), making.context_in(tmp_path / "alone"), seed=SEEDS[1])
    making.assert_same(second, alone)


@pytest.mark.parametrize("method", making.WEIGHTS)
def test_a_recipe_and_its_seed_give_one_student(ctx, method):
    recipe = _recipe(method, view_seed=5)
    one, same = (making.run(recipe, ctx, seed=SEEDS[1]) for _ in range(2))
    making.assert_same(one, same)
    for other in (
        making.run(recipe, ctx, seed=SEEDS[2]),
        making.run(_recipe(method, view_seed=6), ctx, seed=SEEDS[1]),
    ):
        assert other.rows != one.rows
        assert not torch.equal(other.state["model.fc.weight"], one.state["model.fc.weight"])


def test_a_models_name_covers_its_views_and_its_seed():
    recipe = _recipe()
    other = replace(recipe, images=replace(recipe.images, view_seed=1))
    names = [r.recipe_id(seed) for r in (recipe, other) for seed in SEEDS]
    assert len(set(names)) == len(names) == 6


def test_the_first_repeat_is_what_a_study_of_one_repeat_would_be():
    assert repeat_seed(17, 0) == 17
    assert len({repeat_seed(seed, repeat) for seed in range(50) for repeat in range(5)}) == 250
