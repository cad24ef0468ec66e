"""Which trials are stopped early: ASHA's rule within one search (Li et al. 2020), and every misfortune.

Rungs belong to one method in one repeat and are rebuilt from rows.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tune_kd.recipe import Distill
from tune_kd.study.proposal import Proposal
from tune_kd.study.results import Row, parse_row
from tune_kd.study.study import Study

REDUCTION = 3  # of trials that reach a rung, the best third goes on


def rungs(epochs: int, *, first: int = 0) -> list[int]:
    """Epochs at which trials are compared: once, after half of them, or at `first` if that is later.

    Earlier in a schedule that lowers the learning rate good trials are hardly told from others, and
    a search of a few trials loses by it (docs/search-defaults.md).

    >>> rungs(30), rungs(15), rungs(1), rungs(240, first=151)
    ([15], [8], [], [151])
    """
    rung = max(math.ceil(epochs / 2), first)
    return [rung] if rung < epochs else []


class AshaRule:
    """Must a trial stop? ASHA's rule (Li et al. 2020) within one search, and every misfortune."""

    def __init__(self, study: Study, *, at: Sequence[int]) -> None:
        self._study, self._at = study, frozenset(at)
        self._rungs: dict[tuple[str, int, int], dict[str, float]] = defaultdict(dict)
        self.fatal = ""  # why the whole run cannot go on
        for proposal in study.of("search"):
            self._enter(proposal, study.judged_epochs[proposal.trial])

    def _enter(self, proposal: Proposal, epochs: int) -> None:
        """Put the rows that were judged into their rungs, each once."""
        for row in self._study.rows.get(proposal.trial, [])[:epochs]:
            score = self._study.score(row)
            if self._is_rung(proposal, row) and score is not None:
                self._rungs[proposal.method, proposal.repeat, row["step"]].setdefault(
                    proposal.trial, score
                )

    def _is_rung(self, proposal: Proposal, row: Row) -> bool:
        """Trials are compared in their main training stage, where that is the first."""
        is_main = row["stage"] == 0 and isinstance(proposal.recipe.stages[0], Distill)
        return is_main and row["epoch"] in self._at

    def on_report(self, trial: str, report: dict[str, Any]) -> bool:
        """Take in a report; True if the trial must stop. Then its verdict is on disk."""
        study = self._study
        if "error" in report:
            if report["fatal"]:
                self.fatal = self.fatal or report["error"]
                return True
            study.end(trial, "failed", report["error"])
            return True
        row = parse_row(report["row"])
        study.on_report(row)
        if row["step"] <= study.judged_epochs[trial] and row["step"] > 0:
            return False  # an attempt repeats the row that it goes on from
        proposal = study.proposals[trial]
        self._enter(proposal, row["step"] - 1)
        study.judged_epochs[trial] = row["step"]
        if study.score(row) is None and proposal.phase == "search":
            study.end(trial, "failed", f"{study.metric} is {row.get(study.metric)}")
        elif proposal.phase == "search" and not row["last"] and self._is_rung(proposal, row):
            self._compare(proposal, row)
        return trial in study.outcomes

    def _compare(self, proposal: Proposal, row: Row) -> None:
        score = self._study.score(row)
        assert score is not None
        rung = self._rungs[proposal.method, proposal.repeat, row["step"]]
        if rung and proposal.number > 0:  # the trial with the default settings runs to the end
            cutoff = float(np.percentile(list(rung.values()), 100 - 100 / REDUCTION))
            if score < cutoff:
                comparison = f"{score:.4f} is below {cutoff:.4f}, of {len(rung)} trials"
                self._study.end(proposal.trial, "stopped", f"rung {row['step']}: {comparison}")
        rung[proposal.trial] = score
