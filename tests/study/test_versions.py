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
    asked = made_study.request(tmp_path / "s", trials=8)
    begun = made_study.begin(asked)
    made_study.play(begun, asked, made_study.uneven_score)
    return begun


def manifest_with(study: Study, **changes: object) -> None:
    found = json.loads(study.storage.read("manifest.json"))
    study.storage.write("manifest.json", json.dumps({**found, **changes}).encode())


def add_column(study: Study, name: str, value: object) -> str:
    """Write a verdict as a version with one more column would have; the trial."""
    trial = next(iter(study.proposals))
    (row,) = study.outcomes[trial]
    schema = study._schema.append(pa.field(name, pa.infer_type([value])))
    data = results.encode([{**row, name: value}], schema)
    study.storage.write(f"trials/{trial}.parquet", data)
    return trial


def test_a_field_at_its_default_is_not_in_what_is_compared(study: Study) -> None:
    found = json.loads(study.storage.read("manifest.json"))
    assert "student.optimizer.warmup_epochs" not in found["settings"]
    assert "mix" not in found["images"]
    assert {f.name for f in dataclasses.fields(Images)} > set(found["images"])
    assert found["fields"]["student.optimizer.warmup_epochs"] == 0.0  # the report shows all of them


def test_a_setting_that_a_newer_version_used_is_named(study: Study, tmp_path: Path) -> None:
    found = json.loads(study.storage.read("manifest.json"))
    manifest_with(study, settings={**found["settings"], "novelty": 3})
    asked = made_study.request(tmp_path / "s", trials=8)
    described = made_study.checks.specify(asked, made_study.material())
    known = manifest.read(study.storage)
    assert manifest.differences(known, described) == [
        "settings.novelty is 3 in the existing study, not requested"
    ]


def test_images_that_a_newer_version_saw_otherwise_are_refused(study: Study) -> None:
    found = json.loads(study.storage.read("manifest.json"))
    manifest_with(study, images={**found["images"], "novelty": 3})
    with pytest.raises(UsageError, match="Images has no field novelty: a newer version wrote it"):
        Study(study.storage)


@pytest.mark.parametrize("value", [2.5, 7, "word", True, b"bits", [1, 2]], ids=repr)
def test_a_column_of_a_newer_version_is_read_resumed_merged_and_reported(
    study: Study, value: object
) -> None:
    trial = add_column(study, "novelty", value)
    again = made_study.reopened(study)
    assert again.outcomes[trial][-1]["novelty"] == value
    again.merge()
    names = again.storage.names("trials", ".parquet")
    assert len(names) == 1
    merged = made_study.reopened(again)
    assert merged.outcomes[trial][-1]["novelty"] == value
    assert load(merged.storage.uri).trials["novelty"].notna().sum() == 1
    assert set(merged.outcomes) == set(study.outcomes)


def test_a_column_that_an_older_version_did_not_have_is_null(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(results.TRIAL_COLUMNS, "novelty", results.NUMBER)
    monkeypatch.setitem(results.EPOCH_COLUMNS, "novelty", results.NUMBER)
    again = made_study.reopened(study)
    assert all(row["novelty"] is None for rows in again.outcomes.values() for row in rows)
    assert all(row["novelty"] is None for rows in again.rows.values() for row in rows)
    again.merge()
    assert set(made_study.reopened(again).outcomes) == set(study.outcomes)


def test_a_schema_that_cannot_be_read_is_refused(study: Study) -> None:
    manifest_with(study, schema=results.SCHEMA_VERSION + 1)
    with pytest.raises(UsageError, match="rows of schema"):
        Study(Storage(study.storage.uri))
