"""Response distillation: a logit cache that all trials share, against a teacher asked in every step.

    python -m benchmarks.logit_cache --data DIR --images 5000

Both train the same student with the same batches, views and losses, by the same code; they differ in
where the teacher's logits come from. The other side is what tutorials write: the teacher's forward,
without gradients, for each batch of each trial. On our side the first trial fills the logit cache of an epoch
and every other trial reads it, so the ratio grows with the number of trials.
"""

import functools
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import common
from tune_kd import cli, losses
from tune_kd.data import splits
from tune_kd.data.batch import Batch
from tune_kd.data.tasks import Decoded
from tune_kd.models import registry
from tune_kd.recipe import Distill, Images, LossWeights, Optimizer, Recipe, stream
from tune_kd.training import context, loop, teacher
from tune_kd.training.logit_cache import LogitCache

SEED = 0


class Remembered:
    """Images whose last batch is not made twice: the live teacher and its student see the same one."""

    def __init__(self, images: splits.DeviceImages) -> None:
        self._images, self.labels = images, images.labels
        self._last: tuple[int, Tensor, Batch] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def whole(self, index: Tensor) -> Batch:
        """Images as they are."""
        return self._images.whole(index)

    def seen(self, *, seed: int, epoch: int, among: Tensor) -> Callable[[Tensor], Batch]:
        """Batches of an epoch, the last one again where the same images are asked for."""
        look = self._images.seen(seed=seed, epoch=epoch, among=among)

        def remembered(index: Tensor) -> Batch:
            last = self._last
            if last is None or last[0] != epoch or not torch.equal(last[1], index):
                last = self._last = epoch, index, look(index)
            return last[2]

        return remembered


class Live:
    """In place of a logit cache: the teacher's forward for each batch, on the images that are trained on."""

    def __init__(self, frozen: teacher.FrozenTeacher, fold: splits.DeviceSplit) -> None:
        self._frozen, self._fold = frozen, fold
        self._seen = fold.seen(SEED, 0)

    def epoch(self, epoch: int) -> "Live":
        """Itself, with the epoch's views."""
        self._seen = self._fold.seen(SEED, epoch)
        return self

    def to(self, device: torch.device) -> "Live":
        """Itself: it is where the images are."""
        del device
        return self

    def __getitem__(self, position: Tensor) -> Tensor:
        """Scores of the images at these positions of the training set."""
        return self._frozen.outputs(self._seen(self._fold.fit[position]).images)[0]


def recipe_of(given: Any, decoded: Decoded) -> Recipe:
    """Response distillation in one stage."""
    stage = Distill(
        epochs=given.epochs,
        optimizer=Optimizer(lr=0.05),
        weights=LossWeights(alpha=0.5, beta=0.5, temperature=4.0),
        batch_size=given.batch_size,
    )
    images = Images(
        task="cifar10",
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        mean=common.MEAN,
        std=common.STD,
        view_seed=SEED,
    )
    return Recipe(images=images, student=given.student, teacher=given.teacher, stages=(stage,))


class Bench:
    """Trials of one recipe, whose teacher is read from a logit cache or asked each time."""

    def __init__(self, recipe: Recipe, decoded: Decoded) -> None:
        count = len(decoded.labels)
        images = splits.resident(decoded, images=recipe.images)
        self.recipe, self._site = recipe, context.NodeContext(cache=Path())
        self.fold = splits.DeviceSplit(
            images=images,
            fit=torch.arange(count),
            validation=torch.arange(0),
            num_classes=recipe.images.num_classes,
            sides=(32, 32),
        )
        self.frozen = teacher.FrozenTeacher(self._network(recipe.teacher), precision="float32")

    def _network(self, name: str) -> nn.Module:
        return context.build(name, self.recipe, self._site, seed=stream(SEED, name))

    def logit_cache(self, cache: Path) -> LogitCache:
        """Return a logit cache below a folder."""
        there = replace(self._site, cache=cache)
        return context.logit_cache(self.recipe, self.frozen, self.fold, ctx=there)

    def live(self) -> Live:
        """Return the teacher itself."""
        fold = replace(self.fold, images=Remembered(self.fold.images))
        return Live(self.frozen, fold)

    def train(self, source: Any) -> list[float]:
        """One trial from its first epoch to its last; the losses."""
        stage = self.recipe.stages[0]
        fold = source._fold if isinstance(source, Live) else self.fold
        work = loop.StageInputs(
            stage=stage,
            number=0,
            first_step=0,
            seed=SEED,
            view_seed=SEED,
            fold=fold,
            compute=self.recipe.compute,
            teacher=None,  # neither side checks the teacher's weights at the end
            logit_cache=source,
            terms=losses.LossOptions(),
        )
        learner = loop.TrainState(self._network(self.recipe.student), nn.Module(), stage.optimizer)
        return [epoch.values["train_loss"] for epoch in loop.train(work, learner)]


