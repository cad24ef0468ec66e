"""The frozen teacher, and the precision that it and its student compute in."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tune_kd.data.batch import Batch
from tune_kd.models import checkpoints
from tune_kd.models.taps import Taps


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the training precision of a study: bfloat16 by autocast, or float32 as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


class FrozenTeacher:
    """A network that cannot learn: evaluation mode, no gradients, hashed before and after.

    `outputs` returns float32 scores [B, C, ...], of a dense network at its own stride
    (`segmentation.resize` brings them to the image's size); features come as they are computed.
    """

    def __init__(self, model: nn.Module, *, levels: Sequence[str] = (), precision: str) -> None:
        self.model = model.requires_grad_(False).eval()
        self.precision = precision
        self.tensor_hash = checkpoints.tensor_hash(model)
        self._taps = Taps(model, levels) if levels else None
        self._device = next(model.parameters()).device

    def outputs(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores and the features of the levels asked for."""
        assert not self.model.training, "the teacher left evaluation mode"
        with torch.no_grad(), autocast(self._device, self.precision):
            coarse = getattr(self.model, "coarse", self.model)
            scores = coarse(images)
        return scores.float(), dict(self._taps.features) if self._taps else {}

    def logits(self, batches: Iterable[Batch]) -> Tensor:
        """Return the scores of batches, one after another, on the CPU: what a logit cache keeps."""
        return torch.cat([self.outputs(batch.images)[0].cpu() for batch in batches])

    def assert_unchanged(self) -> None:
        """Weights and buffers are those it came with; AssertionError else."""
        assert checkpoints.tensor_hash(self.model) == self.tensor_hash, "the teacher has changed"
