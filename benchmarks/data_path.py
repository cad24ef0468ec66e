"""Augmented batches: one gather, against torchvision's transforms image by image.

    python -m benchmarks.data_path --data DIR

Both make shuffled, normalised float32 batches of random crops (4 pixels of zeros around) and
mirrored
images. The other side is the loop of torchvision's CIFAR-10 in a DataLoader without worker
processes: a uint8 array to PIL, RandomCrop, RandomHorizontalFlip, ToTensor, Normalize, and the
batch put together.
"""

import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import common
from tune_kd import cli
from tune_kd.data import splits
from tune_kd.data.tasks import Decoded
from tune_kd.recipe import Images

PAD = 4


class PerImage(Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.CIFAR10 does with its array."""

    def __init__(self, decoded: Decoded) -> None:
        self._images, self._labels = np.array(decoded.images), decoded.labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=PAD),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(common.MEAN, common.STD),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image as the network sees it, and its label."""
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def gather_epoch(images: splits.DeviceImages, batch_size: int, epoch: int) -> int:
    """Return an epoch of ours; how many images it had."""
    everything = torch.arange(len(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
    augment = images.augmenter(seed=0, epoch=epoch, among=everything)
    return sum(len(augment(index).images) for index in order.split(batch_size))


def load_epoch(loader: DataLoader[tuple[Tensor, int]]) -> int:
    """Return an epoch of torchvision's; how many images it had."""
    return sum(len(batch) for batch, _ in loader)


def main(arguments: list[str]) -> int:
    """Time both in turns and print images a second and their ratio."""
    parser = common.parser("benchmarks.data_path", __doc__)
    add = parser.add_argument
    add("--images", type=cli.positive_int, default=5000, help="[5000]")
    add("--epochs", type=cli.positive_int, default=1, help="passes over the images a round [1]")
    add("--batch-size", type=cli.positive_int, default=128, help="[128]")
    add("--repeats", type=cli.positive_int, default=5, help="rounds, both sides in each [5]")
    add("--layout", choices=["contiguous", "channels_last"], default="contiguous", help="of ours")
    options = parser.parse(arguments)

    torch.set_num_threads(1)
    decoded = common.images(options.data, options.images)
    count = len(decoded.labels)
    spec = Images(
        task="cifar10",
        train_hash=decoded.hash,
        num_classes=len(decoded.class_names),
        mean=common.MEAN,
        std=common.STD,
        pad=PAD,
    )
    images = splits.device_images(decoded, images=spec, layout=options.layout)
    loader = DataLoader(PerImage(decoded), batch_size=options.batch_size, shuffle=True)

    def ours() -> int:
        return sum(
            gather_epoch(images, options.batch_size, epoch) for epoch in range(options.epochs)
        )

    def theirs() -> int:
        return sum(load_epoch(loader) for _ in range(options.epochs))

    gather_epoch(images, options.batch_size, 0)  # pages and kernels are set up
    next(iter(loader))
    total = options.epochs * count
    fast, slow = [], []
    for _ in range(options.repeats):
        for work, seconds in ((ours, fast), (theirs, slow)):
            spent, num_images = common.cpu_seconds(work)
            assert num_images == total
            seconds.append(spent)
    source = f"CIFAR-10 in {options.data}" if options.data else "random images"
    print(f"{common.about()}")
    print(
        f"{count} images of 32x32 ({source}), batches of {options.batch_size}, {options.epochs} "
        f"epochs a round, {options.repeats} rounds in turns; CPU time, median (min..max)"
    )
    print(f"one gather              {common.spread([total / s for s in fast], 0)} images/s")
    print(f"torchvision, per image  {common.spread([total / s for s in slow], 0)} images/s")
    print(f"ratio                   {common.spread(common.ratios(slow, fast), 1)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
