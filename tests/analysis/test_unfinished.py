"""Studies that lack something: a page that says so plainly, never a verdict that the data do not carry."""

import pytest

from analysis import page, report
from analysis.study import load
from tune_kd import cli

CLAIMS = ("helps", "hurts", "no difference larger", "not settled")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def failed(made_up):
    return [
        made_up.trial(method, n, None, repeat=repeat, status="failed", reason="out of memory")
        for method in ("no_kd", "response", "feature", "combined")
        for repeat in range(3)
        for n in range(2)
    ]


def one_repeat(made_up):
    return [row for row in made_up.all_rows() if row["repeat"] == 0]


def unconfirmed(made_up):
    return [row for row in made_up.all_rows() if row["phase"] not in ("confirm", "reevaluate")]


def without(method):
    def rows(made_up):
        return [row for row in made_up.all_rows() if row["method"] != method]

    return rows


def only(made_up):
    return [row for row in made_up.all_rows() if row["method"] in ("", "no_kd")]


STUDIES = {
    "empty": (
        lambda made_up: [],
        {},
        "**No verdict yet**: no trial has ended. Type `python -m tune_kd.search",
    ),
    "failed": (
        failed,
        {},
        "**No verdict**: none of 24 trials has finished (24 failed, 0 stopped).",
    ),
    "one repeat": (
        one_repeat,
        {"repeats": 1},
        "the study has 1 repeat and a verdict needs at least 3",
    ),
    "unconfirmed": (
        unconfirmed,
        {},
        "**No verdict yet**: nothing has been confirmed on the test split.",
    ),
    "one method": (only, {"methods": {"no_kd": {}}}, "no_kd is the only method"),
    "no baseline": (
        without("no_kd"),
        {"methods": {m: {} for m in ("response", "feature")}},
        "**response: nothing to compare with**, the study has no baseline (no_kd).",
    ),
    "baseline without rows": (
        without("no_kd"),
        {},
        "**response: nothing to compare with**, no baseline is confirmed",
    ),
}


@pytest.mark.parametrize("kind", STUDIES)
def test_what_is_missing_is_said_and_nothing_is_claimed(made_up, runs, capsys, kind):
    rows, changes, text = STUDIES[kind]
    made_up.put(runs / "x", rows(made_up), **changes)
    assert cli.run_command(report.main, ["runs/x"]) == 0
    page_text = (runs / "x" / "report" / "report.md").read_text()
    assert text in page_text
    verdict = page_text.split("## Verdict")[1].split("\n#")[0]
    assert not [claim for claim in CLAIMS if claim in verdict]
    assert "Traceback" not in capsys.readouterr().err


def test_a_repeat_without_a_finished_trial_of_one_method(made_up, runs):
    failures = [made_up.trial("response", n, None, repeat=2, status="failed") for n in range(3)]
    rows = [r for r in made_up.all_rows() if (r["method"], r["repeat"]) != ("response", 2)]
    study = load(made_up.put(runs / "x", [*rows, *failures]))
    text = page.section(study, pictures=[])
    assert "**response: no verdict about the method**: only 2 of 3 repeats can be compared" in text
    assert (
        "**response**: no trial has finished in repeat 2: it counts for nothing there, so that n = 2"
        in text
    )
    assert "**feature: not settled**" in text  # the others keep theirs


def test_a_method_without_any_finished_trial(made_up, runs):
    rows = [r for r in made_up.all_rows() if r["method"] != "combined" or r["status"] == "failed"]
    rows = [r for r in rows if r["method"] != "combined" or r["phase"] == "search"]
    text = page.section(load(made_up.put(runs / "x", rows)), pictures=[])
    assert "**combined: nothing to say**, no trial has finished." in text
    assert "**combined**: none of 5 trials has finished." in text
    assert "**response helps**" in text


def test_a_method_that_was_not_confirmed(made_up, runs):
    rows = [r for r in made_up.all_rows() if r["phase"] != "confirm" or r["method"] != "response"]
    text = page.section(load(made_up.put(runs / "x", rows)), pictures=[])
    assert "**response: not confirmed** on the test split." in text
    assert "**response**: not confirmed in repeats 0, 1, 2." in text


def test_default_settings_alone_give_no_verdict_but_a_table(made_up, runs):
    rows = [
        r for r in made_up.all_rows() if r["phase"] != "confirm" or r.get("origin") == "default"
    ]
    text = page.section(load(made_up.put(runs / "x", rows)), pictures=[])
    verdict = text.split("## Verdict")[1].split("\n#")[0]
    assert not [claim for claim in CLAIMS if claim in verdict]
    assert "Out of the box and tuned" in text


def test_studies_of_different_metrics_are_not_compared(made_up, runs):
    made_up.put(runs / "x", made_up.all_rows(), study="x")
    made_up.put(runs / "y", [], study="y", metric="val_miou", dense=True)
    assert report.main(["runs/x", "runs/y"]) == 0
    lines = (runs / "x" / "report" / "report.md").read_text().splitlines()
    assert lines[2] == (
        "> **The studies are measured by test accuracy and test mIoU: their numbers cannot be compared.**"
    )


def test_a_study_of_an_older_schema_is_one_line(made_up, runs, capsys):
    made_up.put(runs / "x", [], schema=2)
    assert cli.run_command(report.main, ["runs/x"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: runs/x was written with schema 2, this version reads schema 4;")
    assert len(err.splitlines()) == 1
