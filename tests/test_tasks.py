"""Tasks, the folders that hold them, and decoding: what is read, what is refused, what stays sealed."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from PIL import Image

from tune_kd import pixels, plugins, readers, tasks
from tune_kd.errors import UsageError

SIZE = 32
CLASSES = ("cat", "dog", "owl")
GARBAGE = b"this is no image"


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _made_images(count, *, seed=0, shape=(SIZE, SIZE, 3)):
    """Images in the order of their classes, `count` for each."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count * len(CLASSES), *shape), dtype=np.uint8)
    return images, np.repeat(np.arange(len(CLASSES)), count)


def _class_folders(folder, split, images, labels):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / split / CLASSES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(image))


def _parquet(path, encoded, labels, *, names=CLASSES, image="image", label="label"):
    structs = [{"bytes": data, "path": None} for data in encoded]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({image: pa.array(structs, kind), label: pa.array(list(labels), pa.int64())})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture
def folders(tmp_path):
    """Class folders: 4 training and 2 test images of each of 3 classes."""
    folder = tmp_path / "folders"
    _class_folders(folder, "train", *_made_images(4))
    _class_folders(folder, "test", *_made_images(2, seed=1))
    return folder


@pytest.fixture
def parquet(tmp_path):
    """The same images as Parquet, the training ones in two files."""
    folder = tmp_path / "parquet"
    images, labels = _made_images(4)
    encoded = [_png(image) for image in images]
    _parquet(folder / "train-00000-of-00002.parquet", encoded[:5], labels[:5])
    _parquet(folder / "train-00001-of-00002.parquet", encoded[5:], labels[5:])
    images, labels = _made_images(2, seed=1)
    _parquet(folder / "test.parquet", [_png(image) for image in images], labels)
    return folder


def _decode(folder, split, cache, *, task="cifar10"):
    return tasks.decode(tasks.find(task), split, folder=folder, cache=cache)


def _left_over(cache):
    return [path.name for path in (cache / "data").iterdir() if path.name.endswith(".part")]


# Decoding


def test_folders_and_parquet_decode_to_the_same(folders, parquet, cache):
    for split, count, seed in (("train", 4, 0), ("test", 2, 1)):
        images, labels = _made_images(count, seed=seed)
        decoded = [_decode(folder, split, cache) for folder in (folders, parquet)]
        for one in decoded:
            np.testing.assert_array_equal(one.images, images)
            np.testing.assert_array_equal(one.labels, labels)
            assert one.labels.dtype == np.int64
            assert one.class_names == CLASSES
        assert decoded[0].hash == decoded[1].hash
        assert decoded[0].folder != decoded[1].folder


def test_the_hash_is_of_pixels_labels_and_names(folders, parquet, cache):
    hashes = {_decode(folders, "train", cache).hash, _decode(folders, "test", cache).hash}
    images, labels = _made_images(4)
    encoded = [_png(image) for image in images]
    file = parquet / "train-00000-of-00002.parquet"
    (parquet / "train-00001-of-00002.parquet").unlink()
    _parquet(file, encoded, labels[::-1])
    hashes.add(_decode(parquet, "train", cache).hash)
    _parquet(file, encoded, labels, names=("cat", "dog", "cow"))
    hashes.add(_decode(parquet, "train", cache).hash)
    images[0, 0, 0, 0] ^= 1
    _parquet(file, [_png(image) for image in images], labels)
    hashes.add(_decode(parquet, "train", cache).hash)
    assert len(hashes) == 5


