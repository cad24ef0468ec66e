"""A search on a Ray cluster of two nodes on this machine, one of which is lost in the middle."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end import studies
from tests.end_to_end.studies import TINY, Desk, Recorder
from tune_kd.study import results
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study

pytestmark = pytest.mark.slow
# Proposals that depend on nothing but their number, and no stops: with two workers the order of
# arrival would decide both, and studies could not be compared.
APART = (*TINY, "--sampler", "random", "--scheduler", "none", "--gpus-per-trial", "0")


@dataclass
class TwoNodes:
    """A cluster in a process of its own: tests/end_to_end/cluster_host.py."""

    process: subprocess.Popen[str]
    address: str
    raylet: int  # of the second node

    def remove_second(self) -> None:
        """As when a spot instance is taken back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("remove\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"


@pytest.fixture
def cluster(desk: Desk) -> Iterator[TwoNodes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.cluster_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=studies.ROOT,
        env=desk.environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    address, raylet = process.stdout.readline().split()
    below = studies.identify(process.pid)
    try:
        yield TwoNodes(process, address, int(raylet))
    finally:
        below |= studies.identify(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)  # stdin ends, and with it the cluster
        studies.kill_all({**below, **studies.identify(process.pid)})
        process.kill()
        process.wait()


def hold(cluster: TwoNodes, study: Path, pids: list[int]) -> bool:
    """Whether a worker of the second node is in the middle of a trial; then it is stopped there."""

    def in_the_middle(pid: int) -> bool:
        tables = results.read_epochs(Storage(study)).values()
        return any(rows[-1]["pid"] == pid and not rows[-1]["last"] for rows in tables)

    for pid in studies.descendants(cluster.raylet):
        if in_the_middle(pid):
            os.kill(pid, signal.SIGSTOP)
            if in_the_middle(pid):
                pids.append(pid)
                return True
            os.kill(pid, signal.SIGCONT)
    return False


def test_a_lost_node_changes_no_row(cluster: TwoNodes, desk: Desk, tmp_path: Path) -> None:
    # the address by RAY_ADDRESS, undisturbed
    words = (*APART, "--out", tmp_path / "runs", "--name")
    with Recorder(tmp_path / "runs" / "whole", tmp_path / "kept-whole") as recorder:
        command = desk.run("tune_kd.search", *words, "whole", RAY_ADDRESS=cluster.address)
    assert ", 2 at once;" in command.stderr  # two CPUs are the cluster's, not one Ray's of its own
    assert recorder.retrained_epochs() == []
    undisturbed = studies.rows(tmp_path / "runs" / "whole")
    assert set(studies.statuses(tmp_path / "runs" / "whole").values()) == {"finished"}

    # the address by --address, and a node is lost
    study = tmp_path / "runs" / "halved"
    with Recorder(study, tmp_path / "kept") as recorder:
        command = desk.search(*words, "halved", "--address", cluster.address)
        pids: list[int] = []
        command.until(lambda: hold(cluster, study, pids))
        cluster.remove_second()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGCONT)
        assert command.wait() == 0, command.output
    assert studies.differences(studies.rows(study), undisturbed) == []
    assert recorder.retrained_epochs() == []
    assert recorder.attempts().keys() == studies.finished_epochs(study)
    attempts = [row["attempts"] for row in results.read_trials(Storage(study))]
    assert max(n for n in attempts if n) == 2  # a trial has really moved


def forget(storage: Storage, trial: str) -> None:
    """A study whose search is not over: the verdict of one trial is missing."""
    rows = [row for row in results.read_trials(storage) if row["trial"] != trial]
    schema = results.trial_schema(Study(storage).manifest.config_types)
    (file,) = storage.names("trials", ".parquet")
    storage.write(f"trials/{file}", results.encode(rows, schema))


def test_a_node_that_does_not_see_the_study_is_said(
    calm, cluster: TwoNodes, desk: Desk, tmp_path: Path
) -> None:
    """As where each node has a folder of that name on its own disk: another marker, or none."""
    out = tmp_path / "runs"
    shutil.copytree(calm.study, out / "digits_kd")
    forget(Storage(out / "digits_kd"), "combined-r0-0002")
    words = (*TINY, "--out", out, "--resume", "--gpus-per-trial", "0")
    for spoil in (lambda file: file.write_text("another"), lambda file: file.unlink()):
        spoil(out / "digits_kd" / "marker")
        command = desk.search(*words, "--address", cluster.address)
        assert command.wait() == 2, command.output
        last = command.stderr.splitlines()[-1]
        assert f"does not see the study in --out {out / 'digits_kd'}" in last
        assert len(studies.statuses(out / "digits_kd")) == 11


def test_nothing_at_the_address(desk: Desk, tmp_path: Path) -> None:
    words = (*TINY, "--out", tmp_path / "runs", "--address", "127.0.0.1:9")
    command = desk.search(*words, "--gpus-per-trial", "0")
    assert command.wait() == 2, command.output
    assert len(command.stderr.splitlines()) <= 2
    assert "--address 127.0.0.1:9: nothing answers there" in command.stderr
