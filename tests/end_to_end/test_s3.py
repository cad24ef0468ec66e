"""A study in a bucket: searched, killed, resumed, confirmed and reported like one in a folder."""

import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.end_to_end import studies
from tests.end_to_end.studies import ALONE, TINY, Desk
from tune_kd.study import results
from tune_kd.study.storage import Storage

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server on loopback that speaks S3; it keeps objects in memory."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Speaks to it from here, and so does our own reader."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    return client


@pytest.fixture
def bucket(calm, common_cache: Path, tmp_path: Path, endpoint: str) -> Iterator[Desk]:
    """Commands whose S3 is that server."""
    with studies.desk(common_cache, tmp_path / "desk", **KEYS, AWS_ENDPOINT_URL=endpoint) as desk:
        yield desk


def names(client: Any, prefix: str) -> list[str]:
    entries = client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return [entry["Key"] for entry in entries]


def test_killed_resumed_confirmed_and_reported(calm, bucket: Desk, client: Any) -> None:
    words = (*TINY, *ALONE, "--out", "s3://bucket/folder")
    study = "s3://bucket/folder/digits_kd"
    command = bucket.search(*words)
    command.until(lambda: names(client, "folder/digits_kd/epochs/combined-r0-0000."))
    command.kill()
    epochs = results.read_epochs(Storage(study))
    bucket.run("tune_kd.search", *words, "--resume")
    assert studies.differences(studies.rows(study), calm.rows) == []
    finished = results.read_epochs(Storage(study))
    for trial, rows in epochs.items():  # what was finished before the kill was not trained again
        assert [r["attempt"] for r in rows] == [r["attempt"] for r in finished[trial][: len(rows)]]
    assert Storage(study).names("checkpoints") == []

    bucket.run("tune_kd.confirm", study, "--seeds", "1", "--no-defaults", *ALONE)
    assert set(studies.statuses(study, "confirm").values()) == {"finished"}
    report = bucket.run("analysis.report", study)
    assert report.stdout.splitlines()[-1].startswith(f"report: {study}/report")
    files = {name.rsplit("/", 1)[1] for name in names(client, "folder/digits_kd/report/")}
    assert {"report.md", "table.csv", "report.json"} <= files


NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens there


@pytest.mark.parametrize(
    ("out", "environment"),
    [
        ("s3://no-such-bucket/folder", {}),
        ("s3://bucket/folder", {"AWS_ENDPOINT_URL": NOWHERE}),
    ],
    ids=["no bucket", "no server"],
)
def test_said_before_ray_starts(
    bucket: Desk, client: Any, out: str, environment: dict[str, str]
) -> None:
    command = bucket.search(*TINY, *ALONE, "--out", out, **environment)
    assert command.wait() == 2, command.output
    assert command.stderr.startswith(f"error: cannot write to --out {out}/digits_kd: ")
    assert len(command.stderr.splitlines()) <= 2
    assert command.stdout == ""


@pytest.mark.parametrize(
    "keys",
    [{}, {"AWS_ACCESS_KEY_ID": "unknown", "AWS_SECRET_ACCESS_KEY": "unknown"}],
    ids=["no key", "unknown key"],
)
def test_credentials(
    calm, common_cache: Path, tmp_path: Path, client: Any, keys: dict[str, str]
) -> None:
    """A server that checks keys, and a user who has none or an unknown one."""
    home = tmp_path / "home"  # without ~/.aws
    home.mkdir()
    options = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": client.meta.endpoint_url}
    with studies.desk(common_cache, tmp_path / "desk", HOME=str(home), **options, **keys) as desk:
        _require_keys(client)
        try:
            command = desk.search(*TINY, *ALONE, "--out", "s3://bucket/private")
            code = command.wait()
        finally:
            _require_keys(client, after=10**9)
    assert code == 2, command.output
    assert command.stderr.startswith("error: cannot write to --out s3://bucket/private/digits_kd: ")
    assert len(command.stderr.splitlines()) <= 2
    assert names(client, "private/") == []


def _require_keys(client: Any, *, after: int = 0) -> None:
    """From the request `after` on, moto checks who asks."""
    request = urllib.request.Request(
        f"{client.meta.endpoint_url}/moto-api/reset-auth",
        data=str(after).encode(),
        headers={"Content-Type": "text/plain"},
        method="POST",
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
