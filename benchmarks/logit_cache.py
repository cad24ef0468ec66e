"""Response distillation: a logit cache that all trials share, against a teacher asked in every step.

    python -m benchmarks.logit_cache --data DIR --images 5000

Both train the same student with the same batches, views and losses, by the same code; they differ
in where the teacher's logits come from. The other side is what tutorials write: the teacher's
forward, without gradients, for each batch of each trial. On our side the first trial fills the
logit cache of an epoch and every other trial reads it, so the ratio grows with the number of
trials.
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

    def plain_batch(self, index: Tensor) -> Batch:
        """Images as they are."""
        return self._images.plain_batch(index)

    def augmenter(self, *, seed: int, epoch: int, among: Tensor) -> Callable[[Tensor], Batch]:
        """Batches of an epoch, the last one again where the same images are asked for."""
        look = self._images.augmenter(seed=seed, epoch=epoch, among=among)

        def remember(index: Tensor) -> Batch:
            last = self._last
            if last is None or last[0] != epoch or not torch.equal(last[1], index):
                last = self._last = epoch, index, look(index)
            return last[2]

        return remember


class Live:
    """In place of a logit cache: the teacher's forward for each batch, on the images that are trained on."""

    def __init__(self, frozen: teacher.FrozenTeacher, split: splits.DeviceSplit) -> None:
        self._frozen, self._split = frozen, split
        self._augment = split.augmenter(SEED, 0)

    def epoch(self, epoch: int) -> "Live":
        """Itself, with the epoch's views."""
        self._augment = self._split.augmenter(SEED, epoch)
        return self

    def to(self, device: torch.device) -> "Live":
        """Itself: it is where the images are."""
        del device
        return self

    def __getitem__(self, position: Tensor) -> Tensor:
        """Scores of the images at these positions of the training set."""
        return self._frozen.outputs(self._augment(self._split.fit[position]).images)[0]


def recipe_of(options: Any, decoded: Decoded) -> Recipe:
    """Response distillation in one stage."""
    stage = Distill(
        epochs=options.epochs,
        optimizer=Optimizer(lr=0.05),
        weights=LossWeights(alpha=0.5, beta=0.5, temperature=4.0),
        batch_size=options.batch_size,
    )
    images = Images(
        task="cifar10",
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        mean=common.MEAN,
        std=common.STD,
        view_seed=SEED,
    )
    return Recipe(images=images, student=options.student, teacher=options.teacher, stages=(stage,))


class Bench:
    """Trials of one recipe, whose teacher is read from a logit cache or asked each time."""

    def __init__(self, recipe: Recipe, decoded: Decoded) -> None:
        count = len(decoded.labels)
        images = splits.device_images(decoded, images=recipe.images)
        self.recipe, self._site = recipe, context.NodeContext(cache=Path())
        self.split = splits.DeviceSplit(
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
        ctx = replace(self._site, cache=cache)
        return context.logit_cache(self.recipe, self.frozen, self.split, ctx=ctx)

    def live(self) -> Live:
        """Return the teacher itself."""
        split = replace(self.split, images=Remembered(self.split.images))
        return Live(self.frozen, split)

    def train(self, source: Any) -> list[float]:
        """One trial from its first epoch to its last; the losses."""
        stage = self.recipe.stages[0]
        split = source._split if isinstance(source, Live) else self.split
        work = loop.StageInputs(
            stage=stage,
            number=0,
            first_step=0,
            seed=SEED,
            view_seed=SEED,
            split=split,
            compute=self.recipe.compute,
            teacher=None,  # neither side checks the teacher's weights at the end
            logit_cache=source,
            terms=losses.LossOptions(),
        )
        learner = loop.TrainState(self._network(self.recipe.student), nn.Module(), stage.optimizer)
        return [epoch.values["train_loss"] for epoch in loop.train(work, learner)]


def rounds(bench: Bench, *, repeats: int, trials: int) -> dict[str, list[float]]:
    """CPU seconds of whole trials, by kind, one number a round; each round begins with an empty logit cache."""
    times: dict[str, list[float]] = {"live": [], "fill": [], "read": [], "ours": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            logit_cache = bench.logit_cache(Path(folder))
            sources = [bench.live(), *[logit_cache] * trials]
            results = [common.cpu_seconds(functools.partial(bench.train, s)) for s in sources]
        live, *ours = (seconds for seconds, _ in results)
        theirs, first, *others = (values for _, values in results)
        assert all(other == first for other in others), "trials that read the logit cache differ"
        differ = max(abs(a - b) / b for a, b in zip(theirs, first, strict=True))
        assert differ < 0.02, (
            f"the two ways do not train the same student: losses differ by {differ:.1%}"
        )
        times["live"].append(live)
        times["fill"].append(ours[0])
        times["read"].append(statistics.mean(ours[1:]) if ours[1:] else ours[0])
        times["ours"].append(statistics.mean(ours))
    return times


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
    options = parser.parse(arguments)

    torch.set_num_threads(1)
    decoded = common.images(options.data, options.images)
    bench = Bench(recipe_of(options, decoded), decoded)
    bench.frozen.outputs(
        bench.split.images.plain_batch(bench.split.fit[: options.batch_size]).images
    )
    times = rounds(bench, repeats=options.repeats, trials=options.trials)

    def per_epoch(seconds: list[float]) -> str:
        return common.spread([s / options.epochs for s in seconds], 3)

    source = f"CIFAR-10 in {options.data}" if options.data else "random images"
    print(common.about())
    print(
        f"{options.teacher} teaches {options.student}, {len(decoded.labels)} images of 32x32 "
        f"({source}), batches of {options.batch_size}, {options.epochs} epochs a trial, "
        f"{options.repeats} rounds in turns; CPU time, median (min..max)"
    )
    print(f"teacher in every step        {per_epoch(times['live'])} s an epoch")
    print(f"logit cache, first trial fills it   {per_epoch(times['fill'])} s an epoch")
    if options.trials > 1:
        print(f"logit cache, another trial reads it {per_epoch(times['read'])} s an epoch")
    print(
        f"logit cache, mean of {options.trials} trials       {per_epoch(times['ours'])} s an epoch"
    )
    print(
        f"ratio, {options.trials} trials              "
        f"{common.spread(common.ratios(times['live'], times['ours']), 1)}"
    )
    if options.trials > 1:
        print(
            "ratio, logit cache filled before    "
            f"{common.spread(common.ratios(times['live'], times['read']), 1)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
