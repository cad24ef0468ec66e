"""Decoupled KD and attention transfer against values by hand, and as methods of a space."""

import math

import pytest
import torch
from torch import Tensor

from tune_kd.data.batch import Batch
from tune_kd.errors import UsageError
from tune_kd.losses import (
    LOGIT_LOSSES,
    LossOptions,
    Outputs,
    Weights,
    attention_loss,
    dkd,
    find_feature_loss,
    find_logit_loss,
    kl,
    total,
)
from tune_kd.recipe import (
    Distill,
    LossWeights,
    from_json,
    stages_from_json,
    stages_to_json,
    to_json,
)
from tune_kd.space import loader, methods, overrides


def batch_of(labels: list[int]) -> Batch:
    return Batch(torch.zeros(len(labels), 1), torch.tensor(labels), torch.arange(len(labels)))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def test_dkd_by_hand() -> None:
    student, teacher, target = [1.0, 0.0, -1.0], [2.0, 1.0, 0.0], 0
    p, q = softmax(teacher), softmax(student)
    rest_p, rest_q = 1 - p[target], 1 - q[target]
    tckd = p[target] * math.log(p[target] / q[target]) + rest_p * math.log(rest_p / rest_q)
    nckd = sum(p[i] / rest_p * math.log((p[i] / rest_p) / (q[i] / rest_q)) for i in (1, 2))
    outputs = Outputs(torch.tensor([student])), Outputs(torch.tensor([teacher]))
    for first, second in ((1.0, 8.0), (1.0, 0.0), (0.0, 1.0)):
        loss = dkd(*outputs, batch_of([target]), target_weight=first, other_weight=second)
        assert loss.item() == pytest.approx(first * tckd + second * nckd, rel=1e-5, abs=1e-7)


def test_plain_kl_is_dkd_with_the_teachers_weight_of_the_others() -> None:
    """Zhao et al. 2022, equation 7: KL = TCKD + (1 - p_target of the teacher) NCKD."""
    generator = torch.Generator().manual_seed(0)
    for label in range(5):
        student, teacher = (Outputs(torch.randn(1, 5, generator=generator)) for _ in range(2))
        other_weight = 1 - teacher.logits.softmax(1)[0, label].item()
        batch = batch_of([label])
        coupled = dkd(student, teacher, batch, target_weight=1.0, other_weight=other_weight)
        torch.testing.assert_close(coupled, kl(student, teacher, batch))


def test_attention_transfer_by_hand() -> None:
    student = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]])  # two channels, two positions
    teacher = torch.tensor([[[[0.0, 3.0]]]])
    student_map = [(1 + 1) / 2, (4 + 0) / 2]
    student_map = [value / math.hypot(*student_map) for value in student_map]
    teacher_map = [0.0, 1.0]
    expected = sum((a - b) ** 2 for a, b in zip(student_map, teacher_map, strict=True))
    assert attention_loss({"x": student}, {"x": teacher}).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_attention_does_not_see_the_scale_or_the_order_of_channels() -> None:
    maps = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    assert attention_loss({"x": maps}, {"x": 7 * maps.flip(1)}).item() == pytest.approx(0, abs=1e-6)
    small = torch.nn.functional.avg_pool2d(maps, 2)
    assert attention_loss({"x": small}, {"x": maps}).item() == pytest.approx(0, abs=1e-6)


