"""Errors that a user can mend: what was given, what is allowed, what to type next."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong input. Entry points print it in one or two lines and exit with code 2."""


class SearchAborted(RuntimeError):
    """A run cannot go on; what it wrote stays, and the same call goes on later. Commands exit with 1."""


def unknown(kind: str, name: str, allowed: Iterable[str], *, where: str = "allowed") -> UsageError:
    """Return an error that names the nearest of the allowed names.

    >>> print(unknown("space", "cifar10", ["cifar10_kd", "digits_kd"]))
    unknown space 'cifar10'; did you mean 'cifar10_kd'? allowed: cifar10_kd, digits_kd
    """
    names = sorted(allowed)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{matches[0]}'?" if matches else ";"
    return UsageError(f"unknown {kind} '{name}'{hint} {where}: {', '.join(names)}")


def explain(error: BaseException) -> str:
    r"""Return an exception in one line.

    >>> explain(ValueError("a bad\nvalue"))
    'ValueError: a bad value'
    """
    kind = "out of memory" if "out of memory" in str(error).lower() else type(error).__name__
    return f"{kind}: {' '.join(str(error).split())[:300]}"
