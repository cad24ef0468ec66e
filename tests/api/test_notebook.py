"""Functions of a notebook's cell, sent to workers by value and found again by a new kernel."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tune_kd import notebook, plugins
from tune_kd.errors import UsageError

CELL = """
import math

WIDTH = 3

def helper(x):
    return math.floor(x) * WIDTH

class Base:
    def twice(self, x):
        return 2 * helper(x)

class Network(Base):
    pass

def build(x):
    def inner():
        return Network().twice(x)
    return inner()
"""
SHOW = """
from tune_kd import notebook
print(notebook.reference({name}))
"""


def kernel(code: str, name: str, *, cache: Path) -> str:
    """The reference that a fresh process gives to a function of its main module."""
    done = subprocess.run(
        [sys.executable, "-c", code + SHOW.format(name=name)],
        capture_output=True,
        text=True,
        check=False,
        env={"TUNE_KD_CACHE": str(cache), "PYTHONPATH": str(Path(notebook.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_function_of_a_file_is_named_by_it() -> None:
    assert notebook.reference(kernel) == f"{Path(__file__).resolve()}:kernel"


def test_a_cells_function_works_where_its_cell_was_not_run(tmp_path: Path) -> None:
    named = kernel(CELL, "build", cache=tmp_path)
    assert plugins.is_reference(named)
    assert plugins.path_of(named).parent == tmp_path / "code"
    build = plugins.load_function(named)
    assert build(2.5) == 2 * math.floor(2.5) * 3
    network = plugins.load_function(kernel(CELL, "Network", cache=tmp_path))
    assert network().twice(1.5) == 6


def test_a_new_kernel_gives_the_same_name(tmp_path: Path) -> None:
    first = kernel(CELL, "build", cache=tmp_path / "a")
    again = kernel(CELL, "build", cache=tmp_path / "b")
    assert Path(first).name == Path(again).name


@pytest.mark.parametrize(
    ("old", "new"),
    [("WIDTH = 3", "WIDTH = 4"), ("2 * helper", "3 * helper"), ("floor", "ceil")],
    ids=["a global", "a base's method", "a helper"],
)
def test_what_a_function_uses_is_in_its_name(tmp_path: Path, old: str, new: str) -> None:
    before = kernel(CELL, "build", cache=tmp_path)
    assert kernel(CELL.replace(old, new), "build", cache=tmp_path) != before


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match="find a function by its name"):
        notebook.reference(lambda: 0)


def test_what_cannot_be_sent_is_refused_and_named(tmp_path: Path) -> None:
    code = "import threading\nLOCK = threading.Lock()\ndef build():\n    return LOCK\n"
    code += (
        "import tune_kd\ntry:\n    from tune_kd import notebook\n    notebook.reference(build)\n"
    )
    code += "except tune_kd.UsageError as error:\n    print(error)\n    raise SystemExit\n"
    said = kernel(code, "build", cache=tmp_path)
    assert said.startswith("build cannot be sent to workers: TypeError: cannot pickle")
    assert "define it in a file" in said


def test_a_file_of_another_python_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "build_0.pkl"
    path.write_bytes(pickle.dumps(1)[:-2])
    with pytest.raises(UsageError, match="was defined in a notebook and cannot be loaded here"):
        plugins.load_function(f"{path}:build")
