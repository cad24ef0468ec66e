"""Evaluation: in evaluation mode, over every image once, whatever the batches are."""

import pytest
import torch

from tests.helpers import making
from tune_kd.data import splits
from tune_kd.models import checkpoints
from tune_kd.training import inference, loop


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


def test_evaluation_is_in_evaluation_mode_over_every_image_once(ctx):
    bench = making.bench(making.recipe(epochs=1, dropout=0.5), ctx)
    model, split = bench.learner.model, bench.work.split
    list(loop.train(bench.work, bench.learner))
    model.train()
    before = checkpoints.tensor_hash(model)
    result = inference.evaluate(model, split, split.validation)
    assert model.training
    assert checkpoints.tensor_hash(model) == before
    model.eval()
    with torch.no_grad():
        scores = torch.cat(
            [model(split.images.plain_batch(i[None]).images) for i in split.validation]
        )
    labels = split.images.labels[split.validation]
    assert result.accuracy == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    expected = torch.nn.functional.cross_entropy(scores, labels).item()
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_evaluation_in_several_chunks_weighs_images_alike(ctx, monkeypatch):
    bench = making.bench(making.recipe(epochs=1), ctx)
    list(loop.train(bench.work, bench.learner))
    split = bench.work.split
    result = inference.evaluate(bench.learner.model, split, split.fit)
    monkeypatch.setattr(splits, "EVALUATION_PIXELS", 64 * 8 * 8)
    assert [len(batch.index) for batch in split.batches(split.fit)] == [64, 64, 64, 64, 14]
    parts = inference.evaluate(bench.learner.model, split, split.fit)
    assert torch.equal(parts.confusion, result.confusion)
    assert parts.accuracy == result.accuracy
    assert (parts.loss, parts.ece) == pytest.approx((result.loss, result.ece), rel=1e-5)
