"""Losses on features. `FEATURE_LOSSES` maps a name to a pure function.

A function gets (student: Outputs, teacher: Outputs, batch: Batch) and options of its own by
keyword, which a method may sample, and returns a 0-dim float32 tensor; the teacher never receives a
gradient. A user's own is `file.py:function`. Where `needs_projection`, the student's maps are
projected to the teacher's channels first; a user's function says so by an attribute of that name
(True where it has none).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_kd.data.batch import Batch
from tune_kd.errors import UsageError, unknown
from tune_kd.losses.outputs import Outputs, as_scalar, check_options
from tune_kd.plugins import is_reference, load_function


@dataclass(frozen=True, kw_only=True)
class FeatureLoss:
    """A loss on features; `needs_projection`: whether both sides must have the same channels."""

    function: Callable[..., Tensor]
    needs_projection: bool = True

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        return self.function(student, teacher, batch)


def cosine_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """1 - cosine over channels, the mean over positions, then over levels; in [0, 2].

    Maps are [B, C, ...] with the same channels on both sides (`Projections` sees to that); the
    levels are the student's, the teacher may have more. Where spatial sizes differ the larger map
    is averaged down to the smaller one.

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
    """Return the map averaged down to `sizes`; the map itself where it has them."""
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


def attention_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Return attention transfer: the squared distance of normalised attention maps, in [0, 4].

    Zagoruyko and Komodakis 2017, equation 2, with the square that their code takes. A map's
    attention is the mean of its squares over channels, as a vector over positions of length 1; no
    projection, as only positions are compared. Maps are [B, C, ...] of any channels; where sizes
    differ the larger is averaged down. Summed over positions, averaged over images, then over
    levels. Vectors [B, C] have no positions and are left out.

    Raises:
        UsageError: no level has a map.

    >>> a = {"high": torch.tensor([[[[1.0, 0.0]]]])}
    >>> attention_loss(a, {"high": torch.tensor([[[[0.0, 3.0]]]])}).item()
    2.0
    """
    assert student.keys() <= teacher.keys(), (sorted(student), sorted(teacher))
    assert student, "no level is compared"
    distances = [
        _attention_distance(map_.float(), teacher[level].detach().float())
        for level, map_ in student.items()
        if map_.ndim > 2
    ]
    if not distances:
        raise UsageError(
            f"the attention loss compares positions of maps, but the levels {', '.join(student)} "
            "are vectors; tap modules that give [B, C, H, W]"
        )
    return torch.stack(distances).mean()


def _attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    assert student.ndim == teacher.ndim, (student.shape, teacher.shape)
    sizes = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student_map, teacher_map = (_attention(_resize(map_, sizes)) for map_ in (student, teacher))
    return (student_map - teacher_map).square().sum(1).mean()


def _attention(map_: Tensor) -> Tensor:
    """[B, C, ...] to [B, positions], of length 1."""
    return F.normalize(map_.square().mean(1).flatten(1), dim=1, eps=1e-6)


def _of_features(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of two mappings of features as one of outputs and a batch."""

    def loss(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        del batch  # part of the signature that a user's own loss may need
        return function(student.features, teacher.features)

    return loss


FEATURE_LOSSES: dict[str, FeatureLoss] = {
    "cosine": FeatureLoss(function=_of_features(cosine_loss)),
    "attention": FeatureLoss(function=_of_features(attention_loss), needs_projection=False),
}


def find_feature_loss(
    name: str, options: Mapping[str, Any] | None = None, *, base: Path | None = None
) -> FeatureLoss:
    """Return the loss of that name with its options: a key of FEATURE_LOSSES, or `file.py:function` in `base`.

    Raises:
        UsageError: no such loss, file, function or option; when called, anything but one number.
    """
    options = dict(options or {})
    if is_reference(name):
        function = load_function(name, base=base)
        check_options(name, function, options)
        projects = bool(getattr(function, "needs_projection", True))
        users = functools.partial(_users, function, name, options)
        return FeatureLoss(function=users, needs_projection=projects)
    if name not in FEATURE_LOSSES:
        raise unknown("feature loss", name, FEATURE_LOSSES, where="file.py:function or")
    entry = FEATURE_LOSSES[name]
    check_options(name, entry.function, options)
    return FeatureLoss(
        function=functools.partial(entry.function, **options),
        needs_projection=entry.needs_projection,
    )


def _users(
    function: Callable[..., Tensor], name: str, options: Mapping[str, Any], *outputs: Any
) -> Tensor:
    return as_scalar(function(*outputs, **options), name, "feature")
