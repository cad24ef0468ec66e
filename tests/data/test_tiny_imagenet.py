"""Tiny ImageNet as its archive has it: classes, names, and val as the sealed test split."""

import numpy as np
import pytest

from tests.helpers.made_images import GARBAGE, tiny_imagenet, write_set
from tune_kd.data import tasks
from tune_kd.errors import UsageError

FORMS = ["folder", "zip", "tar.gz"]


def _decode(place, split, cache):
    return tasks.decode(tasks.find("tinyimagenet"), split, folder=place, cache=cache)


@pytest.mark.parametrize("form", FORMS)
def test_both_splits_are_decoded(form, tmp_path, cache):
    files, arrays = tiny_imagenet()
    place = write_set(files, form, tmp_path)
    tasks.check(tasks.find("tinyimagenet"), place)
    for split in ("train", "test"):
        decoded = _decode(place, split, cache)
        np.testing.assert_array_equal(decoded.images, arrays[split][0])
        assert decoded.labels.tolist() == arrays[split][1].tolist()
        assert decoded.labels.dtype == np.int64
        assert decoded.class_names == ("goldfish", "n02")  # n02 has no words
    assert _decode(place, "train", cache).folder != _decode(place, "test", cache).folder


def test_all_forms_decode_to_the_same_with_and_without_the_outer_folder(tmp_path, cache):
    files, _ = tiny_imagenet()
    bare, _ = tiny_imagenet(root="")
    places = [write_set(files, form, tmp_path) for form in FORMS]
    places += [places[0] / "tiny-imagenet-200", write_set(bare, "zip", tmp_path / "bare")]
    assert len({_decode(place, "train", cache).hash for place in places}) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_search_reads_nothing_of_the_test_split(form, tmp_path, cache):
    files, _ = tiny_imagenet()
    files |= {name: GARBAGE for name in files if "/val/" in name}
    place = write_set(files, form, tmp_path)
    tasks.check(tasks.find("tinyimagenet"), place)
    assert len(_decode(place, "train", cache).labels) == 10
    with pytest.raises(UsageError, match=r"val_annotations\.txt: expected name, tab, wnid"):
        _decode(place, "test", cache)


def test_files_of_the_test_split_are_not_opened(tmp_path, cache, opened_by):
    place = write_set(tiny_imagenet()[0], "folder", tmp_path / "in")
    opened = opened_by(lambda: _decode(place, "train", cache))
    assert any("/train/n01/images/" in path for path in opened)
    assert not any("/val/" in path or "/n09/" in path for path in opened)


def test_a_test_image_that_is_missing_or_unreadable_is_named(tmp_path, cache):
    files, _ = tiny_imagenet()
    name = "tiny-imagenet-200/val/images/val_1.JPEG"
    place = write_set({**files, name: GARBAGE}, "zip", tmp_path / "a")
    with pytest.raises(UsageError, match=r"images/val_1\.JPEG is not a readable image"):
        _decode(place, "test", cache)
    del files[name]
    with pytest.raises(UsageError, match=r"images/val_1\.JPEG is missing, but .* names it"):
        _decode(write_set(files, "zip", tmp_path / "b"), "test", cache)


def test_other_places_are_refused(tmp_path):
    task = tasks.find("tinyimagenet")
    message = r"holds no data set: expected tiny-imagenet-200 with wnids\.txt, train/<wnid>/images"
    with pytest.raises(UsageError, match=message):
        tasks.check(task, tmp_path)
    with pytest.raises(UsageError, match=message):
        tasks.check(task, write_set({"x/notes.txt": b""}, "zip", tmp_path))
    files, _ = tiny_imagenet()
    files["tiny-imagenet-200/wnids.txt"] = b"n01\n"
    with pytest.raises(UsageError, match=r"images of 1 class\(es\) of wnids\.txt, at least 2"):
        tasks.check(task, write_set(files, "zip", tmp_path / "one"))
    files, _ = tiny_imagenet()
    del files["tiny-imagenet-200/val/val_annotations.txt"]
    with pytest.raises(UsageError, match=r"val/val_annotations\.txt is missing"):
        tasks.check(task, write_set(files, "folder", tmp_path / "two"))


def test_it_lies_where_tune_kd_data_says(tmp_path, cache, monkeypatch):
    monkeypatch.delenv("TUNE_KD_DATA", raising=False)
    with pytest.raises(UsageError, match=r"TUNE_KD_DATA is not set; .*tiny-imagenet-200\.zip"):
        _decode(None, "train", cache)
    monkeypatch.setenv("TUNE_KD_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=rf"no Tiny ImageNet in {tmp_path}; .*tiny-imagenet-200"):
        _decode(None, "train", cache)
    write_set(tiny_imagenet()[0], "zip", tmp_path).rename(tmp_path / "tiny-imagenet-200.zip")
    packed = _decode(None, "train", cache)
    (tmp_path / "tiny-imagenet-200.zip").unlink()
    bare, _ = tiny_imagenet(root="", seed=1)
    write_set(bare, "folder", tmp_path).rename(tmp_path / "tiny-imagenet-200")
    assert _decode(None, "train", cache).hash != packed.hash  # another set in its place is seen


def test_the_real_sample(shared_data, cache):
    place = shared_data / "tiny-imagenet-200.zip"
    if not place.is_file():
        pytest.skip(
            f"no {place.name} in {shared_data}; TUNE_KD_DATA names the folder that holds it"
        )
    train, test = (_decode(place, split, cache) for split in ("train", "test"))
    classes = len(train.class_names)
    assert 2 <= classes <= 200
    assert np.bincount(train.labels).tolist() == [500] * classes
    assert np.bincount(test.labels).tolist() == [50] * classes
    assert train.class_names == test.class_names
    assert train.class_names[0] == "goldfish"
    assert train.images.shape[1:] == (64, 64, 3)
