"""Data sets that come from a library: scikit-learn's digits, torchvision's CIFAR-10 and -100."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tune_kd import strata
from tune_kd.errors import UsageError
from tune_kd.pixels import lock
from tune_kd.readers import EXPECTED, Raw

DIGITS_TEST_SEED = 20250101  # fixed for ever: the test split belongs to the data, not to a study


def read_digits(split: str, folder: Path | None, cache: Path) -> Raw:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels in 17 greys; 540 are the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    shares = strata.shares(np.bincount(labels), 540)
    test = strata.pick(labels, dict(enumerate(shares.tolist())), seed=(DIGITS_TEST_SEED, "digits"))
    chosen = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in bunch.target_names)
    return Raw(images=images, labels=labels[chosen], class_names=names)


def cifar_reader(name: str) -> Callable[[str, Path | None, Path], Raw]:
    """A reader of torchvision's CIFAR10 or CIFAR100 (Krizhevsky 2009)."""

    def read(split: str, folder: Path | None, cache: Path) -> Raw:
        import torchvision.datasets

        source = getattr(torchvision.datasets, name)
        other = "test_list" if split == "train" else "train_list"
        one_split = type(name, (source,), {other: []})  # else it reads both for their checksums
        places = [folder] if folder else [*_data_folder(), cache / "downloads"]
        with _cifar_root(one_split, places, download=folder is None) as root:
            try:
                data = one_split(str(root), train=split == "train")
            except RuntimeError as error:
                broken = root / source.base_folder
                raise UsageError(
                    f"{broken} is incomplete or corrupted; {_cifar_remedy(source)}"
                ) from error
        labels = np.asarray(data.targets, dtype=np.int64)
        return Raw(images=data.data, labels=labels, class_names=tuple(data.classes))

    return read


def _data_folder() -> list[Path]:
    """Where a user keeps data sets: $TUNE_KD_DATA."""
    named = os.environ.get("TUNE_KD_DATA")
    return [Path(named).expanduser()] if named else []


def _cifar_remedy(source: Any) -> str:
    return (
        f"put {source.filename} or its extracted folder {source.base_folder} there, or name a "
        f"folder with --data ({EXPECTED})"
    )


@contextlib.contextmanager
def _cifar_root(source: Any, places: list[Path], *, download: bool) -> Iterator[Path]:
    """The folder with the extracted archive; a packed one is extracted elsewhere, for a while."""
    from torchvision.datasets import utils

    for place in places:
        if (place / source.base_folder).is_dir():
            yield place
            return
    archives = [place / source.filename for place in places if (place / source.filename).is_file()]
    archive = archives[0] if archives else places[-1] / source.filename
    try:
        if download and not archives:
            with lock(archive.parent / f".{source.filename}.lock"):
                utils.download_url(source.url, str(archive.parent), archive.name, source.tgz_md5)
    except (OSError, RuntimeError) as error:
        looked_in = ", ".join(str(place) for place in places)
        raise UsageError(
            f"no {source.__name__} in {looked_in}, and it cannot be downloaded ({error}); "
            + _cifar_remedy(source)
        ) from error
    if not utils.check_integrity(str(archive), source.tgz_md5):
        raise UsageError(f"{archive} is incomplete or corrupted; {_cifar_remedy(source)}")
    with tempfile.TemporaryDirectory() as scratch:
        utils.extract_archive(str(archive), scratch)
        yield Path(scratch)
