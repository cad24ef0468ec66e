"""Where a task's own data come from: a library, a download, or the folder $TUNE_KD_DATA."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tune_kd.data import stratify
from tune_kd.data.readers import tiny_imagenet, voc
from tune_kd.data.readers.base import EXPECTED, Raw
from tune_kd.errors import UsageError
from tune_kd.files import lock

DIGITS_TEST_SEED = 20250101  # fixed for ever: the test split belongs to the data, not to a study


def read_digits(split: str, folder: Path | None, cache: Path) -> Raw:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels in 17 greys; 540 are the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    shares = stratify.shares(np.bincount(labels), 540)
    test = stratify.pick(
        labels, dict(enumerate(shares.tolist())), seed=(DIGITS_TEST_SEED, "digits")
    )
    index = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    images = np.rint(bunch.images[index] * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in bunch.target_names)
    return Raw(images=images, labels=labels[index], class_names=names)


def cifar_reader(name: str) -> Callable[[str, Path | None, Path], Raw]:
    """Return a reader of torchvision's CIFAR10 or CIFAR100 (Krizhevsky 2009)."""

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
    path = os.environ.get("TUNE_KD_DATA")
    return [Path(path).expanduser()] if path else []


def _find_local(*names: str) -> Path | None:
    """Return the first of some files and folders that is in $TUNE_KD_DATA."""
    paths = (place / name for place in _data_folder() for name in names)
    return next((path for path in paths if path.exists()), None)


def _missing_error(data_set: str, names: str, expected: str) -> UsageError:
    looked_in = [f"no {data_set} in {place}" for place in _data_folder()]
    return UsageError(
        f"{looked_in[0] if looked_in else f'no {data_set}: TUNE_KD_DATA is not set'}; let "
        f"TUNE_KD_DATA name the folder that holds {names}, or name it with --data ({expected})"
    )


def find_tiny_imagenet(cache: Path) -> Path:
    """Tiny ImageNet (Le and Yang 2015), 200 classes of ImageNet in 64x64 pixels."""
    names = (f"{tiny_imagenet.NAME}.zip", tiny_imagenet.NAME)
    if (path := _find_local(*names)) is None:
        raise _missing_error("Tiny ImageNet", " or ".join(names), tiny_imagenet.EXPECTED)
    return path


def find_camvid(cache: Path) -> Path:
    """CamVid (Brostow et al. 2009) with its usual 11 classes and lists, in the layout of VOC."""
    names = ("camvid-voc.tar.gz", "camvid-voc")
    if (path := _find_local(*names)) is None:
        raise _missing_error("CamVid", " or the folder ".join(names), voc.EXPECTED)
    return path


def find_voc(cache: Path) -> Path:
    """PASCAL VOC 2012's segmentation (Everingham et al. 2010): torchvision's archive, kept packed."""
    from torchvision.datasets import utils
    from torchvision.datasets import voc as source

    entry = source.DATASET_YEAR_DICT["2012"]
    name: str = entry["filename"]
    if (path := _find_local(entry["base_dir"], name)) is not None:
        return path
    archive = cache / "downloads" / name
    if not archive.is_file():
        part = archive.with_name(f".{name}.part")
        try:
            with lock(archive.parent / f".{name}.lock"):
                if not archive.is_file():
                    utils.download_url(entry["url"], str(archive.parent), part.name, entry["md5"])
                    part.rename(archive)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"no PASCAL VOC 2012 in {', '.join(map(str, [*_data_folder(), archive.parent]))}, "
                f"and it cannot be downloaded ({error}); put {name} or its extracted folder "
                f"VOCdevkit there, or name a folder or an archive with --data ({voc.EXPECTED})"
            ) from error
    return archive


def _cifar_remedy(source: Any) -> str:
    return (
        f"put {source.filename} or its extracted folder {source.base_folder} there, or name a "
        f"folder with --data ({EXPECTED})"
    )


@contextlib.contextmanager
def _cifar_root(source: Any, places: list[Path], *, download: bool) -> Iterator[Path]:
    """Yield the folder with the extracted archive; a packed one is extracted elsewhere, for a while."""
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
