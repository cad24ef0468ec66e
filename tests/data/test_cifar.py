"""CIFAR-100 in torchvision's own files: found, packed, damaged; its test split stays sealed."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torchvision.datasets

from tests.helpers import made_images
from tune_kd.data import tasks
from tune_kd.data.readers import base
from tune_kd.errors import UsageError


def _decode(folder, split, cache):
    return tasks.decode(tasks.find("cifar100"), split, folder=folder, cache=cache)


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A folder with a small CIFAR-100 as torchvision stores it; its checksums replace the real ones."""
    monkeypatch.delenv("TUNE_KD_DATA", raising=False)
    folder = tmp_path / "own" / "cifar-100-python"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        images = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [number % 100 for number in range(count)]
        _pickle(folder / split, {"data": images, "fine_labels": labels})
    _pickle(folder / "meta", {"fine_label_names": [f"class{number}" for number in range(100)]})
    source = torchvision.datasets.CIFAR100
    monkeypatch.setattr(source, "train_list", [["train", _md5(folder / "train")]])
    monkeypatch.setattr(source, "test_list", [["test", _md5(folder / "test")]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": _md5(folder / "meta")})
    # a port that nobody listens on: as if there were no network, at once
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    return folder.parent


def _pickle(path, value):
    path.write_bytes(pickle.dumps(value))


def _md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _pack(folder, place, monkeypatch):
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(folder / "cifar-100-python", "cifar-100-python")
    md5 = _md5(place / "cifar-100-python.tar.gz")
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "tgz_md5", md5)
    return place


def test_cifar100_is_torchvisions(cifar100, cache):
    tasks.check(tasks.find("cifar100"), cifar100)
    for split in base.SPLITS:
        expected = torchvision.datasets.CIFAR100(cifar100, train=split == "train")
        decoded = _decode(cifar100, split, cache)
        np.testing.assert_array_equal(decoded.images, expected.data)
        assert decoded.labels.tolist() == expected.targets
        assert decoded.class_names == tuple(expected.classes)


def test_a_packed_cifar100_is_the_same_and_stays_packed(cifar100, cache, monkeypatch):
    place = _pack(cifar100, cifar100.parent / "packed", monkeypatch)
    tasks.check(tasks.find("cifar100"), place)
    packed = _decode(place, "train", cache)
    assert packed.hash == _decode(cifar100, "train", cache).hash
    assert [path.name for path in place.iterdir()] == ["cifar-100-python.tar.gz"]


@pytest.mark.parametrize("has_folder", [True, False])
def test_cifar100_is_found_where_downloads_lie(cifar100, cache, monkeypatch, has_folder):
    place = cifar100.parent / "mine" if has_folder else cache / "downloads"
    _pack(cifar100, place, monkeypatch)
    if has_folder:
        monkeypatch.setenv("TUNE_KD_DATA", str(place))
    decoded = _decode(None, "train", cache)
    assert decoded.hash == _decode(cifar100, "train", cache).hash


def test_without_a_network_the_folder_and_the_remedy_are_named(cifar100, cache):
    with pytest.raises(UsageError) as caught:
        _decode(None, "train", cache)
    message = str(caught.value)
    assert str(cache / "downloads") in message
    for remedy in ("cifar-100-python.tar.gz", "cifar-100-python", "--data", "train*.parquet"):
        assert remedy in message
    assert len(message.splitlines()) <= 2


def test_a_damaged_archive_of_the_users_is_not_downloaded_again(cifar100, cache, monkeypatch):
    place = _pack(cifar100, cifar100.parent / "packed", monkeypatch)
    (place / "cifar-100-python.tar.gz").write_bytes(made_images.GARBAGE)
    with pytest.raises(UsageError, match="incomplete or corrupted"):
        _decode(place, "train", cache)


def test_nothing_is_unpickled_whose_checksum_is_wrong(cifar100, cache):
    (cifar100 / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": 0}))
    with pytest.raises(UsageError, match="incomplete or corrupted"):
        _decode(cifar100, "train", cache)


def test_cifars_test_split_is_sealed_and_must_be_there(cifar100, cache):
    path = cifar100 / "cifar-100-python" / "test"
    path.write_bytes(made_images.GARBAGE)
    tasks.check(tasks.find("cifar100"), cifar100)
    assert len(_decode(cifar100, "train", cache).labels) == 60
    path.unlink()
    with pytest.raises(UsageError, match=r"cifar-100-python/test is missing"):
        tasks.check(tasks.find("cifar100"), cifar100)