def rounds(bench: Bench, *, repeats: int, trials: int) -> dict[str, list[float]]:
    """CPU seconds of whole trials, by kind, one number a round; each round begins with an empty logit cache."""
    found: dict[str, list[float]] = {"live": [], "fill": [], "read": [], "ours": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            logit_cache = bench.logit_cache(Path(folder))
            sources = [bench.live(), *[logit_cache] * trials]
            timed = [common.cpu_seconds(functools.partial(bench.train, s)) for s in sources]
        live, *ours = (seconds for seconds, _ in timed)
        theirs, first, *others = (values for _, values in timed)
        assert all(other == first for other in others), "trials that read the logit cache differ"
        differ = max(abs(a - b) / b for a, b in zip(theirs, first, strict=True))
        assert differ < 0.02, (
            f"the two ways do not train the same student: losses differ by {differ:.1%}"
        )
        found["live"].append(live)
        found["fill"].append(ours[0])
        found["read"].append(statistics.mean(ours[1:]) if ours[1:] else ours[0])
        found["ours"].append(statistics.mean(ours))
    return found


def main(arguments: list[str]) -> int:
    """Time both in turns and print seconds an epoch and the ratio."""
    parser = common.parser("benchmarks.logit_cache", __doc__)
    add = parser.add_argument
    add("--images", type=cli.positive_int, default=384, help="[384]")
    add("--epochs", type=cli.positive_int, default=1, help="of a trial [1]")
    add("--trials", type=cli.positive_int, default=4, help="that share the logit cache [4]")
    add("--batch-size", type=cli.positive_int, default=128, help="[128]")
    add("--repeats", type=cli.positive_int, default=3, help="rounds, both sides in each [3]")
    add(
        "--teacher",
        choices=list(registry.MODELS),
        default="resnet18",
        metavar="NAME",
        help="[resnet18]",
    )
    add(
        "--student",
        choices=list(registry.MODELS),
        default="resnet8",
        metavar="NAME",
        help="[resnet8]",
    )
    given = parser.parse(arguments)

    torch.set_num_threads(1)
    decoded = common.images(given.data, given.images)
    bench = Bench(recipe_of(given, decoded), decoded)
    bench.frozen.outputs(bench.fold.images.whole(bench.fold.fit[: given.batch_size]).images)
    found = rounds(bench, repeats=given.repeats, trials=given.trials)

    def shown(seconds: list[float]) -> str:
        return common.spread([s / given.epochs for s in seconds], 3)

    source = f"CIFAR-10 in {given.data}" if given.data else "random images"
    print(common.about())
    print(
        f"{given.teacher} teaches {given.student}, {len(decoded.labels)} images of 32x32 ({source}), batches of "
        f"{given.batch_size}, {given.epochs} epochs a trial, {given.repeats} rounds in turns; CPU time, median (min..max)"
    )
    print(f"teacher in every step        {shown(found['live'])} s an epoch")
    print(f"logit cache, first trial fills it   {shown(found['fill'])} s an epoch")
    if given.trials > 1:
        print(f"logit cache, another trial reads it {shown(found['read'])} s an epoch")
    print(f"logit cache, mean of {given.trials} trials       {shown(found['ours'])} s an epoch")
    print(
        f"ratio, {given.trials} trials              {common.spread(common.ratios(found['live'], found['ours']), 1)}"
    )
    if given.trials > 1:
        print(
            f"ratio, logit cache filled before    {common.spread(common.ratios(found['live'], found['read']), 1)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
