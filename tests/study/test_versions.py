"""Studies of a version with one more field or column: resumed and reported, or refused in a sentence."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.study import load
from tests.helpers import made_study
from tune_kd.errors import UsageError
from tune_kd.recipe import Images
from tune_kd.study import manifest, results
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A search of two methods, played to its end."""
    request = made_study.request(tmp_path / "s", trials=8)
    study = made_study.begin(request)
    made_study.play(study, request, made_study.uneven_score)
    return study


def manifest_with(study: Study, **changes: object) -> None:
    data = json.loads(study.storage.read("manifest.json"))
    study.storage.write("manifest.json", json.dumps({**data, **changes}).encode())


def add_column(study: Study, name: str, value: object) -> str:
    """Write a verdict as a version with one more column would have; the trial."""
    trial = next(iter(study.proposals))
    (row,) = study.outcomes[trial]
    schema = study._schema.append(pa.field(name, pa.infer_type([value])))
    data = results.encode([{**row, name: value}], schema)
    study.storage.write(f"trials/{trial}.parquet", data)
    return trial


def test_a_field_at_its_default_is_not_in_what_is_compared(study: Study) -> None:
    data = json.loads(study.storage.read("manifest.json"))
    assert "student.optimizer.warmup_epochs" not in data["settings"]
    assert "mix" not in data["images"]
    assert {f.name for f in dataclasses.fields(Images)} > set(data["images"])
    assert data["fields"]["student.optimizer.warmup_epochs"] == 0.0  # the report shows all of them


def test_a_setting_that_a_newer_version_used_is_named(study: Study, tmp_path: Path) -> None:
    data = json.loads(study.storage.read("manifest.json"))
    manifest_with(study, settings={**data["settings"], "novelty": 3})
    request = made_study.request(tmp_path / "s", trials=8)
    described = made_study.checks.specify(request, made_study.dataset())
    existing = manifest.read(study.storage)
    assert manifest.differences(existing, described) == [
        "settings.novelty is 3 in the existing study, not requested"
    ]


def test_images_that_a_newer_version_saw_otherwise_are_refused(study: Study) -> None:
    data = json.loads(study.storage.read("manifest.json"))
    manifest_with(study, images={**data["images"], "novelty": 3})
    with pytest.raises(UsageError, match="Images has no field novelty: a newer version wrote it"):
        Study(study.storage)


@pytest.mark.parametrize("value", [2.5, 7, "word", True, b"bits", [1, 2]], ids=repr)
def test_a_column_of_a_newer_version_is_read_resumed_merged_and_reported(
    study: Study, value: object
) -> None:
    trial = add_column(study, "novelty", value)
    reopened_study = made_study.reopen(study)
    assert reopened_study.outcomes[trial][-1]["novelty"] == value
    reopened_study.merge()
    names = reopened_study.storage.names("trials", ".parquet")
    assert len(names) == 1
    merged_study = made_study.reopen(reopened_study)
    assert merged_study.outcomes[trial][-1]["novelty"] == value
    assert load(merged_study.storage.uri).trials["novelty"].notna().sum() == 1
    assert set(merged_study.outcomes) == set(study.outcomes)


def test_a_column_that_an_older_version_did_not_have_is_null(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(results.TRIAL_COLUMNS, "novelty", results.NUMBER)
    monkeypatch.setitem(results.EPOCH_COLUMNS, "novelty", results.NUMBER)
    reopened_study = made_study.reopen(study)
    assert all(row["novelty"] is None for rows in reopened_study.outcomes.values() for row in rows)
    assert all(row["novelty"] is None for rows in reopened_study.rows.values() for row in rows)
    reopened_study.merge()
    assert set(made_study.reopen(reopened_study).outcomes) == set(study.outcomes)


def test_a_schema_that_cannot_be_read_is_refused(study: Study) -> None:
    manifest_with(study, schema=results.SCHEMA_VERSION + 1)
    with pytest.raises(UsageError, match="rows of schema"):
        Study(Storage(study.storage.uri))
