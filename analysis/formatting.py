"""Numbers as text: percent with spread and n, signed points with intervals, Markdown tables."""

from collections.abc import Iterable

import pandas as pd

from analysis import escaping
from analysis.comparison import stats
from analysis.selection import BASELINE
from tune_kd.metrics import METRICS, format_value, number
from tune_kd.study.results import Row

NONE = "-"
Table = tuple[str, pd.DataFrame | str]  # title, and cells ready to print or Markdown


class NotedTable(str):
    """A table and what stands below it as Markdown; it keeps both for the other forms of the report."""

    frame: pd.DataFrame
    notes: tuple[str, ...]  # sentences, each a paragraph
    items: tuple[str, ...]  # sentences of a list


def label(method: str) -> str:
    """Return a method's name in tables: the baseline is marked as such."""
    return f"baseline ({BASELINE})" if method == BASELINE else method


def heading(name: str) -> str:
    """Return a metric as a column is headed: "Test accuracy, %".

    >>> heading("val_miou"), heading("test_loss")
    ('Validation mIoU, %', 'Test loss')
    """
    entry = METRICS[name]
    return f"{entry.heading}, {entry.unit}" if entry.unit else entry.heading


def sentence_name(name: str) -> str:
    """Return a metric within a sentence.

    >>> sentence_name("test_accuracy"), sentence_name("val_miou")
    ('test accuracy', 'validation mIoU')
    """
    text = METRICS[name].heading
    return text if text[1:2].isupper() else text[0].lower() + text[1:]  # FLOPs


def metric_name(name: str) -> str:
    """Return a metric without its split.

    >>> metric_name("test_accuracy"), metric_name("val_miou")
    ('Accuracy', 'mIoU')
    """
    text = sentence_name(name).split(" ", 1)[1]
    return text if text[1:2].isupper() else text.capitalize()


def mean_sd(summary: stats.Summary | None, *, scale: float = 100.0) -> str:
    """Return a summary with its n, in percent unless `scale` says otherwise.

    >>> mean_sd(stats.Summary(mean=0.9871, sd=0.0021, n=5))
    '98.71 ± 0.21 (n = 5)'
    """
    if summary is None:
        return NONE
    spread = "" if summary.sd is None else f" ± {summary.sd * scale:.2f}"
    return f"{round(summary.mean * scale, 2) + 0.0:.2f}{spread} (n = {summary.n})"


def points(value: float, *, scale: float = 100.0) -> str:
    """Return a signed difference of fractions in percentage points.

    >>> points(0.0042), points(-0.000001)
    ('+0.42', '+0.00')
    """
    return f"{round(value * scale, 2) + 0.0:+.2f}"


def gap(
    difference: stats.Estimate | None, *, pairs: bool = True, scale: float = 100.0, of: str = ""
) -> str:
    """Return a difference in percentage points with its interval and, if `pairs`, how many pairs (`of` what)."""
    if difference is None:
        return NONE
    noun = count_text(difference.n, of) if of else str(difference.n)
    n = f" (n = {noun})" if pairs or difference.low is None else ""
    mean = points(difference.mean, scale=scale)
    if difference.low is None or difference.high is None:
        return f"{mean}{n}"
    low, high = points(difference.low, scale=scale), points(difference.high, scale=scale)
    return f"{mean} [{low}, {high}]{n}"


def count_text(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it must be.

    >>> count_text(1, "repeat"), count_text(3, "repeat")
    ('1 repeat', '3 repeats')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def metric(row: Row | None, name: str) -> str:
    """Return a row's metric as it is printed, a dash where it has none."""
    value = number(row, name)
    return NONE if value is None else format_value(name, value)


def as_text(value: object) -> str:
    """Return a value as text: four digits, a dash for nothing, parts listed.

    >>> as_text(0.123456), as_text(None), as_text({"name": "sgd", "lr": 0.1}), as_text([1, 3])
    ('0.1235', '-', 'name sgd, lr 0.1', '1, 3')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} {as_text(part)}" for name, part in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or NONE
    if value is None or value == "" or value != value:  # NaN is not itself
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def latency(row: Row | None, name: str = "latency_ms") -> str:
    """Mean and spread of a latency in ms."""
    spread = metric(row, f"{name}_sd")
    return metric(row, name) + ("" if spread == NONE else f" ± {spread}")


def times(value: float | None) -> str:
    """Return a ratio.

    >>> times(27.04), times(None)
    ('27.0x', '-')
    """
    return NONE if value is None else f"{value:.1f}x"


def ratio(total: float | None, part: float | None) -> float | None:
    """`total` / `part`, None where either is missing or nothing is left."""
    return total / part if total is not None and part else None


def markdown(table: pd.DataFrame | str) -> str:
    """Return a table as padded Markdown, readable as it stands; columns of numbers to the right.

    >>> print(markdown(pd.DataFrame({"name": ["x"], "n": ["1"]})))
    | name |  n |
    |:-----|---:|
    | x    |  1 |
    """
    if isinstance(table, str):
        return table
    columns = []
    for name in table.columns:
        cells = [str(cell) for cell in (name, *table[name])]
        cells = [escaping.markdown(cell) for cell in cells]
        width = max(2, *map(len, cells))
        right = all(cell[:1] in "+-0123456789" for cell in cells[1:])
        rule = "-" * (width + 1) + ":" if right else ":" + "-" * (width + 1)
        cells = [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
        columns.append([f" {cells[0]} ", rule, *(f" {cell} " for cell in cells[1:])])
    return "\n".join(f"|{'|'.join(line)}|" for line in zip(*columns, strict=True))


def with_notes(frame: pd.DataFrame, *notes: str, items: Iterable[str] = ()) -> NotedTable:
    """Return a table with sentences below it, first paragraphs, then a list.

    >>> print(with_notes(pd.DataFrame({"n": ["1"]}), "Means.", items=["**x**: none"]))
    |  n |
    |---:|
    |  1 |
    <BLANKLINE>
    Means.
    <BLANKLINE>
    - **x**: none
    """
    points = tuple(items)
    bullets = "\n".join(f"- {escaping.sentence(text)}" for text in points)
    parts = [markdown(frame), *map(escaping.sentence, notes), *([bullets] if points else [])]
    table = NotedTable("\n\n".join(parts))
    table.frame, table.notes, table.items = frame, notes, points
    return table
