"""Columns of tables: headings, and which hold numbers."""

import re

from analysis.web.content import Table


def leading_number(text: str) -> float | None:
    """Return the number that a cell begins with, in percent, points or units; None where there is none.

    >>> leading_number("90.12 ± 3.00 (n = 3)"), leading_number("-1.48 [-9.05, +6.09]")
    (90.12, -1.48)
    >>> leading_number("1,030"), leading_number("2.81M"), leading_number("-"), leading_number("no_kd")
    (1030.0, 2.81, None, None)
    """
    match = re.match(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(e[+-]?\d+)?(?!\w*-\w)", text)
    return float(match[0].replace(",", "")) if match else None


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers and dashes only, and at least one number."""
    cells = [row[column] for row in table.rows if row[column] not in ("", "-")]
    return bool(cells) and all(leading_number(cell) is not None for cell in cells)


def keep_together(heading: str) -> str:
    """Return a heading whose "n = 1" and "95 %" are not parted at the end of a line."""
    return heading.replace(" = ", "\u00a0=\u00a0").replace(" %", "\u00a0%")
