"""What all tests share: where real images lie, a cache of their own, one thread a process."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports torch: two cores are shared by tests and the workers that they start, and
# a sum's order, with it the last bit, depends on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray's own words are not what a test shows, and it reports to nobody.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """One cache a session, so that no test, doctest or subprocess of one touches the user's."""
    config.stash[_CACHE] = tempfile.mkdtemp(prefix="tune-kd-cache-")
    os.environ["TUNE_KD_CACHE"] = config.stash[_CACHE]


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped, with the reason, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # only now: a run without such tests need not wait for it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TUNE_KD_CACHE of this test's own, for tests of what the cache holds."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TUNE_KD_CACHE", str(folder))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders: 4 training and 2 test images of each of 3 classes."""
    from tests.helpers import made_images  # only now: it loads pyarrow

    folder = tmp_path / "folders"
    made_images.class_folders(folder, "train", *made_images.of_classes(4))
    made_images.class_folders(folder, "test", *made_images.of_classes(2, seed=1))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images: $TUNE_KD_DATA, else shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TUNE_KD_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no images in {folder}; TUNE_KD_DATA names the folder that holds cifar10/")
    return folder


@pytest.fixture
def opened_by() -> Callable[[Callable[[], object]], list[str]]:
    """What gives the files that a function opens, in this process."""

    def opened_by(action: Callable[[], object]) -> list[str]:
        opened, listening = [], True

        def listen(event: str, arguments: tuple[object, ...]) -> None:
            if listening and event == "open":
                opened.append(str(arguments[0]))

        sys.addaudithook(listen)
        try:
            action()
        finally:
            listening = False
        return opened

    return opened_by
