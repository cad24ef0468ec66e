"""Whole files in a folder or a bucket, over pyarrow's filesystems; a study is touched through here alone.

A file appears whole or not at all: on a disk by a temporary file, fsync and rename; on S3 an object
is visible only when its upload is complete (and there is no rename).
"""

import contextlib
import os
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

from tune_kd import files
from tune_kd.errors import UsageError

LEFTOVER_S = 3600.0  # a lingering worker may still be renaming a younger temporary file


class Storage:
    """A folder (`runs/x`) or a bucket's folder (`s3://bucket/x`, with options in the query)."""

    def __init__(self, uri: str | Path, *, patient: bool = True) -> None:
        """Connect without touching anything; `patient` False gives up on S3 within seconds."""
        text = str(uri)
        self.local: Path | None = None
        self._query = ""
        if text.startswith("s3:/") and not text.startswith("s3://"):
            raise UsageError(f"{text}: write s3://bucket/folder")
        if "://" in text and not text.startswith("file://"):
            self._fs, self._root, self._query = _s3(text, patient)
        else:
            self.local = Path(text.removeprefix("file://")).expanduser().absolute()
            self._fs, self._root = fs.LocalFileSystem(), str(self.local)

    @property
    def uri(self) -> str:
        """What another process opens the same folder by."""
        return self._root if self.local else f"s3://{self._root}{self._query}"

    def at(self, name: str) -> "Storage":
        """Return a folder below this one, over the same connection."""
        below = object.__new__(Storage)
        below._fs, below._query = self._fs, self._query
        below._root = f"{self._root}/{name}"
        below.local = self.local / name if self.local else None
        return below

    def parent(self) -> "Storage":
        """Return the folder that this one lies in."""
        above = self.at("")
        above._root = self._root.rsplit("/", 1)[0]
        above.local = self.local.parent if self.local else None
        return above

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._root.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError where there is none."""
        with self._fs.open_input_file(f"{self._root}/{name}") as file:
            return bytes(file.read())

    def write(self, name: str, data: bytes) -> None:
        """Write the whole file or nothing, and to stay."""
        if self.local:
            files.write_whole(self.local / name, data)
            return
        with self._fs.open_output_stream(f"{self._root}/{name}") as file:
            file.write(data)

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._fs.get_file_info(f"{self._root}/{name}").type != fs.FileType.NotFound)

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Names in a folder, sorted, files being written left out; none where there is no folder."""
        selector = fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
        names = (info.base_name for info in self._fs.get_file_info(selector))
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._root}/{name}")

    def remove_folder(self, name: str) -> None:
        """Delete a folder and all below it; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError, OSError):
            self._fs.delete_dir(f"{self._root}/{name}")

    def remove_leftovers(self, folder: str) -> None:
        """Delete what killed writers left half-written on a disk, an hour ago or more."""
        if self.local:
            for path in (self.local / folder).glob(".*"):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > LEFTOVER_S:
                        path.unlink()

    def check_writable(self) -> None:
        """One small file written and deleted; UsageError says what stands in the way."""
        probe = f".probe-{uuid.uuid4().hex}"
        missing = _missing_folders(self.local) if self.local else []
        quick = Storage(self.uri, patient=False)
        try:
            quick.write(probe, b"probe")
            quick.remove(probe)
        except OSError as error:
            why = " ".join(str(error).split())[:300]
            raise UsageError(
                f"cannot write to --out {self.uri}: {why}; name a folder or bucket that you may write to"
            ) from None
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _missing_folders(path: Path) -> list[Path]:
    """Return the folders that writing below `path` would make, deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _s3(uri: str, patient: bool) -> tuple[fs.FileSystem, str, str]:
    """Return the file system, the path `bucket/folder` and the query of an s3:// address."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise UsageError(f"--out {uri}: a folder or s3://bucket/folder is allowed")
    options = dict(urllib.parse.parse_qsl(parts.query))
    unknown = set(options) - {"region", "endpoint_override", "scheme"}
    if unknown:
        raise UsageError(
            f"--out {uri}: unknown option {sorted(unknown)[0]}; region, endpoint_override and scheme are allowed"
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options.setdefault("region", region or "us-east-1")
    # pyarrow reads these for an address, but not for a file system with timeouts of its own
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options.setdefault("endpoint_override", endpoint)
    settings = {
        **options,
        "request_timeout": 60 if patient else 5,
        "connect_timeout": 10 if patient else 3,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=10 if patient else 2),
    }
    try:  # one request for a small object instead of three, where pyarrow is new enough
        system = fs.S3FileSystem(**settings, allow_delayed_open=True)
    except TypeError:
        system = fs.S3FileSystem(**settings)
    query = f"?{parts.query}" if parts.query else ""
    return system, f"{parts.netloc}{parts.path}".rstrip("/"), query


@contextlib.contextmanager
def lock_study(storage: Storage) -> Iterator[None]:
    """Be the only driver of a study on this disk; freed by the kernel, even after kill -9.

    A bucket has no such lock: there the attempts' files of their own keep two drivers from harm.
    """
    if storage.local is None:
        yield
        return
    with files.lock(storage.local / ".lock", wait=False) as success:
        if not success:
            raise UsageError(
                f"another search or confirmation is running in {storage.uri}; wait for it or choose another --name"
            )
        yield
