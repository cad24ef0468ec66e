"""The three losses of distillation, float32 and dense-safe, and their weighted sum with its parts named.

    loss = alpha * CE(student, labels)
         + beta  * T^2 * KL(softmax(teacher / T) || softmax(student / T))
         + gamma * D(student features, teacher features)

Scores are [B, C, ...] with the classes on axis 1: a pixel is an image with a position. Every term is
a mean over valid positions, so images and pixels weigh alike, and is computed in float32 whatever the
networks run in. The teacher never receives a gradient.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_kd.data.batch import IGNORE, Batch
from tune_kd.errors import UsageError, unknown
from tune_kd.plugins import is_reference, load_function
from tune_kd.recipe import LossWeights, stream


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch: scores [B, C, ...] and its features by level, [B, C'] or [B, C', ...].

    The student's features are already projected to the teacher's channels.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


FeatureLoss = Callable[[Outputs, Outputs, Batch], Tensor]


def hard_loss(
    student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = IGNORE
) -> Tensor:
    """Cross-entropy of scores [B, C, ...] with labels [B, ...], the mean over valid positions.

    Positions labelled `ignore_index` are left out; with none left the loss and its gradient are 0.

    >>> hard_loss(torch.zeros(2, 4), torch.tensor([1, 3])).item() == torch.tensor(4.0).log().item()
    True
    """
    each = F.cross_entropy(
        student.float(),
        labels,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return _mean(each, labels != ignore_index)


def mixed_loss(student: Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of mixed images with both their labels by their shares, the mean over images.

    Zhang et al. 2018, section 2: the loss is linear in the target. Scores are [B, C].
    """
    assert batch.other is not None
    assert batch.share is not None
    scores = student.float()
    own, other = (
        F.cross_entropy(scores, labels, label_smoothing=label_smoothing, reduction="none")
        for labels in (batch.labels, batch.other)
    )
    return (batch.share * own + (1 - batch.share) * other).mean()


def soft_loss(
    student: Tensor, teacher: Tensor, *, temperature: float | Tensor, valid: Tensor | None = None
) -> Tensor:
    """KL from teacher to student at `temperature` (> 0, a 0-dim tensor may vary), times its square.

    Hinton et al. 2015, section 2: the square keeps the gradient's size, T * (p_student - p_teacher) per
    position, as the temperature changes. Scores are [B, C, ...]; summed over C, averaged over the
    positions where `valid` [B, ...] holds (None: all); with none the loss and its gradient are 0.

    >>> z = torch.tensor([[1.0, 2.0, 5.0]])
    >>> soft_loss(z, z, temperature=4.0).item()
    0.0
    """
    assert student.shape == teacher.shape, (student.shape, teacher.shape)
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    each = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * _mean(each, valid)


def _mean(each: Tensor, valid: Tensor | None) -> Tensor:
    """The mean where `valid` holds, 0 where it holds nowhere, without asking the device."""
    if valid is None:
        return each.mean()
    return torch.where(valid, each, 0.0).sum() / valid.sum().clamp(min=1)


def cosine_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """1 - cosine over channels, the mean over positions, then over levels; in [0, 2].

    Maps are [B, C, ...] with the same channels on both sides (`Projections` sees to that); the levels
    are the student's, the teacher may have more.
    Where spatial sizes differ the larger map is averaged down to the smaller one.

    >>> a = {"high": torch.tensor([[3.0, 0.0]])}
    >>> cosine_loss(a, {"high": torch.tensor([[0.0, 2.0]])}).item()
    1.0
    """
    assert student.keys() <= teacher.keys(), (sorted(student), sorted(teacher))
    assert student, "no level is compared"
    levels = [_cosine_distance(student[k].float(), teacher[k].detach().float()) for k in student]
    return torch.stack(levels).mean()


def _cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    assert student.shape[:2] == teacher.shape[:2], (student.shape, teacher.shape)
    assert student.ndim == teacher.ndim, (student.shape, teacher.shape)
    sizes = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = _resize(student, sizes), _resize(teacher, sizes)
    # eps bounds the gradient where all channels of a position are dead: 1 / eps, not 1e8
    return 1.0 - F.cosine_similarity(student, teacher, dim=1, eps=1e-4).mean()


