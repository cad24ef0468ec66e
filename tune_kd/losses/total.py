"""The three losses of distillation, float32 and dense-safe, and their weighted sum with its parts named.

    loss = alpha * CE(student, labels)
         + beta  * T^2 * KL(softmax(teacher / T) || softmax(student / T))
         + gamma * D(student features, teacher features)

Scores are [B, C, ...] with the classes on axis 1: a pixel is an image with a position. Every term
is a mean over valid positions, so images and pixels weigh alike, and is computed in float32
whatever the networks run in. The teacher never receives a gradient.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tune_kd.data.batch import Batch
from tune_kd.losses.features import FEATURE_LOSSES, FeatureLoss
from tune_kd.losses.labels import hard_loss, mixed_loss
from tune_kd.losses.logits import LOGIT_LOSSES, LogitLoss
from tune_kd.losses.outputs import Outputs
from tune_kd.recipe import LossWeights


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
        self._beta = weights.beta
        self.uses_hard = weights.alpha > 0
        self.uses_soft = weights.beta > 0
        self.uses_features = weights.gamma > 0

    def warm_up(self, at: float, *, epochs: float) -> None:
        """Set beta for the time `at` (epochs trained): it rises from 0 to its value in so many epochs.

        Zhao et al. 2022 do so; theirs is the share (epoch, from 1) / epochs, ours that of the step.
        """
        if epochs > 0:
            self.beta.fill_(self._beta * min(at / epochs, 1.0))


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How the terms are computed, apart from their weights; `label_smoothing` in [0, 1)."""

    logit_loss: LogitLoss = LOGIT_LOSSES["kl"]
    feature_loss: FeatureLoss = FEATURE_LOSSES["cosine"]
    label_smoothing: float = 0.0


class LossTerms(NamedTuple):
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
    terms: LossOptions | None = None,
) -> LossTerms:
    """Return the weighted loss of a batch. A term whose weight is zero is not computed: exactly 0, no gradient.

    `teacher` may be None where neither the soft nor the feature term is used.
    """
    terms = terms or LossOptions()
    zero = torch.zeros((), dtype=torch.float32, device=student.logits.device)
    loss, hard, soft, feature = zero, zero, zero, zero
    if weights.uses_hard:
        smoothing = terms.label_smoothing
        if batch.other is None or batch.share is None:
            hard = hard_loss(student.logits, batch.labels, label_smoothing=smoothing)
        else:
            hard = mixed_loss(student.logits, batch, label_smoothing=smoothing)
        loss = loss + weights.alpha * hard
    if weights.uses_soft:
        assert teacher is not None, "the soft term needs a teacher"
        student_scores, teacher_scores = (
            Outputs(scores.float() / weights.temperature)
            for scores in (student.logits, teacher.logits.detach())
        )
        soft = weights.temperature**2 * terms.logit_loss(student_scores, teacher_scores, batch)
        loss = loss + weights.beta * soft
    if weights.uses_features:
        assert teacher is not None, "the feature term needs a teacher"
        feature = terms.feature_loss(student, teacher, batch)
        loss = loss + weights.gamma * feature
    return LossTerms(loss, hard.detach(), soft.detach(), feature.detach())
