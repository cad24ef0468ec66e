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
    model, fold = bench.learner.model, bench.work.fold
    list(loop.train(bench.work, bench.learner))
    model.train()
    before = checkpoints.tensor_hash(model)
    found = inference.evaluate(model, fold, fold.validation)
    assert model.training
    assert checkpoints.tensor_hash(model) == before
    model.eval()
    with torch.no_grad():
        scores = torch.cat(
            [model(fold.images.plain_batch(i[None]).images) for i in fold.validation]
        )
    labels = fold.images.labels[fold.validation]
    assert found.accuracy == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    expected = torch.nn.functional.cross_entropy(scores, labels).item()
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_evaluation_in_several_chunks_weighs_images_alike(ctx, monkeypatch):
    bench = making.bench(making.recipe(epochs=1), ctx)
    list(loop.train(bench.work, bench.learner))
    fold = bench.work.fold
    whole = inference.evaluate(bench.learner.model, fold, fold.fit)
    monkeypatch.setattr(splits, "EVALUATION_PIXELS", 64 * 8 * 8)
    assert [len(batch.index) for batch in fold.batches(fold.fit)] == [64, 64, 64, 64, 14]
    parts = inference.evaluate(bench.learner.model, fold, fold.fit)
    assert torch.equal(parts.confusion, whole.confusion)
    assert parts.accuracy == whole.accuracy
    assert (parts.loss, parts.ece) == pytest.approx((whole.loss, whole.ece), rel=1e-5)
