"""What every loss promises: a new entry of FEATURE_LOSSES or LOGIT_LOSSES is tested by being there."""

import pytest
import torch
from torch import Tensor

from tune_kd import losses
from tune_kd.data.batch import Batch
from tune_kd.errors import UsageError
from tune_kd.losses import FEATURE_LOSSES, IGNORE, LOGIT_LOSSES, Outputs

NAMES = sorted(FEATURE_LOSSES)
BATCH = Batch(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4))


def outputs(seed: int, *, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

    return Outputs(draw(4, 3), {"low": draw(4, 6, 8, 8), "high": draw(4, 5, 2, 2)})


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


@pytest.mark.parametrize("name", [n for n in NAMES if FEATURE_LOSSES[n].needs_projection])
def test_one_position_and_many_equal_ones_weigh_alike(name: str) -> None:
    loss = losses.find_feature_loss(name)
    student, teacher = outputs(1).logits, outputs(2).logits
    one = loss(Outputs(student, {"high": student}), Outputs(teacher, {"high": teacher}), BATCH)
    student, teacher = (f[:, :, None, None].expand(-1, -1, 7, 5) for f in (student, teacher))
    many = loss(Outputs(student, {"high": student}), Outputs(teacher, {"high": teacher}), BATCH)
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_compared_or_refused_in_words(name: str) -> None:
    student, teacher = (Outputs(o.logits, {"high": o.logits}) for o in (outputs(1), outputs(2)))
    loss = losses.find_feature_loss(name)
    if loss.needs_projection:
        assert loss(student, teacher, BATCH) > 0
    else:
        with pytest.raises(UsageError, match=r"tap modules that give \[B, C, H, W\]"):
            loss(student, teacher, BATCH)


LOGITS = sorted(LOGIT_LOSSES)


def logits(seed: int, *, scale: float = 1.0, pixels: tuple[int, ...] = ()) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs((scale * torch.randn((4, 3, *pixels), generator=generator)).requires_grad_())


@pytest.mark.parametrize("name", LOGITS)
def test_logits_that_are_equal_have_no_loss_and_others_have_one(name: str) -> None:
    loss = losses.find_logit_loss(name)
    assert abs(loss(logits(1), logits(1), BATCH).item()) < 1e-6
    student, teacher = logits(1), logits(2)
    value = loss(student, teacher, BATCH)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value > 0
    value.backward()
    assert bool(student.logits.grad.any())
    assert teacher.logits.grad is None


@pytest.mark.parametrize("name", LOGITS)
def test_logits_of_a_teacher_that_is_sure_give_a_finite_gradient(name: str) -> None:
    for scale in (0.0, 1.0, 1e3, 1e4):
        student, teacher = logits(1, scale=scale), logits(2, scale=scale)
        value = losses.find_logit_loss(name)(student, teacher, BATCH)
        value.backward()
        assert torch.isfinite(value)
        assert bool(torch.isfinite(student.logits.grad).all())


@pytest.mark.parametrize("name", LOGITS)
def test_logits_of_pixels_are_those_of_images_and_void_counts_for_nothing(name: str) -> None:
    loss = losses.find_logit_loss(name)
    student, teacher = logits(1).logits, logits(2).logits
    plain = loss(Outputs(student), Outputs(teacher), BATCH)
    as_pixels = [z.T[None, :, :, None].expand(-1, -1, -1, 2) for z in (student, teacher)]
    labels = torch.stack([BATCH.labels, torch.full((4,), IGNORE)], 1)[None]
    dense = Batch(torch.zeros(1, 3, 4, 2), labels, torch.zeros(1))
    torch.testing.assert_close(loss(*map(Outputs, as_pixels), dense), plain)


@pytest.mark.parametrize("name", LOGITS)
def test_an_option_that_it_has_not_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option 'strength'.*loss {name} has"):
        losses.find_logit_loss(name, {"strength": 1.0})
