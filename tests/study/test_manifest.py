"""The manifest on disk: one writer, one reader, and sentences about what cannot be read."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from analysis.study import load
from tests.helpers import made_manifest, made_study
from tune_kd.errors import UsageError
from tune_kd.recipe import Compute
from tune_kd.study import manifest
from tune_kd.study.manifest import Manifest, SearchedMethod, StartWeights
from tune_kd.study.storage import Storage


@pytest.fixture
def study_on_disk(tmp_path: Path) -> tuple[Storage, Manifest]:
    """A study that the search began, and what it wrote."""
    request = made_study.request(tmp_path / "s", trials=8, levels=("low", "high"))
    study = made_study.begin(request)
    return study.storage, study.manifest


def on_disk(storage: Storage) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(storage.read(manifest.FILE))
    return data


def put(storage: Storage, data: object) -> None:
    storage.write(manifest.FILE, json.dumps(data).encode())


def test_each_field_has_its_key_in_a_study_that_was_searched(
    study_on_disk: tuple[Storage, Manifest],
) -> None:
    storage, spec = study_on_disk
    assert list(on_disk(storage)) == [part.name for part in fields(Manifest)]
    assert spec.settings["levels"] == ("low", "high")
    assert spec.methods["response"].bounds["temperature"] == (1.0, 20.0, True)


def test_each_field_of_a_study_that_is_begun_reads_back_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests: list[Manifest] = []
    write = manifest.write

    def record(storage: Storage, original: Manifest) -> None:
        manifests.append(original)
        write(storage, original)

    monkeypatch.setattr(manifest, "write", record)
    study = made_study.begin(made_study.request(tmp_path / "s", levels=("low", "high")))
    for part in fields(Manifest):
        value, original = getattr(study.manifest, part.name), getattr(manifests[0], part.name)
        assert (part.name, value, type(value)) == (part.name, original, type(original))


def test_what_few_studies_have_reads_back_equal(tmp_path: Path) -> None:
    original = made_manifest.manifest(
        methods={"mine": SearchedMethod(code="f00d", fixed={"lr": 0.1}, settings=({"lr": 0.1},))},
        start=StartWeights(name="mine.pt", model="f00d"),
        images=replace(made_manifest.IMAGES, mix="mixup", size=(32, 48)),
        compute=Compute(precision="bfloat16"),
        objectives=("val_accuracy", "size_mb"),
        sources={"mine.py": "beef"},
        dense=True,
    )
    manifest.write(Storage(tmp_path), original)
    assert manifest.read(Storage(tmp_path)) == original
    assert on_disk(Storage(tmp_path))["start"]["stages"] == ""


def test_a_key_of_a_newer_version_is_left_out(study_on_disk: tuple[Storage, Manifest]) -> None:
    storage, original = study_on_disk
    put(storage, on_disk(storage) | {"novelty": 3})
    assert manifest.read(storage) == original


def test_an_entry_of_a_method_of_a_newer_version_is_kept_and_compared(
    study_on_disk: tuple[Storage, Manifest],
) -> None:
    storage, original = study_on_disk
    data = on_disk(storage)
    data["methods"]["response"]["novelty"] = [3]
    put(storage, data)
    assert manifest.differences(manifest.read(storage), original) == [
        "methods.response.novelty is [3] in the existing study, not requested"
    ]
    manifest.write(storage, manifest.read(storage))
    assert on_disk(storage) == data


@pytest.mark.parametrize("key", ["class_names", "margin", "start", "hardware", "sources"])
def test_a_key_with_a_default_may_be_missing(
    study_on_disk: tuple[Storage, Manifest], key: str
) -> None:
    storage, _ = study_on_disk
    (default,) = (part for part in fields(Manifest) if part.name == key)
    data = on_disk(storage)
    del data[key]
    put(storage, data)
    assert getattr(manifest.read(storage), key) in (default.default, (), {}, StartWeights())
    assert load(storage.uri).manifest == manifest.read(storage)


@pytest.mark.parametrize("key", ["images", "seed", "methods", "teacher_model"])
def test_a_missing_key_is_named(study_on_disk: tuple[Storage, Manifest], key: str) -> None:
    storage, _ = study_on_disk
    data = on_disk(storage)
    del data[key]
    put(storage, data)
    with pytest.raises(UsageError, match=f"manifest.json: it lacks {key}; take the version that"):
        manifest.read(storage)
    with pytest.raises(UsageError, match=f"manifest.json lacks {key}; was it edited"):
        load(storage.uri)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest.json is not a study's; use a new --name"),
        ("[]", "manifest.json is not a study's; use a new --name"),
        ("{}", "manifest.json is not a study's; use a new --name"),
        ('{"schema": 3}', "has rows of schema 3, this program writes 4; choose another --name"),
    ],
)
def test_what_is_no_manifest_is_answered(tmp_path: Path, text: str, message: str) -> None:
    Storage(tmp_path).write(manifest.FILE, text.encode())
    with pytest.raises(UsageError, match=message):
        manifest.read(Storage(tmp_path))


def test_a_value_of_another_type_is_answered(study_on_disk: tuple[Storage, Manifest]) -> None:
    storage, _ = study_on_disk
    data = on_disk(storage)
    for changes in ({"methods": "x"}, {"rungs": ["x"]}, {"images": {"task": "digits"}}):
        put(storage, data | changes)
        with pytest.raises(UsageError, match="take the version that wrote it, or another --name"):
            manifest.read(storage)
        with pytest.raises(UsageError, match="report it with the version that wrote it"):
            load(storage.uri)


def test_the_users_files_are_read_once(tmp_path: Path) -> None:
    """What is shipped to workers is what the study records, though the file is edited meanwhile."""
    file = tmp_path / "losses.py"
    file.write_text("def mine(): ...")
    request = made_study.request(tmp_path / "s", feature_loss=f"{file}:mine")
    specification = made_study.checks.specify(request, made_study.dataset())
    file.write_text("def mine(): return 1")
    study = made_study.begin(request)
    assert study.storage.read("space/losses.py") == b"def mine(): ..."
    assert study.manifest.sources == specification.sources
    assert manifest.differences(study.manifest, specification) == []
