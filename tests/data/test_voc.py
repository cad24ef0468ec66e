"""Images with masks in VOC's layout: folders and archives, whose images are whose, what stays sealed."""

import contextlib
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from torchvision.datasets import voc as source

from tests.helpers.made_images import GARBAGE, encode, voc, write_set
from tune_kd.data import splits, tasks
from tune_kd.data.readers.voc import CLASSES
from tune_kd.errors import UsageError

FORMS = ["folder", "zip", "tar", "tar.gz"]
SIZE = (180, 240)
LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


def _decode(place, split, cache, *, task="camvid"):
    return tasks.decode(tasks.find(task), split, folder=place, cache=cache)


def _holds(decoded, images, masks):
    np.testing.assert_array_equal(decoded.images, images)
    np.testing.assert_array_equal(decoded.labels, masks)
    assert decoded.labels.dtype == np.uint8
    assert isinstance(decoded.labels, np.memmap)


@pytest.fixture(scope="module")
def voc_files():
    return voc(size=SIZE)


@pytest.mark.parametrize("form", FORMS)
def test_train_and_val_are_decoded_together_and_test_apart(voc_files, form, tmp_path, cache):
    files, arrays = voc_files
    place = write_set(files, form, tmp_path / "in")
    before = sorted(place.parent.rglob("*"))
    tasks.check(tasks.find("camvid"), place)
    train = _decode(place, "train", cache)
    both = [np.concatenate(pair) for pair in zip(arrays["train"], arrays["val"], strict=True)]
    _holds(train, *both)
    assert train.validation.tolist() == [4, 5]
    assert train.class_names == tuple(f"class {number}" for number in range(11))
    fit, validation = splits.split(train)
    assert (fit.tolist(), validation.tolist()) == ([0, 1, 2, 3], [4, 5])
    test = _decode(place, "test", cache)
    _holds(test, *arrays["test"])
    assert test.validation is None
    assert sorted(place.parent.rglob("*")) == before
    assert not [path for path in cache.iterdir() if path.is_file()]  # the plain copy is gone


def test_all_forms_decode_to_the_same(voc_files, tmp_path, cache):
    hashes = {_decode(write_set(voc_files[0], f, tmp_path), "train", cache).hash for f in FORMS}
    assert len(hashes) == 1


@pytest.mark.parametrize("level", ["VOCdevkit/VOC2012", "VOCdevkit", "."])
@pytest.mark.parametrize("year", ["VOC2012", "VOC2007"])
def test_a_folder_is_known_at_every_level(level, year, tmp_path, cache):
    files, arrays = voc(size=SIZE, root=f"VOCdevkit/{year}/")
    place = write_set(files, "folder", tmp_path) / level.replace("VOC2012", year)
    _holds(_decode(place, "test", cache), *arrays["test"])


@pytest.mark.parametrize("form", ["folder", "tar.gz"])
@pytest.mark.parametrize("masks", [True, False])
def test_without_test_masks_val_is_the_sealed_split(form, masks, tmp_path, cache):
    """As in the original set, whose test.txt has images alone."""
    files, arrays = voc(train=20, val=3, size=SIZE, test=None if masks else 2)
    files = {n: d for n, d in files.items() if "SegmentationClass/test" not in n}
    place = write_set(files, form, tmp_path)
    train = _decode(place, "train", cache)
    _holds(train, *arrays["train"])
    assert train.validation is None
    assert len(splits.split(train)[1]) == 6  # of 20
    _holds(_decode(place, "test", cache), *arrays["val"])


def test_a_test_list_alone_leaves_a_tenth_for_validation(tmp_path, cache):
    files, arrays = voc(val=None, size=SIZE)
    train = _decode(write_set(files, "zip", tmp_path), "train", cache)
    _holds(train, *arrays["train"])
    assert train.validation is None


def test_images_are_smoothed_and_masks_keep_their_classes(tmp_path, cache):
    files, arrays = voc(size=(97, 131))
    decoded = _decode(write_set(files, "folder", tmp_path), "train", cache)
    image, mask = arrays["train"][0][1], arrays["train"][1][1]
    expected = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded.images[1], np.asarray(expected))
    rows = ((np.arange(SIZE[0]) + 0.5) * 97 / SIZE[0]).astype(int)
    columns = ((np.arange(SIZE[1]) + 0.5) * 131 / SIZE[1]).astype(int)
    np.testing.assert_array_equal(decoded.labels[1], mask[rows][:, columns])


