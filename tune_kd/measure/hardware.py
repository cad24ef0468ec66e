"""What this machine has."""

import contextlib
import os

from tune_kd.measure import timing_cache


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def gpus() -> int:
    """GPUs that torch can use here; imports torch."""
    import torch

    return torch.cuda.device_count()


def hardware() -> dict[str, int | float | str]:
    """Cores, memory in GB (1e9 bytes) and the GPU, where there is one, of this machine; imports torch."""
    import torch

    info: dict[str, int | float | str] = {"cpu": timing_cache.cpu_name(), "cores": cores()}
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
        bytes_ = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        info["memory_gb"] = round(bytes_ / 1e9, 1)
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        info |= {"gpu": card.name, "gpu_memory_gb": round(card.total_memory / 1e9, 1)}
    return info
