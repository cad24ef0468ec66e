"""Functions and classes that were defined in a notebook's cell, named like those of a file.

They have no file to be imported from, so they are pickled by value, with the globals and helper functions
that they use, into `<name>_<fingerprint>.pkl` of the node's cache. `file.pkl:name` refers to them, and a study
ships that file to its workers like any other. The fingerprint is of the source code, so that a new kernel which
runs the same cells goes on with the same study.
"""

import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tune_kd import files
from tune_kd.errors import UsageError, explain

_LOADED: dict[str, Callable[..., Any]] = {}  # by file name


def reference(function: Callable[..., Any]) -> str:
    """Return the name of a function or class: `file.py:name` where a file defines it, else `file.pkl:name`.

    Raises:
        UsageError: it has no name at the top level of its file or notebook, or it cannot be pickled.
    """
    name = getattr(function, "__qualname__", type(function).__name__)
    if not name.isidentifier():
        raise UsageError(
            f"{name}: workers find a function by its name; define it at the top level of a file or a cell"
        )
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file and module is not sys.modules.get("__main__"):
        return f"{Path(file).resolve()}:{name}"
    return f"{_saved(function, name)}:{name}"


def _saved(function: Callable[..., Any], name: str) -> Path:
    """The file of the cache that holds it by value."""
    import cloudpickle

    path = files.cache_folder() / "code" / f"{name}_{fingerprint(function)}.pkl"
    try:
        content = cloudpickle.dumps(function)
    except Exception as error:  # whatever an object of the user's raises
        raise UsageError(
            f"{name} cannot be sent to workers: {explain(error)}; define it in a file, or keep what cannot be "
            "pickled (open files, locks, connections) out of it"
        ) from error
    if not path.is_file():
        files.write_whole(path, content)
    return path


def load(path: Path, name: str) -> Callable[..., Any]:
    """Return what `reference` saved, loaded once a process; `name` is the reference, for errors.

    Raises:
        UsageError: another version of Python wrote it, or it imports what is not installed here.
    """
    if path.name not in _LOADED:
        try:
            _LOADED[path.name] = pickle.loads(path.read_bytes())
        except Exception as error:
            raise UsageError(
                f"'{name}' was defined in a notebook and cannot be loaded here: {explain(error)}; install what it "
                "imports, take the Python version that ran the notebook, or define it in a file"
            ) from error
    return _LOADED[path.name]


def fingerprint(function: Callable[..., Any]) -> str:
    """Return a hash of the source of a function or class and of what it uses from its notebook."""
    parts = sorted(set(_sources(function, seen=set())))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _sources(value: Any, *, seen: set[int]) -> Iterator[str]:
    """The source of a function or class, and of the globals that it names."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, FunctionType | type) and value.__module__ != "__main__":
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, FunctionType | type):
        yield _text(value)
        functions = [value] if isinstance(value, FunctionType) else vars(value).values()
        for function in functions:
            if isinstance(function, FunctionType):
                names = sorted(set(_names(function.__code__)) & set(function.__globals__))
                for name in names:
                    yield name
                    yield from _sources(function.__globals__[name], seen=seen)
        for base in value.__bases__ if isinstance(value, type) else ():
            yield from _sources(base, seen=seen)
    else:
        yield repr(value)


def _text(value: Any) -> str:
    """The source of a function or class; its compiled code where it was typed at a prompt."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        if isinstance(value, FunctionType):
            return repr(_compiled(value.__code__))
        parts = {n: _text(v) if isinstance(v, FunctionType) else "" for n, v in vars(value).items()}
        return repr(sorted(parts.items()))


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What a function computes, without its address and place."""
    consts = [_compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_name, code.co_code, code.co_names, tuple(consts)


def _names(code: CodeType) -> Iterator[str]:
    """The global names of a function and of the functions within it."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)
