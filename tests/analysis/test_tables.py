"""The tables' cells, computed by hand from the made-up study."""

import math

import pytest

from analysis import summary
from analysis.formatting import markdown
from analysis.study import load
from analysis.tables import common
from tests.analysis import kinds

T2, T4, T5 = 4.302653, 2.776445, 2.570582  # t(0.975, n - 1) for n = 3, 5, 6


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def cells(table, row, key="Method"):
    """One row of a table as a dictionary."""
    frame = table[1]
    return frame[frame[key] == row].iloc[0].to_dict()


def test_the_raw_table_by_hand(study):
    frame = summary.raw(study).set_index("method")
    assert list(frame.index) == ["teacher", "no_kd", "response", "feature", "combined"]
    assert frame.loc["teacher", ["mean", "n"]].to_list() == [0.985, 1]
    # repeats 0.90, 0.91, 0.92, each the mean of two seeds
    assert frame["mean"]["no_kd"] == pytest.approx(0.91)
    assert frame["sd"]["no_kd"] == pytest.approx(0.01)
    # response minus no_kd: 0.02, 0.025, 0.02; sd = 0.005 / sqrt(3)
    half = T2 * 0.005 / math.sqrt(3) / math.sqrt(3)
    assert frame["difference"]["response"] == pytest.approx(0.065 / 3)
    assert frame["low"]["response"] == pytest.approx(0.065 / 3 - half, abs=1e-8)
    assert frame["high"]["response"] == pytest.approx(0.065 / 3 + half, abs=1e-8)
    assert frame["verdict"].to_list() == ["", "", "helps", "not settled", "too few repeats"]
    assert frame["n"].to_list() == [1, 3, 3, 3, 1]
    assert frame["pairs"].to_list() == [0, 0, 3, 3, 1]
    assert frame["default_n"].to_list() == [0, 6, 6, 6, 1]
    assert frame["default_mean"]["response"] == pytest.approx((0.91 + 0.92 + 0.92) / 3)
    assert frame["student_pairs"].to_list() == [0, 0, 5, 5, 1]
    assert frame["student_difference"]["response"] == pytest.approx(0.025)
    assert frame["num_params"].to_list() == [500_000, *[20_000] * 4]
    assert set(frame["split"]) == {"test"}


def test_the_printed_table(study):
    title, frame = common.TABLES["main"](study)
    foot = ["20,000", "0.500 ± 0.020"]
    assert title == "Test accuracy"
    assert frame.to_numpy().tolist() == [
        ["teacher", "98.50 (n = 1)", "-", "-", "500,000", "2.000 ± 0.100"],
        ["baseline (no_kd)", "91.00 ± 1.00 (n = 3)", "-", "-", *foot],
        ["response", "93.17 ± 1.04 (n = 3)", "+2.17 [+1.45, +2.88]", "helps", *foot],
        ["feature", "90.67 ± 1.53 (n = 3)", "-0.33 [-3.20, +2.54]", "not settled", *foot],
        ["combined", "88.00 (n = 1)", "-2.00 (n = 1)", "no verdict: too few repeats", *foot],
    ]


