"""Trainable maps from the student's channels to the teacher's, for feature losses that need them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tune_kd.errors import UsageError
from tune_kd.recipe import stream


class Projections(nn.Module):
    """Trainable maps from the student's channels to the teacher's, one a level, for training only.

    A 1x1 convolution for maps, linear for vectors, the identity where channels agree (Romero et al.
    2015, FitNets, use such a regressor on the student's side). They are built before training,
    belong into the optimizer and the checkpoint, and are dropped when the student is finished.
    """

    def __init__(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        *,
        seed: int,
    ) -> None:
        """Built for features [B, C, ...] such as both networks gave in a dry forward.

        The weights are a function of `seed` and of the shapes; the global generators are left
        alone.

        Raises:
            UsageError: a level of which one side has vectors and the other maps.
        """
        super().__init__()
        assert student.keys() == teacher.keys(), (sorted(student), sorted(teacher))
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would seed the accelerators' generators as well
            torch.default_generator.manual_seed(stream(seed, "projections"))
            layers = {
                level: _projection(level, tuple(map_.shape), tuple(teacher[level].shape))
                for level, map_ in student.items()
            }
        self.levels = nn.ModuleDict(layers)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the student's features with the teacher's channels, level by level."""
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
            f"level '{level}': the student's features are {list(student)}, the teacher's "
            f"{list(teacher)}; tap modules that both give [B, C] or both [B, C, H, W]"
        )
    if student[1] == teacher[1]:
        return nn.Identity()
    return kinds[len(student)](student[1], teacher[1])
