"""A method: a row of the final table, with the ranges of its hyperparameters."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

from tune_kd.recipe import NEEDS, Stage
from tune_kd.space.distributions import range_text

Config = Mapping[str, Any]
TRAINING = ("lr", "weight_decay", "dropout")  # what a method passes on to `SearchSpace.distill`


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the final table: how a student is made from sampled values.

    `stages(space, **values)` is a pure function; its keyword arguments are the names of `ranges`,
    where `**training` stands for those of TRAINING. `defaults` is the default configuration, the
    first trial of each repeat, which runs to the end. `published` are configurations from papers
    that a search tries early, each given as what it changes of `defaults`. The first `shared`
    stages do not depend on sampled values: they are trained once for all trials, or replaced by the
    space's `start`. `needs` says what any of its stages may need, of `recipe.NEEDS`: a study trains
    a teacher only if a method says "logits" or "features".
    """

    stages: Callable[..., tuple[Stage, ...]]
    ranges: Mapping[str, BaseDistribution]
    defaults: Config
    published: tuple[Config, ...] = ()
    fixed: Config = field(default_factory=dict)  # pinned by --set
    shared: int = 0
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = {**self.ranges, **self.fixed}
        parameters = list(inspect.signature(self.stages).parameters.values())[1:]
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        names += TRAINING if len(names) < len(parameters) else ()
        if set(names) != set(values):
            raise ValueError(f"{self.stages.__name__} takes {names}, but ranges has {list(values)}")
        for setting in (self.defaults, *self.published):
            for name, value in setting.items():
                range_ = self.ranges.get(name)
                if range_ is None and name not in self.fixed:
                    raise ValueError(f"defaults or published sets {name}, which has no range")
                if range_ is not None and not range_._contains(range_.to_internal_repr(value)):
                    raise ValueError(
                        f"{name}={value!r} lies outside its range {range_text(range_)}"
                    )
        if unknown := sorted(set(self.needs) - set(NEEDS)):
            raise ValueError(f"needs names {unknown[0]!r}; there are {', '.join(NEEDS)}")
        missing = set(self.ranges) - set(self.defaults)
        if missing:
            raise ValueError(f"defaults lacks {sorted(missing)}")

    def build(self, space: Any, config: Config) -> tuple[Stage, ...]:
        """Return the stages of one trial from fresh weights on.

        Raises:
            ValueError: a stage needs what the method does not declare.
        """
        stages = self.stages(space, **{**config, **self.fixed})
        needs = frozenset().union(*(stage.needs for stage in stages))
        if undeclared := sorted(needs - set(self.needs)):
            raise ValueError(
                f"its stages need {' and '.join(undeclared)}, which it does not declare; write "
                f"Method(needs={tuple(sorted({*self.needs, *needs}))}, ...)"
            )
        return stages

    def settings(self) -> list[dict[str, Any]]:
        """Return the default settings, then the published ones, complete and each once, sampled names only."""
        unique: list[dict[str, Any]] = []
        for change in ({}, *self.published):
            merged = {**self.defaults, **change}
            setting = {name: merged[name] for name in self.ranges}
            if setting not in unique:
                unique.append(setting)
        return unique

    def pin(self, name: str, value: Any) -> "Method":
        """Return this method with one range pinned to a value; unchanged where it has no such range."""
        if name not in self.ranges and name not in self.fixed:
            return self
        ranges = {k: v for k, v in self.ranges.items() if k != name}
        defaults = {k: v for k, v in self.defaults.items() if k != name}
        published = tuple({k: v for k, v in s.items() if k != name} for s in self.published)
        fixed = {**self.fixed, name: value}
        return dataclasses.replace(
            self, ranges=ranges, defaults=defaults, published=published, fixed=fixed
        )
