"""Networks trained for a moment, the files that hold them, and what a check of one printed and wrote."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_kd import files
from tune_kd.data import splits, tasks
from tune_kd.evaluation import diagnostics
from tune_kd.evaluation.checkpoint import ExpectedModel, load
from tune_kd.execution import worker
from tune_kd.models import registry
from tune_kd.recipe import Distill, Images, Optimizer, Recipe
from tune_kd.space import loader
from tune_kd.study.proposal import Proposal
from tune_kd.training import context, external_weights, trial
from tune_kd.workflows import evaluate

SHAPE = registry.Shape(num_classes=10, channels=1, size=(8, 8))
LIMIT = 600


@functools.cache
def session_cache() -> Path:
    return files.cache_folder()


session_cache()  # now, while TUNE_KD_CACHE is the session's


@functools.cache
def digits() -> Images:
    """The digits as a search over some of them sees them: with statistics of their own."""
    task = tasks.find("digits")
    decoded = tasks.decode(task, "train", folder=None, cache=session_cache())
    fit, _ = splits.split(decoded, limit=LIMIT, seed=0)
    mean, std = splits.normalisation(task, decoded, fit)
    return Images(
        task="digits",
        train_hash=decoded.hash,
        num_classes=10,
        channels=1,
        size=(8, 8),
        mean=mean,
        std=std,
        limit_train=LIMIT,
        pad=1,
        flip=False,
    )


@functools.cache
def dump_student(
    *, student: str = "digits_student", compression: tuple[Any, ...] = (), epochs: int = 30
) -> bytes:
    """A network trained for a moment, as a worker writes it."""
    first = Distill(epochs=epochs, optimizer=Optimizer(lr=0.1), batch_size=32)
    recipe = Recipe(images=digits(), student=student, stages=(first, *compression))
    ctx = trial.NodeContext(cache=session_cache())
    *_, last = trial.run(recipe, seed=0, ctx=ctx)
    proposal = Proposal(
        trial="t", phase="search", method="no_kd", number=0, seed=0, origin="default", recipe=recipe
    )
    return worker._dump_weights(proposal, last)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def checkpoint(path: Path, network: str, change: Callable[[Any], None] | None = None) -> Path:
    """A state dict as any script writes it, of fresh or of changed weights."""
    model = registry.build(network, shape=SHAPE, seed=1)
    if change:
        with torch.no_grad():
            change(model)
    torch.save(model.state_dict(), path)
    return path


class CommandResult:
    """What a run printed and wrote."""

    def __init__(self, code: int, out: str, err: str, folder: Path) -> None:
        self.code, self.out, self.err, self.folder = code, out, err, folder
        file = folder / "evaluation.json"
        self.evaluation: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def alarms(self) -> list[str]:
        return [alarm["name"] for alarm in self.evaluation["alarms"]]

    @property
    def test_access(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "test_access").glob("*"))


Run = Callable[..., CommandResult]


def by_hand(network: str, state: dict[str, Any], images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, 10] of the test images one by one, and their labels: apart from the package's loop."""
    model = registry.build(network, shape=SHAPE)
    model.load_state_dict(state)
    model.eval()
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=session_cache())
    scores = []
    with torch.no_grad():
        for pixels in np.asarray(decoded.images):
            image = torch.tensor(pixels[:, :, 0], dtype=torch.float32)[None, None]
            image = (image / 255 - images.mean[0]) / images.std[0]
            scores.append(model(image)[0].numpy())
    return np.stack(scores), np.asarray(decoded.labels)


def assess(path: Path | str, space: str = "digits_kd") -> dict[str, Any]:
    """An evaluation without timing: scored on the test split, and its alarms."""
    search_space, file = loader.load(space)
    ctx = context.NodeContext(cache=session_cache(), code=file.parent)
    expected = ExpectedModel(space=search_space, images=digits(), ctx=ctx)
    one = load(external_weights.find(str(path), option="--weights"), expected)
    scores, _ = evaluate.score(one, 100)
    evaluation = evaluate.finite({**evaluate.facts(one, expected), **scores, "profile": {}})
    alarms = {alarm.name: alarm for alarm in diagnostics.diagnose(evaluation)}
    return {**evaluation, "alarms": alarms}