def _resize(map_: Tensor, sizes: list[int]) -> Tensor:
    """The map averaged down to `sizes`; the map itself where it has them."""
    have = list(map_.shape[2:])
    if have == sizes:
        return map_
    dims = len(sizes) - 1
    if all(a % b == 0 for a, b in zip(have, sizes, strict=True)):
        # the same numbers as adaptive pooling, whose gradient is not deterministic on CUDA
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims]
        return pool(map_, [a // b for a, b in zip(have, sizes, strict=True)])
    adaptive: tuple[Callable[..., Tensor], ...] = (
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
    )
    return adaptive[dims](map_, sizes)


def _cosine(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    del batch  # part of the signature that a user's own loss may need
    return cosine_loss(student.features, teacher.features)


FEATURE_LOSSES: dict[str, FeatureLoss] = {"cosine": _cosine}


def find_feature_loss(name: str, base: Path | None = None) -> FeatureLoss:
    """The feature loss of that name: a key of FEATURE_LOSSES or `file.py:function`, looked for in `base`.

    A user's function gets (student: Outputs, teacher: Outputs, batch: Batch) and returns a scalar.

    Raises:
        UsageError: no such loss, file or function; when called, anything but one number.
    """
    if is_reference(name):
        return functools.partial(_user_loss, load_function(name, base=base), name)
    if name not in FEATURE_LOSSES:
        raise unknown("feature loss", name, FEATURE_LOSSES, where="file.py:function or")
    return FEATURE_LOSSES[name]


def _user_loss(
    function: FeatureLoss, name: str, student: Outputs, teacher: Outputs, batch: Batch
) -> Tensor:
    value = function(student, teacher, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"'{name}' returned {got}; a feature loss returns a tensor of one number")
    return value.reshape(()).float()


class Weights:
    """Loss weights on a device: alpha, beta, gamma and temperature as 0-dim float32 tensors.

    Tensors, so that a captured step reads what a trial varies. Which terms are computed at all,
    `uses_hard`, `uses_soft` and `uses_features`, is fixed: those whose weight is above zero.
    """

    def __init__(self, weights: LossWeights, *, device: torch.device | str = "cpu") -> None:
        def on_device(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float32, device=device)

        self.alpha = on_device(weights.alpha)
        self.beta = on_device(weights.beta)
        self.gamma = on_device(weights.gamma)
        self.temperature = on_device(weights.temperature)
        self.uses_hard = weights.alpha > 0
        self.uses_soft = weights.beta > 0
        self.uses_features = weights.gamma > 0


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How the terms are computed, apart from their weights; `label_smoothing` in [0, 1)."""

    feature_loss: FeatureLoss = _cosine
    label_smoothing: float = 0.0
    ignore_index: int = IGNORE


class Parts(NamedTuple):
    """The weighted sum, which alone carries a gradient, and its terms unweighted; 0-dim float32."""

    loss: Tensor
    hard: Tensor
    soft: Tensor
    feature: Tensor


def total(
    student: Outputs,
    teacher: Outputs | None,
    *,
    batch: Batch,
    weights: Weights,
    terms: Terms | None = None,
) -> Parts:
    """The weighted loss of a batch. A term whose weight is zero is not computed: exactly 0, no gradient.

    `teacher` may be None where neither the soft nor the feature term is used.
    """
    terms = terms or Terms()
    zero = torch.zeros((), dtype=torch.float32, device=student.logits.device)
    loss, hard, soft, feature = zero, zero, zero, zero
    if weights.uses_hard:
        smoothing, ignored = terms.label_smoothing, terms.ignore_index
        if batch.other is None or batch.share is None:
            hard = hard_loss(
                student.logits, batch.labels, label_smoothing=smoothing, ignore_index=ignored
            )
        else:
            hard = mixed_loss(student.logits, batch, label_smoothing=smoothing)
        loss = loss + weights.alpha * hard
    if weights.uses_soft:
        assert teacher is not None, "the soft term needs a teacher"
        valid = batch.labels != terms.ignore_index
        soft = soft_loss(
            student.logits, teacher.logits, temperature=weights.temperature, valid=valid
        )
        loss = loss + weights.beta * soft
    if weights.uses_features:
        assert teacher is not None, "the feature term needs a teacher"
        feature = terms.feature_loss(student, teacher, batch)
        loss = loss + weights.gamma * feature
    return Parts(loss, hard.detach(), soft.detach(), feature.detach())


class Projections(nn.Module):
    """Trainable maps from the student's channels to the teacher's, one a level, for training only.

    A 1x1 convolution for maps, linear for vectors, the identity where channels agree (Romero et al.
    2015, FitNets, use such a regressor on the student's side). They are built before training, belong
    into the optimiser and the checkpoint, and are dropped when the student is finished.
    """

    def __init__(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        *,
        seed: int,
    ) -> None:
        """Built for features [B, C, ...] such as both networks gave in a dry forward.

        The weights are a function of `seed` and of the shapes; the global generators are left alone.

        Raises:
            UsageError: a level of which one side has vectors and the other maps.
        """
        super().__init__()
        assert student.keys() == teacher.keys(), (sorted(student), sorted(teacher))
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would seed the accelerators' generators as well
            torch.default_generator.manual_seed(stream(seed, "projections"))
            built = {
                level: _projection(level, tuple(map_.shape), tuple(teacher[level].shape))
                for level, map_ in student.items()
            }
        self.levels = nn.ModuleDict(built)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's features with the teacher's channels, level by level."""
        return {level: project(features[level]) for level, project in self.levels.items()}


def _projection(level: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    kinds: dict[int, Callable[[int, int], nn.Module]] = {
        2: nn.Linear,
        3: lambda i, o: nn.Conv1d(i, o, kernel_size=1),
        4: lambda i, o: nn.Conv2d(i, o, kernel_size=1),
        5: lambda i, o: nn.Conv3d(i, o, kernel_size=1),
    }
    if len(student) != len(teacher) or len(student) not in kinds:
        raise UsageError(
            f"level '{level}': the student's features are {list(student)}, the teacher's {list(teacher)};"
            " tap modules that both give [B, C] or both [B, C, H, W]"
        )
    if student[1] == teacher[1]:
        return nn.Identity()
    return kinds[len(student)](student[1], teacher[1])
