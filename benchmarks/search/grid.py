"""The searches that are replayed: every sampler with every way of stopping, at several lengths.

The outcomes of a cell lie in a file of their own, so that a killed benchmark goes on where it was.
All cells have the same seeds: repeat r has the same luck under every policy, so differences are
paired.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.search import curves, surface
from benchmarks.search.policies import SAMPLERS, STOPPING, Stopping
from benchmarks.search.replay import search
from benchmarks.search.surface import Surface
from tune_kd.files import write_whole
from tune_kd.recipe import digest
from tune_kd.space import loader

TRIALS = (8, 4, 16)  # of a search, what decides first
BETWEEN = (5, 6)  # with few ways of stopping
FRONTIER = (2, 3, 7, 12)  # without stopping: what the same epochs buy otherwise
FEW = ("none", "ASHA third, 3", "ASHA half, 3", "ASHA half, 2")
ONCE = "tpe+prior"  # is replayed at the first length only
SLOW = ("gp", "gp+stopped")  # a proposal takes a quarter of a second
SLOW_TRIALS = (8, 16)  # at the second one with few ways of stopping


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A policy at one length of a search."""

    sampler: str
    stopping: str
    trials: int
    repeats: int

    @property
    def file(self) -> str:
        """Where its outcomes lie."""
        stopping = self.stopping.replace(", ", "-").replace(" ", "-")
        return f"{self.sampler}_{stopping}_{self.trials}_{self.repeats}.parquet"


def cells(*, repeats: int, slow_repeats: int) -> list[Cell]:
    """All of them, what decides first."""
    quick = [name for name in SAMPLERS if name not in (*SLOW, ONCE)]
    first, *others = TRIALS
    keys = [(name, kind, first) for name in (*quick, ONCE) for kind in STOPPING]
    keys += [(name, kind, SLOW_TRIALS[0]) for name in SLOW for kind in STOPPING]
    keys += [(name, "none", n) for n in (*others, *BETWEEN, *FRONTIER) for name in quick]
    keys += [(name, kind, n) for n in others for name in quick for kind in STOPPING]
    keys += [(name, kind, n) for n in BETWEEN for name in quick for kind in FEW]
    keys += [(name, kind, SLOW_TRIALS[1]) for name in SLOW for kind in FEW]
    return [
        Cell(
            sampler=name,
            stopping=kind,
            trials=trials,
            repeats=slow_repeats if name in SLOW else repeats,
        )
        for name, kind, trials in dict.fromkeys(keys)
        if name not in SLOW or _differs(name, STOPPING[kind])
    ]


def _differs(sampler: str, stopping: Stopping) -> bool:
    """Whether one of the two GPs is not another policy under another name.

    Without stopping both hear the same. Under synchronous halving the one that hears of finished
    trials alone hears of none before all are proposed, and is random.
    """
    if sampler == "gp":
        return not stopping.together
    return stopping.first < 1


class Task:
    """A recording with a surface of each of its methods."""

    def __init__(self, name: str, recording: Path) -> None:
        """Fits the surfaces."""
        rows, self.about = curves.read(recording)
        space, _ = loader.load(self.about["space"])
        epochs = int(self.about["epochs"])
        looked_at = {e for stopping in STOPPING.values() for e in stopping.rungs(epochs)}
        self.name, self.rows = name, rows
        self.recording_hash = digest(recording.read_bytes(), length=8)
        self.surfaces: dict[str, Surface] = {
            method: surface.fit(
                rows[rows["method"] == method],
                space.methods[method],
                looked_at=looked_at,
                images=self.about["images"],
            )
            for method in self.about["methods"]
        }
        self.optimum: Mapping[str, float] = {m: s.optimum() for m, s in self.surfaces.items()}

    def outcomes(self, cell: Cell) -> pd.DataFrame:
        """Replay a cell: a row a method and a repeat."""
        rows = []
        for method, response in self.surfaces.items():
            for repeat in range(cell.repeats):
                outcome = search(
                    response,
                    sampler=cell.sampler,
                    stopping=STOPPING[cell.stopping],
                    trials=cell.trials,
                    seed=("replay", method, repeat),
                )
                row = {"method": method, "repeat": repeat, "optimum": self.optimum[method]}
                rows.append({**row, **dataclasses.asdict(outcome)})
        return pd.DataFrame(rows)


def run(task: Task, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield the outcomes of all cells, read where an earlier run left them; progress on stderr."""
    place = folder / f"{task.name}-{task.recording_hash}"
    began, count = time.monotonic(), 0
    missing = sum(not (place / cell.file).exists() for cell in cells)
    for cell in cells:
        path = place / cell.file
        if not path.exists():
            write_whole(path, task.outcomes(cell).to_parquet(index=False))
            count += 1
            seconds = time.monotonic() - began
            print(
                f"{task.name}: {count}/{missing} cells, {seconds / 60:.0f} min; {cell.sampler}, "
                f"{cell.stopping}, {cell.trials} trials",
                file=sys.stderr,
                flush=True,
            )
        yield cell, pd.read_parquet(path)