def test_decoded_images_are_mapped_files_that_cannot_be_written(folders, cache):
    decoded = _decode(folders, "train", cache)
    assert isinstance(decoded.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        decoded.images[0] = 0


def test_a_set_is_decoded_once(folders, cache):
    first = _decode(folders, "train", cache)
    before = (first.folder / "images.npy").stat().st_mtime_ns
    again = _decode(folders, "train", cache)
    assert again.folder == first.folder
    assert again.hash == first.hash
    assert (again.folder / "images.npy").stat().st_mtime_ns == before
    assert not _left_over(cache)


def test_a_changed_file_or_task_is_decoded_anew(folders, cache):
    first = _decode(folders, "train", cache)
    path = folders / "train" / "cat" / "0000.png"
    path.write_bytes(_png(np.zeros((SIZE, SIZE, 3), np.uint8)))
    changed = _decode(folders, "train", cache)
    assert not changed.images[0].any()
    assert changed.hash != first.hash
    assert _decode(folders, "train", cache, task="digits").images.shape == (12, 8, 8, 1)


def test_a_killed_decoding_leaves_nothing_that_is_taken_for_whole(folders, cache):
    expected = _decode(folders, "train", cache)
    part = expected.folder.with_name(f".{expected.folder.name}.part")
    expected.folder.rename(part)
    (part / "images.npy").write_bytes(GARBAGE)
    again = _decode(folders, "train", cache)
    assert again.hash == expected.hash
    np.testing.assert_array_equal(again.images, _made_images(4)[0])
    assert not _left_over(cache)


def _python(code):
    path = str(Path(tasks.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_two_processes_that_decode_at_once_share_the_files(folders, cache):
    code = f"""
from pathlib import Path
from tune_kd import pixels, tasks
decoded = tasks.decode(
    tasks.find("cifar10"), "train", folder=Path({str(folders)!r}), cache=Path({str(cache)!r})
)
pixels.padded(decoded.images, 4, folder=decoded.folder)
print(decoded.hash)
"""
    both = [_python(code) for _ in range(2)]
    hashes = [process.communicate()[0].strip() for process in both]
    assert hashes == [_decode(folders, "train", cache).hash] * 2
    assert not _left_over(cache)
    assert len([p for p in (cache / "data").iterdir() if p.is_dir()]) == 1


def test_an_old_column_naming_and_the_hubs_data_folder_are_known(tmp_path, cache):
    images, labels = _made_images(4)
    encoded = [_png(image) for image in images]
    for split in readers.SPLITS:
        path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        _parquet(path, encoded, labels, names=(), image="img", label="fine_label")
    decoded = _decode(tmp_path, "train", cache)
    np.testing.assert_array_equal(decoded.images, images)
    assert decoded.class_names == ("0", "1", "2")
    assert _decode(tmp_path, "test", cache).class_names == ("0", "1", "2")


def test_other_files_and_hidden_ones_are_no_images(folders, cache):
    for name in ("notes.txt", ".DS_Store", "._0000.png"):
        (folders / "train" / "cat" / name).write_bytes(GARBAGE)
    (folders / "train" / ".cache").mkdir()
    np.testing.assert_array_equal(_decode(folders, "train", cache).images, _made_images(4)[0])


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (5, 3)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_is_brought_to_size_and_channels(mode, size, channels):
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 28), 51 * 257, np.uint16))
    else:
        image = Image.new("L", (28, 20), 51).convert(mode)
    fitted = pixels.fit(image, (size, size + 2), channels)
    assert fitted.shape == (size, size + 2, channels)
    assert fitted.dtype == np.uint8
    if mode != "1":
        assert set(fitted.ravel().tolist()) == {51}


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    middle = pixels.fit(stripes, (8, 8), 1)[:, 1:-1]
    assert np.abs(middle.astype(int) - 100).max() <= 5


# Digits


def test_digits_are_scikit_learns_with_a_fixed_test_split(cache):
    from sklearn.datasets import load_digits

    train, test = (_decode(None, split, cache, task="digits") for split in readers.SPLITS)
    assert train.images.shape == (1257, 8, 8, 1)
    assert test.images.shape == (540, 8, 8, 1)
    counts = np.bincount(test.labels)
    assert counts.max() - counts.min() <= 3
    bunch = load_digits()
    whole = sorted(zip(bunch.images.reshape(-1, 64).tolist(), bunch.target.tolist(), strict=True))
    both = np.concatenate([train.images, test.images]).reshape(-1, 64)
    ours = np.rint(both / 255 * 16).astype(float).tolist()
    labels = np.concatenate([train.labels, test.labels]).tolist()
    assert sorted(zip(ours, labels, strict=True)) == whole
    assert train.images.max() == 255
    # pinned: a test split that changed would make every earlier result incomparable
    assert (train.hash, test.hash) == ("2086a8bf401a950a", "665bcffef0dd41f6")


