"""The teacher's logits of an epoch, computed once on a node and read from disk by all trials there.

Augmentation is a pure function of (seed, epoch, index), and no searched value changes what the
teacher sees; so its logits for an epoch are the same for all trials. The logit cache holds float16
logits [N, C] of the N training images of a study, one file per epoch. An epoch is filled in shards
that processes claim by flock, which dies with its process: nobody waits while there is something to
fill.
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tune_kd import files
from tune_kd.recipe import digest

SHARD = 4096  # images; small enough that two workers share an epoch of 20,000 evenly


class LogitCache:
    """Teacher logits by epoch. `compute(epoch, positions)` gives float [len(positions), C, ...] of them.

    `key` names all that the logits depend on (teacher's weights, images and subset, augmentation,
    seed, precision and layout); another key is another folder, so a mismatch cannot be read.
    """

    def __init__(
        self, folder: Path, key: str, *, size: int, compute: Callable[[int, np.ndarray], Tensor]
    ) -> None:
        self._root, self._folder = folder, folder / key
        self._size, self._compute = size, compute
        self._folder.mkdir(parents=True, exist_ok=True)

    def epoch(self, epoch: int) -> Tensor:
        """float16 [N, C, ...], filled first where it is not in the logit cache yet."""
        path = self._folder / f"{epoch:05d}.npy"
        while True:
            logits = _read(path, self._size)
            if logits is not None:
                with contextlib.suppress(FileNotFoundError):  # deleted since, for the bound
                    os.utime(path)  # the least recently read goes first
                return torch.from_numpy(logits)
            self._fill(epoch, path)

    def _fill(self, epoch: int, epoch_file: Path) -> None:
        """Compute what nobody else is computing, or wait for one who is; join what is complete."""
        shards = {
            epoch_file.with_name(f"{epoch:05d}.{start // SHARD:04d}.part"): np.arange(
                start, min(start + SHARD, self._size)
            )
            for start in range(0, self._size, SHARD)
        }
        missing = [path for path, at in shards.items() if _read(path, len(at)) is None]
        has_claim = False
        for path in missing:
            with files.lock(path.with_suffix(".lock"), wait=False) as mine:
                exists = _read(path, len(shards[path])) is not None
                if mine and not exists and _read(epoch_file, self._size) is None:
                    has_claim = True
                    files.write_whole(path, _bytes(self._compute(epoch, shards[path])))
        if not has_claim and missing:
            with files.lock(missing[0].with_suffix(".lock")):
                return  # whoever held it has written it, or died
        parts = [_read(path, len(at)) for path, at in shards.items()]
        if any(part is None for part in parts):
            return  # another is at it, or has joined them
        files.write_whole(epoch_file, _save(np.concatenate([p for p in parts if p is not None])))
        for path in shards:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        bound(self._root, keep=epoch_file)


def cache_key(*parts: str) -> str:
    """Return the name of a logit cache: a hash of all that its logits depend on."""
    return digest("logits", *parts)


def bound(root: Path, *, keep: Path) -> None:
    """Delete the epochs that were read longest ago, beyond TUNE_KD_LOGIT_CACHE_GB (10) of disk, but `keep`.

    Other caches go first: the epochs of the one in use are read again by its other trials.
    """
    limit = float(os.environ.get("TUNE_KD_LOGIT_CACHE_GB", "10")) * 1e9
    epochs = []
    for path in root.glob("*/*.npy"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            epochs.append((path.parent == keep.parent, stat.st_mtime, stat.st_size, path))
    total = sum(size for _, _, size, _ in epochs)
    for _, _, size, path in sorted(epochs):
        if total > limit and path != keep:
            path.unlink(missing_ok=True)
            total -= size


def _bytes(logits: Tensor) -> bytes:
    most = torch.finfo(torch.float16).max  # of a teacher that has learned nothing yet
    return _save(logits.clamp(-most, most).to("cpu", torch.float16).numpy())


def _save(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _read(path: Path, size: int) -> np.ndarray | None:
    """Return the logits of `size` images; None where they are not there or damaged, and are computed anew."""
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    valid = isinstance(array, np.ndarray) and array.dtype == np.float16 and len(array) == size
    return np.asarray(array) if valid else None
