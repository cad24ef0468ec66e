"""An opened test split: scored once as by hand, agreement with the teacher, its best and worst predictions."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import made_images, making
from tune_kd.data import splits, tasks
from tune_kd.models import registry
from tune_kd.recipe import Recipe
from tune_kd.training import context as places
from tune_kd.training import test_split, trial


def test_an_image_of_nothing_but_void_is_neither_among_the_best_nor_among_the_worst(tmp_path):
    decoded = made_images.scenes(4, size=(32, 32))
    decoded.labels[1] = 255
    images = made_images.image_settings(decoded)
    ctx = making.context_in(tmp_path)
    model = registry.build("lraspp_mobilenet_v3_small", shape=places.shape_of(images)).eval()
    for count, expected in ((4, {0, 2, 3}), (1, {0})):
        every = np.arange(count)
        split = places.place_split(
            decoded, images, ctx, layout="contiguous", parts=(every, every[:0])
        )
        pictures = test_split.pictures(
            model, test_split.TestSplit(images=split, decoded=decoded, reference=None)
        )
        assert set(pictures["index"].tolist()) == expected
        assert not np.isnan(pictures["iou"]).any()
        assert len(pictures["all_iou"]) == count


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


USER = """
from torch import nn

from tune_kd.models import registry as models

def net(num_classes, channels, dropout):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, num_classes))

