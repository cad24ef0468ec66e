"""Little trials that are real: recipes by hand on handwritten digits, a trained teacher, and running them."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tune_kd import files
from tune_kd.data import splits, tasks
from tune_kd.execution import worker
from tune_kd.models import registry
from tune_kd.recipe import Compute, Distill, Images, LossWeights, Optimizer, Recipe
from tune_kd.training import loop, trial
from tune_kd.training.logit_cache import LogitCache
from tune_kd.training.report import EpochReport
from tune_kd.training.stages.base import start_run
from tune_kd.training.stages.distill import build_projections, stage_inputs

WEIGHTS = {
    "no_kd": LossWeights(),
    "response": LossWeights(alpha=0.3, beta=0.7, temperature=4.0),
    "feature": LossWeights(gamma=0.5),
    "combined": LossWeights(alpha=1.0, beta=0.7, gamma=0.5, temperature=4.0),
}
TEACHER = "teacherofthetests"  # the model id that recipes name it by
LIMIT = 300  # training and validation images: 270 and 30, so that an epoch takes milliseconds


@functools.cache
def _decoded() -> tasks.Decoded:
    """Digits, decoded once a session."""
    return tasks.decode(tasks.find("digits"), "train", folder=None, cache=worker_cache())


def worker_cache() -> Path:
    """The session's cache; a test with a cache of its own must not be the first to decode."""
    folder = _first_cache()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def _first_cache() -> Path:
    return files.cache_folder()


_first_cache()  # now, while TUNE_KD_CACHE is the session's


@functools.cache
def teacher_file() -> Path:
    """A digits teacher of two epochs."""
    result = run(
        recipe(student="digits_teacher", epochs=2, images=digits()), context_in(worker_cache())
    )
    state = {k[6:]: v.contiguous() for k, v in result.state.items() if k.startswith("model.")}
    path = worker_cache() / "teacher.safetensors"
    safetensors.torch.save_file(state, path)
    return path


def context_in(cache: Path, **changes: Any) -> trial.NodeContext:
    """A place of its own that shares the decoded digits and knows the teacher."""
    cache.mkdir(parents=True, exist_ok=True)
    _decoded()
    shared = worker_cache() / "data"
    if not (cache / "data").exists():
        (cache / "data").symlink_to(shared, target_is_directory=True)
    return trial.NodeContext(
        **{"cache": cache, "model": lambda model_id: teacher_file(), **changes}
    )


def digits(**changes: Any) -> Images:
    """How the digits are seen by recipes of tests."""
    decoded = _decoded()
    plain = Images(
        task="digits",
        train_hash=decoded.hash,
        num_classes=10,
        channels=1,
        size=(8, 8),
        mean=(0.3,),
        std=(0.4,),
        val_share=0.1,
        pad=1,
        flip=False,
    )
    return replace(plain, **changes)


def recipe(
    method: str = "no_kd",
    *,
    epochs: int = 3,
    images: Images | None = None,
    student: str = "digits_student",
    optimizer: Optimizer | None = None,
    compute: Compute | None = None,
    **stage: Any,
) -> Recipe:
    """A recipe of one stage with the loss weights of a method."""
    weights = stage.pop("weights", WEIGHTS[method])
    listens = weights.beta > 0 or weights.gamma > 0
    return Recipe(
        images=images or digits(limit_train=LIMIT),
        student=student,
        stages=(
            Distill(
                **{
                    "epochs": epochs,
                    "optimizer": optimizer or Optimizer(lr=0.1),
                    "weights": weights,
                    "batch_size": 64,
                    **stage,
                }
            ),
        ),
        teacher="digits_teacher" if listens else "",
        teacher_model=TEACHER if listens else "",
        compute=compute or Compute(),
    )


@dataclass
class RunResult:
    """What a run said: rows without times, and the state after each epoch as a checkpoint's bytes."""

    rows: list[dict[str, Any]]
    states: list[bytes]

    @property
    def state(self) -> dict[str, Tensor]:
        return safetensors.torch.load(self.states[-1])

    @property
    def last_of_training(self) -> dict[str, Tensor]:
        """The state before the last one: with projections and what the optimizer remembers."""
        return safetensors.torch.load(self.states[-2])


