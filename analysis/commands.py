"""What to type next."""

import shlex

from analysis.study import Study

FEWEST_TRIALS = 5  # of each method in a repeat; the search refuses to add repeats of fewer
DROPPED = {"--repeats": 1, "--trials": 1, "--resume": 0}  # options and how many words follow them


def confirm_command(study: Study) -> str:
    """Return what confirms a study; once it was looked at, with the same number of seeds."""
    design = study.test_access.design
    words = ["python", "-m", "tune_kd.confirm", study.address]
    if design.get("seeds"):
        words += ["--seeds", str(design["seeds"])]
    if design and not design.get("defaults", True):
        words.append("--no-defaults")
    return shlex.join(words)


def search_command(study: Study, *, repeats: int = 0) -> str:
    """Return what goes on with the search, up to `repeats` repeats where a number is given."""
    command = study.manifest.command
    if not command:
        command = f"python -m tune_kd.search --space {shlex.quote(study.manifest.space)}"
    words = [*_without(shlex.split(command), DROPPED), "--resume"]
    return shlex.join([*words, "--repeats", str(repeats)] if repeats else words)


def _without(words: list[str], options: dict[str, int]) -> list[str]:
    """Return a command without some options.

    >>> _without(["x", "--trials", "8", "--repeats=3", "--resume", "--quiet"], DROPPED)
    ['x', '--quiet']
    """
    remaining_words, skip_count = [], 0
    for word in words:
        name = word.split("=")[0]
        if skip_count:
            skip_count -= 1
        elif name in options:
            skip_count = 0 if "=" in word else options[name]
        else:
            remaining_words.append(word)
    return remaining_words
