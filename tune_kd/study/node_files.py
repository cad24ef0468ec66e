"""A study's files as files of this node: themselves, or copies of a bucket's objects."""

from pathlib import Path

from tune_kd.files import write_whole
from tune_kd.recipe import digest
from tune_kd.study.storage import Storage


def local_code(storage: Storage, cache: Path) -> Path | None:
    """Return the folder of a user's own files on this node; None where the study has none."""
    names = storage.names("space")
    if not names:
        return None
    copies = [local_file(storage, f"space/{name}", cache) for name in names]
    return copies[0].parent


def local_file(storage: Storage, name: str, cache: Path) -> Path:
    """Return a file of the study as a file on this node: itself, or a copy of a bucket's object."""
    if storage.local:
        return storage.local / name
    copy = cache / "copies" / digest(storage.uri) / name
    if not copy.exists():
        write_whole(copy, storage.read(name))
    return copy
