"""Real command lines in processes of their own: watched, killed, and their rows compared."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tune_kd.study import results
from tune_kd.study.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400  # seconds until a command counts as hung; no test asserts a time
TINY = ("--space", "digits_kd", "--trials", "12", "--epochs", "6", "--limit-train", "400")
ALONE = ("--max-concurrent", "1")
# Rows of equal work may differ in these alone.
ASIDE = frozenset(
    [
        "study",
        "seconds",
        "host",
        "pid",
        "attempt",
        "attempts",
        "checkpoint",
        "commit",
        "started",
        "ended",
    ]
)

Key = tuple[str, str, int]
Rows = dict[Key, dict[str, Any]]


# ---------------------------------------------------------------- processes


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, by /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (folder / "stat").read_text().rsplit(")", 1)[1]
            parents[int(folder.name)] = int(after_name.split()[1])
    pids: list[int] = []
    border = {pid}
    while border:
        border = {child for child, parent in parents.items() if parent in border}
        pids += border
    return pids


def command_line(pid: int) -> str:
    """What a process was started as; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks; with its number that is its identity."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def identify(pid: int) -> dict[int, str]:
    """The processes below `pid`, each with what tells it from a later one of the same number."""
    return {child: _start_time(child) for child in descendants(pid)}


def kill_all(processes: dict[int, str]) -> None:
    """kill -9 of those that `identify` has returned, and of no other."""
    for pid, at in processes.items():
        if at and _start_time(pid) == at:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Command:
    """One running command line, the leader of a process group, its output in files."""

    def __init__(self, words: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._seen: dict[int, str] = {}  # Ray's processes: they outlive a killed driver for a while
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def output(self) -> str:
        """Everything, for the message of a failed assertion."""
        return f"\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def until(self, happened: Callable[[], Any]) -> None:
        """Wait for a moment in the run; an error if the command is over before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, f"over before the moment came: {self.output}"
            assert time.monotonic() < deadline, f"the moment did not come: {self.output}"
            time.sleep(0.002)

    def tree(self) -> list[int]:
        """The processes that it has started and that live now."""
        processes = identify(self.pid)
        self._seen |= processes
        return list(processes)

    def kill(self, *, tree: bool = False) -> None:
        """kill -9 of the driver, or of it and all that it has started."""
        below = self.tree()
        for pid in [self.pid, *(below if tree else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def signal(self, number: int, *, group: bool = False) -> None:
        """A signal to the driver alone, or to its process group as a terminal's Ctrl-C."""
        self.tree()
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)

    def clean_up(self) -> None:
        """Nothing that it has started stays, whatever the test did."""
        if self.process.poll() is None:
            self.kill(tree=True)
        # a killed driver's Ray ends by itself, within seconds or, on a busy machine, many
        kill_all(self._seen)


class Desk:
    """Starts commands with one cache, and cleans up after all of them."""

    def __init__(self, cache: Path, folder: Path, **environment: str) -> None:
        self._folder, self._commands = folder, list[Command]()
        # Ray's sockets lie below TMPDIR, and a socket's path may have 107 bytes: not in tmp_path
        self._scratch = Path(tempfile.mkdtemp(prefix="tkt-"))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))},
            "TUNE_KD_CACHE": str(cache),
            "TMPDIR": str(self._scratch),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def start(self, module: str, *arguments: object, **environment: str) -> Command:
        """`python -m module arguments` in the background."""
        command = Command(
            [module, *map(str, arguments)],
            folder=self._folder / f"{len(self._commands):02d}",
            environment={**self.environment, **environment},
        )
        self._commands.append(command)
        return command

    def search(self, *arguments: object, **environment: str) -> Command:
        return self.start("tune_kd.search", *arguments, **environment)

    def run(self, module: str, *arguments: object, **environment: str) -> Command:
        """A command run to its end, which must be exit code 0."""
        command = self.start(module, *arguments, **environment)
        assert command.wait() == 0, command.output
        return command

    def clean_up(self) -> None:
        for command in self._commands:
            command.clean_up()
        shutil.rmtree(self._scratch, ignore_errors=True)


@contextlib.contextmanager
def desk(cache: Path, folder: Path, **environment: str) -> Iterator[Desk]:
    """A Desk, cleaned up at the end."""
    desk = Desk(cache, folder, **environment)
    try:
        yield desk
    finally:
        desk.clean_up()


# ---------------------------------------------------------------- rows


def rows(study: Path | str, *phases: str) -> Rows:
    """Every row of a study, trials' and epochs', without what may differ between equal studies."""
    storage = Storage(study)
    table = {("trial", r["trial"], r["stage"]): r for r in results.read_trials(storage)}
    for trial, epochs in results.read_epochs(storage).items():
        table |= {("epoch", trial, row["step"]): row for row in epochs}
    return {key: _plain(row) for key, row in table.items() if not phases or row["phase"] in phases}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    aside = ASIDE | {"reason"} if row["phase"] == "teacher" else ASIDE  # who trained the teacher
    return {
        name: "nan" if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
        if name not in aside
    }


def differences(one: Rows, other: Rows) -> list[str]:
    """Where two studies' rows differ, in words; none where they are equal."""
    lines = [f"{key} only here" for key in sorted(one.keys() - other.keys())]
    lines += [f"{key} only there" for key in sorted(other.keys() - one.keys())]
    for key in sorted(one.keys() & other.keys()):
        for name in sorted(one[key].keys() | other[key].keys()):
            a, b = one[key].get(name), other[key].get(name)
            if a != b:
                lines.append(f"{key} {name}: {a!r} against {b!r}")
    return lines


def statuses(study: Path | str, phase: str = "search") -> dict[str, str]:
    """How each trial of a phase ended."""
    trials = results.read_trials(Storage(study))
    return {row["trial"]: row["status"] for row in trials if row["phase"] == phase}


class Recorder:
    """Keeps every version of a study's epoch files, so that an epoch trained twice shows.

    A version is kept by a hard link before the next one is renamed over it or a merge deletes it.
    """

    def __init__(self, study: Path, keep: Path) -> None:
        self._study, self._keep = study, keep
        keep.mkdir(parents=True, exist_ok=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._look()
            time.sleep(0.005)
        self._look()

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # no study yet
            for entry in os.scandir(self._study / "epochs"):
                if entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    link = self._keep / f"{entry.inode()}.parquet"
                    if not link.exists():
                        os.link(entry.path, link)

    def attempts(self) -> dict[tuple[str, int], set[str]]:
        """Which attempts have finished each (trial, epoch), over all files that there ever were."""
        attempts: dict[tuple[str, int], set[str]] = defaultdict(set)
        for file in self._keep.iterdir():
            for row in results.decode(file.read_bytes())[0]:
                if row["phase"] != "teacher" or not row["trial"].startswith("measure"):
                    attempts[row["trial"], row["step"]].add(row["attempt"])
        return dict(attempts)

    def retrained_epochs(self) -> list[tuple[str, int]]:
        """Finished epochs that were trained again."""
        return sorted(key for key, attempts in self.attempts().items() if len(attempts) > 1)


def finished_epochs(study: Path | str) -> set[tuple[str, int]]:
    """The (trial, epoch) pairs that a study's rows have."""
    return {(trial, step) for kind, trial, step in rows(study) if kind == "epoch"}


def files(study: Path) -> dict[str, int]:
    """A folder's files and when each was written, to see that nothing was touched."""
    return {
        str(path.relative_to(study)): path.stat().st_mtime_ns
        for path in study.rglob("*")
        if path.is_file()
    }
