"""Features of a network: the outputs of modules that it names as levels, `taps` (level to module path)."""

import functools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from tune_kd.errors import UsageError, unknown


class Taps:
    """Collects the outputs of a network's named modules: `features` is by level, of the last forward.

    >>> import torch
    >>> from tune_kd.models import registry
    >>> shape = registry.Shape(num_classes=10, channels=1)
    >>> model = registry.build("digits_student", shape=shape)
    >>> with Taps(model, ["high"]) as taps:
    ...     scores = model(torch.zeros(2, 1, 8, 8))
    >>> {level: tuple(map_.shape) for level, map_ in taps.features.items()}
    {'high': (2, 8, 2, 2)}
    """

    def __init__(self, model: nn.Module, levels: Sequence[str]) -> None:
        """Hooks are on from here until `remove`, or the end of a `with` block.

        Raises:
            UsageError: a level that the network does not have, or a path that names no module.
        """
        self.features: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        modules = {level: _tap_module(model, level) for level in levels}
        self._hooks.append(model.register_forward_pre_hook(self._clear))
        for level, module in modules.items():
            hook = functools.partial(self._keep, level)
            self._hooks.append(module.register_forward_hook(hook))

    def _clear(self, module: nn.Module, args: Any) -> None:
        self.features = {}

    def _keep(self, level: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise UsageError(
                f"level '{level}': its module gives {type(output).__name__}; tap one that gives a tensor"
            )
        self.features[level] = output

    def remove(self) -> None:
        """Take the hooks off; `features` stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _tap_module(model: nn.Module, level: str) -> nn.Module:
    taps: Mapping[str, str] = getattr(model, "taps", {})
    if not taps:
        raise UsageError(
            f"{type(model).__name__} has no taps for level '{level}'; give it e.g. self.taps = {{'{level}': 'layer3'}}"
        )
    if level not in taps:
        raise unknown("level", level, taps, where=f"{type(model).__name__} has")
    try:
        return model.get_submodule(taps[level])
    except AttributeError:
        raise UsageError(
            f"level '{level}' of {type(model).__name__}: there is no module '{taps[level]}'"
        ) from None
