"""What every feature loss promises: a new entry of FEATURE_LOSSES is tested by being there."""

import pytest
import torch
from torch import Tensor

from tune_kd.data.batch import Batch
from tune_kd.losses import total as losses
from tune_kd.losses.total import FEATURE_LOSSES, Outputs

NAMES = sorted(FEATURE_LOSSES)
BATCH = Batch(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4))


def outputs(seed: int, *, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

    return Outputs(draw(4, 3), {"low": draw(4, 6, 8, 8), "high": draw(4, 5)})


@pytest.mark.parametrize("name", NAMES)
def test_is_a_float32_scalar_never_negative(name: str) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        student, teacher = outputs(1, dtype=dtype), outputs(2, dtype=dtype)
        value = losses.find_feature_loss(name)(student, teacher, BATCH)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value >= 0


@pytest.mark.parametrize("name", NAMES)
def test_is_zero_where_the_student_equals_the_teacher(name: str) -> None:
    value = losses.find_feature_loss(name)(outputs(1), outputs(1), BATCH)
    assert abs(value.item()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gives_the_student_a_gradient_and_the_teacher_none(name: str) -> None:
    student, teacher = outputs(1), outputs(2)
    losses.find_feature_loss(name)(student, teacher, BATCH).backward()
    assert all(f.grad is not None and bool(f.grad.any()) for f in student.features.values())
    assert all(f.grad is None for f in teacher.features.values())


@pytest.mark.parametrize("name", NAMES)
def test_is_finite_with_its_gradient_at_dead_and_at_huge_features(name: str) -> None:
    for scale in (0.0, 1e-8, 1e4):
        student, teacher = outputs(1, scale=scale), outputs(2, scale=scale)
        value = losses.find_feature_loss(name)(student, teacher, BATCH)
        value.backward()
        assert torch.isfinite(value)
        assert all(bool(torch.isfinite(f.grad).all()) for f in student.features.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_position_and_many_equal_ones_weigh_alike(name: str) -> None:
    loss = losses.find_feature_loss(name)
    student, teacher = outputs(1).features["high"], outputs(2).features["high"]
    one = loss(Outputs(student, {"high": student}), Outputs(teacher, {"high": teacher}), BATCH)
    student, teacher = (f[:, :, None, None].expand(-1, -1, 7, 5) for f in (student, teacher))
    many = loss(Outputs(student, {"high": student}), Outputs(teacher, {"high": teacher}), BATCH)
    torch.testing.assert_close(one, many)