# Classes


def test_classes_are_named_by_a_file_or_by_voc(tmp_path, cache):
    files, _ = voc(size=(16, 16))
    place = write_set(files, "zip", tmp_path / "a")
    assert _decode(place, "train", cache, task="voc").class_names == CLASSES
    assert _decode(place, "train", cache, task="voc").images.shape == (6, 512, 512, 3)
    names = [f"kind {number}" for number in range(11)]
    for file in ("classes.txt", "labels.txt"):
        content = {**files, f"VOCdevkit/VOC2012/{file}": "\n".join(names).encode()}
        place = write_set(content, "zip", tmp_path / file)
        for split in ("train", "test"):
            assert _decode(place, split, cache, task="voc").class_names == tuple(names)


def test_a_class_that_there_is_not_is_refused(tmp_path, cache):
    files, _ = voc(size=(16, 16), classes=13)
    with pytest.raises(
        UsageError, match=r"mask of train0 has class 12; allowed are 0 to 10, and 255"
    ):
        _decode(write_set(files, "zip", tmp_path), "train", cache)
    assert not [path for path in (cache / "data").iterdir() if path.name.endswith(".part")]


# The sealed test split


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sealed", ["test", "val"])
def test_a_search_reads_no_test_image_and_no_test_mask(form, sealed, tmp_path, cache):
    files, _ = voc(size=(16, 16), test=3 if sealed == "test" else None)
    for name in files:
        if f"/{sealed}" in name and not name.endswith(".txt"):
            files[name] = GARBAGE
    place = write_set(files, form, tmp_path)
    tasks.check(tasks.find("camvid"), place)
    assert len(_decode(place, "train", cache).labels) == (6 if sealed == "test" else 4)
    with pytest.raises(UsageError, match=rf"JPEGImages/{sealed}0\.jpg is not a readable image"):
        _decode(place, "test", cache)


def test_files_of_the_test_split_are_not_opened(voc_files, tmp_path, cache, opened_by):
    place = write_set(voc_files[0], "folder", tmp_path / "in")
    opened = opened_by(lambda: _decode(place, "train", cache))
    inside = [path.removeprefix(str(place)) for path in opened if path.startswith(str(place))]
    assert any("JPEGImages/train0" in path for path in inside)
    assert any("SegmentationClass/val1" in path for path in inside)
    assert not any("/test" in path and not path.endswith(".txt") for path in inside)


@pytest.mark.parametrize("where", ["train", "val"])
def test_an_image_of_two_lists_is_refused(where, tmp_path):
    files, _ = voc(size=(16, 16))
    files[f"{LISTS}/{where}.txt"] += b"test1\n"
    with pytest.raises(UsageError, match="name 'test1' twice"):
        tasks.check(tasks.find("camvid"), write_set(files, "zip", tmp_path))


# What is refused


def _check_refusal(place, message, *, task="camvid"):
    with pytest.raises(UsageError, match=message) as caught:
        tasks.check(tasks.find(task), place)
    assert len(str(caught.value).splitlines()) <= 2
    assert str(place) in str(caught.value)


def test_a_place_without_a_data_set_is_refused(tmp_path):
    _check_refusal(tmp_path / "none", "no such folder or archive")
    _check_refusal(tmp_path, r"holds no data set: expected VOCdevkit/<name>/ with JPEGImages")
    (tmp_path / "notes.txt").write_text("none")
    _check_refusal(tmp_path / "notes.txt", "holds no data set: expected VOCdevkit")
    _check_refusal(
        write_set({"a/b.txt": b""}, "tar.gz", tmp_path), "holds no data set: expected VOCdevkit"
    )
    _check_refusal(write_set({"a/b.txt": b""}, "zip", tmp_path), "no such folder$", task="digits")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    _check_refusal(tmp_path, "holds no data set: expected VOCdevkit")  # no masks


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("file", ["JPEGImages/val1.jpg", "SegmentationClass/test0.png"])
def test_a_listed_file_that_is_missing_is_named(form, file, tmp_path):
    files, _ = voc(size=(16, 16))
    del files[f"VOCdevkit/VOC2012/{file}"]
    _check_refusal(write_set(files, form, tmp_path), f"VOC2012/{file} is missing, but it is listed")


