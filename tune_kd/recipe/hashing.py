"""Hashes, and the seeds of random streams."""

import hashlib


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


def stream(*parts: object) -> int:
    """Return the seed of one random stream: a hash of what the stream is for, in [0, 2**63).

    >>> stream(0, "shuffle", 1) == stream(0, "shuffle", 1) != stream(0, "shuffle", 2)
    True
    """
    return int(digest(*(repr(part) for part in parts)), 16) >> 1
