"""A registered or a user's own change of the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tune_kd.compress import transforms
from tune_kd.recipe import Transform
from tune_kd.training import context
from tune_kd.training.report import EpochReport
from tune_kd.training.stages.base import Resume, Run, change_network


@dataclass(frozen=True)
class TransformKind:
    """Carries out `Transform`."""

    stage: Transform
    code: Path | None = None  # the folder of a user's own files
    has_own_state = False

    def run(
        self, run: Run, model: nn.Module, *, resume: Resume | None
    ) -> Iterator[tuple[EpochReport, nn.Module]]:
        """Transform, one report."""
        new_model = self._transform().apply(model, sample=run.sample)
        yield change_network(run, model, context.place(new_model, run.ctx, run.recipe.compute))

    def rebuild(
        self, model: nn.Module, state: Mapping[str, Tensor], *, sample: Tensor
    ) -> nn.Module:
        """Return the network with the shapes of the state."""
        return self._transform().rebuild(model, state)

    def _transform(self) -> transforms.NetworkTransform:
        return transforms.find(self.stage.name, self.stage.options, base=self.code)
