"""The command: what it writes, what it prints, what it refuses."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pandas as pd
import pytest

from analysis import report
from analysis.study import load
from tune_kd import cli
from tune_kd.study.storage import Storage

KEYS = ["teacher_accuracy", "student_accuracy_without_kd", "student_accuracy_with_kd"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working directory with a folder for studies."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def output(made_up, tmp_path_factory):
    """The report of the whole made-up study: its folder, stdout and stderr."""
    folder = tmp_path_factory.mktemp("done")
    made_up.put(folder / "runs" / "x", made_up.all_rows(), tables=["top_trials", "confirmed"])
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        assert report.main(["runs/x"]) == 0
    return folder / "runs" / "x" / "report", out.getvalue(), err.getvalue()


def test_the_files_and_what_is_printed(output):
    folder, out, err = output
    assert sorted(path.name for path in folder.iterdir()) == [
        "details.json",
        "differences.png",
        "history.png",
        "index.html",
        "kd_all_losses.png",
        "kd_comparison_results.txt",
        "kd_learning_rate.png",
        "kd_loss_components.png",
        "kd_validation_accuracy.png",
        "learning_curves.png",
        "logs",
        "report.json",
        "report.md",
        "table.csv",
        "table.tex",
    ]
    lines = out.splitlines()
    assert lines[0].startswith("| Method")
    assert [line.split("|")[1].strip() for line in lines[2:7]] == [
        "teacher",
        "baseline (no_kd)",
        "response",
        "feature",
        "combined",
    ]
    assert lines[-1] == "report: runs/x/report/index.html"
    assert err == ""
    assert "\n".join(lines[:7]) in (folder / "report.md").read_text()


def test_the_page_in_its_order(output):
    page = (output[0] / "report.md").read_text()
    headings = [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "Does distillation help? made_up",
        "Verdict",
        "Test accuracy",
        "Out of the box and tuned (test split)",
        "What to use",
        "Recommended configuration of each method",
        "Best five trials of each method",
        "Confirmed trials",
        "Search",
        "Winner's curse (validation split)",
        "Training of the recommended trials",
        "Teacher",
        "Advice",
        "Failures",
        "How it was made",
    ]
    assert "- **response helps**: +2.17 [+1.45, +2.88] (n = 3 repeats)" in page
    assert "measured alone before the first trial" in page
    for picture in ("differences", "history", "learning_curves"):
        assert f"]({picture}.png)" in page


def test_report_json_has_one_family_and_three_fractions(output):
    content = read_json(output[0] / "report.json")
    assert list(content) == ["cnn"]
    assert list(content["cnn"]) == KEYS
    # the winners of response are the best on validation (95, 94, 96): the mean of 0.92, 0.935, 0.94
    expected = [0.985, 0.91, (0.92 + 0.935 + 0.94) / 3]
    assert list(content["cnn"].values()) == pytest.approx(expected)


def test_the_kd_accuracy_is_of_the_best_on_validation_not_on_test(made_up, runs):
    rows = [r for r in made_up.all_rows() if r["phase"] != "confirm" or r["method"] != "response"]
    accuracies = report.accuracies([load(made_up.put(runs / "x", rows))])["cnn"]
    assert accuracies["student_accuracy_with_kd"] is None
    assert accuracies["student_accuracy_without_kd"] == pytest.approx(0.91)


def test_an_unconfirmed_study_says_what_to_type_and_marks_validation(made_up, runs, capsys):
    made_up.put(runs / "x", [*made_up.teacher(test=None), *made_up.search])
    assert report.main(["runs/x"]) == 0
    page = (runs / "x" / "report" / "report.md").read_text()
    assert "python -m tune_kd.confirm runs/x`" in page
    assert "Validation accuracy, %, mean ± sd (n repeats), each chosen on this split" in page
    content = read_json(runs / "x" / "report" / "report.json")
    assert content == {"cnn": dict.fromkeys(KEYS)}
    assert not (runs / "x" / "report" / "differences.png").exists()
    assert "differences.png" not in page
    assert "type: python -m tune_kd.confirm runs/x\n" in capsys.readouterr().err


def test_the_csv_holds_raw_numbers(output):
    frame = pd.read_csv(output[0] / "table.csv").set_index("method")
    assert frame["mean"]["no_kd"] == pytest.approx(0.91, abs=1e-12)
    assert frame["difference"]["response"] == pytest.approx(0.065 / 3, abs=1e-12)
    assert frame["n"].to_list() == [1, 3, 3, 3, 1]
    assert pd.isna(frame["sd"]["combined"])


def test_details_hold_every_seed(output):
    (content,) = read_json(output[0] / "details.json")
    values = content["tuned_test_accuracy_by_seed"]["no_kd"]
    assert values["1"] == pytest.approx({"2000": 0.90, "2001": 0.92})
    response = content["methods"]["response"]
    assert response["verdict"]["label"] == "helps"
    assert response["difference"]["n"] == 3
    assert response["by_repeat"] == pytest.approx({"0": 0.02, "1": 0.025, "2": 0.02})
    assert response["default_difference"]["mean"] == pytest.approx(0.16 / 6)
    assert content["methods"]["no_kd"]["difference"] is None
    assert content["repeats"] == 3
    assert content["test_access"] == {"looks": 1, "evaluations": 0}
    assert content["configurations"]["response"]["config.lr"] == 0.1
    assert content["table"][1]["mean"] == pytest.approx(0.91, abs=1e-14)
    assert next(f["reason"] for f in content["failures"]) == "NaN\nin the loss"


def test_two_families_in_one_report(made_up, runs, capsys):
    made_up.put(runs / "x", made_up.all_rows(), study="x")
    made_up.put(runs / "y", made_up.teacher(), study="y", family="vit")
    assert report.main(["runs/x", "runs/y", "--out", "both"]) == 0
    both = runs.parent / "both"
    content = read_json(both / "report.json")
    assert list(content) == ["cnn", "vit"]
    assert list(content["vit"].values()) == [0.985, None, None]
    page = (both / "report.md").read_text()
    assert page.startswith("# Does distillation help? x and y\n\n## x\n\n### Verdict")
    assert "\n## y\n" in page
    assert "](history-1.png)" in page
    assert (both / "history-1.png").exists()
    assert list(pd.read_csv(both / "table.csv")["study"]) == ["x"] * 5 + ["y"] * 5
    out = capsys.readouterr().out
    assert out.count("baseline (no_kd)") == 2
    assert out.endswith("report: both/index.html\n")


def test_a_family_beside_another_without_out_is_reported_below_the_first(made_up, runs):
    families = {"x": "cnn", "y": "vit"}
    for name, family in families.items():
        made_up.put(runs / name, made_up.all_rows(), study=name, family=family)
    assert report.main(["runs/x", "runs/y"]) == 0
    folder = runs / "x" / "report"
    content = read_json(folder / "report.json")
    assert list(content) == ["cnn", "vit"]
    assert list(content["vit"]) == KEYS
    assert content["cnn"] == content["vit"]
    assert (folder / "kd_comparison_results-2.txt").exists()
    assert (folder / "logs-2" / "response-r0-0001.csv").exists()
    assert not (runs / "y" / "report").exists()


def test_two_studies_of_a_family_have_keys_of_their_own(made_up, runs):
    names = {"x": "x", "y": "y", "z": "y"}
    studies = [
        load(made_up.put(f"runs/{at}", made_up.all_rows(), study=name))
        for at, name in names.items()
    ]
    assert list(report.accuracies(studies)) == ["cnn:x", "cnn:y", "cnn:runs/z"]


def test_a_study_with_nothing_in_it_yet(made_up, runs):
    made_up.put(runs / "x", [])
    assert report.main(["runs/x"]) == 0
    assert "No verdict yet" in (runs / "x" / "report" / "report.md").read_text()


def test_a_picture_that_no_longer_holds_is_taken_away(made_up, runs):
    out = Storage(runs / "x").at("report")
    for name in ("differences.png", "predictions-teacher.png", "history-2.png"):
        out.write(name, b"of an earlier report")
    for name in ("kd_comparison_results.txt", "logs/feature-7.csv", "logs/feature-7.json"):
        out.write(name, b"of an earlier report")
    out.write("mine.png", b"of somebody else")
    report.write([load(made_up.put(runs / "x", made_up.search))], out)
    names = [name for name in out.names("", ".png") if not name.startswith("kd_")]
    assert names == ["history.png", "learning_curves.png", "mine.png"]
    assert out.names("", ".txt") == []
    logs = [
        f"{trial}.csv"
        for trial in ("combined-r0-0000", "feature-r0-0000", "no_kd-r1-0002", "response-r2-0002")
    ]
    assert out.names("logs", ".csv") == logs


def test_a_weak_teacher_is_on_top_of_the_page_and_on_stderr(made_up, runs, capsys):
    rows = [*made_up.teacher(val=0.5, test=None), made_up.trial("no_kd", 0, 0.9)]
    made_up.put(runs / "x", rows)
    report.main(["runs/x"])
    page = (runs / "x" / "report" / "report.md").read_text()
    assert page.splitlines()[2].startswith("> **THE TEACHER IS WORSE")
    assert "THE TEACHER IS WORSE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/y"], "runs has: x"),
        (["runs"], "name one of x"),
        (["runs/x", "runs/x"], "named twice"),
        (["runs/x", "--out", "file/below"], "cannot write to --out"),
        (["ftp://x"], "s3://bucket/folder is allowed"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(made_up, runs, capsys, arguments, message):
    made_up.put(runs / "x", made_up.search)
    (runs.parent / "file").write_text("")
    assert cli.run_command(report.main, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not (runs / "x" / "report").exists()


def test_a_constraint_that_nobody_can_read_is_refused_before_anything_is_written(
    made_up, runs, capsys
):
    made_up.put(runs / "x", made_up.search, constraints=["size_mb = 3"])
    assert cli.run_command(report.main, ["runs/x"]) == 2
    assert "write METRIC <= NUMBER" in capsys.readouterr().err
    assert not (runs / "x" / "report").exists()


def test_a_table_that_nobody_knows_is_refused_before_anything_is_written(made_up, runs, capsys):
    made_up.put(runs / "x", made_up.search, tables=["top_trails"])
    assert cli.run_command(report.main, ["runs/x"]) == 2
    assert "did you mean 'top_trials'?" in capsys.readouterr().err
    assert not (runs / "x" / "report").exists()


@pytest.mark.parametrize("arguments", [[], ["runs/x", "--what"]])
def test_argparse_leaves_with_2(arguments):
    with pytest.raises(SystemExit) as error:
        report.main(arguments)
    assert error.value.code == 2


HEAVY = "sorted(set(sys.modules) & {'torch', 'torchvision', 'ray', %s})"


def test_importing_and_running_a_report_loads_neither_torch_nor_ray(made_up, tmp_path):
    made_up.put(tmp_path / "x", made_up.all_rows())
    code = f"""
import sys
import analysis.report
print({HEAVY % "'jinja2', 'matplotlib', 'optuna', 'pandas', 'plotly', 'scipy', 'pyarrow'"})
analysis.report.main([{str(tmp_path / "x")!r}])
print({HEAVY % "'matplotlib.pyplot'"})
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = process.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")
    assert lines[-2] == f"report: {tmp_path / 'x' / 'report' / 'index.html'}"


@pytest.fixture
def bucket(monkeypatch):
    """The address of a bucket of a local server that speaks S3."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    yield "s3://bucket/runs/{}?scheme=http&region=us-east-1&endpoint_override=" + f"{host}:{port}"
    server.stop()


def test_a_bucket_works_like_a_folder(made_up, bucket, capsys):
    address = bucket.format("x")
    made_up.put(address, made_up.all_rows())
    assert report.main([address]) == 0
    assert "report: s3://bucket/runs/x/report/index.html?" in capsys.readouterr().out
    folder = Storage(address).at("report")
    assert len(folder.names("")) == 15
    assert len(pd.read_csv(io.BytesIO(folder.read("table.csv")))) == 5
    assert cli.run_command(report.main, [bucket.format("y")]) == 2
    assert "has: x" in capsys.readouterr().err
