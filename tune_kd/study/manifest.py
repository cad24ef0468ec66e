"""The manifest: what a study is, written once when it begins; read, and compared with what is asked for."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tune_kd.errors import UsageError
from tune_kd.recipe import Images, rebuild
from tune_kd.study.results import SCHEMA_VERSION
from tune_kd.study.storage import Storage

COMPARED = ("schema", "space", "settings", "methods", "seed", "limit_train", "sampler", "scheduler", "teacher_hash", "start_hash", "sources", "images")  # fmt: skip
REPEATED = {"bounds", "distributions", "settings"}  # say again what `ranges` and `defaults` say


def read(storage: Storage) -> dict[str, Any]:
    """Return the manifest of a study.

    Raises:
        UsageError: It is not one, or its rows are of another schema.
    """
    try:
        found = json.loads(storage.read("manifest.json"))
        schema = found["schema"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(
            f"{storage.uri}/manifest.json is not a study's; use a new --name"
        ) from None
    if schema != SCHEMA_VERSION:
        raise UsageError(
            f"{storage.uri} has rows of schema {schema}, this program writes {SCHEMA_VERSION}; "
            "choose another --name"
        )
    try:
        rebuild(Images, found["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{storage.uri}/manifest.json: {error}; take the version that wrote it, or another --name"
        ) from None
    return dict(found)


def differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return what differs between the study on disk and the one asked for, in words.

    Settings and images leave out what equals its default, so that a field that one version has and the other
    has not matters only where it is used.

    >>> differences({"seed": 0}, {"seed": 1})
    ['seed is 0 in the existing study, 1 requested']
    """
    asked = json.loads(json.dumps(asked))
    return [line for key in COMPARED for line in _differences(key, known.get(key), asked.get(key))]


def _differences(where: str, known: Any, asked: Any) -> Iterator[str]:
    if isinstance(known, dict) and isinstance(asked, dict):
        for key in sorted({*known, *asked} - REPEATED):
            yield from _differences(f"{where}.{key}", known.get(key), asked.get(key))
    elif known != asked and (known is None or asked is None):
        there = "at its default" if where.split(".")[0] in ("settings", "images") else "not set"
        if known is None:
            yield f"{where} is {there} in the existing study, {asked!r} requested"
        else:
            yield f"{where} is {known!r} in the existing study, not requested"
    elif known != asked:
        yield f"{where} is {known!r} in the existing study, {asked!r} requested"
