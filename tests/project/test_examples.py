"""The examples run, and the README says what is true: its spaces load, its options exist."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tune_kd import losses, plugins
from tune_kd.data import splits, tasks
from tune_kd.data.batch import Batch
from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.models.taps import Taps
from tune_kd.recipe import Images, Recipe
from tune_kd.space import SearchSpace, loader, overrides
from tune_kd.training import context, trial

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "own_data_and_network"
FILE = FOLDER / "shapes_kd.py"
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{n}.md" for n in ("reading", "customizing", "running")),
]


def run(command: list[str], *, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


@pytest.fixture
def example(cache: Path) -> tuple[SearchSpace, Images, trial.NodeContext]:
    """The example's space, cut to one epoch, and its images."""
    space, file = loader.load(str(FILE))
    assert file == FILE
    space = overrides.with_fields(space, {"student.epochs": 1, "teacher.epochs": 1})
    task = tasks.find(space.task, base=FOLDER)
    decoded = tasks.decode(task, "train", folder=None, cache=cache)
    fit, _ = splits.split(decoded)
    mean, std = splits.normalisation(task, decoded, fit)
    images = Images(
        task=space.task,
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        channels=task.channels,
        size=task.sides,
        mean=mean,
        std=std,
        pad=task.pad,
        flip=task.flip,
    )
    return space, images, trial.NodeContext(cache=cache, code=FOLDER)


def train_epoch(
    recipe: Recipe, ctx: trial.NodeContext
) -> tuple[Mapping[str, float], dict[str, torch.Tensor]]:
    """What the recipe's only epoch measured, and the weights that it gave."""
    (report,) = trial.run(recipe, seed=0, ctx=ctx)
    weights = {k[6:]: v.contiguous() for k, v in report.state.items() if k.startswith("model.")}
    return report.values, weights


def test_every_method_of_the_example_trains_its_own_networks_on_its_own_images(
    example: tuple[SearchSpace, Images, trial.NodeContext], tmp_path: Path
) -> None:
    space, images, ctx = example
    _, weights = train_epoch(
        Recipe(images=images, student=space.teacher.network, stages=space.teacher_stages()), ctx
    )
    save_file(weights, tmp_path / "teacher.safetensors")
    ctx = dataclasses.replace(ctx, model=lambda name: tmp_path / f"{name}.safetensors")
    for name, method in space.methods.items():
        recipe = Recipe(
            images=images,
            student=space.student.network,
            stages=space.stages(name, method.settings()[0]),
            teacher=space.teacher.network,
            teacher_model="teacher",
        )
        values, student = train_epoch(recipe, ctx)
        uses = recipe.stages[0].weights
        used = {"hard_loss": uses.alpha, "soft_loss": uses.beta, "feature_loss": uses.gamma}
        assert {k: values[k] > 0 for k in used} == {k: w > 0 for k, w in used.items()}, name
        total = sum(weight * values[term] for term, weight in used.items())
        assert values["train_loss"] == pytest.approx(total, rel=1e-4)
        assert values["num_params"] == sum(
            tensor.numel()
            for key, tensor in student.items()
            if "running" not in key and tensor.ndim
        )


def test_the_methods_are_the_four_and_one_of_its_own() -> None:
    space, _ = loader.load(str(FILE))
    assert list(space.methods) == ["no_kd", "response", "feature", "combined", "soft_only"]
    (stage,) = space.stages("soft_only", space.methods["soft_only"].settings()[0])
    assert (stage.weights.alpha, stage.weights.beta, stage.weights.gamma) == (0.0, 1.0, 0.0)


def test_its_feature_loss_is_zero_at_equality_and_gives_the_teacher_no_gradient() -> None:
    space, _ = loader.load(str(FILE))
    loss = losses.find_feature_loss(space.feature_loss, base=FOLDER)
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.rand(4, 6, 5, 5, generator=generator).requires_grad_() for _ in range(2))
    labels = torch.zeros(4, dtype=torch.int64)
    batch = Batch(torch.zeros(4, 1, 16, 16), labels, torch.arange(4))

    def outputs(features: torch.Tensor) -> losses.Outputs:
        return losses.Outputs(torch.zeros(4, 3), {"high": features})

    assert loss(outputs(one), outputs(one.detach()), batch).item() == 0.0
    different = loss(outputs(one), outputs(two.detach()), batch)
    assert different.item() > 0
    different.backward()
    assert bool(one.grad.any())


def test_dropout_reaches_its_student(
    example: tuple[SearchSpace, Images, trial.NodeContext],
) -> None:
    space, images, ctx = example
    recipe = Recipe(images=images, student=space.student.network)
    model = context.build(space.student.network, recipe, ctx, dropout=0.25, seed=0)
    assert model.dropout.rate.item() == 0.25


def test_the_same_images_as_class_folders_are_the_same_data(
    example: tuple[SearchSpace, Images, trial.NodeContext], tmp_path: Path
) -> None:
    space, images, ctx = example
    task = tasks.find(space.task, base=FOLDER)
    read = plugins.load_function("shapes.py:read", base=FOLDER)
    for split in ("train", "test"):
        raw = read(split, None, tmp_path)
        for number, (image, label) in enumerate(zip(raw.images, raw.labels, strict=True)):
            place = tmp_path / "own" / split / raw.class_names[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:04d}.png")
    decoded = tasks.decode(task, "train", folder=tmp_path / "own", cache=ctx.cache)
    assert decoded.hash == images.train_hash


