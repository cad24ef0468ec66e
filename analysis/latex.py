r"""Tables in LaTeX: booktabs rules, columns of numbers to the right; needs `\usepackage{booktabs,graphicx}`."""

import re
import textwrap
from collections.abc import Iterable

from analysis import escaping
from analysis.web.columns import is_numeric, keep_together
from analysis.web.content import Table

HEAD = r"% \usepackage{booktabs,graphicx} in the preamble, then \input{table.tex}"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # a wide one is made smaller
HEADING = 18  # characters in a line of a heading


def document(tables: Iterable[Table]) -> str:
    r"""Return what table.tex holds: a `table` environment a table, to be used by \input."""
    return "\n\n".join([HEAD, *map(environment, tables)]) + "\n"


def environment(table: Table) -> str:
    r"""One table with its caption and notes.

    >>> print(environment(Table(columns=("Method", "n"), rows=(("no_kd", "3"),), caption="50 %")))
    \begin{table}
      \centering
      \caption{50 \%}
      \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
      \begin{tabular}{lr}
        \toprule
        Method & n \\
        \midrule
        no\_kd & 3 \\
        \bottomrule
      \end{tabular}}
    \end{table}
    """
    sides = ["r" if is_numeric(table, at) else "l" for at in range(len(table.columns))]
    heads = (heading(*pair) for pair in zip(table.columns, sides, strict=True))
    lines = [
        f"  {FITTED}",
        rf"  \begin{{tabular}}{{{''.join(sides)}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(cell, row))} \\\\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
    ]
    caption = [rf"  \caption{{{words(table.caption)}}}"] if table.caption else []
    notes = [rf"  \par\smallskip{{\footnotesize {words(note)}\par}}" for note in table.notes]
    return "\n".join([r"\begin{table}", r"  \centering", *caption, *lines, *notes, r"\end{table}"])


def heading(text: str, side: str) -> str:
    r"""Return a column's heading, in several lines where it is long.

    >>> print(heading("Difference to baseline, pp [95 %]", "r"))
    \shortstack[r]{Difference to\\baseline, pp\\{}[95 \%]}
    """
    lines = [escaping.latex(line) for line in textwrap.wrap(keep_together(text), HEADING)]
    if len(lines) < 2:
        return "".join(lines)
    return rf"\shortstack[{side}]{{" + r"\\".join(lines) + "}"


def cell(text: str) -> str:
    r"""Return a cell; minus signs are those of formulas.

    >>> print(cell("-1.48 [-9.05, +6.09]"), cell("-"), cell("a-1"))
    $-$1.48 [$-$9.05, +6.09] -- a-1
    """
    return "--" if text == "-" else re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaping.latex(text))


def words(sentence: str) -> str:
    r"""Return a sentence of ours: strong parts and code as LaTeX has them.

    >>> print(words("**a_b** and `x_y`"))
    \textbf{a\_b} and \texttt{x\_y}
    """
    parts, strong = [], False
    for span in escaping.spans(sentence):
        if span.kind == "strong":
            strong = not strong
            parts.append(r"\textbf{" if strong else "}")
        else:
            text = escaping.latex(span.text.strip())
            head, tail = (" " if span.text[at].isspace() else "" for at in (0, -1))
            parts.append(rf"\texttt{{{text}}}" if span.kind == "code" else f"{head}{text}{tail}")
    return "".join([*parts, "}" if strong else ""])
