"""Tables of a user's own: functions of the study, `file.py:function` or given as they are.

They return what the functions in `TABLES` return; cells may be numbers, which are printed with four
digits.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.formatting import NotedTable, as_text, with_notes
from analysis.study import Study
from tune_kd import plugins
from tune_kd.errors import UsageError, explain

TableFunction = Callable[[Study], object]
ALLOWED = "a pandas.DataFrame, analysis.formatting.with_notes(DataFrame, sentence), or a pair (title, one of these)"


@dataclass(frozen=True, kw_only=True)
class CustomTable:
    """A table of a study, ready to print, and its values as the function returned them."""

    name: str  # the function's
    title: str
    table: pd.DataFrame | NotedTable
    values: pd.DataFrame


def load_functions(tables: Sequence[str | TableFunction]) -> dict[str, TableFunction]:
    """Return the functions by name.

    Raises:
        UsageError: no such file or function, a function without a name, or two of one name.
    """
    functions: dict[str, TableFunction] = {}
    for table in tables:
        function = plugins.load_function(table) if isinstance(table, str) else table
        name = getattr(function, "__name__", "")
        if not callable(function) or not name.isidentifier():
            raise UsageError(
                f"table {table!r}: expected file.py:function or a function with a name, "
                "such as: def per_class_gain(study): ..."
            )
        if name in functions:
            raise UsageError(f"two tables are named '{name}'; rename one of the functions")
        functions[name] = function
    return functions


def custom_tables(
    study: Study, functions: Mapping[str, TableFunction]
) -> tuple[list[CustomTable], list[str]]:
    """Return the tables that are not empty, and a sentence for each function that failed."""
    tables, errors = [], []
    for name, function in functions.items():
        try:
            table = _custom_table(name, function(study))
        except Exception as error:  # whatever a user's function raises: the others are still made
            errors.append(f"{study.name}: table '{name}' is left out: {_cause(error)}")
        else:
            tables.append(table)
    return [table for table in tables if len(table.values)], errors


def _custom_table(name: str, result: object) -> CustomTable:
    words = name.strip("_").replace("_", " ")
    title, content = f"{words[:1].upper()}{words[1:]}", result
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], str):
        title, content = result
    if isinstance(content, NotedTable):
        values = _with_named_index(content.frame)
        table: pd.DataFrame | NotedTable = with_notes(
            _text(values), *content.notes, items=content.items
        )
    elif isinstance(content, pd.DataFrame):
        values = _with_named_index(content)
        table = _text(values)
    else:
        raise UsageError(f"it returned {_type_name(result)}; return {ALLOWED}")
    return CustomTable(name=name, title=title, table=table, values=values)


def _with_named_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns are all that is printed: an index that has a name is one of them."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise UsageError(f"it returned two columns named '{name}'; rename one of them")
    return frame


def _text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).where(frame.notna(), None).map(as_text)


def _type_name(value: object) -> str:
    """Return the type of a value, of a tuple also those of its parts.

    >>> _type_name(3), _type_name(("Gain", 3))
    ('int', '(str, int)')
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(_type_name, value))})"
    return type(value).__name__


def _cause(error: Exception) -> str:
    """Return an exception in one line, with the line of the user's file that raised it."""
    if isinstance(error, UsageError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    file = Path(frames[0].filename) if frames else None
    if file is None or file == Path(__file__):
        return explain(error)
    return f"{explain(error)} ({plugins.error_location(error, file)})"
