"""What every command that runs trials does around its work: one driver, Ray, progress, an orderly end."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tune_kd.errors import SearchAborted
from tune_kd.execution import session
from tune_kd.execution.interrupt import Interrupt, RunFailedError, RunInterruptedError
from tune_kd.execution.progress import Progress
from tune_kd.execution.resources import Resources
from tune_kd.execution.session import Session


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here changes what a trial gives."""

    resources: Resources
    resume_command: str  # what to type, or to call, to go on later
    time_budget_s: float | None = None
    quiet: bool = False
    is_command: bool = (
        False  # takes signals, and may end the process; a call from Python does neither
    )


class Driver:
    """One run of a command: its progress, what interrupts it, and Ray while there is something to run."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.progress = Progress(quiet=options.quiet)
        budget = math.inf if options.time_budget_s is None else options.time_budget_s
        self.interrupt = Interrupt(
            deadline=time.monotonic() + budget,
            resume_command=options.resume_command,
            is_command=options.is_command,
        )

    def check_cluster(self) -> None:
        """Raise UsageError where nothing answers at the cluster's address; before anything is on disk."""
        session.check_address(self.options.resources.address)

    @contextlib.contextmanager
    def ray(self) -> Iterator[Session]:
        """Start or join Ray for a block.

        A block that a signal or the time budget stops is left quietly: `interrupt` says which it
        was.

        Raises:
            SearchAborted: Ray failed again and again, or nothing can go on for another reason.
        """
        try:
            with session.session(self.options.resources, self.interrupt) as ray_session:
                yield ray_session
        except RunFailedError as error:
            raise SearchAborted(f"{error}; resume with: {self.options.resume_command}") from None
        except KeyboardInterrupt:
            if self.interrupt.lost:  # nobody typed it: the thread that watches Ray's nodes did
                raise SearchAborted(
                    f"Ray's nodes are gone; resume with: {self.options.resume_command}"
                ) from None
            raise
        except RunInterruptedError:
            pass