def test_a_logit_loss_gets_what_the_temperature_divides_and_its_square_multiplies() -> None:
    logits: list[Tensor] = []

    def loss(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        logits.extend([student.logits, teacher.logits])
        return student.logits.sum()

    student, teacher = Outputs(torch.ones(1, 2)), Outputs(torch.full((1, 2), 4.0))
    terms = LossOptions(logit_loss=loss)  # type: ignore[arg-type]
    weights = Weights(LossWeights(alpha=0.0, beta=1.0, temperature=4.0))
    parts = total(student, teacher, batch=batch_of([0]), weights=weights, terms=terms)
    assert [value.tolist() for value in logits] == [[[0.25, 0.25]], [[1.0, 1.0]]]
    assert parts.loss.item() == 16 * 0.5


def test_beta_rises_during_the_warm_up() -> None:
    weights = Weights(LossWeights(beta=2.0))
    betas = []
    for at in (0.0, 1.0, 4.0, 9.0):
        weights.warm_up(at, epochs=4.0)
        betas.append(weights.beta.item())
    assert betas == [0.0, 0.5, 2.0, 2.0]
    weights.warm_up(0.0, epochs=0.0)  # none: as it is
    assert weights.beta.item() == 2.0


def test_options_reach_the_loss() -> None:
    outputs = Outputs(torch.tensor([[1.0, 0.0, 0.5]])), Outputs(torch.tensor([[0.0, 2.0, 1.0]]))
    loss = find_logit_loss("dkd", {"target_weight": 0.0, "other_weight": 3.0})
    expected = dkd(*outputs, batch_of([1]), target_weight=0.0, other_weight=3.0)
    assert torch.equal(loss(*outputs, batch_of([1])), expected)


OWN = """
def strong(student, teacher, batch, *, power=1.0):
    return ((student.logits - teacher.logits).abs() ** power).mean()

def spread(student, teacher, batch, *, power=1.0):
    return sum(map_.abs().mean() ** power for map_ in student.features.values())
spread.needs_projection = False
"""


def test_a_users_own_losses_take_options(tmp_path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    loss = find_logit_loss("own.py:strong", {"power": 2.0}, base=tmp_path)
    outputs = Outputs(torch.zeros(1, 2)), Outputs(torch.full((1, 2), 3.0))
    assert loss(*outputs, batch_of([0])).item() == 9.0
    assert not find_feature_loss("own.py:spread", {"power": 2.0}, base=tmp_path).needs_projection
    with pytest.raises(UsageError, match="did you mean 'power'"):
        find_logit_loss("own.py:strong", {"powr": 2.0}, base=tmp_path)


def test_every_space_of_training_values_takes_them_by_name() -> None:
    space, _ = loader.load("cifar10_small_kd")
    subset = overrides.subset(space, ["attention", "no_kd", "dkd"])
    assert list(subset.methods) == ["no_kd", "attention", "dkd"]
    for name in methods.MORE:
        ranges = subset.methods[name].ranges
        assert {k: ranges[k] for k in ("lr", "weight_decay", "dropout")} == dict(
            space.methods["no_kd"].ranges
        )
    (stage,) = subset.stages("dkd", subset.methods["dkd"].settings()[0])
    assert isinstance(stage, Distill)
    assert (stage.logit_loss, stage.logit_options["other_weight"]) == ("dkd", 8.0)
    assert stage.logit_warmup_epochs == space.student.epochs / 12
    (stage,) = subset.stages("attention", subset.methods["attention"].settings()[0])
    assert stage.feature_loss == "attention"
    with pytest.raises(UsageError, match="did you mean 'dkd'"):
        overrides.subset(space, ["dk"])
    both, _ = loader.load("digits_kd_prune")
    pruning = overrides.subset(both, ["prune"])
    with pytest.raises(UsageError, match="method dkd tunes lr, weight_decay, dropout"):
        overrides.subset(pruning, ["dkd"])


def test_a_pinned_value_holds_for_them_too() -> None:
    space, _ = loader.load("digits_kd")
    pinned = overrides.change(space, ["lr=0.25"])
    subset = overrides.subset(pinned, ["dkd"])
    (stage,) = subset.stages("dkd", subset.methods["dkd"].settings()[0])
    assert stage.optimizer.lr == 0.25


def test_their_stages_survive_json() -> None:
    space, _ = loader.load("digits_kd")
    for name in methods.MORE:
        subset = overrides.subset(space, [name])
        stages = subset.stages(name, subset.methods[name].settings()[0])
        assert stages_from_json(stages_to_json(stages)) == stages


def test_mixed_images_have_two_labels_which_dkd_has_no_meaning_for() -> None:
    assert {name: loss.mixes for name, loss in LOGIT_LOSSES.items()} == {"kl": True, "dkd": False}


def test_json_leaves_out_what_equals_its_default() -> None:
    assert to_json(Distill(epochs=3)) == '{"epochs":3,"kind":"distill"}'
    assert from_json  # the whole way back is a doctest of recipe