def test_lists_that_name_nothing_are_refused(tmp_path):
    for split, number in (("train", 0), ("val", 1)):
        files, _ = voc(size=(16, 16), test=None)
        files[f"{LISTS}/{split}.txt"] = b"\n"
        place = write_set(files, "folder", tmp_path / str(number))
        _check_refusal(place, rf"Segmentation/{split}\.txt names no image")


def test_two_data_sets_at_once_are_refused(tmp_path):
    one, other = (voc(size=(16, 16), root=f"VOCdevkit/{n}/")[0] for n in ("A", "B"))
    for form in ("folder", "zip"):
        _check_refusal(
            write_set({**one, **other}, form, tmp_path), r"2 data sets, VOCdevkit/A/, VOCdevkit/B/"
        )


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_is_named(voc_files, form, tmp_path, cache):
    place = write_set(voc_files[0], form, tmp_path)
    content = place.read_bytes()
    place.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=rf"set\.{form} is incomplete or damaged"):
        _decode(place, "train", cache)
    place.write_bytes(GARBAGE)
    with pytest.raises(UsageError, match=rf"set\.{form} is incomplete or damaged"):
        _decode(place, "train", cache)


def test_masks_must_have_classes_and_the_images_size(tmp_path, cache):
    files, _ = voc(size=(16, 16))
    name = "VOCdevkit/VOC2012/SegmentationClass/train2.png"
    files[name] = encode(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="palette or 8-bit grey picture, but its mode is RGB"):
        _decode(write_set(files, "folder", tmp_path / "a"), "train", cache)
    files[name] = encode(np.zeros((16, 15), np.uint8))
    with pytest.raises(UsageError, match=r"train2 has \(16, 16\) pixels .* its mask \(16, 15\)"):
        _decode(write_set(files, "folder", tmp_path / "b"), "train", cache)


# Archives


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_names_that_lead_out_of_an_archive_are_not_followed(voc_files, form, tmp_path, cache):
    files, arrays = voc_files
    evil = {"../outside.jpg": b"x", "/absolute.jpg": b"x", "../VOC/" + f"{LISTS}/train.txt": b"x"}
    place = write_set({**evil, **files}, form, tmp_path / "in")
    _holds(_decode(place, "test", cache), *arrays["test"])
    assert not (tmp_path / "outside.jpg").exists()
    assert [path.name for path in (tmp_path / "in").iterdir()] == [place.name]


def test_a_list_cannot_name_a_file_elsewhere(tmp_path):
    files, _ = voc(size=(16, 16))
    place = write_set(files, "folder", tmp_path / "in")
    (tmp_path / "secret.jpg").write_bytes(encode(np.zeros((16, 16, 3), np.uint8)))
    (place / LISTS / "train.txt").write_text("train0\n../../../../../secret\n")
    _check_refusal(place, "secret.jpg is missing")


def test_links_in_an_archive_are_not_followed(voc_files, tmp_path):
    files, _ = voc_files
    name = "VOCdevkit/VOC2012/JPEGImages/train0.jpg"
    place = tmp_path / "set.tar"
    with tarfile.open(place, "w") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            if file == name:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    _check_refusal(place, "train0.jpg is missing")


def test_what_macos_adds_to_an_archive_does_not_count(voc_files, tmp_path, cache):
    place = write_set(voc_files[0], "zip", tmp_path)
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr(f"__MACOSX/{LISTS}/._train.txt", b"x")
        archive.writestr("VOCdevkit/.DS_Store", b"x")
    assert len(_decode(place, "test", cache).labels) == 3


def test_a_changed_archive_is_decoded_anew(voc_files, tmp_path, cache):
    files, _ = voc_files
    first = _decode(write_set(files, "zip", tmp_path), "train", cache)
    other, _ = voc(size=SIZE, seed=1)
    second = _decode(write_set(other, "zip", tmp_path), "train", cache)
    assert first.hash != second.hash
    assert first.folder != second.folder


# Where they are found