def test_without_confirm_there_is_no_number_in_the_test_column(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", [*made_up.teacher(test=None), *made_up.search]))
    _, frame = common.TABLES["main"](study)
    assert set(frame.iloc[:, 1]) == set(frame.iloc[:, 2]) == {"-"}
    assert common.TABLES["tuning"](study)[1] == ""
    title, winners = common.validation(study)
    assert "optimistic" in title
    # winners of no_kd: 92, 93, 92; of response: 95, 94, 96; of feature: 92, 91, 92
    assert winners.iloc[:, 1].to_list() == [
        "99.00 (n = 1)",
        "92.33 ± 0.58 (n = 3)",
        "95.00 ± 1.00 (n = 3)",
        "91.67 ± 0.58 (n = 3)",
        "90.00 (n = 1)",
    ]
    assert "Validation" in winners.columns[1]


def test_pairs_are_counted_where_they_are_fewer_than_the_repeats(made_up, tmp_path):
    names = [f"confirm-no_kd-r2-0001-s{seed}" for seed in (3000, 3001)]
    rows = [r for r in made_up.all_rows() if r["trial"] not in names]
    study = load(made_up.put(tmp_path / "x", rows))
    row = cells(common.TABLES["main"](study), "response")
    assert row["Difference to the tuned baseline, pp [95 %]"].endswith("(n = 2)")
    assert row["Verdict"] == "no verdict: too few repeats"


def test_best_configurations_hold_weights_ratios_and_sampled_values(study):
    assert cells(common.configuration(study), "response") == {
        "Method": "response",
        "Trial": "response-r0-0001",
        "Validation that chose it, % (n = 1)": "95.00",
        "alpha": "0.5",
        "beta": "0.5",
        "gamma": "0",
        "temperature": "4",
        "beta/alpha": "1",
        "gamma/alpha": "0",
        "lr": "0.1",
    }
    assert cells(common.configuration(study), "feature")["temperature"] == "-"


def test_a_pinned_value_stands_in_the_configuration(made_up, tmp_path):
    methods = {"no_kd": {"fixed": {"lr": 0.3}}, "response": {}}
    rows = [
        made_up.trial("no_kd", 0, 0.9, **{"config.lr": None}),
        made_up.trial("response", 0, 0.9),
    ]
    study = load(made_up.put(tmp_path / "x", rows, methods=methods))
    assert common.configuration(study)[1]["lr"].to_list() == ["0.3", "0.1"]


def test_out_of_the_box_and_tuned(study):
    title, text = common.TABLES["tuning"](study)
    assert title == "Out of the box and tuned (test split)"
    rows = {row[0]: row[1:] for row in kinds.cells(text)}
    # seeds 0.90 .92 .91 .93 .91 .93 minus .87 .89 .88 .90 .89 .91: four times 0.03, twice 0.02
    mean, sd = 0.16 / 6, math.sqrt((4 * 0.01**2 + 2 * 0.02**2) / 9 / 5)
    half = T5 * sd / math.sqrt(6)
    default = f"{mean * 100:+.2f} [{(mean - half) * 100:+.2f}, {(mean + half) * 100:+.2f}] (n = 6)"
    # tuned minus default by repeat: 0.01, 0.015, 0.02: mean 0.015, sd 0.005
    half = T2 * 0.005 / math.sqrt(3)
    gain = f"+1.50 [{(0.015 - half) * 100:+.2f}, {(0.015 + half) * 100:+.2f}] (n = 3)"
    assert rows["response"] == [
        "91.67 ± 1.21 (n = 6)",
        default,
        "93.17 ± 1.04 (n = 3)",
        "+2.17 [+1.45, +2.88] (n = 3)",
        gain,
    ]
    assert rows["baseline (no_kd)"][1] == rows["baseline (no_kd)"][3] == "-"
    assert rows["baseline (no_kd)"][4] == "+2.00 [+2.00, +2.00] (n = 3)"
    assert rows["combined"][4] == "+0.00 (n = 1)"  # the default settings won


def test_what_to_use_is_about_configurations(study):
    title, text = common.TABLES["use"](study)
    assert title == "What to use"
    rows = {row[0]: row[1:5] for row in kinds.cells(text)}
    # 0.03, 0.03, 0.02, 0.02, 0.025: mean 0.025, sd 0.005
    half = T4 * 0.005 / math.sqrt(5)
    assert rows["response"] == [
        "response-r0-0001",
        "94.50 ± 0.71 (n = 2)",
        "93.50 ± 0.50 (n = 5)",
        f"+2.50 [{(0.025 - half) * 100:+.2f}, {(0.025 + half) * 100:+.2f}] (n = 5)",
    ]
    assert rows["combined"] == ["combined-r0-0000", "-", "88.00 (n = 1)", "-2.00 (n = 1)"]
    assert "it says nothing of the methods" in text


def test_the_winners_curse_by_hand(study):
    _, text = common.TABLES["curse"](study)
    rows = {row[0]: row[1:] for row in kinds.cells(text)}
    # chosen 0.95, 0.94, 0.96, again 0.945, 0.925, 0.935: too good by 0.005, 0.015, 0.025
    half = T2 * 0.01 / math.sqrt(3)
    assert rows["response"] == [
        "95.00 ± 1.00 (n = 3)",
        "93.50 ± 1.00 (n = 3)",
        f"+1.50 [{(0.015 - half) * 100:+.2f}, {(0.015 + half) * 100:+.2f}] (n = 3)",
    ]
    assert "combined" not in rows  # one winner, never trained again


def test_the_search_is_summed_by_method(study):
    assert cells(common.search_summary(study), "combined") == {
        "Method": "combined",
        "Trials": "9",
        "Finished": "1",
        "Stopped": "3",
        "Failed": "5",
        "Epochs": "17",
        "Seconds": "85",
        "Hours": "0.02",
        "First rung and end": "-",
    }
    # the made-up curves rise alike, so that the first rung knows the order at the end
    assert cells(common.search_summary(study), "response")["First rung and end"] == "+1.00 (n = 9)"
    assert cells(common.search_summary(study), "re-evaluating, all")["Trials"] == "18"


def test_failures_of_search_and_confirm_are_listed_with_their_reasons(study):
    _, frame = common.failures(study)
    assert frame["Reason"].to_list() == ["NaN in the loss"] * 5 + ["out of memory"] * 5
    assert frame["Phase"].to_list() == ["search"] * 5 + ["confirm"] * 5


def test_many_failures_are_cut_and_counted(made_up, tmp_path):
    rows = [made_up.trial("feature", n, None, status="failed") for n in range(30)]
    title, frame = common.failures(load(made_up.put(tmp_path / "x", rows)))
    assert title == "Failures (30, the first 20 shown)"
    assert len(frame) == 20
    assert set(frame["Reason"]) == {"not recorded"}


def test_how_it_was_made(study):
    facts = dict(common.provenance(study)[1].itertuples(index=False, name=None))
    assert facts["Command"] == "python -m tune_kd.search --space digits_kd"
    seeds = "800, 801, 802, 803, 804, 1000, 1001, 2000, 2001, 3000, 3001"
    assert facts["Confirmation seeds"] == seeds
    assert facts["Repeats, trials of each"] == "3, 3"
    assert facts["Validation rule"] == "max(n/10, min(2000, 3n/10))"
    assert facts["Images"] == "1300 training, 140 validation"
    assert facts["Student.optimizer.name"] == "sgd"
    assert facts["Operating system"] == "Linux 6.1"
    assert facts["Versions"] == "python 3.12, torch 2.15.0"
    assert facts["Devices"] == "Some CPU"
    assert facts["Epochs"] == "6 (teacher 8)"


def test_confirmed_and_top_trials_are_extra_tables(study):
    _, frame = common.confirmed_trials(study)
    rows = frame[frame["Method"] == "feature"].drop(columns="Method")
    assert rows.to_numpy().tolist()[:4] == [
        ["0", "0", "best", "92.00", "89.00 ± 1.41 (n = 2)"],
        ["0", "0", "default", "92.00", "89.00 ± 1.41 (n = 2)"],
        ["0", "0", "recommended", "92.00", "91.00 ± 0.71 (n = 5)"],
        ["1", "0", "default", "90.00", "90.00 ± 1.41 (n = 2)"],
    ]
    _, frame = common.top_trials(study)
    rows = frame[frame["Method"] == "response"]
    assert list(zip(rows["Repeat"], rows["Trial"], strict=True))[:3] == [
        ("2", "2"),
        ("0", "1"),
        ("1", "1"),
    ]


def test_what_the_teacher_cost(made_up, tmp_path):
    rows = [r | {"seconds": 200.0} if r["phase"] == "teacher" else r for r in made_up.all_rows()]
    facts = dict(
        common.teacher(load(made_up.put(tmp_path / "x", rows)))[1].itertuples(
            index=False, name=None
        )
    )
    # 30 s a trial: three a search of the baseline, one with the default settings: 200 / (90 - 30) = 3.3
    assert facts["As long as"].startswith("6.7 trainings of the plain student (30 s")
    assert facts["Pays"].startswith("from 4 students on: the teacher once and 30 s for each")
    assert "against 90 s for each for one whole search" in facts["Pays"]


def test_markdown_escapes_bars_and_keeps_lines_whole(made_up):
    import pandas as pd

    frame = pd.DataFrame({"a|b": ["x\ny"], "n": ["-0.5"]})
    assert markdown(frame).splitlines() == [
        r"| a\|b |    n |",
        "|:-----|-----:|",
        "| x y  | -0.5 |",
    ]
