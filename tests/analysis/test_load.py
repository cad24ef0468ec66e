"""A study is read whole, or refused in one line that says what is there."""

import pytest

from analysis.load import load
from tune_kd.errors import UsageError


def test_a_study_is_read_as_it_was_written(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    assert (study.name, study.family, study.metric) == ("made_up", "cnn", "val_accuracy")
    assert study.methods == ["no_kd", "response", "feature", "combined"]
    assert study.kd_methods == ["response", "feature", "combined"]
    assert len(study.trials) == len(made_up.all_rows())
    assert set(study.trials["phase"]) == {"teach", "search", "measure", "confirm"}
    # a teacher of 8 epochs, 10 finished trials of 6, one stopped after 2, one failed after 1
    assert len(study.epochs) == 8 + 10 * 6 + 2 + 1


def test_the_baseline_comes_first_whatever_the_order_of_the_space(made_up, tmp_path):
    methods = {name: {} for name in ("feature", "no_kd", "response")}
    study = load(made_up.put(tmp_path / "x", [], methods=methods))
    assert study.methods == ["no_kd", "feature", "response"]
    assert len(study.trials) == len(study.epochs) == 0


@pytest.mark.parametrize("given", ["runs/y", "runs/y/"])
def test_a_wrong_name_is_answered_with_the_studies_beside_it(made_up, tmp_path, given):
    made_up.put(tmp_path / "runs" / "a", [])
    made_up.put(tmp_path / "runs" / "b", [])
    with pytest.raises(UsageError, match=r"no study at .*runs has: a, b$"):
        load(f"{tmp_path}/{given}")


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
    with pytest.raises(UsageError, match="schema 99, this version reads schema 2"):
        load(made_up.put(tmp_path / "x", [], schema=99))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "schema None"), ('{"schema": 2, "study": "x"}', "family, methods")],
)
def test_a_broken_manifest_is_named(tmp_path, text, said):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        load(str(tmp_path))
