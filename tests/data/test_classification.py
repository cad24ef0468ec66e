"""Batches of images of one class each: equalities with the plain way, image by image."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from tests.helpers.made_images import class_images, image_settings
from tune_kd.data import augmentation, classification, tasks

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


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
    decoded = class_images(size=(size, size + 3), channels=channels)
    mean, std = MEAN[:channels], STD[:channels]
    images = classification.ClassificationImages(
        decoded, images=image_settings(decoded, pad=pad), layout=layout
    )
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
    decoded = class_images()
    images = classification.ClassificationImages(
        decoded, images=image_settings(decoded, pad=pad, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    )
    index = torch.tensor([3, 0, 3])
    expected = torch.from_numpy(decoded.images[index.numpy()]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(images.batch(index, None), expected)
    torch.testing.assert_close(
        images.batch(index, torch.full((3,), augmentation.centre(pad))), expected
    )


def test_both_layouts_hold_the_same_numbers():
    decoded, index = class_images(), torch.arange(12)
    view = augmentation.crops(12, seed=0, epoch=1, pad=4, flip=True)
    one, other = (
        classification.ClassificationImages(
            decoded, images=image_settings(decoded, pad=4), layout=layout
        ).batch(index, view)
        for layout in ("contiguous", "channels_last")
    )
    assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_gpu_sees_what_the_cpu_sees(layout):
    decoded, index = class_images(), torch.arange(12)
    view = augmentation.crops(12, seed=0, epoch=1, pad=4, flip=True)
    one, other = (
        classification.ClassificationImages(
            decoded, images=image_settings(decoded, pad=4), device=device, layout=layout
        )
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(other.batch(index, view).cpu(), one.batch(index, view))
    torch.testing.assert_close(other.batch(index, None).cpu(), one.batch(index, None))


def test_padded_images_are_one_file_beside_the_decoded_ones(tmp_path):
    task = tasks.find("digits")
    decoded = tasks.decode(task, "train", folder=None, cache=tmp_path)
    from_file, in_memory = (
        classification.ClassificationImages(d, images=image_settings(d, pad=1))
        for d in (decoded, dataclasses.replace(decoded, folder=None))
    )
    view = augmentation.crops(len(decoded.labels), seed=0, epoch=0, pad=1, flip=False)
    index = torch.arange(len(decoded.labels))
    assert torch.equal(from_file.batch(index, view), in_memory.batch(index, view))
    file = decoded.folder / "padded-1.npy"
    before = file.stat().st_mtime_ns
    again = classification.ClassificationImages(decoded, images=image_settings(decoded, pad=1))
    assert torch.equal(again.batch(index, view), in_memory.batch(index, view))
    assert file.stat().st_mtime_ns == before
    assert np.load(file).shape == (1257, 10, 10, 1)
    assert not [path for path in decoded.folder.iterdir() if path.name.startswith(".padded")]


# What training sees


def _augmented_images(**changes):
    decoded = class_images(60)
    return classification.ClassificationImages(
        decoded, images=image_settings(decoded, pad=4, flip=True, **changes)
    )


ALL = torch.arange(60)
MIXED = ["none", "mixup", "cutmix"]


def test_an_epoch_is_seen_as_its_crops_say():
    images = _augmented_images()
    batch = images.augmenter(seed=1, epoch=2, among=ALL)(ALL)
    view = augmentation.crops(60, seed=1, epoch=2, pad=4, flip=True)
    assert torch.equal(batch.images, images.batch(ALL, view))
    assert torch.equal(batch.labels, images.labels)
    assert torch.equal(batch.index, ALL)
    assert batch.other is None
    assert batch.share is None


def test_whole_images_are_not_mixed():
    images, index = _augmented_images(mix="mixup"), torch.tensor([3, 0, 3])
    batch = images.plain_batch(index)
    assert torch.equal(batch.images, images.batch(index))
    assert batch.labels.tolist() == [0, 0, 0]
    assert torch.equal(batch.index, index)
    assert batch.share is None


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mix", MIXED)
def test_what_is_seen_depends_on_no_batch(mix, layout):
    decoded, among = class_images(60), torch.arange(0, 60, 2)
    spec = image_settings(decoded, pad=4, flip=True, mix=mix)
    images = classification.ClassificationImages(decoded, images=spec, layout=layout)
    full_batch = images.augmenter(seed=1, epoch=2, among=among)(ALL)
    strides = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert full_batch.images.is_contiguous(memory_format=strides)
    again = images.augmenter(seed=1, epoch=2, among=among)
    for index in (torch.tensor([5]), torch.tensor([59, 5, 5, 2]), ALL.flip(0)):
        batch = again(index)
        assert torch.equal(batch.images, full_batch.images[index])
        assert torch.equal(batch.labels, full_batch.labels[index])
        for name in ("other", "share"):
            one, expected = getattr(batch, name), getattr(full_batch, name)
            assert (one is None) == (expected is None) == (mix == "none")
            assert one is None or torch.equal(one, expected[index])
    other = images.augmenter(seed=1, epoch=3, among=among)(ALL)
    assert not torch.equal(other.images, full_batch.images)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_batch_is_mixed_as_by_hand(mix):
    images, among = _augmented_images(mix=mix, mix_alpha=0.8), torch.tensor([4, 8, 15, 16, 23, 42])
    batch = images.augmenter(seed=1, epoch=2, among=among)(ALL)
    view = augmentation.crops(60, seed=1, epoch=2, pad=4, flip=True)
    partner = augmentation.partners(60, seed=1, epoch=2, among=among)
    share = augmentation.shares(60, seed=1, epoch=2, alpha=0.8)
    boxes = augmentation.boxes(share, (32, 32), seed=1, epoch=2)
    plain = images.batch(ALL, view)
    assert set(partner.tolist()) <= set(among.tolist())
    assert batch.other.tolist() == [int(images.labels[i]) for i in partner]
    assert batch.other.dtype == torch.int64
    assert batch.share.dtype == torch.float32
    for i in range(60):
        expected, weight = plain[i].clone(), float(share[i])
        if mix == "mixup":
            expected = weight * plain[i] + (1 - weight) * plain[partner[i]]
        else:
            top, bottom, left, right = boxes[i].tolist()
            expected[:, top:bottom, left:right] = plain[partner[i]][:, top:bottom, left:right]
            weight = 1 - (bottom - top) * (right - left) / (32 * 32)
        torch.testing.assert_close(batch.images[i], expected, atol=2e-6, rtol=0)
        assert float(batch.share[i]) == pytest.approx(weight, abs=1e-6)
    assert len(set(batch.share.tolist())) > 30


def test_a_cutmix_share_is_the_area_that_is_left():
    """Counted in pixels: image i is of value i everywhere."""
    values = np.arange(60, dtype=np.uint8)[:, None, None, None]
    decoded = dataclasses.replace(
        class_images(60), images=np.broadcast_to(values, (60, 10, 12, 3)).copy()
    )
    spec = image_settings(decoded, mix="cutmix", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    batch = classification.ClassificationImages(decoded, images=spec).augmenter(
        seed=0, epoch=1, among=torch.tensor([59])
    )(ALL)
    mask = (batch.images[:, 0] - ALL.view(-1, 1, 1)).abs() < 0.5
    torch.testing.assert_close(mask.float().mean((1, 2))[:59], batch.share[:59])
    assert (batch.images[:, 0][~mask] - 59).abs().max() < 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("mix", MIXED)
def test_a_gpu_mixes_as_the_cpu_does(mix):
    decoded = class_images(60)
    spec = image_settings(decoded, pad=4, flip=True, mix=mix)
    one, other = (
        classification.ClassificationImages(decoded, images=spec, device=device).augmenter(
            seed=0, epoch=1, among=ALL
        )(ALL)
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(other.images.cpu(), one.images)
    if mix != "none":
        assert torch.equal(other.other.cpu(), one.other)
        torch.testing.assert_close(other.share.cpu(), one.share)
