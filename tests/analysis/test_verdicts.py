"""The verdict in plain words: never more than the data carry."""

import pytest

from analysis.comparison import verdicts
from analysis.comparison.methods import level
from analysis.comparison.students import students
from analysis.study import load
from analysis.wording import words
from tests.analysis.test_comparison import first, with_images

SEARCH = "python -m tune_kd.search --space digits_kd --resume"
PLENTY = {"trials_per_repeat": 8}
TWO = {"methods": {"no_kd": {}, "response": {}}, **PLENTY}


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows(), **PLENTY))


def response(made_up, differences, *methods):
    """A baseline at 0.9 and methods with these differences to it, each with one seed a repeat."""
    rows = []
    for repeat, change in enumerate(differences):
        values = {"no_kd": 0.9, **dict.fromkeys(methods or ["response"], 0.9 + change)}
        for method, value in values.items():
            rows.append(made_up.trial(method, 0, 0.9, repeat=repeat))
            name = made_up.name(method, repeat, 0)
            rows += made_up.confirmation(name, "best+default", [value])
    return rows


def sentence(made_up, folder, differences, **changes):
    rows = response(made_up, differences)
    study = load(made_up.put(folder / "y", rows, repeats=len(differences), **TWO | changes))
    (text,) = verdicts.verdicts(study)
    return text


def test_helps_and_hurts(made_up, tmp_path):
    # mean 3, sd 0.1: half = 4.302653 * 0.1 / sqrt(3) = 0.248 points
    text = sentence(made_up, tmp_path, [0.029, 0.030, 0.031])
    assert text == (
        "**response helps**: +3.00 [+2.75, +3.25] (n = 3 repeats) percentage points of test accuracy over "
        "the tuned baseline (p < 0.001, Holm over 1 method)."
    )
    text = sentence(made_up, tmp_path, [-0.029, -0.030, -0.031])
    assert text.startswith("**response hurts**: -3.00 [-3.25, -2.75] (n = 3 repeats)")


def test_small_effects_are_called_small(made_up, tmp_path):
    text = sentence(made_up, tmp_path, [0.0019, 0.0020, 0.0021])
    assert text.startswith(
        "**response helps, by less than 0.5 points**: +0.20 [+0.18, +0.22] (n = 3"
    )
    assert "for a difference" in text
    text = sentence(made_up, tmp_path, [-0.0019, -0.0020, -0.0021], margin=0.01)
    assert text.startswith("**response hurts, by less than 1 point**: -0.20 [-0.22, -0.18] (n = 3")


def test_the_absence_of_a_difference_is_shown_not_assumed(made_up, tmp_path):
    text = sentence(made_up, tmp_path, [-0.001, 0.0, 0.001])
    assert text.startswith(
        "**response: no difference larger than 0.5 points** to the tuned baseline"
    )
    assert "in two one-sided tests" in text
    text = sentence(made_up, tmp_path, [-0.05, 0.0, 0.05])
    assert text.startswith("**response: not settled**, neither that there is a difference nor that")
    assert "noise" not in text
    assert "no evidence" not in text


def test_what_is_not_settled_says_how_many_repeats_would_settle_it(study):
    feature = verdicts.verdicts(study)[1]
    count = verdicts.needed_repeats(study, verdicts.results(study)["feature"].difference)
    assert count > verdicts.MOST_ADVISED  # too many to ask for: twice as many as there are
    assert f"With this spread {count} repeats would show a difference of 0.5 points" in feature
    # judged as a second look, at 0.5 %, over two methods: stricter than the first look
    assert verdicts.to_settle(study) == (
        f"To know more: `{SEARCH} --repeats 6`, then `python -m tune_kd.confirm {study.address} "
        "--seeds 2`. That is another look at the test split: its verdicts may err in 0.5 % of studies."
    )


def test_repeats_that_see_the_margin_are_not_asked_for_again(made_up, tmp_path):
    """Between 0 and the margin neither can be shown, though the margin itself would be seen."""
    methods = ("response", "feature", "combined")
    rows = response(made_up, [0.0027 + 0.002656 * (-1) ** at for at in range(10)], *methods)
    changes = {"methods": {m: {} for m in ("no_kd", *methods)}, "repeats": 10, **PLENTY}
    study = load(made_up.put(tmp_path / "y", rows, **changes))
    for text in verdicts.verdicts(study):
        assert "not settled" in text
        assert "So many repeats show a difference of 0.5 points in 4 of 5 studies" in text
    assert f"`{SEARCH} --repeats 12`" in verdicts.to_settle(study)


def test_test_images_that_are_too_few_are_said(made_up, tmp_path):
    rows = with_images(
        response(made_up, [-0.01, 0.0, 0.01]),
        lambda row: first(6) if row["method"] == "response" else ~first(6),
    )
    study = load(made_up.put(tmp_path / "y", rows, **TWO))
    assert (
        "Not even 1,000 repeats would show a difference of 0.5 points"
        in verdicts.verdicts(study)[0]
    )