class Turned(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def load_state_dict(self, state, **options):
        return self.inner.load_state_dict(state, **options)

    def state_dict(self, **options):
        return self.inner.state_dict(**options)

    def forward(self, x):
        return SIGN * self.inner(x)

def teacher(num_classes, channels):
    return Turned(models.build("digits_teacher", shape=models.Shape(num_classes=10, channels=1)))
"""


def test_agreement_is_with_the_code_that_the_teachers_file_has_now(tmp_path):
    """A teacher's test scores are kept; its weights alone do not say what they are."""
    ctx = making.context_in(tmp_path / "cache", code=tmp_path)
    access = trial.TestAccess(reference=("user.py:teacher", making.TEACHER))
    recipe = Recipe(images=making.digits(), student="digits_teacher", start=making.TEACHER)
    agreements = []
    for sign in ("1", "-1", "1"):
        (tmp_path / "user.py").write_text(USER.replace("SIGN", sign))
        (row,) = making.run(recipe, ctx, access=access).rows
        agreements.append(row["test_agreement"])
    assert agreements[0] == agreements[2] == 1
    assert agreements[1] < 0.2


def _folder(path, *, garbage):
    """Digits as class folders of 12 training and 8 test images; garbage cannot be read."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label in range(3):
            place = path / split / "abc"[label]
            place.mkdir(parents=True)
            for number in range(count):
                file = place / f"{number:02d}.png"
                pixels = random.integers(60 * label, 60 * label + 130, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
                if garbage and split == "test":
                    file.write_bytes(b"this is no image")
    return path


def _from_folder(folder, cache):
    decoded = tasks.decode(tasks.find("digits"), "train", folder=folder, cache=cache)
    images = making.digits(train_hash=decoded.hash, num_classes=3)
    ctx = trial.NodeContext(cache=cache, data=folder)
    return making.recipe(images=images, batch_size=10, epochs=2), ctx


def test_an_open_test_split_is_measured_once_and_as_by_hand(tmp_path):
    recipe, ctx = _from_folder(_folder(tmp_path / "data", garbage=False), tmp_path / "cache")
    reference = making.run(recipe, ctx)
    result = making.run(recipe, ctx, access=trial.TestAccess())
    assert "test_accuracy" not in result.rows[0]
    last = dict(result.rows[1])
    columns = {name: last.pop(name) for name in list(last) if name.startswith("test_")}
    names = ("accuracy", "confusion", "correct", "ece", "loss")
    assert sorted(columns) == [f"test_{name}" for name in names]
    assert [result.rows[0], last] == reference.rows  # opening it changes nothing else
    making.assert_same_state(result.state, reference.state)

    model = places.build("digits_student", recipe, ctx, seed=0)
    model.load_state_dict({k[6:]: v for k, v in result.state.items() if k.startswith("model.")})
    files = sorted((ctx.data / "test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = torch.tensor(["abc".index(file.parent.name) for file in files])
    inputs = (torch.from_numpy(pixels).float()[:, None] / 255 - 0.3) / 0.4
    with torch.no_grad():
        scores = model.eval()(inputs)
    predicted = scores.argmax(1)
    assert columns["test_accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    assert columns["test_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-4
    )
    bits = np.unpackbits(np.frombuffer(columns["test_correct"], np.uint8), count=len(labels))
    assert bits.astype(bool).tolist() == (predicted == labels).tolist()  # image by image
    confusion = [
        [int(((labels == t) & (predicted == s)).sum()) for s in range(3)] for t in range(3)
    ]
    assert columns["test_confusion"] == [n for true in confusion for n in true]
    sure = scores.softmax(1).amax(1).double()
    gap = 0.0
    for low in range(15):
        inside = (sure * 15).long().clamp(max=14) == low
        gap += abs((predicted == labels)[inside].double().sum() - sure[inside].sum()).item()
    assert columns["test_ece"] == pytest.approx(gap / len(labels), rel=1e-4)


def test_agreement_is_with_the_teacher_that_is_named(tmp_path):
    """Of another teacher than the one that is listened to, whatever that is."""
    ctx = making.context_in(tmp_path / "cache")
    recipe = making.recipe(student="digits_medium", epochs=4)
    access = trial.TestAccess(reference=("digits_teacher", making.TEACHER))
    result = making.run(recipe, ctx, access=access)
    reference = making.run(recipe, ctx)
    row = {k: v for k, v in result.rows[-1].items() if not k.startswith("test_")}
    assert row == reference.rows[-1]

    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=ctx.cache)
    images = (
        splits.device_images(decoded, images=making.digits()).plain_batch(torch.arange(540)).images
    )
    student = places.build("digits_medium", recipe, ctx, seed=0).eval()
    student.load_state_dict({k[6:]: v for k, v in result.state.items() if k.startswith("model.")})
    teacher = places.load_model("digits_teacher", recipe, ctx, making.TEACHER).eval()
    with torch.no_grad():
        same = student(images).argmax(1) == teacher(images).argmax(1)
    assert 0.2 < same.double().mean() < 1
    # the teacher's scores are kept in float16: a near tie may fall the other way
    assert result.rows[-1]["test_agreement"] == pytest.approx(
        same.double().mean().item(), abs=1 / 540
    )


def test_the_test_accuracy_of_digits_is_that_of_one_image_at_a_time(ctx):
    recipe = making.recipe(student="digits_teacher", epochs=1)
    result = making.run(recipe, ctx, access=trial.TestAccess())
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=ctx.cache)
    images = splits.device_images(decoded, images=making.digits())
    model = places.build("digits_teacher", recipe, ctx, seed=0)
    model.load_state_dict({k[6:]: v for k, v in result.state.items() if k.startswith("model.")})
    assert len(images) == 540
    expected = making.accuracy_of(model, images, images.labels)
    assert result.rows[-1]["test_accuracy"] == pytest.approx(expected, abs=1e-12)
    correct = result.rows[-1]["test_correct"]
    assert len(correct) == 68  # 540 images, eight a byte
    bits = np.unpackbits(np.frombuffer(correct, np.uint8))
    assert bits[:540].mean() == pytest.approx(expected, abs=1e-12)
    assert not bits[540:].any()


@pytest.mark.parametrize("pixels", [1, 2 * 32 * 32, 10**9])
def test_counts_of_single_images_add_up_to_what_the_row_says(tmp_path, monkeypatch, pixels):
    """Whatever the chunks are in which the images are scored."""
    monkeypatch.setattr(splits, "EVALUATION_PIXELS", pixels)
    decoded = made_images.scenes(5, size=(32, 32))
    decoded.labels[3] = 255  # nothing counts in it
    images = made_images.image_settings(decoded)
    model = registry.build("lraspp_mobilenet_v3_small", shape=places.shape_of(images)).eval()
    every = np.arange(5)
    split = places.place_split(
        decoded, images, making.context_in(tmp_path), layout="contiguous", parts=(every, every[:0])
    )
    scores = test_split.TestSplit(images=split, decoded=decoded, reference=None).evaluate(model)
    columns = test_split.columns(scores, dense=True)
    assert "test_correct" not in columns
    counts = np.reshape(columns["test_counts"], (5, 5, 3))
    with torch.no_grad():
        predictions = model(split.images.plain_batch(torch.arange(5)).images).argmax(1).numpy()
    for image, (labels, guess) in enumerate(zip(decoded.labels, predictions, strict=True)):
        valid = labels != 255
        for label in range(5):
            both = ((labels == label) & (guess == label))[valid].sum()
            sums = (both, (guess == label)[valid].sum(), (labels == label)[valid].sum())
            assert tuple(counts[image, label]) == sums
    assert not counts[3].any()
    confusion = np.reshape(columns["test_confusion"], (5, 5))
    total = counts.sum(0)
    assert total[:, 0].tolist() == confusion.diagonal().tolist()
    assert total[:, 1].tolist() == confusion.sum(0).tolist()
    assert total[:, 2].tolist() == confusion.sum(1).tolist()
    both, predicted, labelled = total.T
    ious = (both / (predicted + labelled - both))[labelled > 0]
    assert columns["test_miou"] == pytest.approx(ious.mean(), abs=1e-12)
