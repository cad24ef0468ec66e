"""FrozenTeacher data as canonical JSON, and back.

A field that equals its default is left out, so that a field that is added later changes neither the
JSON nor the hash of what does not use it.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any


def demand(rule: str, holds: bool, **arguments: object) -> None:
    """Raise ValueError with the rule and what was given, unless the rule holds."""
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(f"{rule} must hold, but got {values}")


def to_builtins(value: Any) -> Any:
    """Return a dataclass as JSON data, without the values that equal their default.

    So a field that is added later leaves the JSON, and with it the hashes, of everything that does
    not use it as they were. A default may never change: a new one needs a new field, or a raised
    RECIPE_VERSION.

    A class of which there are several kinds says which one it is by its `kind`.

    >>> from tune_kd.recipe import Prune
    >>> to_builtins(Prune(ratio=0.5))
    {'kind': 'prune', 'ratio': 0.5}
    """
    if dataclasses.is_dataclass(value):
        parts = [(part.name, getattr(value, part.name), part) for part in dataclasses.fields(value)]
        fields = {
            name: to_builtins(inner) for name, inner, part in parts if inner != _default(part)
        }
        kind = getattr(value, "kind", "")  # of a class of which there are several
        return {"kind": kind, **fields} if kind else fields
    if isinstance(value, tuple | list):
        return [to_builtins(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _default(part: "dataclasses.Field[Any]") -> Any:
    if part.default_factory is not dataclasses.MISSING:
        return part.default_factory()
    return part.default


def to_json(value: Any) -> str:
    """Return a dataclass as canonical JSON: sorted keys, no spaces, no values that equal their default."""
    return json.dumps(to_builtins(value), sort_keys=True, separators=(",", ":"))


def rebuild(kind: Any, value: Any) -> Any:
    """JSON data as the annotated type `kind`: a dataclass, a tuple of one type, or a plain value.

    A class of which there are several kinds is the one that `kind` names; what is missing has its
    default.

    Raises:
        ValueError: a field or a kind that there is not, such as one of a newer version.
    """
    if isinstance(kind, types.UnionType):  # something or None
        if value is None:
            return None
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if hasattr(kind, "kinds"):
        if value.get("kind") not in kind.kinds():
            raise ValueError(f"there is no stage {value.get('kind')!r}: a newer version wrote it")
        kind = kind.kinds()[value["kind"]]
    if dataclasses.is_dataclass(kind):
        annotations = typing.get_type_hints(kind)
        hints = {part.name: annotations[part.name] for part in dataclasses.fields(kind)}
        value = {name: inner for name, inner in value.items() if name != "kind"}
        if unknown := sorted(set(value) - set(hints)):
            name = getattr(kind, "__name__", "")
            raise ValueError(f"{name} has no field {unknown[0]}: a newer version wrote it")
        arguments = {name: rebuild(hints[name], inner) for name, inner in value.items()}
        return typing.cast(Any, kind)(**arguments)
    if typing.get_origin(kind) is Mapping:
        return dict(value)
    if typing.get_origin(kind) is tuple:
        return tuple(rebuild(typing.get_args(kind)[0], item) for item in value)
    if isinstance(kind, types.GenericAlias) or not isinstance(kind, type):
        return value
    return kind(value)
