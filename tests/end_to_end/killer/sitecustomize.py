"""Python imports this at its start where a test puts this folder on PYTHONPATH: an exact kill -9.

KILL is `before PATTERN` or `after PATTERN`: whichever process, driver or worker, writes a file of
the study that matches takes the driver with it and dies, before the write or after it. Everything
else is as it ships.
"""

import fnmatch
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

WHEN, _, PATTERN = os.environ.get("KILL", "").partition(" ")


def _die() -> None:
    os.kill(int(os.environ["KILL_DRIVER"]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(storage: ModuleType) -> None:
    os.environ.setdefault(
        "KILL_DRIVER", str(os.getpid())
    )  # the first to import it; workers inherit
    write = storage.Storage.write

    def deadly(self: object, name: str, data: bytes) -> None:
        hit = fnmatch.fnmatch(name, PATTERN)
        if hit and WHEN == "before":
            _die()
        write(self, name, data)
        if hit:
            _die()

    storage.Storage.write = deadly


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module as usual, and arms it once it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tune_kd.study.storage":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _arm(module)

        spec.loader.exec_module = exec_module
        return spec


if PATTERN:
    sys.meta_path.insert(0, _Finder())
