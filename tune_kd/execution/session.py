"""Ray, started or joined, and what is called on its workers.

`environment.prepare` must have been called before this module is imported.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_kd import errors
from tune_kd.errors import UsageError
from tune_kd.execution import worker
from tune_kd.execution.interrupt import Interrupt, RunInterruptedError
from tune_kd.execution.progress import Progress
from tune_kd.execution.resources import Resources
from tune_kd.study.study import Study

RETRIES = 2  # of a trial whose worker or node died
WAIT = 30.0  # seconds between two lines that say what is waited for
WORKERS_TO_COME = 8  # trials at once on a cluster that has no room yet, so that it grows
WATCH = 15.0  # seconds between two looks at whether any node is alive


@contextlib.contextmanager
def session(resources: Resources, interrupt: Interrupt) -> Iterator["Session"]:
    """Ray, started or joined; it is shut down however the block is left."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray_session = Session(resources, interrupt)
    try:
        ray_session.start()
        yield ray_session
    finally:
        ray_session.stop()


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
                raise RunInterruptedError
            if self.resources.address and waited % WAIT == 0:
                progress.say(self.waiting_text())
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

    def waiting_text(self) -> str:
        """Return what a trial needs and what the cluster has, in words."""
        have = ray.cluster_resources()
        need = self.resources.bundle()
        need_text = ", ".join(f"{value:g} {name.upper()}" for name, value in need.items())
        have_text = ", ".join(f"{have.get(name.upper(), 0):g} {name.upper()}" for name in need)
        return f"waiting for {need_text}: the cluster has {have_text} in all"

    def check_nodes(self, study: Study) -> None:
        """Every node that is there now must see the study; UsageError names --out."""
        remote = ray.remote(_sees)
        tasks = []
        for node in ray.nodes():
            if node["Alive"]:
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = remote.options(num_cpus=0, scheduling_strategy=strategy)
                tasks.append(task.remote(study.storage.uri, study.manifest.marker))
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
