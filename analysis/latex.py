r"""Tables in LaTeX: booktabs rules, columns of numbers to the right; needs `\usepackage{booktabs}`."""

from collections.abc import Iterable

from analysis import escaping
from analysis.html.columns import numeric
from analysis.html.content import Table

HEAD = r"% \usepackage{booktabs} in the preamble, then \input{table.tex}"


def document(tables: Iterable[Table]) -> str:
    r"""What table.tex holds: a `table` environment a table, to be used by \input."""
    return "\n\n".join([HEAD, *map(environment, tables)]) + "\n"


def environment(table: Table) -> str:
    r"""One table with its caption and notes.

    >>> print(environment(Table(columns=("Method", "n"), rows=(("no_kd", "3"),), caption="50 %")))
    \begin{table}
      \centering
      \caption{50 \%}
      \begin{tabular}{lr}
        \toprule
        Method & n \\
        \midrule
        no\_kd & 3 \\
        \bottomrule
      \end{tabular}
    \end{table}
    """
    columns = "".join("r" if numeric(table, at) else "l" for at in range(len(table.columns)))
    lines = [
        r"  \begin{tabular}{" + columns + "}",
        r"    \toprule",
        _row(table.columns),
        r"    \midrule",
        *map(_row, table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    caption = [rf"  \caption{{{words(table.caption)}}}"] if table.caption else []
    notes = [rf"  \par\smallskip{{\footnotesize {words(note)}}}" for note in table.notes]
    return "\n".join([r"\begin{table}", r"  \centering", *caption, *lines, *notes, r"\end{table}"])


def _row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(map(escaping.latex, cells))} \\\\"


def words(sentence: str) -> str:
    r"""A sentence of ours: strong parts and code as LaTeX has them.

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
