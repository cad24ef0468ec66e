"""What lies at an address: a study's manifest, or one line that says what is there instead."""

import json
import urllib.parse
from pathlib import PurePath

from tune_kd.errors import UsageError
from tune_kd.study import manifest
from tune_kd.study.manifest import Manifest
from tune_kd.study.results import SCHEMA_VERSION
from tune_kd.study.storage import Storage


def read_manifest(address: str) -> Manifest:
    """Return the checked manifest; gives up soon on a bucket that does not answer.

    Raises:
        UsageError: There is no study, or it cannot be read by this version.
    """
    storage = Storage(address, patient=False)
    try:
        text = storage.read(manifest.FILE)
    except FileNotFoundError:
        raise UsageError(_no_study(address, storage)) from None
    except OSError as error:
        raise UsageError(f"cannot read {address}: {' '.join(str(error).split())[:300]}") from None
    file = f"{address}/{manifest.FILE}"
    try:
        content = manifest.from_json(json.loads(text))
    except manifest.SchemaError as error:
        raise UsageError(
            f"{address} was written with schema {error.schema}, this version reads schema "
            f"{SCHEMA_VERSION}; report it with the version that wrote it, or search again"
        ) from None
    except manifest.MissingKeysError as error:
        raise UsageError(f"{file} lacks {', '.join(error.keys)}; was it edited?") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UsageError(f"{file} is not JSON; is this a study's folder?") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}; report it with the version that wrote it") from None
    if not content.methods:
        raise UsageError(f"{file} names no method; was it edited?")
    return content


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
    return f"no study at {address} ({manifest.FILE} is missing); {hint}"


def _studies(storage: Storage) -> list[str]:
    try:
        return [name for name in storage.names("") if manifest.exists(storage.at(name))]
    except (OSError, ValueError):
        return []  # a file, or not to be listed: there is nothing to say


def _parent(address: str) -> str:
    """Return the address one level up, options of a bucket kept; "" for a bucket itself."""
    if "://" not in address:
        return str(PurePath(address).parent)
    parts = urllib.parse.urlsplit(address)
    above, _, last = parts.path.rstrip("/").rpartition("/")
    return urllib.parse.urlunsplit(parts._replace(path=above)) if last else ""
