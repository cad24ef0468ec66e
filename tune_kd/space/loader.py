"""Finding spaces by name or by path."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from tune_kd import notebook
from tune_kd.errors import UsageError, unknown
from tune_kd.space.overrides import with_fields
from tune_kd.space.search_space import SearchSpace, plain_fields

REFERENCES = ("task", "teacher.network", "student.network", "feature_loss")  # names of functions


def folder() -> Path:
    """Where the shipped spaces lie."""
    spec = importlib.util.find_spec("search_spaces")
    assert spec is not None, "the package search_spaces is not installed"
    return Path(next(iter(spec.submodule_search_locations or [])))


def names() -> list[str]:
    """Return the shipped spaces."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def find(space: str | SearchSpace) -> tuple[SearchSpace, Path | None]:
    """Return a space by name, by file or as it is, and the file that defines it.

    A space that was made in Python has no file. Names of files in it are relative to the working
    folder; functions and classes in it become references (`notebook.reference`).
    """
    if not isinstance(space, SearchSpace):
        return load(space)
    return _with_references(space), None


def _with_references(space: SearchSpace, module: ModuleType | None = None) -> SearchSpace:
    """Return the space with functions and classes as references; those of its own file, `module`, by that file."""
    names: dict[str, Any] = {}
    fields = plain_fields(space)
    for name in REFERENCES:
        value = fields[name]
        if isinstance(value, str):
            continue
        if not callable(value):
            raise UsageError(
                f"{name} of space {space.name} is a {type(value).__name__}; give a name, "
                "'file.py:function', or a function"
            )
        if module is not None and getattr(value, "__module__", "") == module.__name__:
            names[name] = f"{Path(str(module.__file__)).name}:{value.__qualname__}"
        else:
            names[name] = notebook.reference(value)
    return with_fields(space, names)


def load(name_or_file: str) -> tuple[SearchSpace, Path]:
    """Return a space by name or by path, and the file that defines it. UsageError says what is wrong."""
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
    space = _with_references(space, module)
    space.check()
    return space, file


def _import(file: Path) -> ModuleType:
    """Return the module of one file; an error in it names the file and the line."""
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
