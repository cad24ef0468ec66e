"""One cache for all studies here, one study that nothing disturbed, and desks that clean up."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.search import sockets, studies


@pytest.fixture(scope="session")
def common_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The precision probe, measurements and the teacher are answered from here, so studies agree."""
    return tmp_path_factory.mktemp("common") / "cache"


@dataclass(frozen=True)
class Calm:
    """A study that nothing disturbed, what it printed, and where its processes listened."""

    study: Path
    stdout: str
    stderr: str
    rows: studies.Rows
    listening: list[sockets.Listener] = field(repr=False)


@pytest.fixture(scope="session")
def calm(common_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The uninterrupted study that the disturbed ones are compared with."""
    folder = tmp_path_factory.mktemp("calm")
    with studies.desk(common_cache, folder / "desk") as desk:
        command = desk.search(*studies.TINY, *studies.ALONE, "--quiet", "--out", folder / "runs")
        listening = sockets.watch(command)
        assert command.wait() == 0, command.said
    study = folder / "runs" / "digits_kd"
    return Calm(study, command.stdout, command.stderr, studies.rows(study), listening)


@pytest.fixture
def desk(calm: Calm, common_cache: Path, tmp_path: Path) -> Iterator[studies.Desk]:
    """Commands over the common cache, in which the calm study has left its teacher."""
    with studies.desk(common_cache, tmp_path / "desk") as found:
        yield found


@pytest.fixture
def teacherless(calm: Calm, common_cache: Path, tmp_path: Path) -> Iterator[studies.Desk]:
    """Commands over a cache that has the common one's measurements but no teacher."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("probe.json", "measure.json"):
        shutil.copy(common_cache / name, cache / name)
    with studies.desk(cache, tmp_path / "desk") as found:
        yield found
