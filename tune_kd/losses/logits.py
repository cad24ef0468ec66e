"""Losses on the teacher's logits. `LOGIT_LOSSES` maps a name to a pure function.

A function gets (student: Outputs, teacher: Outputs, batch: Batch), both logits divided by the
temperature in float32 already, and options of its own by keyword, which a method may sample; it
returns a 0-dim tensor, which `total` multiplies by the temperature's square. The teacher never
receives a gradient. Its logits come from the cache, whatever the loss: features are not there. A
user's own is `file.py:function`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_kd.data.batch import IGNORE, Batch
from tune_kd.errors import unknown
from tune_kd.losses.outputs import Outputs, as_scalar, check_options, mean
from tune_kd.plugins import is_reference, load_function


@dataclass(frozen=True, kw_only=True)
class LogitLoss:
    """A loss on logits; `mixes`: whether it has a meaning for images with two labels (MixUp, CutMix)."""

    function: Callable[..., Tensor]
    mixes: bool = True

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the loss of a batch whose logits are divided by the temperature."""
        return self.function(student, teacher, batch)


def soft_loss(
    student: Tensor, teacher: Tensor, *, temperature: float | Tensor, valid: Tensor | None = None
) -> Tensor:
    """KL from teacher to student at `temperature` (> 0, a 0-dim tensor may vary), times its square.

    Hinton et al. 2015, section 2: the square keeps the gradient's size, T * (p_student - p_teacher)
    per position, as the temperature changes. Scores are [B, C, ...]; summed over C, averaged over
    the positions where `valid` [B, ...] holds (None: all); with none the loss and its gradient are
    0.

    >>> z = torch.tensor([[1.0, 2.0, 5.0]])
    >>> soft_loss(z, z, temperature=4.0).item()
    0.0
    """
    assert student.shape == teacher.shape, (student.shape, teacher.shape)
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    each = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * mean(each, valid)


def kl(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Return KL from teacher to student (Hinton et al. 2015) over the positions whose label counts."""
    valid = batch.labels != IGNORE
    return soft_loss(student.logits, teacher.logits, temperature=1.0, valid=valid)


def dkd(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    *,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
) -> Tensor:
    """Return decoupled distillation: target_weight * TCKD + other_weight * NCKD.

    Zhao et al. 2022, equations 5 to 7. TCKD is the KL of (target, all others) as two classes, NCKD
    that of the other classes among themselves, which plain KL weighs by 1 - p(target) of the
    teacher. In log space: a teacher that is sure of the target leaves no 0 / 0. Summed over
    classes, averaged over positions that count.

    >>> z = Outputs(torch.tensor([[9.0, 2.0, 5.0]]))
    >>> batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]))
    >>> dkd(z, z, batch).item()
    0.0
    """
    valid = batch.labels != IGNORE
    labels = batch.labels.clamp(min=0).unsqueeze(1)
    student_log = F.log_softmax(student.logits.float(), dim=1)
    teacher_log = F.log_softmax(teacher.logits.detach().float(), dim=1)
    is_target = torch.zeros_like(student_log, dtype=torch.bool).scatter_(1, labels, value=True)
    student_target, student_rest = _split(student_log, labels, is_target)
    teacher_target, teacher_rest = _split(teacher_log, labels, is_target)
    target = teacher_target.exp() * (teacher_target - student_target)
    target = target + teacher_rest.exp() * (teacher_rest - student_rest)
    # the target, masked before exp: of a sure teacher its ratio to the others is infinite,
    # and 0 * inf is NaN
    teacher_among = teacher_log - teacher_rest
    shares = teacher_among.masked_fill(is_target, -torch.inf).exp()
    others = (shares * (teacher_among - (student_log - student_rest))).sum(1)
    each = target_weight * target.squeeze(1) + other_weight * others
    return mean(each, valid)


def _split(log_probs: Tensor, labels: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of the target and of all other classes together, each [B, 1, ...]."""
    others = log_probs.masked_fill(is_target, -torch.inf).logsumexp(1, keepdim=True)
    return log_probs.gather(1, labels), others


LOGIT_LOSSES: dict[str, LogitLoss] = {
    "kl": LogitLoss(function=kl),
    "dkd": LogitLoss(function=dkd, mixes=False),
}


def find_logit_loss(
    name: str, options: Mapping[str, Any] | None = None, *, base: Path | None = None
) -> LogitLoss:
    """Return the loss of that name with its options: a key of LOGIT_LOSSES, or `file.py:function` in `base`.

    Raises:
        UsageError: no such loss, file, function or option; when called, anything but one number.
    """
    options = dict(options or {})
    if is_reference(name):
        function = load_function(name, base=base)
        check_options(name, function, options)
        return LogitLoss(function=functools.partial(_users, function, name, options))
    if name not in LOGIT_LOSSES:
        raise unknown("logit loss", name, LOGIT_LOSSES, where="file.py:function or")
    entry = LOGIT_LOSSES[name]
    check_options(name, entry.function, options)
    return LogitLoss(function=functools.partial(entry.function, **options), mixes=entry.mixes)


def _users(
    function: Callable[..., Tensor], name: str, options: Mapping[str, Any], *outputs: Any
) -> Tensor:
    return as_scalar(function(*outputs, **options), name, "logit")
