"""Functions and classes that were defined in a notebook or script, named like those of a file.

They have no file to be imported from, so they are pickled by value, with the globals and helper
functions that they use, into `<name>_<code_hash>.pkl` of the node's cache. `file.pkl:name` refers
to them, and a study ships that file to its workers like any other. The hash is of all that they
consist of, so that a new kernel which runs the same cells goes on with the same study, and an
edited one does not.
"""

import contextlib
import dis
import pickle
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tune_kd import files
from tune_kd.errors import UsageError, explain
from tune_kd.recipe import bytes_hash

Memo = dict[int, tuple[int, Any]]  # id -> order and the value, kept so that no other gets its id
_LOADED: dict[str, Callable[..., Any]] = {}  # by file name
_SKIPPED = {
    "__dict__",
    "__weakref__",
    "__module__",
    "__doc__",
    "__firstlineno__",
    "__static_attributes__",
}


def reference(function: Callable[..., Any]) -> str:
    """Return the name of a function or class: `file.py:name` where a file of yours defines it.

    Else, of an installed package, a notebook's cell or a script, it is `file.pkl:name`.

    Raises:
        UsageError: it is neither function nor class, has no name at the top level, or cannot be
            pickled.
    """
    if not isinstance(function, FunctionType | type):
        raise UsageError(
            f"a {type(function).__name__} is given where a function or class is expected; write a "
            "function that returns what you want, such as: def student(**options): return ..."
        )
    name = function.__qualname__
    if not name.isidentifier():
        raise UsageError(
            f"{name}: workers find a function by its name; define it at the top level of a file or "
            "a cell"
        )
    file = _own_file(function.__module__)
    module = sys.modules.get(function.__module__)
    if file is not None and not (module and module.__package__):
        return f"{file}:{name}"
    return f"{_save(function, name)}:{name}"


def _own_file(module_name: str) -> Path | None:
    """Return the file of a module that is not installed; None for what is, and for a notebook or script."""
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if file is None or module_name == "__main__":
        return None
    path = Path(file).resolve()
    installed = [
        *site.getsitepackages(),
        site.getusersitepackages(),
        *sysconfig.get_paths().values(),
    ]
    package = Path(__file__).resolve().parent
    if package in path.parents or any(Path(p).resolve() in path.parents for p in installed):
        return None
    return path


def _is_own(module_name: str) -> bool:
    """Whether code of this module goes by value: a notebook's, a script's, or a file's of the user."""
    return module_name == "__main__" or _own_file(module_name) is not None


def _save(function: Callable[..., Any], name: str) -> Path:
    """Return the file of the cache that holds it by value."""
    import cloudpickle

    path = files.cache_folder() / "code" / f"{name}_{code_hash(function)}.pkl"
    modules = [m for n, m in list(sys.modules.items()) if n != "__main__" and m and _own_file(n)]
    try:
        with contextlib.ExitStack() as stack:
            for module in modules:
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
            content = cloudpickle.dumps(function)
    except Exception as error:  # whatever an object of the user's raises
        raise UsageError(
            f"{name} cannot be sent to workers: {explain(error)}; define it in a file, or keep "
            "what cannot be pickled (open files, locks, connections) out of it"
        ) from error
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
                f"'{name}' was defined in a notebook and cannot be loaded here: {explain(error)}; "
                "install what it imports, take the Python version that ran the notebook, or "
                "define it in a file"
            ) from error
    return _LOADED[path.name]


def code_hash(function: Callable[..., Any]) -> str:
    """Return a hash of what a function or class consists of: code, defaults, attributes, what it uses."""
    text = "\0".join(_parts(function, memo={}))
    return bytes_hash([text.encode()], length=12)


def _parts(value: Any, *, memo: Memo) -> Iterator[str]:
    """Yield what a value consists of, in an order that is the same in every process."""
    if isinstance(value, str | bytes | int | float | complex | bool | None | type(...)):
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in memo:
        yield f"again {memo[id(value)][0]}"
        return
    memo[id(value)] = len(memo), value
    if isinstance(value, ModuleType):
        yield _module_part(value)
    elif isinstance(value, FunctionType | type) and not _is_own(value.__module__):
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, FunctionType):
        yield from _function_parts(value, memo=memo)
    elif isinstance(value, type):
        yield f"class {value.__qualname__}"
        for base in value.__bases__:
            yield from _parts(base, memo=memo)
        yield from _mapping_parts(_attributes(value), memo=memo)
    elif isinstance(value, Mapping):
        yield from _mapping_parts(value, memo=memo)
    elif isinstance(value, Set):
        yield from sorted("\1".join(_parts(item, memo={})) for item in value)
    elif isinstance(value, list | tuple):
        yield type(value).__name__
        for item in value:
            yield from _parts(item, memo=memo)
    elif isinstance(value, staticmethod | classmethod):
        yield type(value).__name__
        yield from _parts(value.__func__, memo=memo)
    elif isinstance(value, property):
        yield from _parts((value.fget, value.fset, value.fdel), memo=memo)
    else:
        yield from _object_parts(value, memo=memo)


def _attributes(class_: type) -> dict[str, Any]:
    """Return what a class defines, without what Python adds to it."""
    members = vars(class_).items()
    return {k: v for k, v in members if k not in _SKIPPED and not k.startswith("_abc_")}


def _module_part(module: ModuleType) -> str:
    if _own_file(module.__name__):
        raise UsageError(
            f"module {module.__name__} is a file of yours, which workers do not have; write "
            f"'from {module.__name__} import ...', and what it names is sent along"
        )
    return f"module {module.__name__}"


def _mapping_parts(value: Mapping[Any, Any], *, memo: Memo) -> Iterator[str]:
    yield f"{len(value)} entries"
    for key in sorted(value, key=repr):
        yield from _parts(key, memo=memo)
        yield from _parts(value[key], memo=memo)


def _function_parts(function: FunctionType, *, memo: Memo) -> Iterator[str]:
    """Its code, its defaults and attributes, and the globals and closed-over values that it reads."""
    yield f"def {function.__qualname__}"
    yield from _code_parts(function.__code__, memo=memo)
    attributes = (function.__defaults__, function.__kwdefaults__, function.__dict__)
    yield from _parts(attributes, memo=memo)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield from _parts(cell.cell_contents, memo=memo)
    for name in sorted(set(_globals(function.__code__))):
        if name in function.__globals__:
            yield f"global {name}"
            yield from _parts(function.__globals__[name], memo=memo)


def _code_parts(code: CodeType, *, memo: Memo) -> Iterator[str]:
    """Yield what code computes, without its file and lines."""
    yield repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
    yield repr((code.co_argcount, code.co_kwonlyargcount, getattr(code, "co_exceptiontable", b"")))
    for const in code.co_consts:
        parts = _code_parts if isinstance(const, CodeType) else _parts
        yield from parts(const, memo=memo)


def _globals(code: CodeType) -> Iterator[str]:
    """Yield the global names that a function and the functions within it read."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _globals(part)


def _object_parts(value: Any, *, memo: Memo) -> Iterator[str]:
    """Yield an object by its class and how it is pickled: what it is rebuilt from."""
    yield from _parts(type(value), memo=memo)
    if callable(value) and hasattr(value, "__qualname__"):  # built in
        yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
        return
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:
        raise UsageError(
            f"a {type(value).__name__} cannot be sent to workers: {explain(error)}; define what "
            "uses it in a file, or keep it out"
        ) from error
    parts = reduced if isinstance(reduced, str) else reduced[1:3]
    yield from _parts(parts, memo=memo)
