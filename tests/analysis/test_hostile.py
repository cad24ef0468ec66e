"""Names that users choose, and texts of errors, in every form of the report: they stay names."""

import csv
import io
import json
import re

import pytest
from markdown_it import MarkdownIt

from analysis import escaping, latex, report
from tests.analysis.test_web import Parsed, unpack

SCRIPT = '</script><script>alert("m")</script><!--\u2028'
IMAGE = "<img src=x onerror=alert(1)>|`[a](javascript:x)\n# b"
FORMULA = '=HYPERLINK("http://x.example")'
LATEX = r"\input{/etc/passwd} $\bad{ & # ^ ~ % _"
METHODS = {"no_kd": "no_kd", "response": SCRIPT, "feature": IMAGE, "combined": FORMULA}
STUDY = f"<b>x</b> {LATEX}"
REASON = f"Error: {IMAGE} {SCRIPT} \x1b[31m {LATEX}"
CLASSES = [SCRIPT, IMAGE, LATEX]


def rename(row):
    """A made-up row as a hostile study has it."""
    method = row["method"]
    row = {**row, "method": METHODS.get(method, method), "study": STUDY}
    for name in ("trial", "source"):
        if row.get(name) and method:
            row[name] = row[name].replace(method, METHODS[method].replace("/", "_"))
    if row["status"] == "failed":
        row["reason"] = REASON
    if row["phase"] == "confirm":
        row |= {
            "test_confusion": [8, 1, 1, 0, 9, 1, 2, 0, 8],
            "test_ece": 0.1,
            "test_agreement": 0.9,
        }
    return row


@pytest.fixture(scope="module")
def folder(made_up, tmp_path_factory):
    """The folder of a report, made by the real command."""
    folder = tmp_path_factory.mktemp("hostile")
    method_entry = {
        "ranges": {"lr": SCRIPT},
        "bounds": {"lr": [0.01, 1.0, True]},
        "fixed": {},
        "defaults": {},
    }
    made_up.put(
        folder / "x",
        [rename(row) for row in made_up.all_rows()],
        study=STUDY,
        methods={name: dict(method_entry) for name in METHODS.values()},
        class_names=CLASSES,
        tables=["classes", "calibration", "comparison", "top_trials"],
        command=f"python -m tune_kd.search {IMAGE}",
        teacher_file=f"{IMAGE}.safetensors",
        fields={"mix": SCRIPT, "batch_size": FORMULA},
    )
    assert report.main([str(folder / "x"), "--out", str(folder / "out")]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["out", "x"]
    return folder / "out"


def test_nothing_is_written_outside_the_folder(folder):
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    assert any(name.startswith("logs/") for name in names)
    assert all(re.fullmatch(r"(logs/)?[\w.+-]+", name) for name in names)


def test_web_has_the_elements_of_the_template_only(folder):
    page = Parsed((folder / "index.html").read_text())
    assert {tag for tag, _ in page.elements} == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "a",
        "header",
        "h1",
        "nav",
        "ol",
        "li",
        "main",
        "article",
        "section",
        "h2",
        "p",
        "ul",
        "strong",
        "code",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "i",
        "svg",
        "path",
        "circle",
        "details",
        "summary",
        "noscript",
        "img",
        "footer",
        "script",
    }
    assert len(page.of("script")) == 3
    attributes = {name for _, element in page.elements for name in element}
    assert not [name for name in attributes if name.startswith("on")]
    assert all(a["href"].startswith("#") or (folder / a["href"]).exists() for a in page.of("a"))
    assert all(img["src"].startswith("data:image/webp;base64,") for img in page.of("img"))
    for name in (SCRIPT, IMAGE, FORMULA, LATEX):
        assert " ".join(name.replace("\u2028", " ").split()) in " ".join(page.text.split())


def test_hover_texts_hold_no_elements(folder):
    plots = json.loads(unpack((folder / "index.html").read_text(), "plots"))
    texts = list(strings(plots))
    assert any("alert" in text for text in texts)
    tags = {tag for text in texts for tag in re.findall(r"<[^>]*>", text)}
    assert tags == {"<br>", "<b>", "</b>"}


def strings(value):
    """All strings within a value of JSON."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, str):
        yield value
    for part in inner:
        yield from strings(part)


def test_markdown_has_no_html_no_strange_links_and_whole_tables(folder):
    page = (folder / "report.md").read_text()
    files = {path.name for path in folder.iterdir()}
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    every = [inner for token in tokens for inner in (token, *(token.children or ()))]
    assert {token.type for token in every} & {"html_inline", "html_block"} == set()
    links = [token.attrGet("href") for token in every if token.type == "link_open"]
    assert {link.split("/")[0] for link in links} <= files
    assert {token.attrGet("src") for token in every if token.type == "image"} <= files
    headings = [tokens[at + 1].content for at, t in enumerate(tokens) if t.type == "heading_open"]
    assert "b" not in headings
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) > 6
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_csv_cells_are_text_or_numbers(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_bytes().decode())))
    methods = [row["method"] for row in rows]
    assert f"'{FORMULA}" in methods
    assert FORMULA not in methods
    assert all(
        float(row["difference"]) for row in rows if row["difference"]
    )  # -0.003 stays a number
    assert any(row["difference"].startswith("-") for row in rows)


def test_latex_runs_no_command_of_a_name(folder):
    text = (folder / "table.tex").read_text().replace(r"\\", "\n")  # ends of lines are no commands
    ours = {
        "textbackslash",
        "textless",
        "textgreater",
        "textbar",
        "textquotedbl",
        "textasciicircum",
        "textasciitilde",
        "pm",
        "begin",
        "end",
        "centering",
        "caption",
        "toprule",
        "midrule",
        "bottomrule",
        "par",
        "smallskip",
        "footnotesize",
        "usepackage",
        "input",
        "resizebox",
        "ifdim",
        "width",
        "linewidth",
        "else",
        "fi",
        "shortstack",
    }
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= ours
    body = text.split("\n", 1)[1]  # the first line says how to use it
    assert not re.search(r"\\(input|usepackage)", body)
    assert not re.search(r"(?<!\\)[#^~%]", body.replace(latex.FITTED, ""))
    assert not re.search(r"(?<!\\)\$(?!\\pm\$|-\$)(?<!\\pm\$)(?<!-\$)", body)
    depth = 0
    for mark in re.findall(r"(?<!\\)[{}]", body):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_what_is_printed_steers_no_terminal(made_up, tmp_path, capsys):
    rows = [
        {**row, "method": "\x1b[31mred" if row["method"] == "response" else row["method"]}
        for row in made_up.all_rows()
    ]
    methods = {name: {"defaults": {}} for name in ("no_kd", "\x1b[31mred", "feature", "combined")}
    made_up.put(tmp_path / "x", rows, methods=methods)
    assert report.main([str(tmp_path / "x")]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "`<b>`",
        "`` ` <b> ``",
        "\\`<img src=x>\\`",
        "``<b>`",
        "`[a](b)",
        "**`**<i>`",
        "[x]: http://y",
        "a`b``c`",
    ],
)
def test_marks_of_code_never_open_a_way_for_html(text):
    page = MarkdownIt("commonmark", {"html": True}).parse(f"- {escaping.sentence(text)}")
    every = [inner for token in page for inner in (token, *(token.children or ()))]
    assert {t.type for t in every} & {"html_inline", "html_block", "link_open"} == set()
