"""What the command lines share, and that --help needs nothing heavy."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tune_kd import cli
from tune_kd.errors import UsageError, unknown

ROOT = str(Path(cli.__file__).parents[1])
HEAVY = ("torch", "torchvision", "ray", "optuna", "pandas", "pyarrow", "matplotlib", "numpy")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("1.5", 1.5), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400),
        ("1d", 86400), ("1d2h3m4s", 93784), ("1m1s", 61), ("0h1s", 1),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert cli.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "0", "0s", "0h0m", "1x", "m", "5 m", "30m1h", "1.5h", "1e3", "inf"]
)
def test_durations_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.duration(text)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.positive_int, {"1": 1, " 7 ": 7}, ["0", "-1", "1.5", "x", "", "1e3"]),
        (cli.non_negative_int, {"0": 0, "12": 12}, ["-1", "1.5", "x", ""]),
        (cli.amount, {"0": 0.0, "0.25": 0.25, "2": 2.0}, ["-0.1", "x", "nan", "inf", ""]),
    ],
)
def test_numbers(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(
            argparse.ArgumentTypeError, match=r"(must be at least|expected a).*, got"
        ):
            kind(text)


def test_a_seed_below_zero_is_told_that_zero_is_allowed():
    with pytest.raises(argparse.ArgumentTypeError, match="at least 0"):
        cli.non_negative_int("-1")


def test_the_nearest_name():
    assert "did you mean 'b_kd'?" in str(unknown("space", "b_k", ["a", "b_kd"]))
    assert "did you mean" not in str(unknown("space", "zzz", ["a", "b_kd"]))


def test_exit_codes(capsys):
    def raise_usage_error(arguments):
        raise UsageError("no such thing; type another")

    def raise_interrupt(arguments):
        raise KeyboardInterrupt

    assert cli.run_command(lambda arguments: len(arguments), ["a", "b", "c"]) == 3
    assert cli.run_command(raise_usage_error, []) == 2
    assert capsys.readouterr() == ("", "error: no such thing; type another\n")
    assert cli.run_command(raise_interrupt, []) == 130


def test_a_reader_that_has_gone_is_no_traceback():
    code = (
        "import sys; from tune_kd import cli\n"
        "def main(arguments):\n"
        "    for _ in range(100000): print('x' * 100)\n"
        "    return 0\n"
        "sys.exit(cli.run_command(main, []))\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1"
    environ = {**os.environ, "PYTHONPATH": ROOT}
    shell = ["sh", "-c", command]
    process = subprocess.run(shell, env=environ, capture_output=True, text=True, check=True)
    assert process.stderr == ""


def test_the_same_command_again_is_one_that_the_shell_takes():
    arguments = ["--space", "my space.py", "--set", "lr=0.1"]
    again = cli.command_line("tune_kd.search", arguments, "--resume")
    assert shlex.split(again) == ["python", "-m", "tune_kd.search", *arguments, "--resume"]
    assert cli.command_line("tune_kd.search", ["--resume"], "--resume").count("--resume") == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("search --repeats 3 --resume", "search --resume --repeats 5"),
        ("search --repeats=3 --resume", "search --resume --repeats 5"),
        ("search --resume --repeats 3", "search --resume --repeats 5"),
        ("search --space 'my space.py'", "search --space 'my space.py' --repeats 5"),
        ("run_search('x', ..., resume=True)", "run_search('x', ..., resume=True, repeats=5)"),
    ],
)
def test_an_option_stands_once_in_a_command(command, expected):
    assert cli.with_option(command, "--repeats", 5) == expected


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "tune_kd.search",
            [
                "--space",
                "--trials",
                "--repeats",
                "--epochs",
                "--methods",
                "--data",
                "--limit-train",
                "--set",
                "--out",
                "--name",
                "--seed",
                "--resume",
                "--sampler",
                "--scheduler",
                "--cpus-per-trial",
                "--gpus-per-trial",
                "--max-concurrent",
                "--time-budget",
                "--address",
                "--dry-run",
                "--quiet",
                "--teacher",
            ],
        ),
        ("tune_kd.train_teacher", ["--space", "--epochs", "--set", "--data"]),
        ("tune_kd.confirm", ["--seeds", "--no-defaults"]),
        ("analysis.report", ["--out"]),
    ],
)
def test_help_answers_without_heavy_imports(module, names):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as done:\n"
        "    assert done.code in (0, None)\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr == ""
    assert "loaded: []" in process.stdout
    assert [name for name in names if name not in process.stdout] == []