# The sealed test split


def test_a_search_opens_no_test_image_of_folders(folders, cache):
    for path in (folders / "test").rglob("*.png"):
        path.write_bytes(GARBAGE)
    tasks.check(tasks.find("cifar10"), folders)
    assert len(_decode(folders, "train", cache).labels) == 12
    with pytest.raises(UsageError, match=r"test.cat.0000\.png is not a readable image"):
        _decode(folders, "test", cache)


def test_a_search_opens_no_test_parquet(parquet, cache):
    (parquet / "test.parquet").write_bytes(GARBAGE)
    tasks.check(tasks.find("cifar10"), parquet)
    assert len(_decode(parquet, "train", cache).labels) == 12
    with pytest.raises(UsageError, match=r"test\.parquet is not a readable Parquet file"):
        _decode(parquet, "test", cache)


def test_files_of_the_test_split_are_not_opened(folders, cache, opened_by):
    opened = opened_by(lambda: _decode(folders, "train", cache))
    assert any("/train/" in path for path in opened)
    assert not any("/test/" in path for path in opened)


# Folders that are refused


def _refused(folder, *, task="cifar10"):
    with pytest.raises(UsageError) as caught:
        tasks.check(tasks.find(task), folder)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert str(folder) in message
    return message


def test_an_absent_folder_is_refused(tmp_path):
    assert "no such folder" in _refused(tmp_path / "nowhere")


def test_a_folder_without_data_says_what_is_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    message = _refused(tmp_path)
    for expected in ("train/<class>/*", "train*.parquet", "cifar-10-python.tar.gz"):
        assert expected in message
    assert "cifar" not in _refused(tmp_path, task="digits")


@pytest.mark.parametrize("split", readers.SPLITS)
def test_a_missing_split_is_refused(folders, parquet, split):
    (folders / split).rename(folders / "elsewhere")
    for path in parquet.glob(f"{split}*"):
        path.rename(path.with_name(f"other-{path.name}"))
    for folder in (folders, parquet):
        assert f"no {split} split" in _refused(folder)


def test_one_class_is_refused(tmp_path):
    images, _ = _made_images(2)
    for split in readers.SPLITS:
        _class_folders(tmp_path / "a", split, images, [0] * 6)
        _parquet(tmp_path / "b" / f"{split}.parquet", [_png(image) for image in images], [1] * 6)
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert "at least 2" in _refused(folder)


def test_classes_of_train_and_test_must_agree(folders, cache):
    (folders / "test" / "owl").rename(folders / "test" / "yak")
    assert "'owl' is only in train" in _refused(folders)
    with pytest.raises(UsageError, match="same classes"):
        _decode(folders, "test", cache)


def test_an_empty_class_is_refused(folders, cache):
    for path in (folders / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"train.dog has no images"):
        _decode(folders, "train", cache)


def test_an_unreadable_image_is_named(folders, cache):
    path = folders / "train" / "dog" / "0006.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"train.dog.0006\.png is not a readable image"):
        _decode(folders, "train", cache)
    assert not _left_over(cache)


def test_an_unreadable_row_is_named(parquet, cache):
    images, labels = _made_images(2)
    encoded = [_png(image) for image in images]
    encoded[4] = GARBAGE
    _parquet(parquet / "train-00001-of-00002.parquet", encoded, labels)
    with pytest.raises(UsageError, match=r"train-00001-of-00002\.parquet, row 4 is not a readable"):
        _decode(parquet, "train", cache)


