"""What lies at an address: a study's manifest, or one line that says what is there instead."""

import json
import urllib.parse
from pathlib import PurePath
from typing import Any

from tune_kd.errors import UsageError
from tune_kd.study import results
from tune_kd.study.storage import Storage

MANIFEST = "manifest.json"
_REQUIRED = ("study", "family", "methods")


def manifest(address: str) -> dict[str, Any]:
    """Return the checked manifest; gives up soon on a bucket that does not answer.

    Raises:
        UsageError: There is no study, or it cannot be read by this version.
    """
    storage = Storage(address, patient=False)
    try:
        text = storage.read(MANIFEST)
    except FileNotFoundError:
        raise UsageError(_no_study(address, storage)) from None
    except OSError as error:
        raise UsageError(f"cannot read {address}: {' '.join(str(error).split())[:300]}") from None
    try:
        content = json.loads(text)
    except ValueError:
        raise UsageError(f"{address}/{MANIFEST} is not JSON; is this a study's folder?") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != results.SCHEMA_VERSION:
        raise UsageError(
            f"{address} was written with schema {schema}, this version reads schema "
            f"{results.SCHEMA_VERSION}; report it with the version that wrote it, or search again"
        )
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise UsageError(f"{address}/{MANIFEST} lacks {', '.join(missing)}; was it edited?")
    if not content["methods"]:
        raise UsageError(f"{address}/{MANIFEST} names no method; was it edited?")
    return dict(content)


def _no_study(address: str, storage: Storage) -> str:
    """Return what is there instead of a study: studies below, studies beside, or nothing."""
    studies = _studies(storage)
    if studies:
        return f"{address} is no study but holds studies: name one of {', '.join(studies)}"
    parent = _parent(address)
    neighbors = _studies(Storage(parent, patient=False)) if parent else []
    hint = (
        f"{parent} has: {', '.join(neighbors)}"
        if neighbors
        else f"{parent or address} has no studies"
    )
    return f"no study at {address} ({MANIFEST} is missing); {hint}"


def _studies(storage: Storage) -> list[str]:
    try:
        return [name for name in storage.names("") if storage.exists(f"{name}/{MANIFEST}")]
    except (OSError, ValueError):
        return []  # a file, or not to be listed: there is nothing to say


def _parent(address: str) -> str:
    """Return the address one level up, options of a bucket kept; "" for a bucket itself."""
    if "://" not in address:
        return str(PurePath(address).parent)
    parts = urllib.parse.urlsplit(address)
    above, _, last = parts.path.rstrip("/").rpartition("/")
    return urllib.parse.urlunsplit(parts._replace(path=above)) if last else ""
