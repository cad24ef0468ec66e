"""The tables' cells, computed by hand from the made-up study."""

import math

import pytest

from analysis import lines, tables
from analysis.advice import advice, verdicts, warnings
from analysis.cells import markdown
from analysis.load import load

T2 = 4.302653  # t(0.975, 2)


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def cells(table, row, key="Method"):
    """One row of a table as a dictionary."""
    frame = table[1]
    return frame[frame[key] == row].iloc[0].to_dict()


def test_the_raw_table_by_hand(study):
    frame = lines.raw(study).set_index("method")
    assert list(frame.index) == ["teacher", "no_kd", "response", "feature", "combined"]
    assert frame.loc["teacher", ["mean", "n"]].to_list() == [0.985, 1]
    assert frame["mean"]["no_kd"] == pytest.approx(0.91)
    assert frame["sd"]["no_kd"] == pytest.approx(0.01)
    # response minus no_kd: 0.02, 0.025, 0.02; sd = 0.005 / sqrt(3)
    half = T2 * 0.005 / math.sqrt(3) / math.sqrt(3)
    assert frame["difference"]["response"] == pytest.approx(0.065 / 3)
    assert frame["low"]["response"] == pytest.approx(0.065 / 3 - half, abs=1e-8)
    assert frame["high"]["response"] == pytest.approx(0.065 / 3 + half, abs=1e-8)
    assert frame["verdict"].to_list() == ["", "", "helps", "no evidence", "too few seeds"]
    assert frame["n"].to_list() == [1, 3, 3, 3, 1]
    assert frame["pairs"].to_list() == [0, 0, 3, 3, 1]
    assert frame["num_params"].to_list() == [500_000, *[20_000] * 4]
    assert set(frame["split"]) == {"test"}


def test_the_printed_table(study):
    title, frame = tables.main_table(study)
    assert title == "Test accuracy"
    assert frame.to_numpy().tolist() == [
        ["teacher", "98.50 (n = 1)", "-", "500,000", "2.000 ± 0.100"],
        ["baseline (no_kd)", "91.00 ± 1.00 (n = 3)", "-", "20,000", "0.500 ± 0.020"],
        ["response", "93.17 ± 1.04 (n = 3)", "+2.17 [+1.45, +2.88]", "20,000", "0.500 ± 0.020"],
        ["feature", "90.67 ± 1.53 (n = 3)", "-0.33 [-3.20, +2.54]", "20,000", "0.500 ± 0.020"],
        ["combined", "88.00 (n = 1)", "-2.00 (n = 1)", "20,000", "0.500 ± 0.020"],
    ]


