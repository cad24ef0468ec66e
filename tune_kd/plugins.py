"""A user's own functions, named `file.py:function`: a data set, a network, a loss or a table of the report.

One that was defined in a notebook has no such file: `notebook.py` pickles it into one.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tune_kd import notebook
from tune_kd.errors import UsageError, unknown
from tune_kd.recipe import bytes_hash, file_id


def is_reference(name: str) -> bool:
    """Whether a name means a function in a file, not a key of a registry.

    >>> is_reference("nets.py:small"), is_reference("resnet18")
    (True, False)
    """
    return ".py:" in name or ".pkl:" in name


def path_of(reference: str, *, base: Path | None = None) -> Path:
    """Return the file of a `file.py:function`, below `base` (None: the working folder) if relative.

    >>> path_of("nets.py:small", base=Path("/spaces")).as_posix()
    '/spaces/nets.py'
    """
    return (base or Path()) / Path(reference.rpartition(":")[0]).expanduser()


def file_id_of(reference: str, *, base: Path | None = None) -> str:
    """Return the `file_id` of the file that a reference names.

    Raises:
        UsageError: there is no such file.
    """
    path = path_of(reference, base=base)
    if not path.is_file():
        raise UsageError(f"'{reference}': there is no file {path.absolute()}")
    return file_id(path.read_bytes())


def load_function(reference: str, *, base: Path | None = None) -> Callable[..., Any]:
    """Return the function that `file.py:function` names.

    The module's name is a hash of its path and content: an edited file is a new module, an
    unchanged one is imported once a process, and files of one name in two folders do not meet.

    Raises:
        UsageError: not of that form, no such file or function, or the file cannot be imported.
    """
    file, _, name = reference.rpartition(":")
    if not file.endswith((".py", ".pkl")) or not name.isidentifier():
        raise UsageError(f"'{reference}': expected file.py:function, for example mine.py:build")
    path = path_of(reference, base=base)
    if not path.is_file():
        raise UsageError(f"'{reference}': there is no file {path.absolute()}")
    if path.suffix == ".pkl":
        return notebook.load(path, reference)
    module = _module(path.resolve(), reference)
    value = getattr(module, name, None)
    if not callable(value):
        names = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise unknown("function", name, names, where=f"in {path}")
    function: Callable[..., Any] = value
    return function


def _module(path: Path, reference: str) -> ModuleType:
    """Return the file as a module, kept in sys.modules so that what it defines can be pickled."""
    content = path.read_bytes()
    unique = bytes_hash([str(path).encode(), b"\0", content])
    name = f"tune_kd_user_{path.stem}_{unique}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        # compiled here, from the bytes that were hashed: a .pyc may be of an edited file's past
        exec(compile(content, str(path), "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"'{reference}' cannot be imported: {error_location(error, path)}: {reason}"
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def error_location(error: Exception, path: Path) -> str:
    """Return file and line of the user's own code that raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if f.filename == str(path)), 0)
    return f"{path}, line {line}"
