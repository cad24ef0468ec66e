"""What Ray runs: forwards a trial's reports, commits its epochs, turns any misfortune into a row.

The worker owns its attempt's rows file and checkpoints: a checkpoint first, then renaming the rows
commits both, and the last row names the checkpoint to go on from. torch is imported only here
inside.
"""

import contextlib
import io
import os
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd import files
from tune_kd.errors import explain
from tune_kd.recipe import digest, to_json
from tune_kd.study import node_files, results
from tune_kd.study.proposal import Proposal, parse
from tune_kd.study.results import Row
from tune_kd.study.storage import Storage
from tune_kd.training.report import EpochReport

if TYPE_CHECKING:
    from tune_kd.training.trial import NodeContext, Resume

Config = dict[str, Any]
PAUSE = 2.0  # seconds before a retry after an error of the disk or the network


class MarkerMissingError(Exception):
    """This node does not see the study's folder."""


def run_trial(config: Config) -> None:
    """Ray Tune's trainable. An OSError is tried again in a new process, other errors are reported."""
    from ray import tune

    os.umask(config["umask"])  # the driver's, not the strict one that Ray was started with
    try:
        with contextlib.closing(attempt(config)) as reports:  # a stop is raised by tune.report
            for report in reports:
                tune.report(report)
    except OSError as error:
        _save_error(config, error)
        time.sleep(PAUSE)  # the disk or the network may come back
        raise
    except MarkerMissingError as error:
        tune.report({"error": str(error), "fatal": True})
    except Exception as error:
        tune.report({"error": explain(error), "fatal": False})


def _save_error(config: Config, error: OSError) -> None:
    """Save the reason of a failure that Ray will only count."""
    with contextlib.suppress(Exception):
        trial = parse(config["proposal"]).trial
        Storage(config["study"]).write(f"checkpoints/{trial}/error.txt", explain(error).encode())


def attempt(config: Config) -> Generator[dict[str, Any]]:
    """One attempt at a trial: its last row again, which may not be judged yet, then new ones."""
    proposal = parse(config["proposal"])
    storage = Storage(config["study"])
    check_marker(storage, config["marker"])
    ctx = make_context(config)
    with _alone(storage, proposal.trial, ctx.cache):
        rows = results.read_epochs_of(storage, proposal.trial)
        if rows:
            yield {"row": results.dump_row(rows[-1])}
        if rows and rows[-1]["last"]:
            return
        from tune_kd.training import trial

        resume = _resume(storage, proposal.trial, rows)
        shared = trial.Shared(stages=proposal.shared) if proposal.shared else None
        name = f"{len({row['attempt'] for row in rows}) + 1}-{uuid.uuid4().hex[:6]}"
        access = trial.TestAccess(reference=_reference(config)) if proposal.open_test else None
        reports = trial.run(
            proposal.recipe,
            seed=proposal.seed,
            ctx=ctx,
            resume=resume or shared,
            access=access,
        )
        for report in reports:
            row = _row(proposal, report, attempt=name, ctx=ctx, study_name=config["name"])
            rows.append(_commit(storage, proposal, report, row, rows))
            yield {"row": results.dump_row(rows[-1])}


def _reference(config: Config) -> tuple[str, str] | None:
    """Return the teacher that students on the test split are compared with: network and model id."""
    network, model_id = config["reference"]
    return (network, model_id) if model_id else None


def check_marker(storage: Storage, marker: str) -> None:
    """Raise MarkerMissingError where the file that the driver wrote is not seen."""
    try:
        content = storage.read("marker").decode()
    except OSError:
        content = ""
    if content != marker:
        raise MarkerMissingError(
            f"node {socket.gethostname()} does not see the study in --out {storage.uri}; "
            "name a folder that all nodes share, or s3://bucket/folder"
        )


@contextlib.contextmanager
def _alone(storage: Storage, trial: str, cache: Path) -> Iterator[None]:
    """One attempt at a time on a node: a killed search's worker may still be ending its epoch."""
    path = cache / "locks" / f"{digest(storage.uri, trial)}.lock"
    with files.lock(path):
        yield


