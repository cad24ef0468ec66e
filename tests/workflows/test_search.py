"""What a search says at its end: how to add the repeats that a verdict about a method needs."""

import pytest

from tests.helpers import made_study
from tune_kd import cli
from tune_kd.workflows import search


@pytest.fixture(scope="module")
def last_lines(tmp_path_factory):
    """What gives the summary of a search of two repeats, by the command that resumes it."""
    request = made_study.request(tmp_path_factory.mktemp("search") / "x", trials=40, repeats=2)
    study = made_study.begin(request)
    return lambda command: list(search.summary(study, request, command))


@pytest.mark.parametrize(
    ("options", "others"),
    [
        (["--repeats", "2"], []),
        (["--repeats=2"], []),
        (["--repeats", "2", "--quiet"], ["--quiet"]),
        (["--trials", "40"], ["--trials", "40"]),
    ],
)
def test_the_hint_replaces_the_repeats_of_the_command(last_lines, options, others):
    arguments = ["--space", "digits_kd", *options]
    hint, _ = last_lines(cli.command_line("tune_kd.search", arguments, "--resume"))
    command = cli.command_line("tune_kd.search", ["--space", "digits_kd", *others], "--resume")
    assert hint.startswith("2 of 3 repeats: ")
    assert hint.endswith(f"; to add them: {command} --repeats 3")


def test_the_hint_of_a_call_from_python_is_a_call(last_lines):
    hint, last = last_lines("tune_kd.run_search('digits_kd', ..., resume=True)")
    call = "tune_kd.run_search('digits_kd', ..., resume=True, repeats=3)"
    assert hint.endswith(f"; to add them: {call}")
    assert last.endswith("resume with: tune_kd.run_search('digits_kd', ..., resume=True)")
