"""Ray, started or joined, and what ends it: a signal, the time budget, the loss of all nodes.

`environment.prepare` must have been called before this module is imported.
"""

import _thread
import contextlib
import ctypes
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_kd import errors
from tune_kd.errors import UsageError
from tune_kd.execution import worker
from tune_kd.execution.progress import Progress
from tune_kd.study.study import Study
from tune_kd.tuning.asha import AshaRule

RETRIES = 2  # of a trial whose worker or node died
GRACE = 10.0  # seconds from a signal to the end, at most
WAIT = 30.0  # seconds between two lines that say what is waited for
WORKERS_TO_COME = 8  # trials at once on a cluster that has no room yet, so that it grows
WATCH = 15.0  # seconds between two looks at whether any node is alive


class CannotGoOnError(Exception):
    """Ray died again and again, or there is no teacher to listen to: exit code 1."""


class StoppedError(Exception):
    """A signal came, or the time budget is over: what is on disk is gone on from later."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial needs and how many run at once."""

    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int = 1  # 0: what the cluster has room for when a run starts
    address: str | None = None

    def bundle(self) -> dict[str, float]:
        """For Ray."""
        return {"cpu": self.cpus, "gpu": self.gpus} if self.gpus else {"cpu": self.cpus}


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
            signal.signal(signal.SIGINT, self._hear)
            signal.signal(signal.SIGTERM, self._hear)

    def give_up(self) -> None:
        """End the run from another thread when all nodes are gone, as Ray would wait for ever."""
        self.lost = True
        if self._is_command:
            print("Ray's nodes are gone; run the same command with --resume", file=sys.stderr, flush=True)  # fmt: skip
            os._exit(1)
        if self._caller == threading.main_thread().ident:
            _thread.interrupt_main()
        else:  # raised where the search waits, at its next line of Python
            caller = ctypes.c_ulong(self._caller)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, ctypes.py_object(KeyboardInterrupt))

    def _hear(self, number: int, frame: FrameType | None) -> None:
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


@contextlib.contextmanager
def session(resources: Resources, interrupt: Interrupt) -> Iterator["Session"]:
    """Ray, started or joined; it is shut down however the block is left."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    found = Session(resources, interrupt)
    try:
        found.start()
        yield found
    finally:
        found.stop()


class Session:
    """One Ray: of its own on loopback, or a cluster that is joined."""

    def __init__(self, resources: Resources, interrupt: Interrupt) -> None:
        self.resources, self.interrupt = resources, interrupt
        self._folder = Path()
        self._ended = threading.Event()

    def start(self) -> None:
        """Start or join Ray, quietly."""
        self.interrupt.listen()
        before = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # short, since paths of sockets may have 107 bytes, and of this user alone
        _remove_dead_folders()
        self._folder = Path(tempfile.mkdtemp(prefix=f"tkd-{os.getpid()}-"))
        mask = os.umask(0o077)  # Ray writes its token and its files with the umask
        try:
            if self.resources.address:
                _join(self.resources.address, **quiet)
            else:
                slots = math.ceil(self.resources.max_concurrent * self.resources.cpus)
                ray.init(
                    address="local",
                    num_cpus=max(os.cpu_count() or 1, slots),
                    include_dashboard=False,
                    object_store_memory=100_000_000,
                    _temp_dir=str(self._folder),
                    **quiet,
                )
        finally:
            os.umask(mask)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # ray.init took it for itself
        self._ended.clear()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Leave Ray; a local one ends."""
        self._ended.set()
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Start a fresh Ray over the same record."""
        self.stop()
        self.start()

    def _watch(self) -> None:
        """Leave when no node is alive: a killed raylet with waiting trials would hang the driver."""
        silent = 0
        while not self._ended.wait(WATCH):
            try:
                alive = any(node["Alive"] for node in ray.nodes())
            except Exception:
                alive = False
            silent = 0 if alive else silent + 1
            if silent >= 3 and not self._ended.is_set():
                self.interrupt.give_up()
                return

    def call(self, function: Callable[..., Any], *arguments: Any, progress: Progress) -> Any:
        """Run a function on a worker with a trial's resources, saying what is waited for."""
        remote = ray.remote(function).options(
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_retries=RETRIES
        )
        future, waited = remote.remote(*arguments), 0.0
        while not ray.wait([future], timeout=1.0)[0]:
            waited += 1
            if self.interrupt.stop_all():
                ray.cancel(future, force=True)
                raise StoppedError
            if self.resources.address and waited % WAIT == 0:
                progress.say(self.wanted())
        try:
            return ray.get(future)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise UsageError(str(error.cause)) from None
            raise

    def slots(self) -> int:
        """Trials at once: as asked for, else what the cluster has room for now.

        Trials beyond that would be proposed without having heard of those that run.
        """
        if self.resources.max_concurrent:
            return self.resources.max_concurrent
        have, need = ray.cluster_resources(), self.resources.bundle()
        room = min(have.get(name.upper(), 0.0) / value for name, value in need.items())
        return int(room + 1e-9) or WORKERS_TO_COME

    def wanted(self) -> str:
        """Return what a trial needs and what the cluster has, in words."""
        have = ray.cluster_resources()
        need = self.resources.bundle()
        need_text = ", ".join(f"{value:g} {name.upper()}" for name, value in need.items())
        have_text = ", ".join(f"{have.get(name.upper(), 0):g} {name.upper()}" for name in need)
        return f"waiting for {need_text}: the cluster has {have_text} in all"

    def check_nodes(self, study: Study) -> None:
        """Every node that is there now must see the study; UsageError names --out."""
        seen = ray.remote(_sees)
        tasks = []
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                chosen = seen.options(num_cpus=0, scheduling_strategy=there)
                tasks.append(chosen.remote(study.storage.uri, study.manifest.marker))
        for problem in ray.get(tasks):
            if problem:
                raise UsageError(problem)


def _sees(uri: str, marker: str) -> str:
    from tune_kd.study.storage import Storage

    try:
        worker.check_marker(Storage(uri), marker)
    except worker.MarkerMissingError as error:
        return str(error)
    return ""


def _remove_dead_folders() -> None:
    """Folders of Rays whose driver was killed: nothing else deletes them."""
    for path in Path(tempfile.gettempdir()).glob("tkd-*-*"):
        pid = path.name.split("-")[1]
        with contextlib.suppress(OSError):
            if pid.isdigit() and path.stat().st_uid == os.getuid():
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    shutil.rmtree(path, ignore_errors=True)


def _join(address: str, **quiet: Any) -> None:
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--address {address}: cannot connect to the Ray cluster: {errors.explain(error)}"
        ) from None


def check_address(address: str | None) -> None:
    """Something must listen there: else ray.init aborts the process, after minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # none, or auto
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except OSError as error:
        raise UsageError(
            f"--address {address}: nothing answers there ({error}); start Ray first or leave --address out"
        ) from None