def test_rows_without_an_image_or_a_label_are_named(parquet, cache):
    images, labels = _made_images(2)
    encoded = [_png(image) for image in images]
    file = parquet / "train-00001-of-00002.parquet"
    _parquet(file, [*encoded[:3], None, *encoded[4:]], labels)
    with pytest.raises(UsageError, match="row 3: no bytes"):
        _decode(parquet, "train", cache)
    _parquet(file, encoded, [*labels[:-1].tolist(), None])
    with pytest.raises(UsageError, match="a label is missing"):
        _decode(parquet, "train", cache)
    _parquet(file, encoded, [*labels[:-1].tolist(), 3])
    with pytest.raises(UsageError, match="row 5: label 3; allowed are 0 to 2"):
        _decode(parquet, "train", cache)


def test_other_columns_and_names_are_refused(parquet, cache):
    images, labels = _made_images(2)
    encoded = [_png(image) for image in images]
    _parquet(parquet / "test.parquet", encoded, labels, names=("cat", "owl", "dog"))
    with pytest.raises(UsageError, match="class names differ"):
        _decode(parquet, "test", cache)
    file = parquet / "train-00000-of-00002.parquet"
    _parquet(file, encoded, labels, image="picture")
    with pytest.raises(UsageError, match=r"columns picture .* expected image or img"):
        tasks.check(tasks.find("cifar10"), parquet)
    pq.write_table(pa.table({"image": [1.0], "label": [1]}), file)
    with pytest.raises(UsageError, match="expected a struct with bytes"):
        tasks.check(tasks.find("cifar10"), parquet)


def test_a_cache_that_cannot_be_written_is_refused(folders, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="TUNE_KD_CACHE"):
        _decode(folders, "train", tmp_path / "file" / "cache")


# torchvision's own files


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


def _packed(folder, place, monkeypatch):
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(folder / "cifar-100-python", "cifar-100-python")
    md5 = _md5(place / "cifar-100-python.tar.gz")
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "tgz_md5", md5)
    return place


def test_cifar100_is_torchvisions(cifar100, cache):
    tasks.check(tasks.find("cifar100"), cifar100)
    for split in readers.SPLITS:
        expected = torchvision.datasets.CIFAR100(cifar100, train=split == "train")
        decoded = _decode(cifar100, split, cache, task="cifar100")
        np.testing.assert_array_equal(decoded.images, expected.data)
        assert decoded.labels.tolist() == expected.targets
        assert decoded.class_names == tuple(expected.classes)


def test_a_packed_cifar100_is_the_same_and_stays_packed(cifar100, cache, monkeypatch):
    place = _packed(cifar100, cifar100.parent / "packed", monkeypatch)
    tasks.check(tasks.find("cifar100"), place)
    packed = _decode(place, "train", cache, task="cifar100")
    assert packed.hash == _decode(cifar100, "train", cache, task="cifar100").hash
    assert [path.name for path in place.iterdir()] == ["cifar-100-python.tar.gz"]


@pytest.mark.parametrize("named", [True, False])
def test_cifar100_is_found_where_downloads_lie(cifar100, cache, monkeypatch, named):
    place = cifar100.parent / "mine" if named else cache / "downloads"
    _packed(cifar100, place, monkeypatch)
    if named:
        monkeypatch.setenv("TUNE_KD_DATA", str(place))
    decoded = _decode(None, "train", cache, task="cifar100")
    assert decoded.hash == _decode(cifar100, "train", cache, task="cifar100").hash


def test_without_a_network_the_folder_and_the_remedy_are_named(cifar100, cache):
    with pytest.raises(UsageError) as caught:
        _decode(None, "train", cache, task="cifar100")
    message = str(caught.value)
    assert str(cache / "downloads") in message
    for remedy in ("cifar-100-python.tar.gz", "cifar-100-python", "--data", "train*.parquet"):
        assert remedy in message
    assert len(message.splitlines()) <= 2


def test_a_damaged_archive_of_the_users_is_not_downloaded_again(cifar100, cache, monkeypatch):
    place = _packed(cifar100, cifar100.parent / "packed", monkeypatch)
    (place / "cifar-100-python.tar.gz").write_bytes(GARBAGE)
    with pytest.raises(UsageError, match="incomplete or corrupted"):
        _decode(place, "train", cache, task="cifar100")


