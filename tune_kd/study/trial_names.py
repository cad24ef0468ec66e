"""Names of trials: each is composed here, and recognized here.

A name is the trial's file name in a study (`proposals/<trial>.json`), so what these functions
return must not change. An id is cut to its first 8 characters. Methods may have any name, also one
with hyphens: which kind of trial a row has is said by its `phase`, not by its name.
"""

import re

ID_LENGTH = 8  # characters of an id in a name
_SEARCH = re.compile(r"(?P<method>.+)-r(?P<repeat>\d+)-(?P<number>\d{4,})")


def search_trial(method: str, repeat: int, number: int) -> str:
    """Return the name of a search trial.

    >>> search_trial("no_kd", 2, 7)
    'no_kd-r2-0007'
    """
    return f"{method}-r{repeat}-{number:04d}"


def parse_search_trial(name: str) -> tuple[str, int, int]:
    """Return method, repeat and number of a search trial.

    Raises:
        ValueError: it is not the name of a search trial.

    >>> parse_search_trial("no_kd-r2-0007")
    ('no_kd', 2, 7)
    """
    match = _SEARCH.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a search trial")
    return match["method"], int(match["repeat"]), int(match["number"])


def refit_trial(phase: str, *, source: str, seed: int) -> str:
    """Return the name of the run that trains the search trial `source` again, with a fresh seed.

    `phase` is "reevaluate" (scored on validation) or "confirm" (scored on test).

    >>> refit_trial("confirm", source="no_kd-r2-0007", seed=3000)
    'confirm-no_kd-r2-0007-s3000'
    """
    return f"{phase}-{source}-s{seed}"


def confirm_trial(role: str) -> str:
    """Return the name of the run that scores a finished model on test: of the "teacher" or the "start".

    >>> confirm_trial("teacher")
    'confirm-teacher'
    """
    return f"confirm-{role}"


def measure_trial(role: str) -> str:
    """Return the name of a measurement of size and speed.

    `role` is "teacher", "student", or the search trial whose student is measured.

    >>> measure_trial("student"), measure_trial("prune-r0-0003")
    ('measure-student', 'measure-prune-r0-0003')
    """
    return f"measure-{role}"


def teacher_trial(model_id: str) -> str:
    """Return the name of the trial that trains or measures the teacher.

    >>> teacher_trial("0123456789abcdef")
    'teacher-01234567'
    """
    return f"teacher-{model_id[:ID_LENGTH]}"


def shared_trial(recipe_id: str) -> str:
    """Return the name of the trial that trains the first stages which several trials share.

    >>> shared_trial("0123456789abcdef")
    'shared-01234567'
    """
    return f"shared-{recipe_id[:ID_LENGTH]}"


def start_trial(model_id: str) -> str:
    """Return the name of the trial that measures the model given in place of shared stages.

    >>> start_trial("0123456789abcdef")
    'start-01234567'
    """
    return f"start-{model_id[:ID_LENGTH]}"


def is_start_trial(name: str) -> bool:
    """Return whether a trial of phase teacher measures the model given as `start`, at any try.

    >>> is_start_trial("start-01234567-2"), is_start_trial("shared-01234567")
    (True, False)
    """
    return name.startswith(start_trial(""))


def retry_trial(trial: str, number: int) -> str:
    """Return the name of a try at a trial; the first, number 1, has the plain name.

    >>> retry_trial("teacher-01234567", 1), retry_trial("teacher-01234567", 2)
    ('teacher-01234567', 'teacher-01234567-2')
    """
    return trial if number == 1 else f"{trial}-{number}"


def retry_number(name: str, *, trial: str) -> int | None:
    """Return which try at `trial` a name is, from 1; None where it is of another trial.

    >>> retry_number("teacher-01234567-2", trial="teacher-01234567")
    2
    """
    if name == trial:
        return 1
    number = name.removeprefix(f"{trial}-")
    return int(number) if number != name and number.isdecimal() else None
