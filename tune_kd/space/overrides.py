"""Changing a space: `--set PATH=VALUE`, `--epochs`, `--methods`."""

import ast
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from tune_kd.errors import UsageError, unknown
from tune_kd.space import methods
from tune_kd.space.distributions import choice, range_text
from tune_kd.space.method import TRAINING, Method
from tune_kd.space.search_space import SearchSpace, Training, plain_fields


def with_epochs(space: SearchSpace, epochs: int) -> SearchSpace:
    """Return the space with so many epochs of the student, and the teacher's in proportion."""
    teacher = max(1, round(space.teacher.epochs * epochs / space.student.epochs))
    return with_fields(space, {"student.epochs": epochs, "teacher.epochs": teacher})


def with_fields(space: SearchSpace, values: Mapping[str, Any]) -> SearchSpace:
    """Return the space with other values of fields, by dotted path.

    Raises:
        ValueError: a value that its field cannot have.
        KeyError: no such field.
    """
    for path, value in values.items():
        space = _replace(space, path.split("."), value)
    return space


def _replace(owner: Any, path: list[str], value: Any) -> Any:
    name, *tail = path
    if name not in {part.name for part in dataclasses.fields(owner)}:
        raise KeyError(name)
    inner = getattr(owner, name)
    if tail:
        value = _replace(inner, tail, value)
    elif isinstance(inner, Training) and not isinstance(value, Training):
        value = dataclasses.replace(inner, network=value)  # `student=resnet20`
    return dataclasses.replace(owner, **{name: value})


def change(space: SearchSpace, assignments: Iterable[str]) -> SearchSpace:
    """Return the space after each `NAME=VALUE`: a field changed, or a range pinned in every method that has it.

    `epochs=N` is `--epochs N`: the teacher's epochs change in proportion, unless they are set as
    well. Another field of training without `teacher.` or `student.` before it is set for both.

    Raises:
        UsageError: no such name, a value that does not fit, or one that nothing would use.
    """
    pairs = [_pair(text) for text in assignments]
    for name, value, text in sorted(pairs, key=lambda pair: pair[0] != "epochs"):
        try:
            space = _apply(space, name, value)
        except ValueError as error:
            raise UsageError(f"--set {text}: {error}") from None
    return space


def _pair(text: str) -> tuple[str, Any, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text}: write --set NAME=VALUE")
    return name.strip(), _value(value.strip()), text


def _apply(space: SearchSpace, name: str, value: Any) -> SearchSpace:
    fields = plain_fields(space)
    ranges = pinnable_ranges(space)
    if name in ("teacher", "student"):
        name = f"{name}.network"
    if name == "epochs":
        return with_epochs(space, _positive_epochs(value))
    if name in fields:
        changed = with_fields(space, {name: _convert_like(fields[name], value)})
        _demand_use(space, changed, name)
        return changed
    if name in ranges:
        value = _pin_value(ranges[name], value)
        pinned = {k: m.pin(name, value) for k, m in space.methods.items()}
        return dataclasses.replace(space, methods=pinned)
    if paths := both_paths(fields, name):
        for path in paths:
            space = _apply(space, path, value)
        return space
    raise _unknown_name(name, [*fields, *ranges, "epochs"])


def _unknown_name(name: str, paths: list[str]) -> UsageError:
    """Return an error with the nearest names, at most three; without one, with the first level of all names."""
    inner = [path.partition(".")[2].removeprefix("optimizer.") for path in paths]
    names = dict.fromkeys([*paths, *(short for short in inner if both_paths(paths, short))])
    last = name.rpartition(".")[2]
    same_field = [path for path in names if path.rpartition(".")[2] == last]  # of another network
    near = difflib.get_close_matches(name, same_field or names, cutoff=0.0 if same_field else 0.6)
    if near:
        hint = f"did you mean {' or '.join(repr(path) for path in near)}?"
    else:
        first = dict.fromkeys(path.partition(".")[0] + "." * ("." in path) for path in paths)
        hint = f"names are {', '.join(first)}"
    return UsageError(f"unknown name in --set {name!r}; {hint} (docs/running.md lists all)")


def both_paths(fields: Iterable[str], name: str) -> list[str]:
    """Return the paths of a field of training that is named without its network: the teacher's and the student's.

    >>> both_paths(["teacher.clip", "student.clip", "margin"], "clip")
    ['teacher.clip', 'student.clip']
    """
    if name in ("name", "network"):  # of what?
        return []
    parts = (name, f"optimizer.{name}")
    return [path for path in fields if path.partition(".")[2] in parts]


