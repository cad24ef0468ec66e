"""Files that several processes share: written whole, locked by one, kept in the node's cache."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Return the node's own cache, shared by studies: TUNE_KD_CACHE or ~/.cache/tune_kd."""
    return Path(os.environ.get("TUNE_KD_CACHE") or Path.home() / ".cache" / "tune_kd").absolute()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none.

    A temporary file is written, synchronised to the disk and renamed; then the folder is
    synchronised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file exclusively; the kernel frees it with its process, even after kill -9.

    Without `wait`, False is yielded where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
