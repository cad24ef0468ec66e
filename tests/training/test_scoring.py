"""A tally of predictions against a known library."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, log_loss

from tune_kd.data.batch import IGNORE
from tune_kd.training.scoring import Tally, image_counts, image_ious, mean_iou

CLASSES = 5


def draw(*shape: int, void: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [B, K, ...] that know something of their labels [B, ...]; class 3 never occurs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, shape, generator=generator)
    labels[labels == 3] = 1
    scores = torch.randn((shape[0], CLASSES, *shape[1:]), generator=generator)
    scores[:, 3] -= 100  # nor is it predicted
    scores += 2 * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)
    labels[torch.rand(shape, generator=generator) < void] = IGNORE
    return scores, labels


@pytest.mark.parametrize(("shape", "void"), [((60,), 0.0), ((6, 7, 9), 0.3)])
def test_of_batches_it_says_what_scikit_learn_says_of_all(shape, void):
    scores, labels = draw(*shape, void=void)
    tally = Tally(CLASSES)
    for part in torch.arange(shape[0]).split(4):
        tally.add(scores[part], labels[part])
    result = tally.scores()
    valid = labels != IGNORE
    true, predicted = labels[valid].numpy(), scores.argmax(1)[valid].numpy()
    shares = scores.double().softmax(1).movedim(1, -1)[valid].numpy()
    assert 0.5 < result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.loss == pytest.approx(log_loss(true, shares, labels=range(CLASSES)), rel=1e-5)
    every = confusion_matrix(true, predicted, labels=range(CLASSES))
    assert np.array_equal(result.confusion.numpy(), every)
    # over the classes that occur: scikit-learn takes those of either side unless told
    assert mean_iou(result.confusion) == pytest.approx(
        jaccard_score(true, predicted, average="macro")
    )


def test_of_single_images_it_says_what_scikit_learn_says():
    scores, labels = draw(5, 8, 6, void=0.2, seed=1)
    labels[4] = IGNORE
    ious = image_ious(scores, labels)
    for image in range(4):
        valid = labels[image] != IGNORE
        true, predicted = labels[image][valid], scores.argmax(1)[image][valid]
        assert float(ious[image]) == pytest.approx(jaccard_score(true, predicted, average="macro"))
    assert ious[4].isnan()  # nothing counts


def test_pixels_of_single_images_are_those_that_scikit_learn_counts():
    scores, labels = draw(6, 8, 7, void=0.2, seed=2)
    labels[5] = IGNORE
    counts = image_counts(scores, labels)
    assert (counts.shape, counts.dtype) == ((6, CLASSES, 3), torch.int64)
    for image in range(5):
        valid = labels[image] != IGNORE
        true, predicted = labels[image][valid], scores.argmax(1)[image][valid]
        table = confusion_matrix(true, predicted, labels=range(CLASSES))
        expected = np.stack([table.diagonal(), table.sum(0), table.sum(1)], axis=1)
        assert counts[image].tolist() == expected.tolist()
    assert not counts[5].any()


@pytest.mark.parametrize(("shape", "void"), [((61,), 0.0), ((7, 5, 6), 0.3)])
def test_what_single_images_gave_is_kept_in_their_order(shape, void):
    scores, labels = draw(*shape, void=void, seed=3)
    tally, plain = Tally(CLASSES, each_image=True), Tally(CLASSES)
    for part in torch.arange(shape[0]).split(4):
        tally.add(scores[part], labels[part])
        plain.add(scores[part], labels[part])
    result = tally.scores()
    assert plain.scores().images is None
    if void:
        assert torch.equal(result.images, image_counts(scores, labels))
        both, predicted, labelled = result.images.sum(0).double().unbind(1)
        occurs = labelled > 0
        ious = (both / (predicted + labelled - both))[occurs]
        assert mean_iou(result.confusion) == pytest.approx(float(ious.mean()))
    else:
        assert result.images.tolist() == (scores.argmax(1) == labels).tolist()
        assert result.accuracy == pytest.approx(result.images.double().mean().item())
