"""What is seen of each image: functions of (seed, epoch, index), and their distributions."""

import numpy as np
import pytest
import torch

from tune_kd.data import augmentation

AMONG = torch.arange(0, 1000, 3)

DRAWN = {
    "crops": lambda seed, epoch: augmentation.crops(1000, seed=seed, epoch=epoch, pad=4, flip=True),
    "partners": lambda seed, epoch: augmentation.partners(
        1000, seed=seed, epoch=epoch, among=AMONG
    ),
    "shares": lambda seed, epoch: augmentation.shares(1000, seed=seed, epoch=epoch, alpha=0.7),
    "boxes": lambda seed, epoch: augmentation.boxes(
        torch.full((1000,), 0.5), (20, 30), seed=seed, epoch=epoch
    ),
    "geometry": lambda seed, epoch: augmentation.geometry(
        1000, seed=seed, epoch=epoch, scale=(0.5, 2.0), flip=True
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_a_function_of_seed_and_epoch(name):
    draw = DRAWN[name]
    state = torch.random.get_rng_state()
    assert torch.equal(draw(3, 7), draw(3, 7))
    assert not torch.equal(draw(3, 7), draw(4, 7))
    assert not torch.equal(draw(3, 7), draw(3, 8))
    assert torch.equal(state, torch.random.get_rng_state())  # not from the global generator


def test_the_crops_of_earlier_studies_are_the_same():
    crops = augmentation.crops(6, seed=0, epoch=1, pad=4, flip=True)
    assert crops.tolist() == [12, 100, 67, 35, 32, 114]


@pytest.mark.parametrize(("pad", "flip", "kinds"), [(0, False, 1), (0, True, 2), (4, True, 162)])
def test_views_are_uniform(pad, flip, kinds):
    crops = augmentation.crops(100_000, seed=0, epoch=0, pad=pad, flip=flip)
    counts = torch.bincount(crops, minlength=kinds)
    assert len(counts) == kinds
    spread = (100_000 / kinds) ** 0.5
    assert (counts - 100_000 / kinds).abs().max() <= 5 * spread


# Partners


def test_partners_are_uniform_among_those_named():
    among = torch.tensor([2, 5, 11, 12])
    partners = augmentation.partners(40_000, seed=0, epoch=0, among=among)
    indices, counts = partners.unique(return_counts=True)
    assert indices.tolist() == among.tolist()
    assert (counts - 10_000).abs().max() < 5 * 100


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_those_of_a_beta_distribution(alpha):
    shares = augmentation.shares(100_000, seed=0, epoch=0, alpha=alpha)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_boxes_lie_within_the_image_and_have_the_area_that_the_share_leaves():
    share = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top, bottom, left, right = augmentation.boxes(share, (20, 30), seed=0, epoch=0).T
    assert ((top >= 0) & (top <= bottom) & (bottom <= 20)).all()
    assert ((left >= 0) & (left <= right) & (right <= 30)).all()
    height, width = (((1 - share).sqrt() * side).long() for side in (20, 30))
    assert (bottom - top <= height).all()
    inside = (top > 0) & (bottom < 20) & (left > 0) & (right < 30)  # nothing is cut off
    assert inside.sum() > 500
    assert torch.equal((bottom - top)[inside], height[inside])
    assert torch.equal((right - left)[inside], width[inside])


def test_a_whole_share_leaves_no_box_and_none_covers_what_is_around_the_centre():
    boxes = augmentation.boxes(torch.tensor([1.0, 0.0]).repeat(50), (20, 30), seed=0, epoch=0)
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    assert not area[::2].any()
    assert area[1::2].min() >= 10 * 15


# Dense views


def test_factors_offsets_and_mirroring_are_uniform():
    factor, down, right, mirrored = augmentation.geometry(
        40_000, seed=0, epoch=0, scale=(0.5, 2.0), flip=True
    ).T
    for values, low, high in ((factor, 0.5, 2.0), (down, 0, 1), (right, 0, 1)):
        counts, _ = np.histogram(values, bins=10, range=(low, high))
        assert abs(counts - 4000).max() < 5 * 63
    assert set(mirrored.tolist()) == {0.0, 1.0}
    assert float(mirrored.mean()) == pytest.approx(0.5, abs=0.02)
    still = augmentation.geometry(40, seed=0, epoch=0, scale=(0.5, 2.0), flip=False)
    assert not still[:, 3].any()


def test_a_factor_of_1_is_the_identity_wherever_the_crop_lies():
    view = torch.tensor([[1.0, 0.3, 0.8, 0.0], [1.0, 0.3, 0.8, 1.0]])
    same, mirrored = augmentation.affine(view)
    assert same.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert mirrored.tolist() == [[-1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.5)])
def test_a_crop_of_an_enlarged_image_begins_where_it_says(down, right):
    """Twice as big: the view's corner at (-1, -1) is `right` of what is cut off, half the image."""
    matrix = augmentation.affine(torch.tensor([[2.0, down, right, 0.0]]))[0]
    corner = matrix @ torch.tensor([-1.0, -1.0, 1.0])
    assert corner.tolist() == [-1 + right, -1 + down]
