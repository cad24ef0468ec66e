"""What a search of its own shows to the outside: loopback sockets, and results on stdout."""

import socket

import pytest

from tests.end_to_end import sockets

pytestmark = pytest.mark.slow


def test_every_socket_is_on_loopback(calm) -> None:
    names = {listener.process for listener in calm.listening}
    assert {"gcs_server", "raylet"} <= names, names  # the right processes were looked at
    assert [listener for listener in calm.listening if not listener.on_loopback] == []


@pytest.mark.parametrize(
    ("family", "host", "loopback"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::", False),
    ],
)
def test_an_open_socket_would_be_seen(family: int, host: str, loopback: bool) -> None:
    import os

    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with server:
        listeners = [s for s in sockets.of([os.getpid()]) if s.port == server.getsockname()[1]]
    assert [listener.on_loopback for listener in listeners] == [loopback]


def test_quiet_prints_results_only(calm) -> None:
    lines = calm.stdout.splitlines()
    methods = ["no_kd", "response", "feature", "combined"]
    assert [line.split(":")[0] for line in lines] == [
        *methods,
        "1 repeat of 3 trials for each method",
        "12 of 12 trials",
    ]
    assert lines[-1].endswith(f"next: python -m tune_kd.confirm {calm.study}")


def test_ray_is_silent(calm) -> None:
    warned = [
        line for line in calm.stderr.splitlines() if not line.startswith("warning: THE TEACHER")
    ]
    assert warned == []
