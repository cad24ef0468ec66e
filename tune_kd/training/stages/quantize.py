"""Int8, calibrated on images or trained with fake quantization."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tune_kd.compress import int8
from tune_kd.recipe import Distill, Quantize, stream
from tune_kd.training.report import EpochReport
from tune_kd.training.stages.base import (
    Resume,
    Run,
    StageResult,
    change_network,
)
from tune_kd.training.stages.distill import train_stage


@dataclass(frozen=True)
class QuantizeKind:
    """Carries out `Quantize`: a prepared graph is calibrated or trained, then converted."""

    stage: Quantize
    code: Path | None = None  # the folder of a user's own files
    has_own_state = True  # of a prepared graph, which is made and loaded here

    def run(
        self, run: Run, model: nn.Module, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        """Calibrate, one report; or train, one report per epoch."""
        if self.stage.training is None:
            yield change_network(run, model, self._calibrate(run, model))
        else:
            yield from self._train(run, model, self.stage.training, resume=resume)

    def rebuild(
        self, model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor
    ) -> nn.Module:
        """Return the network prepared and converted anew, with the state's integers and scales."""
        return int8.restore(model.eval(), state, sample=sample.cpu())

    def _calibrate(self, run: Run, model: nn.Module) -> int8.Converted:
        prepared = int8.prepare(model, sample=run.sample.cpu(), qat=False)
        generator = torch.Generator().manual_seed(stream(run.seed, "calibration"))
        fit = run.images.fit
        order = torch.randperm(len(fit), generator=generator)[: self.stage.calibration_images]
        batches = run.images.batches(fit[order.to(fit.device)])
        initial_ranges = int8.ranges(prepared)
        int8.calibrate(prepared, (batch.images.cpu() for batch in batches))
        int8.assert_active(prepared, initial_ranges)
        return _convert(prepared)

    def _train(
        self, run: Run, model: nn.Module, training: Distill, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        fake = int8.prepare(model, sample=run.sample.cpu(), qat=True).to(run.sample.device)
        initial_ranges, initial_weights = int8.ranges(fake), int8.weights(fake)

        def finish() -> StageResult:
            int8.assert_active(fake, initial_ranges, untrained=initial_weights)
            result = _convert(fake)
            return StageResult(model=result, values=run.footprint(result, before=model))

        yield from train_stage(run, fake, training, resume=resume, finish=finish)


def _convert(prepared: int8.Prepared) -> int8.Converted:
    """Return the int8 network, with the certainty that its operators are."""
    converted = int8.convert(prepared)
    int8.report(converted)
    return converted
