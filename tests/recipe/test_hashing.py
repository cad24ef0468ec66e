"""Hashes: files and folders on disk are named by them, so their values are stated here."""

import hashlib

from tune_kd.recipe import bytes_hash, digest, external_model_id, file_id, stream


def test_digests_and_streams_have_the_values_that_are_on_disk() -> None:
    assert digest("a", "bc") == "3fafa1cf2f19a7c1"
    assert digest(b"a") == digest("a") == "3b196fd4907bedf5"
    assert stream(3, "order", 1) == 1353872408812312558


def test_a_file_id_is_what_sha256sum_prints() -> None:
    assert file_id(b"weights") == hashlib.sha256(b"weights").hexdigest()[:16] == "9a129038d9a00aed"
    assert external_model_id("9a129038d9a00aed") == "59d09cc094fba3db"


def test_bytes_are_hashed_whatever_the_chunks() -> None:
    assert bytes_hash([b"wei", b"", memoryview(b"ghts")]) == file_id(b"weights")
    assert bytes_hash([b"weights"], length=7) == "9a12903"
