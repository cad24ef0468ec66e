"""What every task promises: a new entry of TASKS is tested by being there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import made_images
from tune_kd.data import splits, tasks
from tune_kd.data.batch import IGNORE
from tune_kd.data.tasks import TASKS, Task
from tune_kd.recipe import Images

NAMES = sorted(TASKS)
CLASSES = ("ant", "bee", "cow")
COUNTS = {"train": 6, "test": 2}  # images a class
EMBEDDED = ("digits",)  # with an installed library


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_sane(name):
    task = TASKS[name]
    assert task.name == name
    assert tasks.find(name) is task
    assert min(task.sides) >= 8
    assert task.channels in (1, 3)
    assert 0 <= task.pad < min(task.sides) / 2
    for moments in (task.mean, task.std):
        assert moments is None or len(moments) == task.channels
        assert moments is None or all(0 < value < 1 for value in moments)
    assert (task.mean is None) == (task.std is None)
    assert (task.num_train is None) == (task.num_classes is None)
    assert task.num_classes is None or task.num_classes >= 2
    assert task.layouts
    assert all(layout.expected for layout in task.layouts)
    if task.dense:
        assert task.num_classes is None or task.num_classes < 255  # which is void


def images(count: int, *, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def class_folders(shape: tuple[int, ...]) -> tuple[dict[str, bytes], dict[str, tuple]]:
    """6 training and 2 test images of each of 3 classes: files by name, and what splits hold."""
    files, contents = {}, {}
    for split, count in COUNTS.items():
        pixels = images(len(CLASSES) * count, seed=count, shape=shape)
        contents[split] = pixels, np.repeat(range(len(CLASSES)), count)
        for number, image in enumerate(pixels):
            name = f"{split}/{CLASSES[number // count]}/{number:03d}.png"
            files[name] = made_images.encode(image.squeeze())
    return files, contents


def write_set(task: Task, place: Path, *, shape: tuple[int, ...] | None = None) -> dict[str, tuple]:
    """A data set that the task knows, of its own shape or another; what its splits hold."""
    height, width, channels = shape or (*task.sides, task.channels)
    if task.dense:
        files, contents = made_images.voc(
            train=4, val=2, test=2, size=(height, width), channels=channels, classes=3
        )
        both = zip(contents["train"], contents["val"], strict=True)
        contents["train"] = tuple(np.concatenate(pair) for pair in both)
    else:
        files, contents = class_folders((height, width, channels))
    made_images.write_set(files, "folder", place)
    return contents


def decode(task: Task, split: str, folder: Path) -> tasks.Decoded:
    return tasks.decode(task, split, folder=folder / "set", cache=folder / "cache")


@pytest.mark.parametrize("name", NAMES)
def test_images_of_the_tasks_shape_decode_to_what_they_are(name, tmp_path):
    task = TASKS[name]
    contents = write_set(task, tmp_path)
    for split in ("train", "test"):
        decoded = decode(task, split, tmp_path)
        np.testing.assert_array_equal(decoded.images, contents[split][0])
        np.testing.assert_array_equal(decoded.labels, contents[split][1])
        assert decoded.dense == task.dense
        assert len(decoded.class_names) == (task.num_classes if task.dense else len(CLASSES))
    decoded = decode(task, "train", tmp_path)
    fit, validation = splits.split(decoded)
    assert sorted([*fit, *validation]) == list(range(len(decoded.labels)))
    assert len(validation) >= 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_another_shape_are_brought_to_the_tasks(name, channels, tmp_path):
    task = TASKS[name]
    write_set(task, tmp_path, shape=(20, 28, channels))
    decoded = decode(task, "train", tmp_path)
    assert decoded.images.shape == (len(decoded.labels), *task.sides, task.channels)
    assert decoded.images.dtype == np.uint8
    assert decoded.images.std() > 5  # still pictures
    if task.dense:
        assert decoded.labels.shape[1:] == task.sides
        assert set(np.unique(decoded.labels)) == {0, 1, 2, 255}


def resident(task: Task, decoded: tasks.Decoded, **changes: object) -> splits.DeviceImages:
    """The images as a search of this task would see them."""
    index = np.arange(len(decoded.labels))
    mean, std = splits.normalisation(task, decoded, index)  # noise is none of the published sets
    fields = {
        "task": task.name,
        "train_hash": decoded.hash,
        "num_classes": len(decoded.class_names),
        "channels": task.channels,
        "size": task.sides,
        "mean": mean,
        "std": std,
        "pad": task.pad,
        "flip": task.flip,
        "dense": task.dense,
        "scale": task.scale,
    }
    return splits.device_images(decoded, images=Images(**{**fields, **changes}))


@pytest.mark.parametrize("name", NAMES)
def test_normalised_images_have_mean_0_and_deviation_1(name, tmp_path):
    task = TASKS[name]
    write_set(task, tmp_path)
    decoded = decode(task, "train", tmp_path)
    batch = resident(task, decoded).plain_batch(torch.arange(len(decoded.labels)))
    assert batch.images.shape == (len(decoded.labels), task.channels, *task.sides)
    assert float(batch.images.mean()) == pytest.approx(0, abs=1e-4)
    assert float(batch.images.std(correction=0)) == pytest.approx(1, abs=1e-3)
    expected = torch.from_numpy(decoded.labels.astype(np.int64))
    if task.dense:
        expected = expected.masked_fill(expected == 255, IGNORE)
    assert torch.equal(batch.labels, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_what_training_sees_is_the_same_in_every_batch(name, mix, tmp_path):
    task = TASKS[name]
    if task.dense and mix != "none":
        with pytest.raises(ValueError, match="no mixing where every pixel has a label"):
            Images(task=name, train_hash="", num_classes=2, dense=True, mix=mix)
        return
    write_set(task, tmp_path)
    decoded = decode(task, "train", tmp_path)
    images, everything = resident(task, decoded, mix=mix), torch.arange(len(decoded.labels))
    see = images.augmenter(seed=1, epoch=1, among=everything[::2])
    batch, one = see(everything), see(everything[2:3])
    assert torch.equal(one.images[0], batch.images[2])
    assert torch.equal(one.labels[0], batch.labels[2])
    assert batch.images.shape == images.plain_batch(everything).images.shape
    later = images.augmenter(seed=1, epoch=2, among=everything[::2])(everything)
    assert not torch.equal(later.images, batch.images)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_data_are_what_the_task_says(name, tmp_path):
    task = TASKS[name]
    decoded = {s: tasks.decode(task, s, folder=None, cache=tmp_path) for s in ("train", "test")}
    assert len(decoded["train"].labels) == task.num_train
    assert len(decoded["train"].class_names) == task.num_classes
    assert decoded["train"].class_names == decoded["test"].class_names
    pixels = {s: {image.tobytes() for image in d.images} for s, d in decoded.items()}
    assert not pixels["train"] & pixels["test"]
