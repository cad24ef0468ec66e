"""A check without a surface: random searches among the recorded configurations that have several seeds.

A trial shows the recorded curve of one of its seeds; its true accuracy is the mean of the others,
of validation and test images together. Only random proposals can be replayed so, and the optimum is
the best of few configurations; but nothing is fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.search import replay
from benchmarks.search.policies import STOPPING
from benchmarks.search.replay import Curve, Outcome
from benchmarks.search.surface import Floats
from tune_kd.recipe import stream


@dataclass(frozen=True, kw_only=True)
class Table:
    """A method's configurations with several seeds: curves [configurations, seeds, epochs]."""

    validation: Floats
    accuracy: Floats  # [configurations, seeds], of validation and test images after the last epoch

    @property
    def epochs(self) -> int:
        """Epochs of a curve."""
        return int(self.validation.shape[2])


def table(rows: pd.DataFrame, images: Mapping[str, int]) -> Table:
    """Return the table of one method's recorded rows."""
    seeds = rows.groupby("number")["seed"].nunique()
    several = seeds[seeds == seeds.max()].index
    frame = rows[rows["number"].isin(several)].sort_values(["number", "seed", "epoch"])
    shape = (len(several), int(seeds.max()), -1)
    validation = frame["val_accuracy"].to_numpy(float).reshape(shape)
    test = frame["test_accuracy"].to_numpy(float).reshape(shape)[:, :, -1]
    weight = images["validation"] / (images["validation"] + images["test"])
    return Table(
        validation=validation, accuracy=weight * validation[:, :, -1] + (1 - weight) * test
    )


def search(recording: Table, *, stopping: str, trials: int, seed: tuple[object, ...]) -> Outcome:
    """Return the default settings and random others of the table."""
    random = np.random.default_rng(stream(*seed))
    count, seeds, _ = recording.validation.shape
    numbers = [0, *(1 + random.choice(count - 1, trials - 1, replace=False))]
    luck = random.integers(seeds, size=trials)
    others = [
        np.delete(recording.accuracy[n], s).mean() for n, s in zip(numbers, luck, strict=True)
    ]

    def show(number: int, config: dict[str, Any]) -> Curve:
        del config
        curve = recording.validation[numbers[number], luck[number]]
        return dict(enumerate(curve.tolist(), 1))

    ended = replay.run_trials(
        lambda history: {"number": numbers[len(history)]},
        show,
        stopping=STOPPING[stopping],
        epochs=recording.epochs,
        trials=trials,
    )
    return replay.outcome(ended, others)
