"""What the command lines share: errors of one line, durations, exit codes."""

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

from tune_kd.errors import SearchAborted, UsageError


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        print(f"error: {message}; --help shows what is allowed", file=sys.stderr)
        sys.exit(2)

    def parse(self, arguments: list[str] | None) -> argparse.Namespace:
        """Return the options; an unknown one is answered with the nearest known one."""
        options = [name for action in self._actions for name in action.option_strings]
        words = sys.argv[1:] if arguments is None else arguments
        for word in words:
            name = word.split("=")[0]
            if name.startswith("--") and name != "--" and name not in options:
                near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]}?" if near else f"; allowed: {' '.join(options)}"
                print(f"error: unknown option {name}{hint}", file=sys.stderr)
                sys.exit(2)
        return self.parse_args(words)


def positive_int(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def non_negative_int(text: str) -> int:
    """Return a whole number of at least 0."""
    if text.strip().startswith("-"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return 0 if text.strip() == "0" else positive_int(text)


def amount(text: str) -> float:
    """Return a number of at least 0, such as 0.25 of a GPU."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `45m`, `2h` or `1h30m`.

    >>> duration("90"), duration("45m"), duration("1h30m")
    (90.0, 2700.0, 5400.0)
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
        if not match or not text:
            raise argparse.ArgumentTypeError(f"write 90s, 45m, 2h or 1h30m, not {text!r}")
        units = (86400, 3600, 60, 1)
        seconds = float(sum(int(g or 0) * u for g, u in zip(match.groups(), units, strict=True)))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text!r}")
    return seconds


def run_command(command: Callable[[list[str]], int], arguments: list[str] | None = None) -> int:
    """Return the exit code of a command: 1 and 2 with one or two lines of why, 130 when interrupted."""
    try:
        return command(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SearchAborted as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def command_line(module: str, arguments: list[str], *extra: str) -> str:
    """Return this command again, with what is not there yet added.

    >>> command_line("tune_kd.search", ["--space", "x"], "--resume")
    'python -m tune_kd.search --space x --resume'
    """
    added = [word for word in extra if word not in arguments]
    return shlex.join(["python", "-m", module, *arguments, *added])


def with_option(command: str, name: str, value: object) -> str:
    """Return a command, or a call from Python, with an option in place of the one that it has.

    >>> with_option("python -m tune_kd.search --repeats=3 --space x", "--repeats", 5)
    'python -m tune_kd.search --space x --repeats 5'
    >>> with_option("tune_kd.run_search('x', ..., resume=True)", "--repeats", 5)
    "tune_kd.run_search('x', ..., resume=True, repeats=5)"
    """
    if command.endswith(")"):
        return f"{command[:-1]}, {name.removeprefix('--').replace('-', '_')}={value})"
    words: list[str] = []
    for word in shlex.split(command):
        if words and words[-1] == name:
            words.pop()  # with its value, which is this word
        elif not word.startswith(f"{name}="):
            words.append(word)
    return shlex.join([*words, name, str(value)])
