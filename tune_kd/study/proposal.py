"""A trial before it starts: what is run, with which seed, and where the idea comes from."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune_kd.recipe import Recipe, from_json, stream, to_json


def repeat_seed(seed: int, repeat: int) -> int:
    """Return the seed of one of a study's independent searches: its initial weights and dropout.

    The first search has the study's own, so that it begins what a study of one repeat would.

    >>> repeat_seed(7, 0) == 7 != repeat_seed(7, 1)
    True
    """
    return stream(seed, "repeat", repeat) % 2**31 if repeat else seed


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A trial before it starts: on disk first, then run."""

    trial: str
    phase: str  # one of results.PHASES, but measure
    method: str  # empty for a teacher
    number: int
    seed: int  # of weights, dropout and what else a repeat has of its own
    origin: str  # as results.TRIAL_COLUMNS says
    recipe: Recipe
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    repeat: int = 0  # which of the study's independent searches
    source: str = ""  # the search trial that is trained again
    shared: int = 0  # stages that were trained once for all trials of the method
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # Optuna's own
    open_test: bool = False
    proposed: str = ""  # ISO 8601, UTC

    @property
    def keeps_weights(self) -> bool:
        """Whether its network stays: of what is confirmed that of recommended students alone."""
        return self.phase in ("teacher", "search") or "recommended" in self.origin

    @property
    def recipe_id(self) -> str:
        """The id of its recipe and seed, which names the model that it gives."""
        return self.recipe.recipe_id(self.seed)


def dump(proposal: Proposal) -> str:
    """Return a proposal as JSON."""
    fields = {f.name: getattr(proposal, f.name) for f in dataclasses.fields(proposal)}
    return json.dumps({**fields, "recipe": to_json(proposal.recipe)}, sort_keys=True)


def parse(text: str | bytes) -> Proposal:
    """Return the proposal that `dump` wrote."""
    fields = json.loads(text)
    return Proposal(**{**fields, "recipe": from_json(fields["recipe"])})
