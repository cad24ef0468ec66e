"""What the replayed searches come to: regret against epochs, with bootstrap intervals, as rows and Markdown.

Regret is the optimum's true accuracy less that of the chosen trial, in percentage points. A repeat
counts with its mean over the methods; intervals are percentiles of a bootstrap over repeats, so
they hold the luck of the replay, and not that of the recording.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from benchmarks.search.grid import Cell
from benchmarks.search.surface import Floats

DEFAULT = ("tpe", "ASHA third, 3")  # what the product had before this benchmark
YARDSTICK = ("tpe", "none")  # of "the same epochs"
RESAMPLES = 2000

Row = dict[str, Any]
Outcomes = Mapping[Cell, pd.DataFrame]


def interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % interval of a mean by bootstrap; of one value that value twice."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def regrets(outcomes: pd.DataFrame) -> Floats:
    """Return the regret of each repeat, the mean over the methods, in points: [repeats]."""
    each = 100 * (outcomes["optimum"] - outcomes["chosen"])
    return each.groupby(outcomes["repeat"]).mean().to_numpy(float)


def rows(outcomes: Outcomes) -> list[Row]:
    """Return a row a cell."""
    cell_regrets = {cell: regrets(frame) for cell, frame in outcomes.items()}
    frontier = _frontier(outcomes, cell_regrets)
    table = []
    for cell, frame in outcomes.items():
        mine, epochs = cell_regrets[cell], float(frame["epochs"].mean())
        row: Row = {
            "sampler": cell.sampler,
            "stopping": cell.stopping,
            "trials": cell.trials,
            "searches": len(frame),
            "epochs": epochs,
            "finished": float(frame["finished"].mean()),
            **_with_interval("regret", mine),
            "sd_between_searches": 100 * float(frame.groupby("method")["chosen"].std().mean()),
            "worse_than_default_settings": float(
                (frame["chosen"] < frame["default_settings"] - 1e-9).mean()
            ),
            "best_stopped": float(frame["best_stopped"].mean()),
            "winners_curse": 100 * float((frame["validation"] - frame["chosen"]).mean()),
        }
        other = _cell(cell_regrets, DEFAULT, cell.trials)
        if other is not None:
            row |= _with_interval("less_than_default", _difference(cell_regrets[other], mine))
        same = _interpolate(frontier, epochs)
        if same is not None:
            row |= _with_interval("less_than_same_epochs", _difference(same, mine))
        table.append(row)
    return table


def _with_interval(name: str, values: Floats) -> Row:
    low, high = interval(values)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def _difference(theirs: Floats, mine: Floats) -> Floats:
    """By how much mine are smaller, over the repeats that both have."""
    both = min(len(theirs), len(mine))
    return theirs[:both] - mine[:both]


def _cell(cell_regrets: Mapping[Cell, Floats], policy: tuple[str, str], trials: int) -> Cell | None:
    key = (*policy, trials)
    return next((c for c in cell_regrets if (c.sampler, c.stopping, c.trials) == key), None)


def _frontier(
    outcomes: Outcomes, cell_regrets: Mapping[Cell, Floats]
) -> list[tuple[float, Floats]]:
    """Epochs and regrets of the yardstick's lengths, shortest first."""
    cells = [c for c in cell_regrets if (c.sampler, c.stopping) == YARDSTICK]
    return sorted(
        ((float(outcomes[c]["epochs"].mean()), cell_regrets[c]) for c in cells), key=lambda p: p[0]
    )


def _interpolate(frontier: Sequence[tuple[float, Floats]], epochs: float) -> Floats | None:
    """Return the yardstick's regrets at so many epochs, linear in their logarithm; None beyond its ends."""
    for (before, less), (after, more) in itertools.pairwise(frontier):
        if before <= epochs <= after:
            share = (np.log(epochs) - np.log(before)) / (np.log(after) - np.log(before))
            return (1 - share) * less + share * more
    return None


COLUMNS = {
    "sampler": "sampler",
    "stopping": "stopping",
    "epochs": "epochs",
    "finished": "finished",
    "regret": "regret, points",
    "less_than_default": "less than the former default",
    "less_than_same_epochs": "less than TPE without stopping, same epochs",
    "sd_between_searches": "sd between searches",
    "worse_than_default_settings": "worse than the default settings",
    "best_stopped": "best stopped",
    "winners_curse": "winner's curse",
}


def markdown(rows: Iterable[Row], columns: Mapping[str, str] = COLUMNS) -> str:
    """Rows as a table; of `columns` those that any row has."""
    items = list(rows)
    headings = {k: v for k, v in columns.items() if any(row.get(k) is not None for row in items)}
    lines = ["| " + " | ".join(headings.values()) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(_text(row, name) for name in headings) + " |" for row in items]
    return "\n".join(lines)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if f"{name}_low" in row:
        sign = "+" if name.startswith("less") else ""
        return (
            f"{value:{sign}.2f} [{row[f'{name}_low']:{sign}.2f}, {row[f'{name}_high']:{sign}.2f}]"
        )
    if name in ("worse_than_default_settings", "best_stopped"):
        return f"{100 * value:.0f} %"
    return (
        f"{value:.0f}"
        if name == "epochs"
        else f"{value:.1f}"
        if name == "finished"
        else f"{value:.2f}"
    )