def test_fewer_than_three_repeats_say_nothing_of_the_method(made_up, tmp_path):
    rows = [row for row in made_up.all_rows() if row["repeat"] == 0]
    study = load(made_up.put(tmp_path / "x", rows, repeats=1, **PLENTY))
    text = "\n".join(verdicts.verdict(study))
    assert verdicts.verdicts(study)[0] == (
        "**response: no verdict about the method**: the study has 1 repeat and a verdict needs at least 3. "
        "+2.00 (n = 1 repeat) percentage points of test accuracy against the tuned baseline."
    )
    assert (
        "The student of **response** (trial response-r0-0001) is better than the best plain" in text
    )
    assert "not about the methods" in text
    assert f"`{SEARCH} --repeats 5`" in text
    assert "Holm" not in text
    for claim in ("response helps", "hurts", "not settled", "no difference"):
        assert claim not in text


def test_a_method_that_lacks_repeats_is_told_apart(study):
    assert verdicts.verdicts(study)[2] == (
        "**combined: no verdict about the method**: only 1 of 3 repeats can be compared. -2.00 (n = 1 "
        "repeat) percentage points of test accuracy against the tuned baseline."
    )


def test_a_study_of_too_short_searches_cannot_get_more_of_them(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    assert verdicts.to_settle(study).startswith(
        "A repeat needs at least 5 trials of each method and this"
    )


def test_nothing_is_left_to_type_where_all_is_settled(made_up, tmp_path):
    rows = response(made_up, [0.029, 0.030, 0.031])
    study = load(made_up.put(tmp_path / "y", rows, **TWO))
    assert verdicts.to_settle(study) == ""


def test_the_summary_sets_the_default_settings_beside_the_tuned(study):
    assert verdicts.summary(study).startswith(
        "Points of test accuracy over the baseline treated alike: **response** +2.7 (n = 6 seeds) out of the "
        "box, +2.2 (n = 3 repeats) tuned; **feature** +0.7"
    )


def test_the_basis_says_what_the_intervals_hold(made_up, tmp_path, study):
    text = verdicts.basis(study)
    assert "hold the luck of the searches, not the choice of the test images" in text
    assert "not adjusted for comparing several methods, the verdicts are (Holm)" in text
    assert "about this teacher and this split: the teacher is one run (n = 1)" in text
    assert text.endswith(
        "at once: the verdicts of all methods together err in at most 4 % of studies."
    )
    rows = with_images(made_up.all_rows(), lambda row: first(8))
    text = verdicts.basis(load(made_up.put(tmp_path / "y", rows)))
    assert "the luck of the searches and the choice of the test images together" in text


def test_looks_and_evaluations_are_told(made_up, tmp_path):
    address = made_up.put(tmp_path / "x", made_up.all_rows(), looks=3)
    study = load(address)
    study.storage.write("test_access/0004.json", b'{"weights": []}')
    text = verdicts.basis(load(address))
    assert "looked at 3 times: the verdicts of this look err in at most 0.25 % of studies" in text
    assert "Beside that it was opened 1 time to evaluate single networks" in text
    assert level(study) == 0.0025


def test_students_are_spoken_of_as_configurations(study):
    assert students(study)[:2] == [
        "The student of **response** (trial response-r0-0001) is better than the best plain student: +2.50 "
        "[+1.88, +3.12] (n = 5 seeds) percentage points of test accuracy.",
        "The student of **feature** (trial feature-r0-0000) is no further than 0.5 points from the best "
        "plain student: +0.00 [+0.00, +0.00] (n = 5 seeds) percentage points of test accuracy.",
    ]


def test_no_verdict_is_no_word():
    assert words(None, 0.005) == ""


def test_as_many_repeats_are_asked_for_as_are_needed(made_up, tmp_path):
    rows = response(made_up, [-0.004, 0.0, 0.004])
    study = load(made_up.put(tmp_path / "y", rows, **TWO))
    count = verdicts.needed_repeats(study, verdicts.results(study)["response"].difference)
    # sd 0.4 points, 0.5 points at the level of a second look (0.5 %): power 0.77 with 12, 0.83 with 13
    assert count == 13
    assert f"`{SEARCH} --repeats 13`" in verdicts.to_settle(study)


def test_each_method_has_a_point_of_its_own_on_the_markdown_page(made_up, tmp_path):
    from analysis import page

    study = load(made_up.put(tmp_path / "points", made_up.all_rows()))
    lines = page.section(study, pictures=[]).splitlines()
    assert [line for line in lines if line.startswith("- **response")]
    assert len([line for line in lines if line.startswith("- **feature:")]) >= 1
    assert not [line for line in lines if line.count("- **") > 1]
