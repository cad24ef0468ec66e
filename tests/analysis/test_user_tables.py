"""Tables of a user's own: `--table file.py:function` and `Study.report(tables=)`."""

import re
from pathlib import Path

import pandas as pd
import pytest

import tune_kd
from analysis import report
from analysis.study import load
from analysis.tables.custom import custom_tables, load_functions
from tests.analysis import kinds
from tune_kd import cli
from tune_kd.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "customizing.md"
TABLES = """
import pandas as pd

from analysis.formatting import with_notes

FRAME = pd.DataFrame({"Method": ["=1+1", "b"], "Gain": [1 / 3, None]})


def rows_per_phase(study):
    return study.trials.groupby("phase")["trial"].count()


def trials_per_phase(study):
    return study.trials.groupby("phase")[["trial"]].nunique()


def study_gain(study):
    return "Gain of the study", with_notes(FRAME, "Made for a test.", items=["**b**: none"])


def nothing(study):
    return FRAME.head(0)


def twice(study):
    return pd.concat([FRAME, FRAME["Gain"]], axis=1)


def broken(study):
    values = {}
    return values[study.name]
"""


@pytest.fixture
def folder(made_up, tmp_path, monkeypatch):
    """A working folder with a study runs/x and my_tables.py; the folder of its report."""
    monkeypatch.chdir(tmp_path)
    made_up.put(tmp_path / "runs" / "x", made_up.teacher(), study="x")
    (tmp_path / "my_tables.py").write_text(TABLES)
    return tmp_path / "runs" / "x" / "report"


def command(*names, studies=("runs/x",)):
    """The exit code of a report with these functions of my_tables.py."""
    options = [word for name in names for word in ("--table", f"my_tables.py:{name}")]
    return cli.run_command(report.main, [*studies, *options])


def test_the_example_of_the_document_runs(made_up, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if block.startswith("# my_tables.py\n")]
    (tmp_path / "my_tables.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    rows, changes = kinds.dense(made_up)
    study = load(made_up.put(tmp_path / "x", rows, **changes | {"dense": False}))
    functions = load_functions(["my_tables.py:per_class_gain"])
    (table,), errors = custom_tables(study, functions)
    assert errors == []
    assert table.title == "Per class gain"
    assert list(table.values.columns) == ["Class", "response"]
    # of the baseline's three classes 80, 100 and 75 % are right, of response's 90, 95 and 100 %
    assert table.values["response"].to_list() == pytest.approx([10, -5, 25])
    assert kinds.cells(table.table)[1] == ["1", "-5"]


def test_a_table_is_in_every_form_of_the_report(folder):
    assert command("trials_per_phase", "study_gain") == 0
    page = (folder / "report.md").read_text()
    assert "## Trials per phase\n\n| phase" in page
    assert re.search(r"^\| measure +\| +2 \|$", page, re.MULTILINE)
    assert re.search(r"^\| b +\| +- \|$", page, re.MULTILINE)
    assert "## Gain of the study\n" in page
    assert "Made for a test.\n\n- **b**: none" in page
    assert "[table-study_gain.csv](table-study_gain.csv)" in page
    web = (folder / "index.html").read_text()
    assert "Trials per phase" in web
    assert "0.3333" in web
    latex = (folder / "table.tex").read_text()
    assert r"\caption{Trials per phase}" in latex
    assert "Made for a test." in latex
    frame = pd.read_csv(folder / "table-study_gain.csv")
    assert frame["Gain"][0] == 1 / 3
    assert frame["Method"][0] == "'=1+1"  # no spreadsheet runs it


def test_the_tables_of_an_earlier_report_are_removed(folder):
    assert command("study_gain", "nothing") == 0
    assert [path.name for path in folder.glob("table-*")] == ["table-study_gain.csv"]
    assert "Nothing" not in (folder / "report.md").read_text()
    assert command() == 0
    assert list(folder.glob("table-*")) == []


def test_two_studies_have_tables_of_their_own(folder, made_up):
    made_up.put("runs/y", made_up.teacher(), study="y")
    assert command("trials_per_phase", studies=("runs/x", "runs/y")) == 0
    assert sorted(path.name for path in folder.glob("table-*")) == [
        "table-trials_per_phase-1.csv",
        "table-trials_per_phase-2.csv",
    ]
    assert (folder / "report.md").read_text().count("### Trials per phase\n") == 2
    assert r"\caption{Trials per phase (y)}" in (folder / "table.tex").read_text()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("broken", r"KeyError: 'x' \(.*my_tables\.py, line 31\)"),
        ("rows_per_phase", "it returned Series; return a pandas.DataFrame, .*with_notes.*"),
        ("twice", "it returned two columns named 'Gain'; rename one of them"),
    ],
)
def test_a_function_that_fails_costs_its_table_only(folder, capsys, name, sentence):
    assert command(name, "study_gain") == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(f"error: x: table '{name}' is left out: {sentence}", err.splitlines()[-1])
    assert out.endswith("report: runs/x/report/index.html\n")
    assert (folder / "index.html").is_file()
    assert [path.name for path in folder.glob("table-*")] == ["table-study_gain.csv"]


@pytest.mark.parametrize(
    ("references", "sentence"),
    [
        (["none.py:table"], "there is no file .*none.py"),
        (["my_tables.py:study_gains"], "unknown function 'study_gains'; did you mean 'study_gain'"),
        (["my_tables.py"], "expected file.py:function"),
        (["my_tables.py:broken"] * 2, "two tables are named 'broken'; rename one"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is_written(
    folder, capsys, references, sentence
):
    options = [word for reference in references for word in ("--table", reference)]
    assert cli.run_command(report.main, ["runs/x", *options]) == 2
    err = capsys.readouterr().err
    assert re.match(f"error: .*{sentence}", err)
    assert len(err.splitlines()) == 1
    assert not folder.exists()


def test_python_takes_references_and_functions(folder):
    def mean_by_method(study):
        return pd.DataFrame({"Method": study.methods})

    page = tune_kd.load_study("runs/x").report(tables=["my_tables.py:study_gain", mean_by_method])
    assert page.parent == folder
    assert sorted(path.name for path in folder.glob("table-*")) == [
        "table-mean_by_method.csv",
        "table-study_gain.csv",
    ]
    with pytest.raises(UsageError, match=r"KeyError.*line 31\); the rest of the report is .*html"):
        tune_kd.load_study("runs/x").report(tables=["my_tables.py:broken"])
    for nameless in (lambda study: None, 3):
        with pytest.raises(UsageError, match="or a function with a name"):
            tune_kd.load_study("runs/x").report(tables=[nameless])


def test_a_function_without_lines_of_python_fails_alike(folder):
    errors = report.write([load("runs/x")], load("runs/x").storage.at("report"), {"len": len})
    assert errors == ["x: table 'len' is left out: TypeError: object of type 'Study' has no len()"]
