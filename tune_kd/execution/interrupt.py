"""What ends a run before its time: a signal, the time budget, a fatal error, the loss of all of Ray's nodes.

`environment.prepare` must have been called before this module is imported.
"""

import _thread
import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from ray import tune

from tune_kd.tuning.asha import AshaRule

GRACE = 10.0  # seconds from a signal to the end, at most


class RunFailedError(Exception):
    """Ray died again and again, or there is no teacher to listen to: exit code 1."""


class RunInterruptedError(Exception):
    """A signal came, or the time budget is over: what is on disk is gone on from later."""


class Interrupt(tune.Stopper):
    """Ends a run between two of Ray's events: a signal, the end of the time budget, a fatal error."""

    def __init__(self, *, deadline: float, resume_command: str, is_command: bool = True) -> None:
        self.signals: list[int] = []
        self.deadline, self._command = deadline, resume_command
        self._is_command = is_command
        self._caller = threading.get_ident()
        self.lost = False  # whether all nodes of Ray are gone
        self.rule: AshaRule | None = None

    def listen(self) -> None:
        """Take SIGINT and SIGTERM where this is a command; a caller's handlers are left alone."""
        if self._is_command:
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)

    def give_up(self) -> None:
        """End the run from another thread when all nodes are gone, as Ray would wait for ever."""
        self.lost = True
        if self._is_command:
            line = "Ray's nodes are gone; run the same command with --resume"
            print(line, file=sys.stderr, flush=True)
            os._exit(1)
        if self._caller == threading.main_thread().ident:
            _thread.interrupt_main()
        else:  # raised where the search waits, at its next line of Python
            caller = ctypes.c_ulong(self._caller)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, ctypes.py_object(KeyboardInterrupt))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        # Ray may have died of the same signal, so do not rely on it to return
        timer = threading.Timer(GRACE if len(self.signals) == 1 else 0, self._leave)
        timer.daemon = True
        timer.start()

    def _leave(self) -> None:
        print(f"interrupted; resume with: {self._command}", file=sys.stderr, flush=True)
        os._exit(130)

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is over."""
        return time.monotonic() >= self.deadline

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles it at the start; nothing ever reads that."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether everything stops now."""
        return bool(self.signals) or self.out_of_time or bool(self.rule and self.rule.fatal)
