"""Splits and statistics: which images are fitted on, and what their pixels are."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers import made_images
from tune_kd.data import classification, segmentation, splits, tasks
from tune_kd.errors import UsageError


def _with_labels(labels):
    """A decoded set of so many empty images."""
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    names = tuple(str(name) for name in range(max(labels) + 1))
    return tasks.Decoded(images=images, labels=labels, class_names=names, hash="made")


def test_a_split_lies_on_the_device_as_its_kind():
    for decoded, kind in (
        (made_images.class_images(), classification.ClassificationImages),
        (made_images.scenes(), segmentation.SegmentationImages),
    ):
        images = splits.device_images(decoded, images=made_images.image_settings(decoded))
        assert type(images) is kind
        assert len(images) == len(images.labels) == len(decoded.labels)
        assert images.labels.tolist() == decoded.labels.tolist()


# Splits


def test_a_split_is_stratified_disjoint_and_complete():
    labels = np.repeat(np.arange(3), [100, 40, 7])
    train, validation = splits.split(_with_labels(labels), seed=1)
    assert sorted([*train, *validation]) == list(range(147))
    # 44 of 147 images, by largest remainder of 29.9, 12.0 and 2.1
    assert np.bincount(labels[validation]).tolist() == [30, 12, 2]
    assert train.dtype == validation.dtype == np.int64
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)


def test_a_split_depends_on_its_seed_alone():
    labels = np.arange(400) % 4
    one, same, other = (
        splits.split(_with_labels(labels), limit=100, seed=seed) for seed in (0, 0, 1)
    )
    assert [part.tolist() for part in one] == [part.tolist() for part in same]
    assert set(one[0]) != set(other[0])
    assert set(one[1]) != set(other[1])


def test_a_split_is_the_same_on_every_machine():
    train, validation = splits.split(_with_labels(np.arange(24) % 2), limit=12, seed=0)
    assert validation.tolist() == [5, 6, 13, 18]
    assert train.tolist() == [2, 7, 10, 11, 14, 17, 19, 22]


@pytest.mark.parametrize("limit", [40, 41, 99, 300])
def test_a_limit_is_met_exactly_and_keeps_proportions(limit):
    labels = np.repeat(np.arange(10), 30)
    train, validation = splits.split(_with_labels(labels), limit=limit)
    index = np.concatenate([train, validation])
    counts = np.bincount(labels[index], minlength=10)
    assert len(set(index.tolist())) == limit
    assert counts.max() - counts.min() <= 1
    assert np.bincount(labels[validation], minlength=10).min() >= 2
    assert np.bincount(labels[train], minlength=10).min() >= 2


def test_a_rare_class_keeps_four_images():
    labels = np.repeat(np.arange(3), [500, 490, 10])
    train, validation = splits.split(_with_labels(labels), limit=60)
    counts = np.bincount(labels[np.concatenate([train, validation])])
    assert counts.tolist() == [28, 28, 4]


@pytest.mark.parametrize("limit", [-1, 1, 39, 301])
def test_an_impossible_limit_names_the_possible_ones(limit):
    with pytest.raises(UsageError, match="40 to 300 is allowed"):
        splits.split(_with_labels(np.repeat(np.arange(10), 30)), limit=limit)


def test_a_class_of_three_images_cannot_be_split():
    with pytest.raises(UsageError, match="class 1 has 3 training images; at least 4"):
        splits.split(_with_labels(np.repeat(np.arange(2), [30, 3])))


@pytest.mark.parametrize(
    ("images", "size"),
    [
        (10, 3), (100, 30), (1257, 377), (6666, 1999), (6667, 2000), (10_000, 2000), (20_000, 2000),
        (20_009, 2000), (20_010, 2001), (50_000, 5000), (1_281_167, 128_116),
    ],
)  # fmt: skip
def test_how_many_are_held_out(images, size):
    assert splits.validation_size(images) == size


@pytest.mark.parametrize(("share", "size"), [(0.1, 100), (0.3, 300), (0.5, 500), (0.0005, 0)])
def test_a_share_may_be_given(share, size):
    assert splits.validation_size(1000, share=share) == size


@pytest.mark.parametrize("limit", [0, 300, 1999])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_every_class_is_held_out_in_proportion(limit, share):
    counts = np.array([1200, 500, 250, 50])
    labels = np.repeat(np.arange(4), counts)
    train, validation = splits.split(_with_labels(labels), limit=limit, share=share)
    total = limit or 2000
    assert len(train) + len(validation) == total
    assert len(validation) == splits.validation_size(total, share=share)
    exact = len(validation) * counts / 2000
    assert np.abs(np.bincount(labels[validation]) - exact).max() <= 1.5  # rounded twice
    again = splits.split(_with_labels(labels), limit=limit, share=share)[1]
    assert again.tolist() == validation.tolist()


def test_of_a_small_share_each_class_has_two_images_all_the_same():
    labels = np.arange(1000) % 10
    train, validation = splits.split(_with_labels(labels), share=0.001)
    assert np.bincount(labels[validation]).tolist() == [2] * 10
    assert len(train) == 980


# Dense images, and validation images of the data set's own


def test_dense_images_are_split_at_random_by_the_seed():
    decoded = made_images.scenes(40)
    train, validation = splits.split(decoded, seed=1)
    assert len(validation) == 12
    assert sorted([*train, *validation]) == list(range(40))
    assert train.tolist() == sorted(train)
    again, other = (splits.split(decoded, seed=seed)[1] for seed in (1, 2))
    assert validation.tolist() == again.tolist()
    assert validation.tolist() != other.tolist()
    few, least = splits.split(decoded, limit=5)
    assert (len(few), len(least)) == (3, 2)


def test_dense_images_that_are_too_few_are_refused():
    with pytest.raises(
        UsageError, match="the data set has 3 training images; at least 4 are needed"
    ):
        splits.split(made_images.scenes(3))
    with pytest.raises(UsageError, match="4 to 40 is allowed"):
        splits.split(made_images.scenes(40), limit=3)


def test_the_data_sets_own_validation_images_are_taken():
    positions = np.array([3, 7, 30, 31, 32])
    train, validation = splits.split(made_images.scenes(40, validation=positions))
    assert validation.tolist() == positions.tolist()
    assert train.tolist() == [index for index in range(40) if index not in positions]


@pytest.mark.parametrize(("limit", "held_out"), [(4, 2), (20, 2), (30, 3), (39, 4), (40, 5)])
def test_a_limit_takes_a_tenth_from_the_own_validation_images(limit, held_out):
    positions = np.array([3, 7, 30, 31, 32])
    decoded = made_images.scenes(40, validation=positions)
    train, validation = splits.split(decoded, limit=limit, seed=2)
    assert len(train) + len(validation) == limit
    assert len(validation) == held_out
    assert set(validation) <= set(positions)
    assert not set(train) & set(positions)
    again = splits.split(decoded, limit=limit, seed=2)
    assert [part.tolist() for part in again] == [train.tolist(), validation.tolist()]


def test_a_limit_keeps_every_class_where_validation_is_given():
    labels = np.repeat(np.arange(21), 10)
    positions = np.arange(9, 210, 10)
    decoded = dataclasses.replace(_with_labels(labels), validation=positions)
    for limit in (44, 100, 210):
        train, validation = splits.split(decoded, limit=limit)
        assert len(train) + len(validation) == limit
        assert np.bincount(labels[train], minlength=21).min() >= 2
        assert set(validation) <= set(positions)
    with pytest.raises(UsageError, match="44 to 210 is allowed"):
        splits.split(decoded, limit=43)


def test_own_validation_images_that_are_too_few_are_refused():
    with pytest.raises(UsageError, match="39 training and 1 validation images"):
        splits.split(made_images.scenes(40, validation=np.array([0])))
    with pytest.raises(UsageError, match="0 training and 4 validation images"):
        splits.split(made_images.scenes(4, validation=np.arange(4)))


# Statistics


def test_statistics_are_those_of_the_pixels():
    decoded, index = made_images.class_images(5000, size=(4, 4), seed=1), np.arange(0, 5000, 2)
    mean, std = splits.statistics(decoded.images, index)
    pixels = decoded.images[index].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)


def test_statistics_do_not_depend_on_how_many_pixels_are_counted_at_once(monkeypatch):
    decoded, index = made_images.scenes(5), np.array([0, 2, 3])
    moments = splits.statistics(decoded.images, index)
    monkeypatch.setattr(splits, "CHUNK", 1)
    assert splits.statistics(decoded.images, index) == moments
    np.testing.assert_allclose(
        moments[0], (decoded.images[index] / 255).mean((0, 1, 2)), rtol=1e-12
    )


def test_images_of_one_colour_can_be_normalised():
    mean, std = splits.statistics(np.full((2, 3, 3, 1), 51, np.uint8), np.arange(2))
    assert mean == (0.2,)
    assert std == (1 / 255,)


def test_a_table_is_not_used_for_other_images():
    task, decoded = tasks.find("cifar10"), made_images.class_images(300)
    index = np.arange(100)
    assert splits.normalisation(task, decoded, index) == splits.statistics(decoded.images, index)


def test_the_table_of_cifar10_is_that_of_the_images(shared_data, tmp_path):
    task = tasks.find("cifar10")
    folder = shared_data / "cifar10"
    few = pq.ParquetFile(folder / "train.parquet").read_row_group(0).slice(0, 4000)
    for split in ("train", "test"):
        pq.write_table(few, tmp_path / f"{split}.parquet")
    decoded = tasks.decode(task, "train", folder=tmp_path, cache=tmp_path / "cache")
    moments = np.array(splits.statistics(decoded.images, np.arange(4000)))
    assert np.abs(moments - [task.mean, task.std]).max() < 0.01
    assert splits.normalisation(task, decoded, np.arange(10)) == (task.mean, task.std)


@pytest.mark.slow
def test_the_table_of_cifar10_is_that_of_all_images(shared_data, tmp_path):
    task = tasks.find("cifar10")
    decoded = tasks.decode(task, "train", folder=shared_data / "cifar10", cache=tmp_path)
    assert decoded.images.shape == (50_000, 32, 32, 3)
    moments = np.array(splits.statistics(decoded.images, np.arange(50_000)))
    assert np.abs(moments - [task.mean, task.std]).max() < 0.01
