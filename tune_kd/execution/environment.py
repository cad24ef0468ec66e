"""Settings that Ray and the numeric libraries read when they are imported: made before, by entry points."""

import os


def prepare(address: str | None) -> None:
    """Quiet Ray, one thread in the driver, and without an address loopback ports only."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_DEDUP_LOGS="1",
        RAY_DEDUP_LOGS_SKIP_REGEX="^",  # a dead worker's obituary, which Ray prints on our stdout
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",  # the runner takes SIGINT and SIGTERM alike
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
        TUNE_GLOBAL_CHECKPOINT_S="3600",  # Ray's own snapshots are never read
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if address is None:
        # what makes Ray use 127.0.0.1 on Windows and macOS does the same on Linux
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    else:
        os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
