"""The three losses against values worked out by hand and against facts about their gradients."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tune_kd.data.batch import IGNORE, Batch
from tune_kd.errors import UsageError
from tune_kd.losses import (
    LossOptions,
    LossTerms,
    Outputs,
    Projections,
    Weights,
    cosine_loss,
    find_feature_loss,
    hard_loss,
    soft_loss,
    total,
)
from tune_kd.recipe import LossWeights


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hard_loss_by_hand() -> None:
    student = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert hard_loss(student, torch.tensor([0, 1])).item() == pytest.approx(expected)


def test_label_smoothing_by_hand() -> None:
    student = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.95 * math.log(4 / 3) + 0.05 * math.log(4)
    value = hard_loss(student, torch.tensor([0]), label_smoothing=0.1)
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_soft_loss_by_hand(temperature: float) -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    p = 1 / (1 + math.exp(-2 / temperature))
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    value = soft_loss(student, teacher, temperature=temperature)
    assert value.item() == pytest.approx(temperature**2 * divergence, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_gradient_is_temperature_times_the_difference_of_probabilities(
    temperature: float,
) -> None:
    student, teacher = draw(8, 10).requires_grad_(), draw(8, 10, seed=1, scale=4)
    soft_loss(student, teacher, temperature=temperature).backward()
    p_student, p_teacher = (F.softmax(z.detach() / temperature, 1) for z in (student, teacher))
    expected = temperature * (p_student - p_teacher) / 8
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-4)


def test_soft_loss_at_high_temperature_is_half_the_mean_squared_distance_of_centred_scores() -> (
    None
):
    student, teacher = draw(256, 100), draw(256, 100, seed=1, scale=4)
    centred = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    limit = (centred[0] - centred[1]).square().sum(1).mean().item() / (2 * 100)
    far, near = (soft_loss(student, teacher, temperature=t).item() for t in (4.0, 32.0))
    assert near == pytest.approx(limit, rel=2e-3)
    assert abs(far - limit) > 5 * abs(near - limit)


def test_the_square_of_the_temperature_keeps_the_gradient() -> None:
    student, teacher = draw(256, 100).requires_grad_(), draw(256, 100, seed=1, scale=4)
    norms = []
    for temperature in (1, 2, 4, 8, 16, 32):
        loss = soft_loss(student, teacher, temperature=temperature)
        norms.append(float(torch.autograd.grad(loss, student)[0].norm()))
    assert max(norms) / min(norms) < 2


def test_temperature_may_be_a_tensor() -> None:
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    as_number = soft_loss(student, teacher, temperature=3.0)
    assert torch.equal(as_number, soft_loss(student, teacher, temperature=torch.tensor(3.0)))


def test_a_pixel_weighs_as_much_as_an_image() -> None:
    student, teacher, labels = draw(2, 5), draw(2, 5, seed=1), torch.tensor([3, 1])
    dense = [z[:, :, None, None].expand(-1, -1, 16, 12) for z in (student, teacher)]
    many = labels[:, None, None].expand(-1, 16, 12)
    torch.testing.assert_close(hard_loss(dense[0], many), hard_loss(student, labels))
    torch.testing.assert_close(
        soft_loss(*dense, temperature=4.0), soft_loss(student, teacher, temperature=4.0)
    )


def test_ignored_positions_count_for_nothing() -> None:
    student, teacher = draw(2, 5, 4, 4).requires_grad_(), draw(2, 5, 4, 4, seed=1)
    labels = torch.arange(32).reshape(2, 4, 4) % 5
    labels[0, :3] = IGNORE
    valid = labels != IGNORE
    logits = [z.movedim(1, -1)[valid] for z in (student, teacher)]
    hard = hard_loss(student, labels)
    soft = soft_loss(student, teacher, temperature=2.0, valid=valid)
    torch.testing.assert_close(hard, hard_loss(logits[0], labels[valid]))
    torch.testing.assert_close(soft, soft_loss(logits[0], logits[1], temperature=2.0))
    (hard + soft).backward()
    assert student.grad is not None
    assert not student.grad.movedim(1, -1)[~valid].any()


def test_no_valid_position_gives_zero_and_no_gradient() -> None:
    student, labels = draw(3, 5).requires_grad_(), torch.full((3,), IGNORE)
    value = hard_loss(student, labels, label_smoothing=0.1)
    value = value + soft_loss(student, draw(3, 5), temperature=4.0, valid=labels != IGNORE)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_give_finite_float32_losses(dtype: torch.dtype) -> None:
    extreme = torch.tensor([[60000.0, -60000.0, 0.0], [-60000.0, 0.0, 60000.0]], dtype=dtype)
    student, labels = extreme.clone().requires_grad_(), torch.tensor([1, 0])
    for temperature in (1.0, 20.0):
        hard = hard_loss(student, labels)
        soft = soft_loss(student, extreme.flip(0), temperature=temperature)
        assert hard.dtype == soft.dtype == torch.float32
        (gradient,) = torch.autograd.grad(hard + soft, student)
        assert torch.isfinite(hard + soft)
        assert torch.isfinite(gradient).all()


def test_losses_are_float32_under_autocast() -> None:
    student, teacher, labels = draw(8, 10), draw(8, 10, seed=1), torch.arange(8)
    features = {"low": draw(2, 6, 9, 9)}, {"low": draw(2, 6, 4, 4, seed=1)}
    plain = hard_loss(student, labels), soft_loss(student, teacher, temperature=4.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = hard_loss(student, labels), soft_loss(student, teacher, temperature=4.0)
        cosine = cosine_loss(*features)
    assert [torch.equal(*pair) for pair in zip(plain, mixed, strict=True)] == [True, True]
    assert torch.equal(cosine, cosine_loss(*features))


def test_cosine_loss_by_hand_is_the_mean_over_levels() -> None:
    student = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[1.0, 1.0], [1.0, 0.0]])}
    teacher = {"a": torch.tensor([[-2.0, 0.0]]), "b": torch.tensor([[5.0, 0.0], [3.0, 0.0]])}
    expected = (2.0 + (1 - math.sqrt(0.5) + 0.0) / 2) / 2
    assert cosine_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("large", "small"), [((8, 8), (4, 4)), ((8, 6), (4, 4)), ((7,), (3,))])
def test_the_larger_map_is_averaged_down(large: tuple[int, ...], small: tuple[int, ...]) -> None:
    a, b = draw(2, 5, *large), draw(2, 5, *small, seed=1)
    adaptive = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d}[len(small)]
    expected = 1 - F.cosine_similarity(adaptive(a, small), b, dim=1).mean()
    torch.testing.assert_close(cosine_loss({"x": a}, {"x": b}), expected)
    torch.testing.assert_close(cosine_loss({"x": b}, {"x": a}), expected)


def test_the_cosine_goes_over_channels_not_over_positions() -> None:
    a = draw(2, 5, 4, 4)
    scaled = a * torch.rand((2, 1, 4, 4), generator=torch.Generator().manual_seed(0)).add(0.1)
    assert cosine_loss({"x": a}, {"x": scaled}).item() == pytest.approx(0, abs=1e-6)


def test_a_dead_position_cannot_explode_the_gradient() -> None:
    student = torch.zeros(1, 5).requires_grad_()
    loss = cosine_loss({"x": student}, {"x": draw(1, 5, seed=1)})
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 1
    assert gradient.norm() < 2e4


def outputs() -> tuple[Outputs, Outputs, Batch]:
    student = Outputs(draw(6, 4).requires_grad_(), {"high": draw(6, 8, seed=2).requires_grad_()})
    teacher = Outputs(draw(6, 4, seed=1).requires_grad_(), {"high": draw(6, 8, seed=3)})
    return student, teacher, Batch(draw(6, 3, 8, 8), torch.arange(6) % 4, torch.arange(6))


def test_total_is_the_weighted_sum_of_its_parts() -> None:
    student, teacher, batch = outputs()
    weights = Weights(LossWeights(alpha=0.3, beta=0.7, gamma=2.0, temperature=4.0))
    parts = total(student, teacher, batch=batch, weights=weights)
    assert parts.hard.item() == hard_loss(student.logits, batch.labels).item()
    assert parts.soft.item() == soft_loss(student.logits, teacher.logits, temperature=4.0).item()
    assert parts.feature.item() == cosine_loss(student.features, teacher.features).item()
    expected = 0.3 * parts.hard + 0.7 * parts.soft + 2.0 * parts.feature
    torch.testing.assert_close(parts.loss.detach(), expected)
    parts.loss.backward()
    assert teacher.logits.grad is None
    assert not any(part.requires_grad for part in parts[1:])


@pytest.mark.parametrize(
    ("weights", "used"),
    [
        (LossWeights(alpha=1.0), {"hard"}),
        (LossWeights(alpha=0.0, beta=1.0), {"soft"}),
        (LossWeights(alpha=0.0, gamma=1.0), {"feature"}),
        (LossWeights(alpha=0.5, gamma=1.0), {"hard", "feature"}),
    ],
)
def test_a_term_with_weight_zero_is_exactly_zero_and_gives_no_gradient(
    weights: LossWeights, used: set[str]
) -> None:
    student, teacher, batch = outputs()
    parts = total(student, teacher, batch=batch, weights=Weights(weights))
    parts.loss.backward()
    assert {name for name in ("hard", "soft", "feature") if getattr(parts, name) != 0} == used
    assert (student.logits.grad is None) == ("feature" in used and len(used) == 1)
    assert (student.features["high"].grad is None) == ("feature" not in used)


def test_no_teacher_is_needed_where_no_term_uses_one() -> None:
    student, _, batch = outputs()
    parts = total(student, None, batch=batch, weights=Weights(LossWeights()))
    assert torch.equal(parts.loss.detach(), hard_loss(student.logits, batch.labels).detach())


def test_the_soft_term_is_there_without_the_labels_and_changes_with_no_cliff() -> None:
    student, teacher, batch = outputs()

    def loss(alpha: float) -> float:
        weights = Weights(LossWeights(alpha=alpha, beta=1.0, temperature=4.0))
        return total(student, teacher, batch=batch, weights=weights).loss.item()

    assert loss(0.0) == pytest.approx(loss(1e-7), rel=1e-5)


def test_terms_reach_the_losses() -> None:
    student, teacher, batch = outputs()
    labels = batch.labels.clone()
    labels[:3] = IGNORE
    batch = Batch(batch.images, labels, batch.index)
    terms = LossOptions(label_smoothing=0.2, feature_loss=lambda s, t, b: s.logits.sum())
    weights = Weights(LossWeights(alpha=1.0, beta=1.0, gamma=1.0))
    parts = total(student, teacher, batch=batch, weights=weights, terms=terms)
    valid = labels != IGNORE
    logits, target = student.logits[valid], labels[valid]
    expected = LossTerms(
        parts.loss,
        hard_loss(logits, target, label_smoothing=0.2),
        soft_loss(logits, teacher.logits[valid], temperature=1.0),
        student.logits.sum(),
    )
    for term, expected_term in zip(parts, expected, strict=True):
        torch.testing.assert_close(
            term, expected_term.detach() if expected_term is not parts.loss else expected_term
        )


def test_what_a_trial_varies_is_read_from_tensors() -> None:
    student, teacher, batch = outputs()
    varied = Weights(LossWeights(alpha=1.0, beta=1.0, gamma=1.0, temperature=1.0))
    target = Weights(LossWeights(alpha=0.2, beta=0.5, gamma=3.0, temperature=6.0))
    for name in ("alpha", "beta", "gamma", "temperature"):
        getattr(varied, name).fill_(getattr(target, name))
    loss, expected = (
        total(student, teacher, batch=batch, weights=weights).loss for weights in (varied, target)
    )
    assert torch.equal(loss, expected)


def test_a_users_feature_loss_by_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def gap(student, teacher, batch):\n"
        "    return (student.logits - teacher.logits).abs().mean() * len(batch.index)\n"
        "def vector(student, teacher, batch):\n"
        "    return student.logits.sum(1)\n"
    )
    student, teacher, batch = outputs()
    value = find_feature_loss("mine.py:gap", base=tmp_path)(student, teacher, batch)
    assert value.item() == ((student.logits - teacher.logits).abs().mean() * 6).item()
    with pytest.raises(UsageError, match=r"vector' returned shape \[6\]"):
        find_feature_loss("mine.py:vector", base=tmp_path)(student, teacher, batch)


def test_an_unknown_feature_loss_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        find_feature_loss("cosin")


def test_projections_bring_the_students_channels_to_the_teachers() -> None:
    student = {
        "low": draw(2, 4, 8, 8),
        "mid": draw(2, 6, 5),
        "high": draw(2, 3),
        "same": draw(2, 7),
    }
    teacher = {
        "low": draw(1, 9, 4, 4),
        "mid": draw(1, 2, 5),
        "high": draw(1, 5),
        "same": draw(1, 7),
    }
    before = torch.get_rng_state()
    projections = Projections(student, teacher, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    projected = projections(student)
    assert {k: tuple(v.shape) for k, v in projected.items()} == {
        "low": (2, 9, 8, 8),
        "mid": (2, 2, 5),
        "high": (2, 5),
        "same": (2, 7),
    }
    assert projected["same"] is student["same"]
    levels = {name.split(".")[1] for name, _ in projections.named_parameters()}
    assert levels == {"high", "low", "mid"}
    same, other = (Projections(student, teacher, seed=s).state_dict() for s in (3, 4))
    mine = projections.state_dict()
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert not any(torch.equal(mine[name], other[name]) for name in mine)


def test_a_projection_is_trained_by_the_loss() -> None:
    student, teacher = {"high": draw(16, 4)}, {"high": draw(16, 6, seed=1)}
    projections = Projections(student, teacher, seed=0)
    optimizer = torch.optim.SGD(projections.parameters(), lr=0.5)
    values = []
    for _ in range(50):
        loss = cosine_loss(projections(student), teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


def test_vectors_and_maps_are_not_compared() -> None:
    with pytest.raises(UsageError, match=r"level 'high'.*\[2, 4\].*\[2, 4, 8, 8\]"):
        Projections({"high": draw(2, 4)}, {"high": draw(2, 4, 8, 8)}, seed=0)