def test_the_dry_run_says_the_plan_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "tune_kd.search", "--space", str(FILE), "--dry-run"]
    process = run([*command, "--trials", "9"], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert re.search(
        r"^trials +10: 1 repeat of 2 for each of 5 methods", process.stdout, re.MULTILINE
    )
    assert re.search(r"^student +shapes\.py:student, 12 epochs", process.stdout, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir() if path != cache] == []


@pytest.mark.slow
def test_a_search_ships_the_files_of_the_example(tmp_path: Path, cache: Path) -> None:
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "tune_kd.search", "--space", str(FILE), "--quiet"]
    few = ["--trials", "5", "--epochs", "1", "--max-concurrent", "1"]
    process = run([*command, *few], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    study = tmp_path / "runs" / "shapes_kd"
    assert {path.name for path in (study / "space").iterdir()} == {"shapes.py", "shapes_kd.py"}
    rows = pq.read_table(study / "trials").to_pylist()
    searched = {row["method"]: row["status"] for row in rows if row["phase"] == "search"}
    assert searched == dict.fromkeys(loader.load(str(FILE))[0].methods, "finished")


# The README


def blocks(language: str) -> list[str]:
    text = "\n".join(page.read_text() for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


FILES = {code.split("\n")[0].removeprefix("# "): code for code in blocks("python")}
COMMANDS = [
    line.removesuffix("\\").strip()
    for code in blocks("sh")
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("python -m")
]


def test_the_readme_shows_every_command() -> None:
    assert {shlex.split(line)[2] for line in COMMANDS} == {
        "tune_kd.search",
        "tune_kd.train_teacher",
        "tune_kd.confirm",
        "tune_kd.evaluate",
        "analysis.report",
    }


def test_the_files_in_the_readme_make_a_space(tmp_path: Path) -> None:
    names = [name for name, code in FILES.items() if "SPACE = " in code]
    assert names == ["my_kd.py", "leaves_kd.py", "squared_kd.py", "low_rank_kd.py"]
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    plain, _ = loader.load(str(tmp_path / "my_kd.py"))
    assert plain.methods.keys() == {"no_kd", "response", "feature", "combined"}
    squared, _ = loader.load(str(tmp_path / "squared_kd.py"))
    (stage,) = squared.stages("squared", squared.methods["squared"].settings()[0])
    loss = losses.find_logit_loss(stage.logit_loss, stage.logit_options, base=tmp_path)
    outputs = losses.Outputs(torch.zeros(1, 2)), losses.Outputs(torch.full((1, 2), 3.0))
    assert loss(*outputs, Batch(torch.zeros(1), torch.tensor([0]), torch.tensor([0]))) == 9.0
    norms = losses.find_feature_loss("my_losses.py:norms", base=tmp_path)
    assert not norms.needs_projection
    leaves, file = loader.load(str(tmp_path / "leaves_kd.py"))
    assert leaves.methods.keys() == {"no_kd", "response", "feature", "combined"}
    task = tasks.find(leaves.task, base=file.parent)
    images = torch.zeros(2, task.channels, *task.sides)
    for network in (leaves.teacher.network, leaves.student.network):
        shape = registry.Shape(num_classes=5, channels=task.channels)
        model = registry.build(network, shape=shape, dropout=0.1, base=file.parent).eval()
        with torch.no_grad(), Taps(model, leaves.levels) as taps:
            assert model(images).shape == (2, 5)
        assert list(taps.features) == list(leaves.levels)
    with pytest.raises(UsageError, match="--data DIR"):
        tasks.decode(task, "train", folder=None, cache=tmp_path)


@pytest.mark.parametrize("module", sorted({shlex.split(line)[2] for line in COMMANDS}))
def test_options_in_the_readme_exist(module: str) -> None:
    process = run([sys.executable, "-m", module, "--help"])
    options = set(re.findall(r"--[a-z-]+", process.stdout))
    lines = [shlex.split(line, comments=True) for line in COMMANDS]
    used = {word for line in lines if line[2] == module for word in line[3:] if word[:2] == "--"}
    assert used - options == set()


def test_what_the_readme_links_to_is_there() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 250


@pytest.mark.slow
def test_the_readmes_lines_of_python_run(tmp_path: Path) -> None:
    (tmp_path / "quick.py").write_text(FILES["quick.py"])
    process = run([sys.executable, "quick.py"], cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "'temperature'" in process.stdout
    assert (tmp_path / "runs" / "digits_kd" / "report" / "index.html").is_file()


def names_of(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


def test_the_architecture_lists_every_folder() -> None:
    """Each folder and each module beside the folders has its line in ARCHITECTURE.md, and no other has."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.split("## The tree")[1].split("\n## ")[0]
    modules = names_of(tree, r"\b([a-z_0-9]+)\.py\b(?!:)")
    folders = names_of(tree, r"^  ([a-z_]+)/")
    for package in ("tune_kd", "analysis"):
        files = {path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
        assert files - modules == set()
        assert {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} <= folders
    packages = ("tune_kd", "analysis", "search_spaces", "examples", "tests")
    inside = {path.stem for package in packages for path in (ROOT / package).rglob("*.py")}
    assert modules - inside == set()
    assert {
        name for name in folders if not any((ROOT / p / name).is_dir() for p in packages)
    } == set()