def pinnable_ranges(space: SearchSpace) -> dict[str, Any]:
    """Return the ranges of all methods, and the values of those that were pinned, by name."""
    ranges: dict[str, Any] = {}
    for method in space.methods.values():
        ranges |= {**method.fixed, **method.ranges}
    return ranges


def _demand_use(space: SearchSpace, changed: SearchSpace, path: str) -> None:
    """Raise ValueError for a field that every method gives itself, so that it would change nothing."""
    name = path.rpartition(".")[2]
    if not path.startswith("student.") or name not in TRAINING or changed == space:
        return
    for method, spec in space.methods.items():
        setting = spec.settings()[0]
        if changed.whole_stages(method, setting) != space.whole_stages(method, setting):
            return
    pin = f"; pin it by --set {name}=VALUE" if name in pinnable_ranges(space) else ""
    raise ValueError(f"every method has its own {name}, so that this would change nothing{pin}")


def _positive_epochs(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"int is wanted, but got {value!r}")
    if value < 1:
        raise ValueError(f"epochs >= 1 must hold, but got {value}")
    return value


def _value(text: str) -> Any:
    lowered = {"true": True, "false": False}.get(text.lower())
    if lowered is not None:
        return lowered
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _pin_value(domain: Any, value: Any) -> Any:
    """Return a value that a range, or a value pinned before, can be pinned to."""
    if isinstance(domain, CategoricalDistribution):
        if value not in domain.choices:
            raise ValueError(f"one of {range_text(domain)} is wanted, but got {value!r}")
        return value
    if isinstance(domain, BaseDistribution):
        is_integer = isinstance(domain, IntDistribution)
        if isinstance(value, bool) or not isinstance(value, int if is_integer else int | float):
            kind = "a whole number" if is_integer else "a number"
            raise ValueError(f"{kind} is wanted, but got {value!r}")
        return value if is_integer else float(value)
    return _convert_like(domain, value)


def _convert_like(example: Any, value: Any) -> Any:
    """Return `value` as the type of `example`, where that loses nothing."""
    if isinstance(example, bool) or isinstance(value, bool):
        ok = isinstance(example, bool) and isinstance(value, bool)
    elif isinstance(example, float) and isinstance(value, int | float):
        return float(value)
    elif isinstance(example, tuple):
        items = value.split(",") if isinstance(value, str) else value
        return tuple(items) if isinstance(items, tuple | list) else (items,)
    else:
        ok = isinstance(value, type(example))
    if not ok:
        raise ValueError(f"{type(example).__name__} is wanted (now {example!r}), but got {value!r}")
    return value


def subset(space: SearchSpace, names: list[str]) -> SearchSpace:
    """Return the space with these methods only: its own in its order, then shared ones (`methods.MORE`).

    Shared methods tune what the space's first method has of lr, weight decay and dropout, in the
    same ranges.

    Raises:
        UsageError: no such method, or a shared one where the space's first has not these ranges.
    """
    more = _shared_methods(space, [name for name in names if name not in space.methods])
    for name in names:
        if name not in space.methods and name not in more:
            choices = [*space.methods, *methods.MORE]
            raise unknown("method", name, choices, where=f"{space.name} has")
    own_methods = {name: method for name, method in space.methods.items() if name in names}
    return dataclasses.replace(space, methods=own_methods | more)


def _shared_methods(space: SearchSpace, names: list[str]) -> dict[str, Method]:
    """Return the shared methods among these, over the ranges of the space's first method."""
    shared_names = [name for name in dict.fromkeys(names) if name in methods.MORE]
    if not shared_names:
        return {}
    first = next(iter(space.methods.values()))
    ranges = {name: first.ranges[name] for name in TRAINING if name in first.ranges}
    fixed = {name: first.fixed[name] for name in TRAINING if name in first.fixed}
    if ranges.keys() | fixed.keys() != set(TRAINING):
        raise UsageError(
            f"method {shared_names[0]} tunes {', '.join(TRAINING)}, which the methods of "
            f"{space.name} do not; take a space that is searched for them"
        )
    defaults = {name: first.defaults[name] for name in ranges}
    training = ranges | {name: choice(value) for name, value in fixed.items()}
    shared_methods = methods.more_methods(training, defaults=defaults | fixed)
    for name, value in fixed.items():
        shared_methods = {key: method.pin(name, value) for key, method in shared_methods.items()}
    return {name: shared_methods[name] for name in shared_names}