def test_nothing_is_unpickled_whose_checksum_is_wrong(cifar100, cache):
    (cifar100 / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": 0}))
    with pytest.raises(UsageError, match="incomplete or corrupted"):
        _decode(cifar100, "train", cache, task="cifar100")


def test_cifars_test_split_is_sealed_and_must_be_there(cifar100, cache):
    path = cifar100 / "cifar-100-python" / "test"
    path.write_bytes(GARBAGE)
    tasks.check(tasks.find("cifar100"), cifar100)
    assert len(_decode(cifar100, "train", cache, task="cifar100").labels) == 60
    path.unlink()
    with pytest.raises(UsageError, match=r"cifar-100-python/test is missing"):
        tasks.check(tasks.find("cifar100"), cifar100)


# Finding a task

OWN_TASK = """
import numpy as np
from tune_kd.tasks import Raw, Task

LEVEL = 1

def read(split, folder, cache):
    images = np.full((8, 8, 8), LEVEL, np.uint8)
    return Raw(images=images, labels=np.arange(8) % 2, class_names=("a", "b"))

def task():
    return Task(name="flat", size=4, channels=1, pad=1, flip=False, read=read)

def nothing():
    return None

def short():
    one = lambda *_: Raw(images=[], labels=np.arange(8), class_names=("a", "b"))
    return Task(name="short", size=4, channels=1, pad=1, flip=False, read=one)
"""


def test_a_task_of_the_users_own(tmp_path, folders, cache):
    file = tmp_path / "mine.py"
    file.write_text(OWN_TASK)
    task = tasks.find("mine.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=cache)
    assert decoded.images.shape == (8, 4, 4, 1)
    assert set(decoded.images.ravel().tolist()) == {1}
    assert tasks.decode(task, "train", folder=folders, cache=cache).class_names == CLASSES
    file.write_text(OWN_TASK.replace("LEVEL = 1", "LEVEL = 2"))
    edited = tasks.find(f"{file}:task")
    changed = tasks.decode(edited, "train", folder=None, cache=cache)
    assert set(changed.images.ravel().tolist()) == {2}


OWN_DENSE_TASK = """
import numpy as np
from tune_kd.tasks import Raw, Task

def read(split, folder, cache):
    random = np.random.default_rng(0)
    masks = random.integers(0, 3, (8, 12, 16), dtype=np.uint8)
    masks[0, 0, 0] = 255
    return Raw(images=masks * 80, labels=iter(masks), class_names=("a", "b", "c"), **MORE)

MORE = {"validation": np.array([6, 7])}

def task():
    return Task(name="own", size=(12, 16), channels=1, pad=0, flip=True, dense=True, read=read)
"""


def test_a_dense_task_of_the_users_own(tmp_path, cache):
    (tmp_path / "mine.py").write_text(OWN_DENSE_TASK)
    task = tasks.find("mine.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=cache)
    assert decoded.images.shape == (8, 12, 16, 1)
    assert decoded.labels.shape == (8, 12, 16)
    assert decoded.labels[0, 0, 0] == 255
    known = decoded.labels != 255
    np.testing.assert_array_equal(decoded.images[..., 0][known], decoded.labels[known] * 80)
    assert decoded.validation.tolist() == [6, 7]
    assert (task.metric, tasks.find("digits").metric) == ("miou", "accuracy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("iter(masks)", "iter(masks[:7])"), "fewer masks than images"),
        (("masks * 80", "(masks * 80)[:7]"), "more masks than images"),
        (('("a", "b", "c")', '("a", "b")'), "mask of image 0 has class 2; allowed are 0 to 1"),
        (
            ("iter(masks)", "iter(masks[:, 1:])"),
            r"image 0 has \(12, 16\) pixels .* mask \(11, 16\)",
        ),
        (("iter(masks)", "iter(masks + 0.5)"), "a mask must be uint8 .* it is float64"),
        (("(8, 12, 16)", "(0, 12, 16)"), "own-train has no images"),
    ],
)
def test_masks_that_do_not_fit_are_refused(change, said, tmp_path, cache):
    text = OWN_DENSE_TASK.replace(*change)
    if "(0," in change[1]:
        text = text.replace("    masks[0, 0, 0] = 255\n", "")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        tasks.decode(tasks.find("mine.py:task", base=tmp_path), "train", folder=None, cache=cache)


def test_the_validation_images_belong_to_the_hash(tmp_path, cache):
    hashes = set()
    for more in ('{"validation": np.array([6, 7])}', '{"validation": np.array([5, 7])}', "{}"):
        text = OWN_DENSE_TASK.replace('{"validation": np.array([6, 7])}', more)
        (tmp_path / "mine.py").write_text(text)
        task = tasks.find("mine.py:task", base=tmp_path)
        hashes.add(tasks.decode(task, "train", folder=None, cache=cache).hash)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "size >= 1"),
        ({"size": (8, 8, 3)}, "size >= 1"),
        ({"channels": 2}, "channels 1 or 3"),
        ({"pad": -1}, "pad >= 0"),
        ({"pad": 1, "dense": True}, "pad >= 0, and 0 where dense"),
        ({"scale": (0.5, 2.0)}, "1 unless dense"),
        ({"scale": (2.0, 0.5), "dense": True}, r"0 < scale\[0\] <= scale\[1\]"),
        ({"read": None}, "read or locate"),
        ({"locate": lambda cache: cache}, "read or locate"),
    ],
)
def test_a_task_that_cannot_be_is_refused(change, said):
    fields = {"name": "x", "size": 8, "channels": 1, "pad": 0, "flip": False, "read": print}
    assert tasks.Task(**fields).sides == (8, 8)
    assert tasks.Task(**{**fields, "size": (8, 9)}).sides == (8, 9)
    with pytest.raises(UsageError, match=said):
        tasks.Task(**{**fields, **change})


