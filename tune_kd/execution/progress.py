"""How a run is going, on stderr: one live table on a terminal, a line a trial elsewhere."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune_kd.metrics import METRICS, format_value, number
from tune_kd.study.results import Row
from tune_kd.study.study import Study


def duration_text(seconds: float) -> str:
    """Return a duration for people.

    >>> duration_text(42), duration_text(125), duration_text(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


class Progress:
    """Follows one phase of a study of `total` trials; says nothing when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.running: Callable[[], list[str]] = list
        self._quiet, self.concurrent = quiet, 1
        self._study: Study | None = None
        self._phase, self._total, self._done = "", 0, 0
        self._printed_trials: set[str] = set()
        self._last_event = time.monotonic()
        self._live: Live | None = None

    def follow(self, study: Study, phase: str, total: int) -> None:
        """From now on this phase is shown."""
        self._study, self._phase, self._total = study, phase, total
        self._printed_trials = set(study.outcomes)
        self._done = study.counts(phase).total()

    def say(self, line: str) -> None:
        """One line now, above the live table where there is one."""
        self._last_event = time.monotonic()
        if self._live or self.console.is_terminal:
            self.console.print(line, soft_wrap=True, markup=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """Print a warning, which quiet does not silence."""
        print(f"warning: {line}", file=sys.stderr, flush=True)

    def update(self) -> None:
        """Print after each report: lines for trials that have ended since, of failed ones on a terminal."""
        self._last_event = time.monotonic()
        self._lines()
        if self._live:
            self._live.update(self._table())

    def _lines(self) -> None:
        study = self._study
        if study is None:
            return
        for trial in [t for t in study.outcomes if t not in self._printed_trials]:
            self._printed_trials.add(trial)
            self._done += 1
            row = study.outcomes[trial][-1]
            if not self._live or row["status"] == "failed":
                self.say(f"{self._done}/{self._total} {_line(study, row)}{self._time_left()}")

    def _time_left(self) -> str:
        """Return an estimate from the trials that have ended, stopped ones included."""
        study = self._study
        assert study is not None
        ended = [v for v in study.outcomes.values() if v[-1]["phase"] == self._phase]
        remaining = self._total - len(ended)
        if not ended or remaining <= 0:
            return ""
        each = sum(rows[-1]["seconds"] for rows in ended) / len(ended)
        return f"; about {duration_text(each * remaining / max(self.concurrent, 1))} left"

    def _table(self) -> Table:
        study = self._study
        assert study is not None
        counts, running = study.counts(self._phase), self.running()
        title = f"{study.name}: {self._phase}, {sum(counts.values())} of {self._total} trials"
        table = Table(title=title + self._time_left(), title_justify="left")
        for heading in ("Method", "Finished", "Stopped", "Failed", "Running", "Best", "of trial"):
            is_text = heading in ("Method", "of trial")
            table.add_column(heading, justify="left" if is_text else "right")
        rows = [v[-1] for v in study.outcomes.values() if v[-1]["phase"] == self._phase]
        methods = {p.method for p in study.of(self._phase)}
        for method in ("", *study.manifest.methods):
            if method in methods:
                statuses = [row["status"] for row in rows if row["method"] == method]
                numbers = [statuses.count(s) for s in ("finished", "stopped", "failed")]
                going = [t for t in running if t in study.proposals]
                numbers.append(sum(study.proposals[t].method == method for t in going))
                best = study.best(method) if self._phase == "search" else None
                cells = (
                    (f"{format_value(study.metric, best[study.metric])} %", best["trial"])
                    if best
                    else ()
                )
                table.add_row(method or "teacher", *map(str, numbers), *cells)
        return table

    @contextlib.contextmanager
    def live(self, waiting: Callable[[], str] | None, *, every: float) -> Iterator[None]:
        """While a run goes on; `waiting` says what is waited for when nothing was heard so long."""
        over = threading.Event()
        threading.Thread(target=self._remind, args=(waiting, every, over), daemon=True).start()
        fancy = self.console.is_terminal and not self._quiet and "NO_COLOR" not in os.environ
        try:
            if fancy and self._study is not None:
                with Live(self._table(), console=self.console, refresh_per_second=2) as self._live:
                    try:
                        yield
                    finally:
                        self._lines()
                        self._live.update(self._table())
            else:
                yield
        finally:
            self._live = None
            over.set()
        self._lines()

    def _remind(
        self, waiting: Callable[[], str] | None, every: float, over: threading.Event
    ) -> None:
        while waiting and not over.wait(1.0):
            if time.monotonic() - self._last_event > every and not self.running():
                with contextlib.suppress(Exception):
                    self.say(waiting())
                self._last_event = time.monotonic()


def _line(study: Study, row: Row) -> str:
    """How a trial ended, in a line."""
    words = [row["trial"], row["status"]]
    for name in (study.metric, study.test_metric):
        value = number(row, name)
        if value is not None:
            words.append(f"{name} {format_value(name, value)} {METRICS[name].unit}")
    if row["reason"]:
        words.append(f"({row['reason']})")
    return " ".join(words) + f", {row['epochs']} epochs, {duration_text(row['seconds'])}"
