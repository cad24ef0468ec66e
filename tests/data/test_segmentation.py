"""Images with a mask each: both are seen through the same geometry, and void where nothing is."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.helpers.made_images import image_settings, scenes
from tune_kd.data import augmentation, segmentation, tasks
from tune_kd.data.batch import IGNORE

SCALE = (0.5, 2.0)
ALL = torch.arange(6)


def _scenes(decoded=None, *, layout="contiguous", **changes):
    decoded = decoded or scenes()
    return segmentation.SegmentationImages(
        decoded, images=image_settings(decoded, **changes), layout=layout
    )


def _normalise(decoded):
    images = torch.from_numpy(decoded.images).permute(0, 3, 1, 2)
    spec = image_settings(decoded)
    return v2.functional.normalize(images.float() / 255, list(spec.mean), list(spec.std))


def _labels(decoded):
    labels = torch.from_numpy(decoded.labels).long()
    return labels.masked_fill(labels == 255, IGNORE)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("scale", [(1.0, 1.0), SCALE])
def test_a_batch_has_its_types_and_its_layout(layout, scale):
    images = _scenes(layout=layout, scale=scale, flip=True)
    strides = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for batch in (images.plain_batch(ALL), images.augmenter(seed=0, epoch=1, among=ALL)(ALL)):
        assert batch.images.shape == (6, 3, 24, 32)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=strides)
        assert batch.labels.shape == (6, 24, 32)
        assert batch.labels.dtype == torch.int64
        assert torch.equal(batch.index, ALL)
        assert set(batch.labels.unique().tolist()) == {IGNORE, 0, 1, 2, 3, 4}
    assert images.labels.dtype == torch.uint8


def test_whole_images_are_as_they_are_stored():
    decoded, index = scenes(), torch.tensor([4, 0, 4])
    batch = _scenes(decoded, scale=SCALE, flip=True).plain_batch(index)
    torch.testing.assert_close(batch.images, _normalise(decoded)[index], atol=1e-6, rtol=0)
    assert torch.equal(batch.labels, _labels(decoded)[index])


def test_without_resizing_and_mirroring_the_view_is_the_whole_image():
    images = _scenes()
    one, other = images.plain_batch(ALL), images.augmenter(seed=0, epoch=1, among=ALL)(ALL)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)


def test_mirrored_views_are_torchvisions():
    decoded = scenes()
    batch = _scenes(decoded, flip=True).augmenter(seed=0, epoch=1, among=ALL)(ALL)
    mirrored = augmentation.geometry(6, seed=0, epoch=1, scale=(1.0, 1.0), flip=True)[:, 3]
    assert set(mirrored.tolist()) == {0.0, 1.0}
    for i in range(6):
        image, mask = _normalise(decoded)[i], tv_tensors.Mask(_labels(decoded)[i])
        if mirrored[i]:
            image, mask = v2.functional.horizontal_flip(image), v2.functional.horizontal_flip(mask)
        torch.testing.assert_close(batch.images[i], image, atol=1e-6, rtol=0)
        assert torch.equal(batch.labels[i], mask.as_subclass(torch.Tensor))


def _by_hand(image, mask, view):
    """One view with numpy: image [C, H, W] bilinear, mask [H, W] nearest; and where that is no tie.

    Resized to `factor` times its sides, the view begins `share` of what is too much down and right.
    """
    factor, *shares, mirrored = view
    axes = []
    for side, share in zip(mask.shape, shares, strict=True):
        at = (np.arange(side) + 0.5 + share * (factor * side - side)) / factor - 0.5
        axes.append(at)
    if mirrored:
        axes[1] = axes[1][::-1]
    (low_y, low_x), (part_y, part_x) = (
        [f(at) for at in axes] for f in (np.floor, lambda at: at % 1)
    )
    pixels = np.zeros_like(image)
    for y, weight_y in ((low_y, 1 - part_y), (low_y + 1, part_y)):
        for x, weight_x in ((low_x, 1 - part_x), (low_x + 1, part_x)):
            pixels += _at(image, y, x, 0.0) * weight_y[:, None] * weight_x
    nearest = _at(mask, np.floor(axes[0] + 0.5), np.floor(axes[1] + 0.5), IGNORE)
    clear_y, clear_x = (abs(at % 1 - 0.5) > 1e-3 for at in axes)
    return pixels, nearest, clear_y[:, None] & clear_x


def _at(values, y, x, outside):
    """Values at whole rows and columns, which may lie outside."""
    height, width = values.shape[-2:]
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    y, x = y.clip(0, height - 1).astype(int), x.clip(0, width - 1).astype(int)
    return np.where(inside, values[..., y, :][..., x], outside)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (2.0, 2.0), SCALE])
def test_a_view_is_the_one_by_hand(scale):
    decoded, everything = scenes(20), torch.arange(20)
    images = _scenes(decoded, scale=scale, flip=True)
    batch = images.augmenter(seed=0, epoch=1, among=everything)(everything)
    geometry = augmentation.geometry(20, seed=0, epoch=1, scale=scale, flip=True)
    pixels, labels = _normalise(decoded).double().numpy(), _labels(decoded).numpy()
    compared = []
    for i, view in enumerate(geometry.tolist()):
        image, mask, clear = _by_hand(pixels[i], labels[i], view)
        np.testing.assert_allclose(batch.images[i].numpy(), image, atol=2e-4)
        assert (batch.labels[i].numpy() == mask)[clear].all()
        compared.append(clear.mean())
    assert np.mean(compared) > 0.8


def _erode(valid):
    """Without the pixels next to those outside."""
    outside = F.max_pool2d((~valid).float()[None, None], 5, 1, 2)[0, 0]
    return outside == 0


def _inside_blocks(mask):
    """Where all eight neighbours are there and of the same class."""
    values = mask.float()[None, None]
    same = F.max_pool2d(values, 3, 1) == -F.max_pool2d(-values, 3, 1)
    return F.pad(same[0, 0], [1] * 4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [SCALE, (0.5, 0.7), (1.5, 2.0)])
def test_image_and_mask_still_agree_after_any_view(scale, flip):
    """The red value is 40 times the class: 200 where the mask is void."""
    decoded = scenes(50, size=(48, 64), block=8)
    images = _scenes(decoded, scale=scale, flip=flip, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    everything = torch.arange(50)
    batch = images.augmenter(seed=0, epoch=1, among=everything)(everything)
    classes = batch.images[:, 0] / 40
    red = torch.where(batch.labels == IGNORE, 5, batch.labels)
    exact = torch.stack([_inside_blocks(labels) for labels in red]) & (batch.labels != IGNORE)
    torch.testing.assert_close(classes[exact], batch.labels[exact].float(), atol=1e-3, rtol=0)
    assert exact.float().mean() > 0.1


def test_beyond_the_image_is_the_mean_colour_and_void():
    decoded = scenes(50)
    decoded = dataclasses.replace(
        decoded, labels=np.minimum(decoded.labels, 4)
    )  # no void of its own
    images = _scenes(decoded, scale=(0.5, 0.5))
    everything = torch.arange(50)
    batch = images.augmenter(seed=0, epoch=1, among=everything)(everything)
    void = batch.labels == IGNORE
    assert (~void).sum((1, 2)).tolist() == [12 * 16] * 50  # half of each side is left
    far = torch.stack([_erode(v) for v in void])
    assert far.any()
    assert not batch.images.permute(0, 2, 3, 1)[far].any()
    geometry = augmentation.geometry(50, seed=0, epoch=1, scale=(0.5, 0.5), flip=False)
    for labels, (_, down, right, _) in zip(void, geometry.tolist(), strict=True):
        rows, columns = (~labels).any(1), (~labels).any(0)
        top, left = int(rows.int().argmax()), int(columns.int().argmax())
        # a share of the border lies at the far side: offset u (s - 1) side is negative
        assert top == pytest.approx(down * 12, abs=1)
        assert left == pytest.approx(right * 16, abs=1)


@pytest.mark.parametrize("scale", [(1.0, 1.0), SCALE])
def test_what_is_seen_depends_on_no_batch(scale):
    images = _scenes(scale=scale, flip=True)
    full_batch = images.augmenter(seed=1, epoch=2, among=ALL)(ALL)
    again = images.augmenter(seed=1, epoch=2, among=ALL[:2])
    for index in (torch.tensor([5]), torch.tensor([5, 0, 5]), ALL.flip(0)):
        batch = again(index)
        assert torch.equal(batch.labels, full_batch.labels[index])
        assert torch.equal(batch.images, full_batch.images[index])
    other = images.augmenter(seed=1, epoch=3, among=ALL)(ALL)
    assert not torch.equal(other.images, full_batch.images)


def test_both_layouts_see_the_same():
    one, other = (
        _scenes(layout=layout, scale=SCALE, flip=True).augmenter(seed=0, epoch=1, among=ALL)(ALL)
        for layout in ("contiguous", "channels_last")
    )
    torch.testing.assert_close(one.images, other.images, atol=1e-5, rtol=0)
    assert torch.equal(one.labels, other.labels)


def test_decoded_files_are_shared_and_seen_as_they_are(tmp_path):
    from tests.helpers.made_images import voc, write_set

    files, arrays = voc(size=(180, 240), test=None)
    place = write_set(files, "folder", tmp_path)
    decoded = tasks.decode(tasks.find("camvid"), "train", folder=place, cache=tmp_path / "cache")
    images = _scenes(decoded)
    batch = images.plain_batch(torch.arange(4))
    assert torch.equal(batch.labels == IGNORE, torch.from_numpy(arrays["train"][1] == 255))
    in_memory = dataclasses.replace(decoded, folder=None)
    assert torch.equal(batch.images, _scenes(in_memory).plain_batch(torch.arange(4)).images)


@pytest.mark.gpu
def test_a_gpu_sees_what_the_cpu_sees():
    decoded = scenes()
    spec = image_settings(decoded, scale=SCALE, flip=True)
    one, other = (
        segmentation.SegmentationImages(decoded, images=spec, device=device).augmenter(
            seed=0, epoch=1, among=ALL
        )(ALL)
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(other.images.cpu(), one.images, atol=1e-3, rtol=0)
    assert (other.labels.cpu() == one.labels).float().mean() > 0.999  # a tie may fall either way