def test_what_is_no_task_is_refused(tmp_path, cache):
    (tmp_path / "mine.py").write_text(OWN_TASK)
    with pytest.raises(UsageError, match="unknown task 'cifar'; did you mean 'cifar10'"):
        tasks.find("cifar")
    with pytest.raises(UsageError, match=r"returned a NoneType; a tune_kd\.tasks\.Task is needed"):
        tasks.find("mine.py:nothing", base=tmp_path)
    with pytest.raises(UsageError, match="8 labels but 0 images"):
        tasks.decode(tasks.find("mine.py:short", base=tmp_path), "train", folder=None, cache=cache)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("def build(): ...", "bild", "did you mean 'build'"),
        ("x = 1\nraise KeyError('y')", "build", r"line 2: KeyError"),
        ("def build(:", "build", r"line 1: SyntaxError"),
        ("import no_such_module", "build", r"line 1: ModuleNotFoundError"),
        ("build = 3", "build", "unknown function 'build'"),
    ],
)
def test_a_reference_that_leads_nowhere(tmp_path, content, name, said):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=said):
        plugins.load_function(f"mine.py:{name}", base=tmp_path)


def test_a_reference_to_no_file_or_of_another_form(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*none\.py"):
        plugins.load_function("none.py:build", base=tmp_path)
    with pytest.raises(UsageError, match=r"expected file\.py:function"):
        plugins.load_function("mine.py:", base=tmp_path)


def test_an_edited_file_is_loaded_anew_and_an_unchanged_one_once(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def build(): return 1")
    first = plugins.load_function("mine.py:build", base=tmp_path)
    assert plugins.load_function(f"{file}:build") is first
    before = plugins.source_hash("mine.py:build", base=tmp_path)
    file.write_text("def build(): return 2")
    assert plugins.load_function("mine.py:build", base=tmp_path)() == 2
    assert first() == 1
    assert plugins.source_hash("mine.py:build", base=tmp_path) != before


def test_importing_tasks_loads_neither_torch_nor_scikit_learn():
    with _python(
        "import sys, tune_kd.tasks; print(sorted({'torch', 'sklearn', 'ray'} & set(sys.modules)))"
    ) as process:
        assert process.communicate()[0].strip() == "[]"