def row(report: EpochReport) -> dict[str, Any]:
    """A report without its seconds and its state."""
    names = ("stage", "stage_name", "epoch", "step", "last")
    return {**{name: getattr(report, name) for name in names}, **report.values}


def reports(
    recipe: Recipe, ctx: trial.NodeContext, *, seed: int = 0, **options: Any
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Rows and states, taken while they are true: the next epoch writes into the same tensors."""
    for report in trial.run(recipe, seed=seed, ctx=ctx, **options):
        yield row(report), worker._save(report.state)


def run(recipe: Recipe, ctx: trial.NodeContext, *, seed: int = 0, **options: Any) -> RunResult:
    """A recipe from its first epoch, or from `resume`, to its last."""
    pairs = list(reports(recipe, ctx, seed=seed, **options))
    return RunResult([r for r, _ in pairs], [s for _, s in pairs])


def run_until(recipe: Recipe, ctx: trial.NodeContext, epoch: int, *, seed: int = 0) -> RunResult:
    """A run that is killed after so many reports."""
    pairs = list(itertools.islice(reports(recipe, ctx, seed=seed), epoch))
    return RunResult([r for r, _ in pairs], [s for _, s in pairs])


def assert_same(one: RunResult, other: RunResult) -> None:
    """Every value of every row and every tensor of the last state, bit for bit."""
    assert one.rows == other.rows
    assert_same_state(one.state, other.state)


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    unequal = [name for name in one if not torch.equal(one[name], other[name])]
    assert not unequal


@dataclass
class Bench:
    """One stage's parts, put together as trial.run does it, for tests that look inside."""

    work: loop.StageInputs
    learner: loop.TrainState


def bench(recipe: Recipe, ctx: trial.NodeContext, *, seed: int = 0) -> Bench:
    stage = recipe.stages[0]
    assert isinstance(stage, Distill)
    run = start_run(recipe, seed=seed, ctx=ctx, access=None)
    model, _, _ = trial.enter_stage(run, None)
    work = stage_inputs(run, model, stage)
    projections = build_projections(run, model, stage)
    return Bench(work, loop.TrainState(model, projections, stage.optimizer))


def noise_task(folder: Path, *, count: int = 60) -> str:
    """A user's task of random 32x32 colour images with crops and mirroring: its reference."""
    (folder / "noise.py").write_text(
        f"""\
import numpy as np
from tune_kd.data.tasks import Raw, Task

def read(split, folder, cache):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, ({count}, 32, 32, 3), dtype=np.uint8)
    return Raw(images=images, labels=np.arange({count}) % 3, class_names=("a", "b", "c"))

def task():
    return Task(name="noise", size=32, channels=3, pad=4, flip=True, read=read)
"""
    )
    return "noise.py:task"


def save_untrained(name: str, shape: registry.Shape, path: Path) -> Path:
    """A network whose normalisation has seen some images, as a file."""
    model = registry.build(name, shape=shape, seed=5).train()
    images = torch.randn((64, shape.channels, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images)
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def logit_cache(
    folder: Path, *, size: int = 10, key: str = "key", log: Path | None = None, before: Any = None
) -> LogitCache:
    """A logit cache of numbers that say where they belong; `log` gets a line for each that is computed."""

    def compute(epoch: int, positions: np.ndarray) -> Tensor:
        if before is not None:
            before(epoch, positions)
        if log is not None:
            with log.open("a") as file:
                file.write("".join(f"{epoch} {position}\n" for position in positions))
        return numbers(epoch, positions)

    return LogitCache(folder, key, size=size, compute=compute)


def numbers(epoch: int, positions: np.ndarray) -> Tensor:
    """Exact in float16."""
    return torch.from_numpy(np.stack([positions, np.full(len(positions), epoch)], 1)).float()


def accuracy_of(model: nn.Module, images: splits.DeviceImages, labels: Tensor) -> float:
    """Accuracy computed apart from the package: one image at a time."""
    model.eval()
    with torch.no_grad():
        batches = [images.plain_batch(torch.tensor([i])) for i in range(len(labels))]
        guesses = [int(model(batch.images).argmax()) for batch in batches]
    hits = [guess == int(label) for guess, label in zip(guesses, labels, strict=True)]
    return float(np.mean(hits))
