"""A student's file, and the command."""

from pathlib import Path

import pytest

from tests.evaluation.checking import Ran, Run, put, written
from tune_kd import (
    cli,
    evaluate,
)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return put(tmp_path / "student.safetensors", written())


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process; results in a folder below tmp_path."""

    def run(weights_: Path | str, *more: str, space: str = "digits_kd", out: str = "out") -> Ran:
        folder = tmp_path / out
        arguments = ["--space", space, "--weights", str(weights_), "--out", str(folder), *more]
        capsys.readouterr()
        code = cli.run_command(evaluate.main, arguments)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err, folder)

    return run
