"""What every task promises: a new entry of TASKS is tested by being there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tune_kd import data, tasks
from tune_kd.tasks import TASKS

NAMES = sorted(TASKS)
CLASSES = ("ant", "bee", "cow")


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_sane(name):
    task = TASKS[name]
    assert task.name == name
    assert tasks.find(name) is task
    assert task.size >= 8
    assert task.channels in (1, 3)
    assert 0 <= task.pad < task.size / 2
    for moments in (task.mean, task.std):
        assert moments is None or len(moments) == task.channels
        assert moments is None or all(0 < value < 1 for value in moments)
    assert (task.mean is None) == (task.std is None)
    assert (task.num_train is None) == (task.num_classes is None)
    assert task.num_classes is None or task.num_classes >= 2
    assert all(task.own_layouts)


def images(count: int, *, seed: int, size: int, channels: int) -> np.ndarray:
    shape = (len(CLASSES) * count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def class_folders(folder: Path, *, size: int, channels: int) -> dict[str, np.ndarray]:
    """6 training and 2 test images of each of 3 classes, in the order that they are decoded in."""
    made = {}
    for split, count in (("train", 6), ("test", 2)):
        made[split] = images(count, seed=count, size=size, channels=channels)
        for number, pixels in enumerate(made[split]):
            path = folder / split / CLASSES[number // count] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(path)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_class_folders_of_the_tasks_shape_decode_to_what_they_hold(name, tmp_path):
    task = TASKS[name]
    made = class_folders(tmp_path / "in", size=task.size, channels=task.channels)
    for split, count in (("train", 6), ("test", 2)):
        found = tasks.decode(task, split, folder=tmp_path / "in", cache=tmp_path / "cache")
        np.testing.assert_array_equal(found.images, made[split])
        assert found.labels.tolist() == np.repeat(range(len(CLASSES)), count).tolist()
        assert found.class_names == CLASSES
    fit, validation = data.split(np.repeat(range(len(CLASSES)), 6))
    assert len(fit) == 12
    assert len(validation) == 6
    assert not set(fit) & set(validation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_another_shape_are_brought_to_the_tasks(name, channels, tmp_path):
    task = TASKS[name]
    class_folders(tmp_path / "in", size=20, channels=channels)
    found = tasks.decode(task, "train", folder=tmp_path / "in", cache=tmp_path / "cache")
    assert found.images.shape == (18, task.size, task.size, task.channels)
    assert found.images.dtype == np.uint8
    assert found.images.std() > 5  # still pictures


@pytest.mark.parametrize("name", NAMES)
def test_normalised_images_have_mean_0_and_deviation_1(name, tmp_path):
    task = TASKS[name]
    class_folders(tmp_path / "in", size=task.size, channels=task.channels)
    found = tasks.decode(task, "train", folder=tmp_path / "in", cache=tmp_path / "cache")
    index = np.arange(18)
    mean, std = data.normalisation(task, found, index)  # noise is none of the published sets
    resident = data.Resident(found, pad=task.pad, mean=mean, std=std)
    import torch

    batch = resident.batch(torch.from_numpy(index))
    assert batch.shape == (18, task.channels, task.size, task.size)
    assert float(batch.mean()) == pytest.approx(0, abs=1e-4)
    assert float(batch.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if not TASKS[n].own_layouts])
def test_embedded_data_are_what_the_task_says(name, tmp_path):
    task = TASKS[name]
    found = {s: tasks.decode(task, s, folder=None, cache=tmp_path) for s in ("train", "test")}
    assert len(found["train"].labels) == task.num_train
    assert len(found["train"].class_names) == task.num_classes
    assert found["train"].class_names == found["test"].class_names
    pixels = {s: {image.tobytes() for image in d.images} for s, d in found.items()}
    assert not pixels["train"] & pixels["test"]
