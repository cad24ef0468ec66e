"""Open the files of a folder or of an archive by name: nothing is unpacked, no member's name is a path.

An archive is .zip, .tar or .tar.gz. A compressed tar cannot be read out of order, so while its
images are read a plain copy without a name lies in the cache.
"""

import contextlib
import gzip
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from tune_kd.errors import UsageError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class Files:
    """Files by their names below a root, with slashes; `where` is the root for messages."""

    names: frozenset[str]
    read: Callable[[str], bytes]
    where: str

    def text(self, name: str) -> list[str]:
        """Return the lines of a text file without blank ones."""
        lines = self.read(name).decode("utf-8", "replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def below(self, root: str) -> "Files":
        """Return the files below a folder among these, `""` or ending with a slash."""
        names = frozenset(name.removeprefix(root) for name in self.names if name.startswith(root))
        where = f"{self.where}/{root}".rstrip("/")
        return Files(names, lambda name: self.read(root + name), where)


def is_archive(place: Path) -> bool:
    """Whether it is a file whose ending is an archive's.

    >>> is_archive(Path("no/such/file.zip"))
    False
    """
    return place.name.lower().endswith(ENDINGS) and place.is_file()


@contextlib.contextmanager
def open_files(place: Path, *, scratch: Path | None = None) -> Iterator[Files]:
    """Yield the files of a folder or an archive. With `scratch`, reading all of them is quick.

    Raises:
        UsageError: a damaged archive.
    """
    try:
        if place.is_dir():
            yield Files(_walk(place), lambda name: (place / name).read_bytes(), str(place))
        elif place.name.lower().endswith(".zip"):
            with zipfile.ZipFile(place) as archive:
                names = {i.filename: i for i in archive.infolist() if not i.is_dir()}
                yield Files(_safe_names(names), lambda name: archive.read(names[name]), str(place))
        else:
            with _tar(place, scratch) as tar:
                members = {_without_dot(m.name): m for m in tar.getmembers() if m.isreg()}
                yield Files(
                    _safe_names(members), lambda name: _member(tar, members[name]), str(place)
                )
    except DAMAGE as error:
        raise UsageError(f"{place} is incomplete or damaged ({error})") from error


def roots(files: Files, marker: str) -> list[str]:
    """Return the folders, `""` or ending with a slash, in which the file `marker` lies; sorted.

    >>> files = Files(frozenset({"a/b/lists/x.txt", "a/x.txt"}), lambda name: b"", "")
    >>> roots(files, "lists/x.txt")
    ['a/b/']
    """
    ending = re.compile(f"((?:.*/)?){re.escape(marker)}")
    matches = (ending.fullmatch(name) for name in files.names)
    return sorted(match[1] for match in matches if match)


def _walk(folder: Path) -> frozenset[str]:
    """All files below a folder but hidden ones."""
    names = set()
    for inner, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        at = Path(inner).relative_to(folder)
        names |= {(at / name).as_posix() for name in files if not name.startswith(".")}
    return frozenset(names)


def _without_dot(name: str) -> str:
    return name.removeprefix("./")


def _safe_names(names: Mapping[str, object]) -> frozenset[str]:
    """Without absolute names and those that lead upwards; hidden ones (of macOS) do not count."""
    paths = {name: PurePosixPath(name) for name in names}
    return frozenset(
        name
        for name, path in paths.items()
        if not path.is_absolute() and ".." not in path.parts and not path.name.startswith(".")
    )


@contextlib.contextmanager
def _tar(place: Path, scratch: Path | None) -> Iterator[tarfile.TarFile]:
    """Yield an open tar; a compressed one from its plain copy in `scratch`."""
    if scratch is None or place.name.lower().endswith(".tar"):
        with tarfile.open(place) as tar:
            yield tar
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with gzip.open(place) as packed, tempfile.TemporaryFile(dir=scratch) as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
        plain.seek(0)
        with tarfile.open(fileobj=cast(BinaryIO, plain), mode="r:") as tar:
            yield tar


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # regular files have content
    data = file.read()
    if len(data) < member.size:
        raise EOFError(f"{member.name} ends early")
    return data