def make_context(config: Config) -> "NodeContext":
    """Return this node's cache and device, and the study's models and code."""
    import torch

    from tune_kd.training.trial import NodeContext

    torch.set_num_threads(config["threads"])
    if config["gpus"] and not torch.cuda.is_available():
        raise RuntimeError("a GPU was promised to this trial, but torch sees none here")
    storage, cache = Storage(config["study"]), files.cache_folder()
    return NodeContext(
        cache=cache,
        data=Path(config["data"]) if config["data"] else None,
        code=node_files.local_code(storage, cache),
        device="cuda:0" if config["gpus"] else "cpu",
        model=lambda model_id: node_files.local_file(
            storage, f"models/{model_id}.safetensors", cache
        ),
    )


def _resume(storage: Storage, trial: str, rows: list[Row]) -> "Resume | None":
    from safetensors.torch import load

    from tune_kd.training.trial import Resume

    if not rows:
        return None
    last = rows[-1]
    state = load(storage.read(f"checkpoints/{trial}/{last['checkpoint']}"))
    return Resume(stage=last["stage"], epoch=last["epoch"], state=state, step=last["step"])


def _row(
    proposal: Proposal, report: EpochReport, *, attempt: str, ctx: "NodeContext", study_name: str
) -> Row:
    from tune_kd.measure.profile import device_name

    return {
        "schema": results.SCHEMA_VERSION,
        "study": study_name,
        "phase": proposal.phase,
        "method": proposal.method,
        "repeat": proposal.repeat,
        "trial": proposal.trial,
        "number": proposal.number,
        "seed": proposal.seed,
        "attempt": attempt,
        "stage": report.stage,
        "stage_name": report.stage_name,
        "epoch": report.epoch,
        "step": report.step,
        "last": report.last,
        **report.values,
        "seconds": report.seconds,
        "device": device_name(ctx.device),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "checkpoint": "" if report.last else f"{report.step:05d}.{attempt}.safetensors",
    }


def _commit(
    storage: Storage, proposal: Proposal, report: EpochReport, row: Row, rows: list[Row]
) -> Row:
    """Return the checkpoint, then the rows that name it; of checkpoints the last two are kept."""
    folder = f"checkpoints/{proposal.trial}"
    pictured = proposal.keeps_weights or not proposal.method
    if report.last and report.arrays and pictured and proposal.number == 0:  # of the first seed
        storage.write(f"predictions/{proposal.trial}.npz", _pack(report.arrays))
    if report.last and report.state and proposal.keeps_weights:
        storage.write(_weights_name(proposal), _dump_weights(proposal, report))
    elif not report.last:
        storage.write(f"{folder}/{row['checkpoint']}", _save(report.state))
    data = results.encode([*rows, row], results.epoch_schema())
    storage.write(f"epochs/{proposal.trial}.{row['attempt']}.parquet", data)
    if len(rows) >= 2 and rows[-2]["checkpoint"]:
        storage.remove(f"{folder}/{rows[-2]['checkpoint']}")
    return row


def _pack(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as one file, which is read without unpickling."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _weights_name(proposal: Proposal) -> str:
    if proposal.phase == "teacher":
        return f"models/{proposal.recipe_id}.safetensors"
    return f"students/{proposal.trial}.safetensors"


def _dump_weights(proposal: Proposal, report: EpochReport) -> bytes:
    """Return the network alone, with what made it in the header."""
    state = {k[6:]: v for k, v in report.state.items() if k.startswith("model.")}
    header = {
        "recipe": to_json(proposal.recipe),
        "seed": str(proposal.seed),
        "network": proposal.recipe.student,
        "fingerprint": proposal.recipe_id,
    }
    return _save(state, header)


def _save(state: Any, header: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return bytes(save(plain, metadata=header))


def prepare(config: Config) -> dict[str, Any]:
    """Measured on an idle worker before the first trial: precision and layout, teacher and student."""
    from tune_kd.execution import benchmark

    os.umask(config["umask"])
    return benchmark.prepare(config, make_context(config))


def measure_students(config: Config) -> dict[str, dict[str, Any]]:
    """Measured on an idle worker when nothing else runs: finished students by trial."""
    from tune_kd.execution import benchmark

    os.umask(config["umask"])
    storage = Storage(config["study"])
    ctx = make_context(config)
    measurements = {}
    for text in config["proposals"]:
        proposal = parse(text)
        file = node_files.local_file(storage, f"students/{proposal.trial}.safetensors", ctx.cache)
        try:
            measurements[proposal.trial] = benchmark.measure_student(proposal.recipe, file, ctx)
        except Exception as error:  # one that cannot be measured costs no other
            measurements[proposal.trial] = {"reason": explain(error)}
    return measurements
