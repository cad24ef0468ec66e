"""Functions of a notebook's cell, sent to workers by value and found again by a new kernel."""

import functools
import importlib
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tune_kd import notebook, plugins
from tune_kd.errors import UsageError

CELL = """
import math

WIDTH = 3
BLOCKS = {"floor": math.floor, "names": {"a", "b", "c"}}

def helper(x):
    return BLOCKS["floor"](x) * WIDTH

class Base:
    factor = 2

    @staticmethod
    def scaled(x, power=1):
        return x ** power

    def twice(self, x):
        return self.scaled(self.factor * helper(x))

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
    process = subprocess.run(
        [sys.executable, "-c", code + SHOW.format(name=name)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONDONTWRITEBYTECODE": "1",
            "TUNE_KD_CACHE": str(cache),
            "PYTHONPATH": str(Path(notebook.__file__).parents[1]),
        },
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_a_function_of_a_file_is_named_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flat_nets.py").write_text("def build():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("flat_nets")
    monkeypatch.delitem(sys.modules, "flat_nets")  # at the end, as it was
    monkeypatch.setitem(sys.modules, "flat_nets", module)
    assert notebook.reference(module.build) == f"{(tmp_path / 'flat_nets.py').resolve()}:build"


def test_a_cells_function_works_where_its_cell_was_not_run(tmp_path: Path) -> None:
    reference = kernel(CELL, "build", cache=tmp_path)
    assert plugins.is_reference(reference)
    assert plugins.path_of(reference).parent == tmp_path / "code"
    build = plugins.load_function(reference)
    assert build(2.5) == 2 * math.floor(2.5) * 3
    network = plugins.load_function(kernel(CELL, "Network", cache=tmp_path))
    assert network().twice(1.5) == 6


def test_a_new_kernel_gives_the_same_name(tmp_path: Path) -> None:
    first = kernel(CELL, "build", cache=tmp_path / "a")
    again = kernel(CELL, "build", cache=tmp_path / "b")
    assert Path(first).name == Path(again).name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 3", "WIDTH = 4"),
        ("self.factor * helper", "3 * helper"),
        ("math.floor", "math.ceil"),
        ("factor = 2", "factor = 3"),
        ("power=1", "power=2"),
        ("x ** power", "x ** power + 0"),
        ("class Network(Base):\n    pass", "class Network(Base):\n    factor = 5"),
        ("return inner()", "return inner() + 0"),
    ],
    ids=[
        "a global",
        "a method of a base",
        "a dictionary's value",
        "a class attribute",
        "a default",
        "a static method",
        "a class that a nested function uses",
        "itself",
    ],
)
def test_what_a_function_uses_is_in_its_name(tmp_path: Path, old: str, new: str) -> None:
    before = kernel(CELL, "build", cache=tmp_path)
    assert kernel(CELL.replace(old, new), "build", cache=tmp_path) != before


@pytest.mark.parametrize(
    "more",
    ["mean = 3\ntwice = 4\n", "import os\nprint\n", "# a comment\n\n\n"],
    ids=["globals named like attributes", "what it does not use", "lines"],
)
def test_what_a_function_does_not_use_is_not_in_its_name(tmp_path: Path, more: str) -> None:
    before = kernel(CELL, "build", cache=tmp_path)
    assert kernel(more + CELL, "build", cache=tmp_path) == before


OWN = "def wide(x):\n    return x * {}\n"


def test_a_file_of_ones_own_goes_along_by_value_and_its_edit_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom helpmod import wide\ndef build(x):\n    return wide(x)\n"
    references = []
    for factor in (2, 5):
        (tmp_path / "helpmod.py").write_text(OWN.format(factor))
        reference = kernel(code, "build", cache=tmp_path / "cache")
        references.append(reference)
        assert plugins.load_function(reference)(3) == 3 * factor  # helpmod cannot be imported here
    assert references[0] != references[1]
    module_code = code.replace("from helpmod import wide", "import helpmod").replace(
        "wide(x)", "helpmod.wide(x)"
    )
    module_code += REFUSED
    assert "write 'from helpmod import ...'" in kernel(
        module_code, "build", cache=tmp_path / "cache"
    )


REFUSED = """
import tune_kd
from tune_kd import notebook
try:
    notebook.reference(build)
except tune_kd.UsageError as error:
    print(error)
    raise SystemExit
"""


def test_a_function_of_an_installed_package_goes_by_its_name(cache: Path) -> None:
    from torchvision.models import resnet18

    reference = notebook.reference(resnet18)
    assert reference.endswith(".pkl:resnet18")
    assert plugins.load_function(reference) is resnet18


@pytest.mark.parametrize(
    "value",
    [3, torch.nn.Linear(2, 2), functools.partial(kernel, "x")],
    ids=["number", "module", "partial"],
)
def test_what_is_neither_function_nor_class_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="where a function or class is expected"):
        notebook.reference(value)  # type: ignore[arg-type]


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match="find a function by its name"):
        notebook.reference(lambda: 0)


def test_what_cannot_be_sent_is_refused_and_named(tmp_path: Path) -> None:
    code = "import threading\nLOCK = threading.Lock()\ndef build():\n    return LOCK\n"
    message = kernel(code + REFUSED, "build", cache=tmp_path)
    assert message.startswith("a lock cannot be sent to workers: TypeError: cannot pickle")
    assert "define what uses it in a file" in message


def test_a_file_of_another_python_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "build_0.pkl"
    path.write_bytes(pickle.dumps(1)[:-2])
    with pytest.raises(UsageError, match="was defined in a notebook and cannot be loaded here"):
        plugins.load_function(f"{path}:build")
