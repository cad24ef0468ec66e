"""Text that users chose (names of classes, studies and methods, reasons, values) in each form of the report.

HTML is escaped by the template itself (`analysis/web`). Each function here is for one form, and
leaves alone what cannot do harm in it, so that ordinary tables stay readable.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "%": r"\%",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "−": "$-$",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one


_MARKED = re.compile(r"(?<!`)(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)|\*\*")


class Span(NamedTuple):
    """A part of a sentence: words, the mark that begins and ends what is strong, or code without its ticks."""

    kind: Literal["words", "strong", "code"]
    text: str


def one_line(text: str) -> str:
    r"""Words with single spaces, without line ends and what steers a terminal.

    >>> one_line("a\n\x1b[31mb")
    'a [31mb'
    """
    return "".join(filter(str.isprintable, " ".join(text.split())))


def file_name(text: str) -> str:
    """Return a name as part of a file's: it names nothing outside its folder.

    >>> file_name("../a b"), file_name("response-0001")
    ('.._a_b', 'response-0001')
    """
    return re.sub(r"[^\w.+-]", "_", text)


def markdown(text: str) -> str:
    r"""Words in Markdown and in a cell of its tables: no HTML, links, code or columns come of them.

    >>> print(markdown("a|b <b> [c](d) `e`\nf, 1 < 2, +0.8 [-2.9, +4.5]"))
    a\|b \<b> [c\](d) \`e\` f, 1 < 2, +0.8 [-2.9, +4.5]
    """
    text = re.sub(r"[\\|`]", r"\\\g<0>", one_line(text))
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def spans(sentence: str) -> Iterator[Span]:
    """Yield a sentence's parts as CommonMark reads them: code ends where as many backticks come again.

    >>> [tuple(span) for span in spans("**x** is `y`")]
    [('strong', '**'), ('words', 'x'), ('strong', '**'), ('words', ' is '), ('code', 'y')]
    """
    sentence, end = one_line(sentence), 0
    for match in _MARKED.finditer(sentence):
        if match.start() > end:
            yield Span("words", sentence[end : match.start()])
        end = match.end()
        yield Span("code", match["code"]) if match["code"] else Span("strong", match[0])
    if end < len(sentence):
        yield Span("words", sentence[end:])


def sentence(text: str) -> str:
    r"""Return a sentence of ours in Markdown, in which names may stand: what is strong or code stays so.

    >>> print(sentence("**<b>** hurts: `confirm --seeds 5` [x](y)"))
    **\<b>** hurts: `confirm --seeds 5` [x\](y)
    """
    return "".join(_span_text(span) for span in spans(text))


def _span_text(span: Span) -> str:
    if span.kind == "code":
        ticks = "`" * (1 + max(map(len, re.findall("`+", span.text)), default=0))
        return f"{ticks}{span.text}{ticks}"
    if span.kind == "strong":
        return span.text
    head, tail = (" " if span.text[at].isspace() else "" for at in (0, -1))
    words = markdown(span.text)
    return f"{head}{words}{tail}" if words else " "


def latex(text: str) -> str:
    r"""Words in LaTeX.

    >>> print(latex("50 % & no_kd"), latex("[x]"))
    50 \% \& no\_kd {}[x]
    """
    escaped = "".join(LATEX.get(character, character) for character in one_line(text))
    is_option = escaped[:1] in ("[", "*")  # after \\\\ it would be one
    return f"{{}}{escaped}" if is_option else escaped


def csv(value: object) -> object:
    """Return a cell of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe.

    >>> csv("=1+1"), csv("-0.5"), csv(-0.5), csv("no_kd")
    ("'=1+1", '-0.5', -0.5, 'no_kd')
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
