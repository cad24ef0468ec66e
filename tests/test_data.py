"""Splits, views and batches: equalities with the plain way, image by image."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.transforms.v2.functional as F

from tune_kd import data, tasks
from tune_kd.errors import UsageError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _made(count=12, *, size=32, channels=3, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % 3
    return tasks.Decoded(images=images, labels=labels, class_names=("a", "b", "c"), hash="made")


def _one_by_one(decoded, index, view, *, pad, mean, std):
    """The same batch with torchvision's functions, as RandomCrop and friends call them."""
    out, side = [], 2 * pad + 1
    for i, v in zip(index.tolist(), view.tolist(), strict=True):
        image = torch.from_numpy(decoded.images[i].copy()).permute(2, 0, 1)
        _, height, width = image.shape
        dy, dx = divmod(v % (side * side), side)
        image = F.crop(F.pad(image, [pad] * 4), dy, dx, height, width)
        image = F.horizontal_flip(image) if v >= side * side else image
        out.append(F.normalize(F.to_dtype(image, torch.float32, scale=True), mean, std))
    return torch.stack(out)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("size", "channels", "pad"), [(32, 3, 4), (8, 1, 1), (8, 3, 0), (5, 1, 2)])
def test_a_batch_is_torchvisions_image_by_image(size, channels, pad, layout):
    decoded = _made(size=size, channels=channels)
    mean, std = MEAN[:channels], STD[:channels]
    images = data.Resident(decoded, pad=pad, mean=mean, std=std, device="cpu", layout=layout)
    every_view = torch.arange(2 * (2 * pad + 1) ** 2)
    index = torch.arange(len(every_view)) % len(decoded.labels)
    expected = _one_by_one(decoded, index, every_view, pad=pad, mean=mean, std=std)
    batch = images.batch(index, every_view)
    torch.testing.assert_close(batch, expected, atol=1e-6, rtol=0)
    assert batch.dtype == torch.float32
    strides = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert batch.is_contiguous(memory_format=strides)
    assert images.labels[index].tolist() == decoded.labels[index].tolist()


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_no_view_is_the_centre_and_the_whole_image(pad):
    decoded = _made()
    images = data.Resident(decoded, pad=pad, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    index = torch.tensor([3, 0, 3])
    whole = torch.from_numpy(decoded.images[index.numpy()]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(images.batch(index, None), whole)
    torch.testing.assert_close(images.batch(index, torch.full((3,), data.centre(pad))), whole)


def test_both_layouts_hold_the_same_numbers():
    decoded, index = _made(), torch.arange(12)
    view = data.views(12, seed=0, epoch=1, pad=4, flip=True)
    one, other = (
        data.Resident(decoded, pad=4, mean=MEAN, std=STD, layout=layout).batch(index, view)
        for layout in ("contiguous", "channels_last")
    )
    assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_gpu_sees_what_the_cpu_sees(layout):
    decoded, index = _made(), torch.arange(12)
    view = data.views(12, seed=0, epoch=1, pad=4, flip=True)
    one, other = (
        data.Resident(decoded, pad=4, mean=MEAN, std=STD, device=device, layout=layout)
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(other.batch(index, view).cpu(), one.batch(index, view))
    torch.testing.assert_close(other.batch(index, None).cpu(), one.batch(index, None))


def test_padded_images_are_one_file_beside_the_decoded_ones(tmp_path):
    task = tasks.find("digits")
    decoded = tasks.decode(task, "train", folder=None, cache=tmp_path)
    kept, own = (
        data.Resident(d, pad=1, mean=(0.3,), std=(0.4,))
        for d in (decoded, dataclasses.replace(decoded, folder=None))
    )
    view = data.views(len(decoded.labels), seed=0, epoch=0, pad=1, flip=False)
    index = torch.arange(len(decoded.labels))
    assert torch.equal(kept.batch(index, view), own.batch(index, view))
    file = decoded.folder / "padded-1.npy"
    before = file.stat().st_mtime_ns
    again = data.Resident(decoded, pad=1, mean=(0.3,), std=(0.4,))
    assert torch.equal(again.batch(index, view), own.batch(index, view))
    assert file.stat().st_mtime_ns == before
    assert np.load(file).shape == (1257, 10, 10, 1)
    assert not [path for path in decoded.folder.iterdir() if path.name.startswith(".padded")]


# Views


def test_views_are_a_function_of_seed_and_epoch():
    drawn = data.views(1000, seed=3, epoch=7, pad=4, flip=True)
    assert torch.equal(drawn, data.views(1000, seed=3, epoch=7, pad=4, flip=True))
    assert not torch.equal(drawn, data.views(1000, seed=4, epoch=7, pad=4, flip=True))
    assert not torch.equal(drawn, data.views(1000, seed=3, epoch=8, pad=4, flip=True))


def test_views_do_not_touch_the_global_generator():
    state = torch.random.get_rng_state()
    data.views(10, seed=0, epoch=0, pad=1, flip=True)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_subset_sees_what_it_sees_in_the_whole_set():
    labels = np.arange(600) % 3
    drawn = data.views(600, seed=0, epoch=5, pad=4, flip=True)
    few, _ = data.split(labels, limit=60, seed=0)
    many, _ = data.split(labels, limit=300, seed=0)
    common = np.intersect1d(few, many)
    assert len(common)
    seen = [
        dict(zip(chosen.tolist(), drawn[chosen].tolist(), strict=True)) for chosen in (few, many)
    ]
    assert [seen[0][i] for i in common.tolist()] == [seen[1][i] for i in common.tolist()]


@pytest.mark.parametrize(("pad", "flip", "kinds"), [(0, False, 1), (0, True, 2), (4, True, 162)])
def test_views_are_uniform(pad, flip, kinds):
    drawn = data.views(100_000, seed=0, epoch=0, pad=pad, flip=flip)
    counts = torch.bincount(drawn, minlength=kinds)
    assert len(counts) == kinds
    spread = (100_000 / kinds) ** 0.5
    assert (counts - 100_000 / kinds).abs().max() <= 5 * spread


# Splits


def test_a_split_is_stratified_disjoint_and_complete():
    labels = np.repeat(np.arange(3), [100, 40, 7])
    train, validation = data.split(labels, seed=1)
    assert sorted([*train, *validation]) == list(range(147))
    assert np.bincount(labels[validation]).tolist() == [10, 4, 2]
    assert train.dtype == validation.dtype == np.int64
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)


def test_a_split_depends_on_its_seed_alone():
    labels = np.arange(400) % 4
    one, same, other = (data.split(labels, limit=100, seed=seed) for seed in (0, 0, 1))
    assert [part.tolist() for part in one] == [part.tolist() for part in same]
    assert set(one[0]) != set(other[0])
    assert set(one[1]) != set(other[1])


def test_a_split_is_the_same_on_every_machine():
    train, validation = data.split(np.arange(24) % 2, limit=12, seed=0)
    assert validation.tolist() == [5, 6, 13, 18]
    assert train.tolist() == [2, 7, 10, 11, 14, 17, 19, 22]


@pytest.mark.parametrize("limit", [40, 41, 99, 300])
def test_a_limit_is_met_exactly_and_keeps_proportions(limit):
    labels = np.repeat(np.arange(10), 30)
    train, validation = data.split(labels, limit=limit)
    chosen = np.concatenate([train, validation])
    counts = np.bincount(labels[chosen], minlength=10)
    assert len(set(chosen.tolist())) == limit
    assert counts.max() - counts.min() <= 1
    assert np.bincount(labels[validation], minlength=10).min() >= 2
    assert np.bincount(labels[train], minlength=10).min() >= 2


def test_a_rare_class_keeps_four_images():
    labels = np.repeat(np.arange(3), [500, 490, 10])
    train, validation = data.split(labels, limit=60)
    counts = np.bincount(labels[np.concatenate([train, validation])])
    assert counts.tolist() == [28, 28, 4]


@pytest.mark.parametrize("limit", [-1, 1, 39, 301])
def test_an_impossible_limit_names_the_possible_ones(limit):
    with pytest.raises(UsageError, match="40 to 300 is allowed"):
        data.split(np.repeat(np.arange(10), 30), limit=limit)


def test_a_class_of_three_images_cannot_be_split():
    with pytest.raises(UsageError, match="class 1 has 3 training images; at least 4"):
        data.split(np.repeat(np.arange(2), [30, 3]))


# Statistics


def test_statistics_are_those_of_the_pixels():
    decoded, index = _made(5000, size=4, seed=1), np.arange(0, 5000, 2)
    mean, std = data.statistics(decoded.images, index)
    pixels = decoded.images[index].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)


def test_images_of_one_colour_can_be_normalised():
    mean, std = data.statistics(np.full((2, 3, 3, 1), 51, np.uint8), np.arange(2))
    assert mean == (0.2,)
    assert std == (1 / 255,)


def test_a_table_is_not_used_for_other_images():
    task, decoded = tasks.find("cifar10"), _made(300)
    index = np.arange(100)
    assert data.normalisation(task, decoded, index) == data.statistics(decoded.images, index)


def test_the_table_of_cifar10_is_that_of_the_images(shared_data, tmp_path):
    task = tasks.find("cifar10")
    folder = shared_data / "cifar10"
    few = pq.ParquetFile(folder / "train.parquet").read_row_group(0).slice(0, 4000)
    for split in ("train", "test"):
        pq.write_table(few, tmp_path / f"{split}.parquet")
    decoded = tasks.decode(task, "train", folder=tmp_path, cache=tmp_path / "cache")
    found = np.array(data.statistics(decoded.images, np.arange(4000)))
    assert np.abs(found - [task.mean, task.std]).max() < 0.01
    assert data.normalisation(task, decoded, np.arange(10)) == (task.mean, task.std)


@pytest.mark.slow
def test_the_table_of_cifar10_is_that_of_all_images(shared_data, tmp_path):
    task = tasks.find("cifar10")
    decoded = tasks.decode(task, "train", folder=shared_data / "cifar10", cache=tmp_path)
    assert decoded.images.shape == (50_000, 32, 32, 3)
    found = np.array(data.statistics(decoded.images, np.arange(50_000)))
    assert np.abs(found - [task.mean, task.std]).max() < 0.01
