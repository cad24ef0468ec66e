"""Hashes, and the seeds of random streams.

They name folders of the cache, models and columns of rows: a value that changes makes older ones
unknown. Text and JSON have `digest`, bytes that others hash as well, such as files, have
`bytes_hash`.
"""

import hashlib
from collections.abc import Iterable


def digest(*parts: str | bytes, length: int = 16) -> str:
    """Return a hexadecimal SHA-256 of the parts, cut to `length`; the parts cannot run into each other.

    >>> digest("a", "b") == digest("ab")
    False
    """
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()[:length]


def bytes_hash(chunks: Iterable[bytes | memoryview], *, length: int = 16) -> str:
    """Return a hexadecimal SHA-256 of the chunks one after the other, cut to `length`.

    >>> bytes_hash([b"a", b"b"]) == bytes_hash([b"ab"])
    True
    """
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()[:length]


def file_id(data: bytes) -> str:
    """Return the hash of a file's bytes: the first characters of what `sha256sum` prints."""
    return bytes_hash([data])


def external_model_id(file_id: str) -> str:
    """Return the name that a study gives the model of an external checkpoint, by the checkpoint's `file_id`."""
    return digest("file", file_id)


def stream(*parts: object) -> int:
    """Return the seed of one random stream: a hash of what the stream is for, in [0, 2**63).

    >>> stream(0, "shuffle", 1) == stream(0, "shuffle", 1) != stream(0, "shuffle", 2)
    True
    """
    return int(digest(*(repr(part) for part in parts)), 16) >> 1
