"""One cache for all studies here, one study that nothing disturbed, and desks that clean up."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.end_to_end import sockets, studies


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one pytest see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def common_cache(together: Path) -> Path:
    """The precision probe, measurements and the teacher are answered from here, so studies agree."""
    return together / "common" / "cache"


@dataclass(frozen=True)
class Calm:
    """A study that nothing disturbed, what it printed, and where its processes listened."""

    study: Path
    stdout: str
    stderr: str
    rows: studies.Rows
    listening: list[sockets.Listener] = field(repr=False)


@pytest.fixture(scope="session")
def calm(common_cache: Path, together: Path) -> Calm:
    """The uninterrupted study that the disturbed ones are compared with, made by one process for all."""
    folder = together / "calm"
    folder.mkdir(exist_ok=True)
    pickle_file = folder / "calm.pickle"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pickle_file.exists():
            pickle_file.write_bytes(pickle.dumps(_calm(common_cache, folder)))
    calm_study: Calm = pickle.loads(pickle_file.read_bytes())
    return calm_study


def _calm(common_cache: Path, folder: Path) -> Calm:
    with studies.desk(common_cache, folder / "desk") as desk:
        command = desk.search(*studies.TINY, *studies.ALONE, "--quiet", "--out", folder / "runs")
        listening = sockets.watch(command)
        assert command.wait() == 0, command.output
    study = folder / "runs" / "digits_kd"
    return Calm(study, command.stdout, command.stderr, studies.rows(study), listening)


@pytest.fixture
def desk(calm: Calm, common_cache: Path, tmp_path: Path) -> Iterator[studies.Desk]:
    """Commands over the common cache, in which the calm study has left its teacher."""
    with studies.desk(common_cache, tmp_path / "desk") as desk:
        yield desk


@pytest.fixture
def teacherless(calm: Calm, common_cache: Path, tmp_path: Path) -> Iterator[studies.Desk]:
    """Commands over a cache that has the common one's measurements but no teacher."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("probe.json", "measure.json"):
        shutil.copy(common_cache / name, cache / name)
    with studies.desk(cache, tmp_path / "desk") as desk:
        yield desk
