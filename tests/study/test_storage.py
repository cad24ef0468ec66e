"""Files appear whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tune_kd.errors import UsageError
from tune_kd.files import write_whole
from tune_kd.study import storage as storages
from tune_kd.study.storage import Storage


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path / "runs" / "x")


def test_what_is_written_is_read(storage, tmp_path):
    storage.write("a/b/c.bin", b"\0\1")
    assert storage.read("a/b/c.bin") == b"\0\1"
    assert (tmp_path / "runs/x/a/b/c.bin").read_bytes() == b"\0\1"
    storage.write("a/b/c.bin", b"")
    assert storage.read("a/b/c.bin") == b""
    with pytest.raises(FileNotFoundError):
        storage.read("a/b/d.bin")


def test_names_exists_and_remove(storage):
    assert storage.names("a") == []
    assert not storage.exists("a")
    for name in ("b.json", "a.parquet", ".c.parquet.1234", "10.json", "9.json", "d/x"):
        storage.write(f"a/{name}", b"")
    assert storage.names("a") == ["10.json", "9.json", "a.parquet", "b.json", "d"]
    assert storage.names("a", ".json") == ["10.json", "9.json", "b.json"]
    assert storage.names("") == ["a"]
    assert storage.exists("a")
    assert storage.exists("a/b.json")
    storage.remove("a/b.json")
    storage.remove("a/b.json")
    assert not storage.exists("a/b.json")
    storage.remove_folder("a/d")
    storage.remove_folder("a/d")
    storage.remove_folder("nothing")
    assert storage.names("a") == ["10.json", "9.json", "a.parquet"]


def test_folders_below_and_above(storage, tmp_path):
    below = storage.at("deep")
    below.write("file", b"x")
    assert storage.read("deep/file") == b"x"
    assert below.parent().uri == storage.uri == str(tmp_path / "runs" / "x")
    assert below.parent().local == storage.local
    assert (below.name, storage.name, storage.parent().name) == ("deep", "x", "runs")
    assert storage.parent().names("") == ["x"]
    assert Storage(storage.uri).read("deep/file") == b"x"
    assert Storage(f"file://{storage.uri}").read("deep/file") == b"x"


def test_a_relative_folder_and_home_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Storage("runs").uri == str(tmp_path / "runs")
    assert Storage("~/runs").uri == str(tmp_path / "me" / "runs")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old_data", [b"old", None])
def test_an_error_in_the_middle_leaves_the_old_file_or_none(tmp_path, monkeypatch, step, old_data):
    path = tmp_path / "rows.parquet"
    if old_data:
        path.write_bytes(old_data)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == (["rows.parquet"] if old_data else [])
    assert not old_data or path.read_bytes() == old_data


@pytest.mark.parametrize("old_data", ["old", ""])
def test_a_kill_in_the_middle_leaves_a_dot_file_that_nobody_sees(tmp_path, old_data):
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tune_kd.study import storage\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"storage.Storage({str(tmp_path)!r}).write('a/rows.parquet', b'new')\n"
    )
    if old_data:
        Storage(tmp_path).write("a/rows.parquet", old_data.encode())
    root = str(Path(storages.__file__).parents[2])
    process = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=False)
    assert process.returncode == -signal.SIGKILL
    leftovers = [p.name for p in (tmp_path / "a").iterdir() if p.name != "rows.parquet"]
    assert len(leftovers) == 1
    assert leftovers[0].startswith(".rows.parquet.")
    storage = Storage(tmp_path)
    assert storage.names("a") == (["rows.parquet"] if old_data else [])
    assert not old_data or storage.read("a/rows.parquet") == b"old"
    storage.write("a/rows.parquet", b"new")
    assert storage.read("a/rows.parquet") == b"new"


def test_a_file_has_the_users_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        Storage(tmp_path).write("x", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_trying_to_write_leaves_nothing(tmp_path):
    deep = Storage(tmp_path / "a" / "b" / "c")
    deep.check_writable()
    assert list(tmp_path.iterdir()) == []
    deep.write("x", b"")
    deep.check_writable()
    assert [p.name for p in (tmp_path / "a/b/c").iterdir()] == ["x"]


@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_what_cannot_be_written_is_said(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to --out .*file") as caught:
        Storage(f"{tmp_path}/file{below}").check_writable()
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("uri", ["ftp://h/x", "s3://", "s3:///x", "s3://b/x?y=1", "gs://b/x"])
def test_addresses_of_no_known_kind(uri):
    with pytest.raises(UsageError, match="allowed"):
        Storage(uri)


def test_a_bucket_address_survives_being_passed_on():
    uri = "s3://bucket/runs/x?endpoint_override=127.0.0.1:1&scheme=http"
    storage = Storage(uri)
    assert storage.uri == uri
    assert storage.local is None
    assert storage.at("trials").uri == uri.replace("/x?", "/x/trials?")
    assert storage.parent().uri == uri.replace("/x?", "?")
    assert storage.name == "x"
    assert Storage("s3://bucket/x/").uri == "s3://bucket/x"
