"""The frozen teacher: what its network says, and never changed."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import making
from tune_kd.models import checkpoints
from tune_kd.models.taps import Taps
from tune_kd.training import context as places


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


@pytest.fixture
def frozen(ctx):
    return places.frozen_teacher(making.recipe("combined"), ctx)


def _sample():
    return torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def test_a_frozen_teacher_says_what_its_network_says_in_evaluation_mode(frozen, ctx):
    model = places.load_model("digits_teacher", making.recipe("response"), ctx, making.TEACHER)
    model.eval()
    scores, features = frozen.outputs(_sample())
    with torch.no_grad(), Taps(model, ["low", "mid", "high"]) as taps:
        expected = model(_sample())
    assert torch.equal(scores, expected)
    assert features.keys() == taps.features.keys()
    assert all(torch.equal(features[level], taps.features[level]) for level in features)


def test_no_output_of_a_teacher_requires_a_gradient(frozen):
    images = _sample().requires_grad_()
    scores, features = frozen.outputs(images)
    assert not any(t.requires_grad for t in (scores, *features.values()))
    assert not any(p.requires_grad for p in frozen.model.parameters())


def test_a_teacher_in_training_mode_is_not_asked(frozen):
    frozen.model.train()
    with pytest.raises(AssertionError, match="evaluation mode"):
        frozen.outputs(_sample())


@pytest.mark.parametrize(
    "part", ["stage1.1.running_mean", "stage2.1.num_batches_tracked", "fc.bias"]
)
def test_a_changed_weight_or_buffer_is_noticed(frozen, part):
    frozen.assert_unchanged()
    frozen.model.state_dict()[part].view(-1)[0] += 1
    with pytest.raises(AssertionError, match="changed"):
        frozen.assert_unchanged()


@pytest.mark.parametrize("method", ["response", "feature", "combined"])
def test_training_leaves_the_teacher_as_it_was(ctx, monkeypatch, method):
    teachers = []

    def keep(*args, **kwargs):
        teachers.append(frozen_teacher(*args, **kwargs))
        return teachers[-1]

    frozen_teacher = places.frozen_teacher
    monkeypatch.setattr(places, "frozen_teacher", keep)
    making.run(making.recipe(method, epochs=2), ctx)
    (frozen,) = teachers
    fresh = places.load_model("digits_teacher", making.recipe("response"), ctx, making.TEACHER)
    assert (
        checkpoints.tensor_hash(frozen.model)
        == frozen.tensor_hash
        == checkpoints.tensor_hash(fresh)
    )
    assert not any(module.training for module in frozen.model.modules())
    assert all(p.grad is None for p in frozen.model.parameters())


def test_a_teacher_that_changes_itself_ends_its_trial(tmp_path):
    (tmp_path / "nets.py").write_text(
        """\
from tune_kd.models.classification import SmallCNN

class Restless(SmallCNN):
    def forward(self, x):
        self.stage1[1].running_mean += 1e-3
        return super().forward(x)

def restless(*, num_classes, channels):
    return Restless((32, 64, 64), num_classes=num_classes, channels=channels)
"""
    )
    ctx = making.context_in(tmp_path / "cache", code=tmp_path)
    recipe = replace(making.recipe("response", epochs=2), teacher="nets.py:restless")
    with pytest.raises(AssertionError, match="teacher has changed"):
        making.run(recipe, ctx)
