"""What was timed on this machine and under which name, readable without torch.

The cache's `probe.json` and `measure.json` are plain dictionaries, key to result. A key names all
that a timing depends on, so that two studies on one machine find the same answer.
"""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tune_kd import files


def timing_key(
    network: str, *, shape: Sequence[int], device: str, threads: int, detail: str = ""
) -> str:
    """Return the key of a timing: network, its images' shape, device name, torch's version and CPU threads.

    `detail` is what else it depends on: `batch 128` of a probed step, `10 classes` of a
    measurement, the hash of a user's own file.

    >>> timing_key("resnet8", shape=(3, 32, 32), device="cpu: x", threads=1, detail="batch 128").split("torch")[0]
    'resnet8 | 3x32x32 | batch 128 | cpu: x | '
    """
    size = "x".join(str(side) for side in shape)
    parts = (network, size, detail, device, f"torch {torch_version()}", f"{threads} threads")
    return " | ".join(part for part in parts if part)


def torch_version() -> str:
    """Return the installed torch's version, without importing it or its build's suffix.

    >>> torch_version().count("+")
    0
    """
    return importlib.metadata.version("torch").partition("+")[0]


def cpu_name() -> str:
    """Return this machine's CPU, for example `cpu: AMD EPYC 9654`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.processor() or platform.machine()}"


def gpu_name() -> str:
    """Return this machine's first NVIDIA GPU as torch names it, for example `cuda: NVIDIA H200`; else nothing."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text().splitlines():
            if line.startswith("Model:"):
                return f"cuda: {line.partition(':')[2].strip()}"
    return ""


def read_all(file: Path) -> dict[str, dict[str, Any]]:
    """All results in a cache file; none where it is missing or not ours, and they are timed anew."""
    try:
        timings = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return timings if isinstance(timings, dict) else {}


def read_probe(cache: Path, key: str) -> dict[str, Any] | None:
    """Return what the probe of that key chose: precision, layout, train_step_s; None where never probed."""
    return read_all(cache / "probe.json").get(key)


def look_up(key: str, *, file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of that key in a cache file, computed and kept where there is none.

    A lock beside the file, which ends with its process, lets one compute at a time: two studies
    that start together get one answer, and their timings do not disturb each other.
    """
    result = read_all(file).get(key)
    if result is not None:
        return result
    with files.lock(file.with_suffix(".lock")):
        result = read_all(file).get(key)
        if result is None:
            result = compute()
            timings = {**read_all(file), key: result}
            files.write_whole(file, json.dumps(timings, indent=1, sort_keys=True).encode())
    return result
