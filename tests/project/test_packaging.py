"""What a stranger's machine needs: pins that fit, nothing of ours in the files, light entry points."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tune_kd

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("analysis", "search_spaces", "tune_kd")
REQUIRED = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["project"]["optional-dependencies"].items()
}
OPTIONAL = [requirement for extra in EXTRAS.values() for requirement in extra]
PINNED = [*REQUIRED, *(r for r in OPTIONAL if r.name != PROJECT["project"]["name"])]
ENTRY_POINTS = [
    name
    for name in ("tune_kd.search", "tune_kd.train_teacher", "tune_kd.confirm", "tune_kd.evaluate")
    if (ROOT / f"{name.replace('.', '/')}.py").exists()
]

# Joined here, so that this file does not hold what it looks for.
HOSTS = (r"py" + r"pi\.org", r"python" + r"hosted\.org", r"download\.py" + r"torch\.org")
FOLDERS = ("wo" + "rk", "tm" + "p/w", "op" + "t/wheels", "op" + "t/py" + "pi", "ro" + "ot")
UNWANTED = re.compile("|".join((*HOSTS, *(rf"(?<![\w.~-])/{name}/" for name in FOLDERS))))


def tracked_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: no list of the project's files")
    return [ROOT / name for name in output.split("\0") if name and (ROOT / name).is_file()]


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    split = (line.split("==") for line in constraint_lines())
    return {canonicalize_name(name): version for name, version in split}


def test_no_file_names_a_package_host_or_a_machine_of_ours() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if UNWANTED.search(line)
    ]
    assert lines == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://" + "py" + "pi.org/simple",
        "https://files.python" + "hosted.org/x.whl",
        "see /wo" + "rk/main",
    ],
)
def test_what_is_looked_for_would_be_found(line: str) -> None:
    assert UNWANTED.search(line)


def test_constraints_are_exact_versions_only() -> None:
    wrong = [n for n in constraint_lines() if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", n)]
    assert wrong == []
    assert len(pins()) == len(constraint_lines())


@pytest.mark.parametrize("requirement", PINNED, ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_imported_is_required() -> None:
    providers = importlib.metadata.packages_distributions()
    requirements = [*REQUIRED, *EXTRAS["compress"]]  # the extra's two are imported inside functions
    required = {canonicalize_name(requirement.name) for requirement in requirements}
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in _imports_of(path) - sys.stdlib_module_names - set(PACKAGES)
        if not required & {canonicalize_name(provider) for provider in providers.get(name, [])}
    }
    assert missing == set()


def _imports_of(path: Path) -> set[str]:
    """The first part of each module that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | froms}


def test_installed_version_is_the_packages() -> None:
    try:
        installed = importlib.metadata.version("tune_kd")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from the checkout, not installed")
    assert installed == tune_kd.__version__


def test_every_package_is_typed_and_has_its_init() -> None:
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(pattern.rstrip("*") for pattern in patterns) == sorted(PACKAGES)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file()
    assert (ROOT / "tune_kd" / "py.typed").is_file()
    assert (ROOT / "analysis" / "py.typed").is_file()


@pytest.mark.parametrize("package", ["tune_kd", "analysis"])
def test_no_folder_shadows_the_standard_library(package: str) -> None:
    """`ray submit cluster.yaml tune_kd/search.py` puts the folder of that file on the path."""
    names = {path.stem for path in (ROOT / package).iterdir() if path.suffix in ("", ".py")}
    later = {"compression", "profiling"}  # of Python 3.14 and 3.15
    assert (names - {"__init__"}) & (sys.stdlib_module_names | later) == (
        {"compression"} if package == "analysis" else set()  # reports are never run as scripts
    )


HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *{name.split(".")[0] for name in sys.modules} & {"torch", "torchvision", "ray"})
"""


def loaded_by_help(module: str) -> tuple[str, list[str]]:
    """What `python -m module --help` prints, and which heavy libraries it loads for that."""
    command = [sys.executable, "-c", HELP, module]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    text, _, loaded = run.stdout.rpartition("LOADED")
    return text, sorted(loaded.split())


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_help_does_not_wait_for_torch(module: str) -> None:
    text, loaded = loaded_by_help(module)
    assert module in text
    assert set(loaded) <= {"ray"}


@pytest.mark.skipif(not (ROOT / "analysis" / "report.py").exists(), reason="not written yet")
def test_report_loads_neither_torch_nor_ray() -> None:
    text, loaded = loaded_by_help("analysis.report")
    assert "analysis.report" in text
    assert loaded == []
