"""What this machine has."""

import os


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
