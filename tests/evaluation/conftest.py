"""A student's file, and the command."""

from pathlib import Path

import pytest

from tests.evaluation.checking import CommandResult, Run, dump_student, put
from tune_kd import (
    cli,
    evaluate,
)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return put(tmp_path / "student.safetensors", dump_student())


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process; results in a folder below tmp_path."""

    def run(
        weights_: Path | str, *more: str, space: str = "digits_kd", out: str = "out"
    ) -> CommandResult:
        folder = tmp_path / out
        arguments = ["--space", space, "--weights", str(weights_), "--out", str(folder), *more]
        capsys.readouterr()
        code = cli.run_command(evaluate.main, arguments)
        output = capsys.readouterr()
        return CommandResult(code, output.out, output.err, folder)

    return run
