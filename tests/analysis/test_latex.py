"""table.tex: whole tables that LaTeX takes as they are."""

import shutil
import subprocess

import pytest

from analysis import latex
from analysis.study import load
from analysis.web import build
from tests.analysis import made_page


def test_every_line_has_as_many_cells_as_the_head():
    text = latex.environment(made_page.TABLE)
    lines = [line.strip() for line in text.splitlines() if line.endswith(r" \\")]
    assert lines[0] == r"Method & Accuracy, \% & Parameters & Remark \\"
    assert lines[2] == r"no\_kd & 90.12 $\pm$ 3.00 (n = 3) & 1,030 & plain \\"
    assert {line.count("&") for line in lines} == {3}
    assert r"\begin{tabular}{lrrl}" in text
    assert r"\textbf{n}" in text


def test_a_cell_that_begins_with_a_bracket_is_no_option_of_the_line_before():
    text = latex.environment(
        made_page.Table(columns=("a", "b"), rows=(("x", "1"), ("[2em]", "2"), ("*", "3")))
    )
    assert "\n    {}[2em] & 2" in text
    assert "\n    {}* & 3" in text


def test_the_tables_of_a_study(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    text = latex.document(build.paper_tables(study))
    assert text.count(r"\begin{table}") == 2
    assert r"response & 93.17 $\pm$ 1.04 (n = 3) & +2.17 [+1.45, +2.88]" in text
    assert "(made\\_up)" not in text
    assert "(made\\_up)" in latex.document(build.paper_tables(study, with_study=True))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_sets_it(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    (tmp_path / "table.tex").write_text(latex.document(build.paper_tables(study)))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\\input{table.tex}\\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-2000:]