def test_without_confirm_there_is_no_number_in_the_test_column(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", [*made_up.teacher(test=None), *made_up.search]))
    _, frame = tables.main_table(study)
    assert set(frame.iloc[:, 1]) == set(frame.iloc[:, 2]) == {"-"}
    title, shown = tables.validation(study)
    assert "optimistic" in title
    assert shown.iloc[:, 1].to_list() == ["99.00", "92.00", "95.00", "92.00", "90.00"]
    assert "Validation" in shown.columns[1]


def test_pairs_are_counted_where_they_are_fewer_than_the_seeds(made_up, tmp_path):
    rows = [r for r in made_up.all_rows() if r["trial"] != "confirm-no_kd-1-1002"]
    study = load(made_up.put(tmp_path / "x", rows))
    found = cells(tables.main_table(study), "response")
    assert found["Difference to baseline, pp [95 %]"].endswith("(n = 2)")
    assert verdicts(study)[0].startswith("**response: too few seeds**")


def test_best_configurations_hold_weights_ratios_and_sampled_values(study):
    assert cells(tables.configuration(study), "response") == {
        "Method": "response",
        "Trial": "1",
        "Validation, % (n = 1)": "95.00",
        "alpha": "0.5",
        "beta": "0.5",
        "gamma": "0",
        "temperature": "4",
        "beta/alpha": "1",
        "gamma/alpha": "0",
        "lr": "0.1",
    }
    assert cells(tables.configuration(study), "feature")["temperature"] == "-"


def test_a_pinned_value_stands_in_the_configuration(made_up, tmp_path):
    methods = {"no_kd": {"fixed": {"lr": 0.3}}, "response": {}}
    rows = [
        made_up.trial("no_kd", 0, 0.9, **{"config.lr": None}),
        made_up.trial("response", 0, 0.9),
    ]
    study = load(made_up.put(tmp_path / "x", rows, methods=methods))
    assert tables.configuration(study)[1]["lr"].to_list() == ["0.3", "0.1"]


def test_what_tuning_bought_is_paired_by_seed(study):
    found = cells(tables.tuning(study), "response")
    # 0.01, 0.015, 0.02: mean 0.015, sd 0.005
    half = T2 * 0.005 / math.sqrt(3) * 100
    gap = f"+1.50 [{1.5 - half:+.2f}, {1.5 + half:+.2f}] (n = 3)"
    assert found["Best - textbook, test pp [95 %]"] == gap
    assert found["Textbook, validation % (n = 1)"] == "91.00"
    assert found["Textbook, test %"] == "91.67 ± 0.58 (n = 3)"
    same = cells(tables.tuning(study), "feature")["Best - textbook, test pp [95 %]"]
    assert same == "0 (the textbook setting is the best)"


def test_the_search_is_summed_by_method(study):
    assert cells(tables.search_summary(study), "combined") == {
        "Method": "combined",
        "Trials": "3",
        "Finished": "1",
        "Stopped": "1",
        "Failed": "1",
        "Epochs": "9",
        "Seconds": "45",
        "Hours": "0.01",
    }


def test_failures_of_search_and_confirm_are_listed_with_their_reasons(study):
    _, frame = tables.failures(study)
    assert frame["Reason"].to_list() == ["NaN in the loss", "out of memory", "out of memory"]
    assert frame["Phase"].to_list() == ["search", "confirm", "confirm"]


def test_many_failures_are_cut_and_counted(made_up, tmp_path):
    rows = [made_up.trial("feature", n, None, status="failed") for n in range(30)]
    title, frame = tables.failures(load(made_up.put(tmp_path / "x", rows)))
    assert title == "Failures (30, the first 20 shown)"
    assert len(frame) == 20
    assert set(frame["Reason"]) == {"not recorded"}


def test_how_it_was_made(study):
    facts = dict(tables.provenance(study)[1].itertuples(index=False, name=None))
    assert facts["Command"] == "python -m tune_kd.search --space digits_kd"
    assert facts["Seeds of confirming"] == "1000, 1001, 1002"
    assert facts["Images"] == "1300 training, 140 validation"
    assert facts["Optimiser"] == "name sgd, momentum 0.9"
    assert facts["Operating system"] == "Linux 6.1"
    assert facts["Versions"] == "python 3.12, torch 2.15.0"
    assert facts["Devices"] == "Some CPU"
    assert facts["Epochs"] == "6 (teacher 8)"


def test_verdicts_are_sentences_with_interval_and_n(study):
    assert verdicts(study) == [
        "**response helps**: +2.17 [+1.45, +2.88] (n = 3) percentage points of test accuracy over "
        "the baseline.",
        "**feature: no evidence** that it helps or hurts: -0.33 [-3.20, +2.54] (n = 3) percentage "
        "points of test accuracy against the baseline; the interval holds 0.",
        "**combined: too few seeds** to say: -2.00 (n = 1) percentage points of test accuracy "
        "against the baseline. A verdict needs at least 3 seeds in common.",
    ]


def test_a_weak_teacher_is_said_loudly_and_a_good_one_not(made_up, tmp_path, study):
    assert warnings(study) == []
    rows = [*made_up.teacher(val=0.919), *made_up.search]
    weak = load(made_up.put(tmp_path / "weak", rows))
    assert warnings(weak)[0].startswith("THE TEACHER IS WORSE")
    assert "91.90 % (n = 1) against 92.00 % (n = 1)" in warnings(weak)[0]


def test_a_foreign_teacher_and_a_missing_baseline_are_said(made_up, tmp_path):
    changes = {"teacher_file": "mine.pt", "methods": {"response": {}}}
    found = warnings(load(made_up.put(tmp_path / "x", made_up.search, **changes)))
    assert "mine.pt" in found[0]
    assert "may have seen" in found[0]
    assert "no baseline" in found[1]


def test_advice_on_ranges_noise_seeds_and_trials(made_up, tmp_path):
    rows = [*made_up.all_rows(), made_up.trial("feature", 3, 0.93, **{"config.lr": 0.95})]
    rows = [r for r in rows if not (r["phase"] == "confirm" and r["method"] == "feature")]
    rows += made_up.confirmation("feature", 3, "best", [0.92, 0.93, 0.945])
    said = advice(load(made_up.put(tmp_path / "x", rows)))
    edge = "**feature**: the best `lr`, 0.95, lies within 5 % of the upper end of its range "
    assert said[0] == f"{edge}(0.01 .. 1 log): widen it there."
    assert said[1].startswith("**response** and **feature** are within noise: feature minus")
    assert said[2].startswith("Fewer than three seeds (combined has 1): `python -m tune_kd.confirm")
    assert said[3].startswith("**combined**: of 3 trials 1 failed, 1 stopped early, 1 finished;")
    assert len(said) == 4


def test_advice_to_confirm_again_when_the_search_went_on(made_up, tmp_path):
    rows = [*made_up.all_rows(), made_up.trial("response", 3, 0.97)]
    said = advice(load(made_up.put(tmp_path / "x", rows)))
    assert said[-1].startswith("**response**: trial 3 is now better on validation than trial 1")


def test_confirmed_and_top_trials_are_extra_tables(made_up, tmp_path):
    rows = [*made_up.all_rows(), *made_up.confirmation("response", 2, "best", [0.9, 0.9])]
    study = load(made_up.put(tmp_path / "x", rows))
    _, frame = tables.confirmed_trials(study)
    own = frame[frame["Method"] == "response"]
    assert own["Trial"].to_list() == ["1", "2", "0"]
    assert own["Confirmed as"].to_list() == ["best", "best", "textbook"]
    assert tables.top_trials(study)[1]["Trial"].to_list()[:3] == ["1", "2", "0"]


def test_markdown_escapes_bars_and_keeps_lines_whole(made_up):
    import pandas as pd

    frame = pd.DataFrame({"a|b": ["x\ny"], "n": ["-0.5"]})
    assert markdown(frame).splitlines() == [
        r"| a\|b |    n |",
        "|:-----|-----:|",
        "| x y  | -0.5 |",
    ]