def test_pascal_voc_is_torchvisions(tmp_path, cache, monkeypatch):
    """The archive that torchvision downloads, beside what torchvision makes of it when extracted."""
    files, _ = voc(test=None, size=(512, 512))
    archive = write_set(files, "tar", tmp_path / "packed")
    entry = source.DATASET_YEAR_DICT["2012"]
    archive.rename(archive.with_name(entry["filename"]))
    write_set(files, "folder", tmp_path)
    monkeypatch.setenv("TUNE_KD_DATA", str(tmp_path / "packed"))
    for split, image_set in (("train", "train"), ("test", "val")):
        expected = torchvision.datasets.VOCSegmentation(tmp_path / "set", image_set=image_set)
        decoded = _decode(None, split, cache, task="voc")
        assert len(expected) == len(decoded.labels)
        for number, (image, mask) in enumerate(expected):
            np.testing.assert_array_equal(decoded.images[number], np.asarray(image))
            np.testing.assert_array_equal(decoded.labels[number], np.asarray(mask))
    monkeypatch.setenv("TUNE_KD_DATA", str(tmp_path / "set"))
    again = _decode(None, "train", cache, task="voc")
    assert again.hash == _decode(tmp_path / "set", "train", cache, task="voc").hash


@contextlib.contextmanager
def _serve(folder):
    """The address of a web server of our own for a folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pascal_voc_is_downloaded_once_and_stays_packed(tmp_path, cache, monkeypatch):
    files, arrays = voc(test=None, size=(512, 512))
    archive, entry = write_set(files, "tar", tmp_path), source.DATASET_YEAR_DICT["2012"]
    monkeypatch.delenv("TUNE_KD_DATA", raising=False)
    with _serve(tmp_path) as address:
        monkeypatch.setitem(entry, "url", f"{address}/{archive.name}")
        with pytest.raises(
            UsageError, match="cannot be downloaded"
        ):  # another file than it is known
            _decode(None, "train", cache, task="voc")
        md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(entry, "md5", md5)
        _holds(_decode(None, "train", cache, task="voc"), *arrays["train"])
    _holds(_decode(None, "test", cache, task="voc"), *arrays["val"])
    names = [path.name for path in (cache / "downloads").iterdir() if path.name[0] != "."]
    assert names == [entry["filename"]]


def test_without_a_network_the_folder_and_the_remedy_are_named(cache, monkeypatch, tmp_path):
    entry = source.DATASET_YEAR_DICT["2012"]
    # a port that nobody listens on: as if there were no network, at once
    monkeypatch.setitem(entry, "url", "http://127.0.0.1:9/voc.tar")
    monkeypatch.setenv("TUNE_KD_DATA", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        _decode(None, "train", cache, task="voc")
    message = str(caught.value)
    for part in (str(cache / "downloads"), str(tmp_path), entry["filename"], "VOCdevkit", "--data"):
        assert part in message
    assert len(message.splitlines()) <= 2


def test_camvid_lies_where_tune_kd_data_says(voc_files, tmp_path, cache, monkeypatch):
    monkeypatch.delenv("TUNE_KD_DATA", raising=False)
    with pytest.raises(UsageError, match=r"TUNE_KD_DATA is not set; .*camvid-voc\.tar\.gz"):
        _decode(None, "train", cache)
    monkeypatch.setenv("TUNE_KD_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=rf"no CamVid in {tmp_path}; .*camvid-voc\.tar\.gz"):
        _decode(None, "train", cache)
    write_set(voc_files[0], "tar.gz", tmp_path).rename(tmp_path / "camvid-voc.tar.gz")
    packed = _decode(None, "train", cache)
    (tmp_path / "camvid-voc.tar.gz").unlink()
    write_set(voc_files[0], "folder", tmp_path).rename(tmp_path / "camvid-voc")
    assert _decode(None, "train", cache).hash == packed.hash


def test_the_real_camvid(shared_data, cache):
    place = shared_data / "camvid-voc.tar.gz"
    if not place.is_file():
        pytest.skip(
            f"no {place.name} in {shared_data}; TUNE_KD_DATA names the folder that holds it"
        )
    train, test = (_decode(place, split, cache) for split in ("train", "test"))
    assert train.images.shape == (468, *SIZE, 3)
    assert train.validation.tolist() == list(range(367, 468))
    assert test.labels.shape == (233, *SIZE)
    assert np.unique(train.labels).tolist() == [*range(11), 255]
    with tarfile.open(place) as archive:
        names = archive.extractfile(f"{LISTS}/test.txt").read().decode().split()
        mask = archive.extractfile(f"VOCdevkit/VOC2012/SegmentationClass/{names[100]}.png")
        np.testing.assert_array_equal(test.labels[100], np.asarray(Image.open(mask)))
