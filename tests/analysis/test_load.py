"""A study is read whole, or refused in one line that says what is there."""

import json

import pytest

from analysis.study import load
from tests.helpers.made_manifest import manifest
from tune_kd.errors import UsageError
from tune_kd.study.manifest import to_json
from tune_kd.study.storage import Storage


def test_a_study_is_read_as_it_was_written(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    assert (study.name, study.family, study.metric) == ("made_up", "cnn", "val_accuracy")
    assert study.methods == ["no_kd", "response", "feature", "combined"]
    assert study.kd_methods == ["response", "feature", "combined"]
    assert len(study.trials) == len(made_up.all_rows())
    phases = {"teacher", "search", "measure", "reevaluate", "confirm"}
    assert set(study.trials["phase"]) == phases
    # a teacher of 8 epochs, 28 finished trials of 6, three stopped after 2, five failed after 1
    assert len(study.epochs) == 8 + 28 * 6 + 3 * 2 + 5


def test_the_baseline_comes_first_whatever_the_order_of_the_space(made_up, tmp_path):
    methods = {name: {} for name in ("feature", "no_kd", "response")}
    study = load(made_up.put(tmp_path / "x", [], methods=methods))
    assert study.methods == ["no_kd", "feature", "response"]
    assert len(study.trials) == len(study.epochs) == 0


@pytest.fixture
def study(made_up, tmp_path):
    return load(made_up.put(tmp_path / "x", made_up.all_rows()))


def trials(rows):
    return {repeat: row["trial"] for repeat, row in rows.items()}


def test_each_repeat_has_its_winner_and_the_method_its_recommended_trial(study):
    assert study.repeats == 3
    assert trials(study.winners("response")) == {
        0: "response-r0-0001",
        1: "response-r1-0001",
        2: "response-r2-0002",
    }
    assert study.winner("combined", 0)["trial"] == "combined-r0-0000"
    assert study.winner("combined", 1) is None
    # the winner of repeat 2 is best on validation (0.96), that of repeat 0 over fresh seeds (0.945)
    assert study.fresh_means("response") == pytest.approx(
        {"response-r0-0001": 0.945, "response-r1-0001": 0.925, "response-r2-0002": 0.935}
    )
    assert study.recommended_trial("response")["trial"] == "response-r0-0001"
    assert study.recommended_trial("combined")["trial"] == "combined-r0-0000"


def test_test_values_by_repeat_and_by_seed(study):
    assert study.tuned_values("no_kd") == pytest.approx({0: 0.90, 1: 0.91, 2: 0.92})
    assert study.by_seed("no_kd", "best")[1] == pytest.approx({2000: 0.90, 2001: 0.92})
    assert study.default("response") == pytest.approx(
        {1000: 0.90, 1001: 0.92, 2000: 0.91, 2001: 0.93, 3000: 0.91, 3001: 0.93}
    )
    assert study.default_by_repeat("response") == pytest.approx({0: 0.91, 1: 0.92, 2: 0.92})
    # the winner of repeat 0 is the trial with the default settings itself
    assert study.default("feature")[1000] == study.by_seed("feature", "best")[0][1000] == 0.88
    assert study.confirmed_values(study.recommended_trial("response")) == {
        800: 0.93,
        801: 0.94,
        802: 0.94,
        803: 0.93,
        804: 0.935,
    }


def test_failed_runs_have_no_value(study):
    assert study.tuned_values("combined") == {0: 0.88}
    assert study.confirmed_values(study.recommended_trial("combined")) == {800: 0.88}
    assert study.confirmed_values(None) == study.tuned_values("nothing") == {}


def test_of_several_repeats_the_highest_says_how_many_there_are(made_up, tmp_path):
    rows = [made_up.trial("no_kd", 0, 0.9, repeat=4)]
    assert load(made_up.put(tmp_path / "x", rows)).repeats == 5
    assert load(made_up.put(tmp_path / "y", [], repeats=2)).repeats == 2


def test_what_was_confirmed_stands_until_the_better_one_is(made_up, tmp_path):
    better = made_up.trial("response", 3, 0.97, repeat=1)
    rows = [*made_up.all_rows(), better]
    study = load(made_up.put(tmp_path / "x", rows))
    assert study.winner("response", 1)["trial"] == "response-r1-0001"
    assert study.best_so_far("response")[1]["trial"] == "response-r1-0003"
    assert study.tuned_values("response")[1] == pytest.approx(0.935)
    rows += made_up.confirmation("response-r1-0003", "best", [0.95, 0.97])
    study = load(made_up.put(tmp_path / "y", rows))
    assert study.winner("response", 1)["trial"] == "response-r1-0003"
    assert study.tuned_values("response")[1] == pytest.approx(0.96)


def test_the_recommended_trial_is_of_the_repeats_that_were_looked_at(made_up, tmp_path):
    more = [made_up.trial("response", 0, 0.99, repeat=3)]
    reevaluations = made_up.reevaluation("response-r3-0000", [0.99, 0.99])
    study = load(made_up.put(tmp_path / "x", [*made_up.all_rows(), *more, *reevaluations]))
    assert study.recommended_trial("response")["trial"] == "response-r0-0001"
    search_rows = [r for r in made_up.all_rows() if r["phase"] != "confirm"]
    study = load(made_up.put(tmp_path / "y", [*search_rows, *more, *reevaluations]))
    assert study.recommended_trial("response")["trial"] == "response-r3-0000"


def test_looks_are_counted_by_design_and_evaluations_apart(made_up, tmp_path):
    address = made_up.put(tmp_path / "x", [], looks=2)
    storage = Storage(address)
    storage.write(
        "test_access/0003.json", storage.read("test_access/0002.json")
    )  # went on after a kill
    storage.write("test_access/0004.json", b'{"weights": []}')
    storage.write("test_access/0005.json", b"torn")
    study = load(address)
    assert (study.looks, study.evaluations) == (2, 2)
    assert study.test_access.design["seeds"] == 3
    assert load(made_up.put(tmp_path / "y", [])).looks == 0


@pytest.mark.parametrize("name", ["runs/y", "runs/y/"])
def test_a_wrong_name_is_answered_with_the_studies_beside_it(made_up, tmp_path, name):
    made_up.put(tmp_path / "runs" / "a", [])
    made_up.put(tmp_path / "runs" / "b", [])
    with pytest.raises(UsageError, match=r"no study at .*runs has: a, b$"):
        load(f"{tmp_path}/{name}")


def test_the_folder_of_studies_is_answered_with_its_studies(made_up, tmp_path):
    made_up.put(tmp_path / "runs" / "a", [])
    with pytest.raises(UsageError, match=r"holds studies: name one of a$"):
        load(str(tmp_path / "runs"))


def test_nothing_there_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"no study at .*has no studies"):
        load(str(tmp_path / "nowhere" / "x"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        load(str(tmp_path / "file"))


def test_another_schema_is_refused_with_both_numbers(made_up, tmp_path):
    with pytest.raises(UsageError, match="schema 99, this version reads schema 4"):
        load(made_up.put(tmp_path / "x", [], schema=99))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "schema None"),
        ('{"schema": 2}', "schema 2, this version reads schema 4; report it with the version that"),
        ('{"schema": 4, "study": "x"}', "lacks space, .*, methods, .*, family, .*; was it edited"),
        (json.dumps(to_json(manifest(methods={}))), "names no method"),
        (json.dumps(to_json(manifest()) | {"seed": "x"}), "invalid literal for int.*'x'"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        load(str(tmp_path))
