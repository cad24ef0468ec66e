"""Finding spaces by name or path, and changing them: `--set`, `--methods`."""

import ast
import dataclasses
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from tune_kd import notebook
from tune_kd.errors import UsageError, unknown
from tune_kd.space import methods
from tune_kd.space.search_space import TRAINING, Method, SearchSpace, choice, plain_fields, shown


def folder() -> Path:
    """Where the shipped spaces lie."""
    spec = importlib.util.find_spec("search_spaces")
    assert spec is not None, "the package search_spaces is not installed"
    return Path(next(iter(spec.submodule_search_locations or [])))


def names() -> list[str]:
    """The shipped spaces."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def find(space: str | SearchSpace) -> tuple[SearchSpace, Path | None]:
    """Return a space by name, by file or as it is, and the file that defines it.

    A space that was made in Python has no file. Names of files in it are relative to the working folder;
    functions and classes in it become references (`notebook.reference`).
    """
    if not isinstance(space, SearchSpace):
        return load(space)
    return _named(space), None


def _named(space: SearchSpace, module: ModuleType | None = None) -> SearchSpace:
    """The space with functions and classes as references; those of its own file, `module`, by that file."""
    names: dict[str, Any] = {}
    for name in ("task", "teacher", "student", "feature_loss"):
        value = getattr(space, name)
        if isinstance(value, str):
            continue
        if not callable(value):
            raise UsageError(
                f"{name} of space {space.name} is a {type(value).__name__}; give a name, 'file.py:function', or "
                "a function"
            )
        if module is not None and getattr(value, "__module__", "") == module.__name__:
            names[name] = f"{Path(str(module.__file__)).name}:{value.__qualname__}"
        else:
            names[name] = notebook.reference(value)
    return dataclasses.replace(space, **names) if names else space


def load(name_or_file: str) -> tuple[SearchSpace, Path]:
    """A space by name or by path, and the file that defines it. UsageError says what is wrong."""
    if name_or_file.endswith(".py") or os.sep in name_or_file:
        file = Path(name_or_file).expanduser().absolute()
        if not file.is_file():
            raise UsageError(f"--space {name_or_file}: there is no such file")
    elif name_or_file not in names():
        raise unknown("space", name_or_file, names(), where="search_spaces/ has")
    else:
        file = folder() / f"{name_or_file}.py"
    module = _import(file)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise UsageError(f"{file} defines no SPACE; write SPACE = SearchSpace(name=..., ...)")
    space = _named(space, module)
    space.check()
    return space, file


def _import(file: Path) -> ModuleType:
    """The module of one file; an error in it names the file and the line."""
    spec = importlib.util.spec_from_file_location(f"_space_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        trace, line = error.__traceback__, getattr(error, "lineno", 0)  # of a SyntaxError
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(file):
                line = trace.tb_lineno
            trace = trace.tb_next
        raise UsageError(f"{file}, line {line}: {type(error).__name__}: {error}") from error
    return module


def change(space: SearchSpace, assignment: str) -> SearchSpace:
    """The space after `NAME=VALUE`: a field changed, or a range pinned in every method that has it."""
    name, equals, text = assignment.partition("=")
    name = name.strip()
    if not equals or not name:
        raise UsageError(f"--set {assignment}: write --set NAME=VALUE")
    value = _value(text.strip())
    fields = plain_fields(space)
    ranges: dict[str, Any] = {}
    for method in space.methods.values():
        ranges |= {**method.fixed, **method.ranges}
    try:
        if name in fields:
            changed: dict[str, Any] = {name: _like(fields[name], value)}
            return dataclasses.replace(space, **changed)
        if name in ranges:
            value = _within(ranges[name], value)
            pinned = {k: m.pin(name, value) for k, m in space.methods.items()}
            return dataclasses.replace(space, methods=pinned)
    except ValueError as error:
        raise UsageError(f"--set {assignment}: {error}") from None
    raise unknown("name in --set", name, [*fields, *ranges])


def _value(text: str) -> Any:
    lowered = {"true": True, "false": False}.get(text.lower())
    if lowered is not None:
        return lowered
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _within(known: Any, value: Any) -> Any:
    """A value that a range, or a value pinned before, can be pinned to."""
    if isinstance(known, CategoricalDistribution):
        if value not in known.choices:
            raise ValueError(f"one of {shown(known)} is wanted, but got {value!r}")
        return value
    if isinstance(known, BaseDistribution):
        whole = isinstance(known, IntDistribution)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{kind} is wanted, but got {value!r}")
        return value if whole else float(value)
    return _like(known, value)


def _like(known: Any, value: Any) -> Any:
    """`value` as the type of `known`, where that loses nothing."""
    if isinstance(known, bool) or isinstance(value, bool):
        ok = isinstance(known, bool) and isinstance(value, bool)
    elif isinstance(known, float) and isinstance(value, int | float):
        return float(value)
    elif isinstance(known, tuple):
        items = value.split(",") if isinstance(value, str) else value
        return tuple(items) if isinstance(items, tuple | list) else (items,)
    else:
        ok = isinstance(value, type(known))
    if not ok:
        raise ValueError(f"{type(known).__name__} is wanted (now {known!r}), but got {value!r}")
    return value


def subset(space: SearchSpace, wanted: list[str]) -> SearchSpace:
    """Return the space with these methods only: its own in its order, then shared ones (`methods.MORE`).

    Shared methods tune what the space's first method has of lr, weight decay and dropout, in the same ranges.

    Raises:
        UsageError: no such method, or a shared one where the space's first has not these ranges.
    """
    more = _more(space, [name for name in wanted if name not in space.methods])
    for name in wanted:
        if name not in space.methods and name not in more:
            names = [*space.methods, *methods.MORE]
            raise unknown("method", name, names, where=f"{space.name} has")
    kept = {name: method for name, method in space.methods.items() if name in wanted}
    return dataclasses.replace(space, methods=kept | more)


def _more(space: SearchSpace, wanted: list[str]) -> dict[str, Method]:
    """The shared methods among these, over the ranges of the space's first method."""
    names = [name for name in dict.fromkeys(wanted) if name in methods.MORE]
    if not names:
        return {}
    first = next(iter(space.methods.values()))
    ranges = {name: first.ranges[name] for name in TRAINING if name in first.ranges}
    fixed = {name: first.fixed[name] for name in TRAINING if name in first.fixed}
    if ranges.keys() | fixed.keys() != set(TRAINING):
        raise UsageError(
            f"method {names[0]} tunes {', '.join(TRAINING)}, which the methods of {space.name} do not; take a space "
            "that is searched for them"
        )
    book = {name: first.textbook[name] for name in ranges}
    training = ranges | {name: choice(value) for name, value in fixed.items()}
    made = methods.more_methods(training, recipe=book | fixed)
    for name, value in fixed.items():
        made = {key: method.pin(name, value) for key, method in made.items()}
    return {name: made[name] for name in names}
