"""Check one network on the test split, beside another one where that is asked for."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_kd import files
from tune_kd.evaluation import checkpoint, diagnostics, summary
from tune_kd.evaluation.checkpoint import EvaluationResult, ExpectedModel, LoadedModel
from tune_kd.execution.progress import Progress
from tune_kd.measure import hardware
from tune_kd.metrics import SHARES, default_objective, test_twin
from tune_kd.recipe import Images
from tune_kd.space import SearchSpace, loader
from tune_kd.study import results
from tune_kd.study.storage import Storage, lock_study
from tune_kd.training import context, external_weights
from tune_kd.workflows import checks
from tune_kd.workflows.request import SearchRequest


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated, and where the result is written."""

    space: str | SearchSpace
    weights: str  # a file, or runs/X[:METHOD]
    network: str | None = None  # architecture, for checkpoints that do not name theirs
    against: str | None = None  # another network, given like the weights
    data: Path | None = None
    batch_size: int = 100
    out: str | None = None  # None: runs/<space>_evaluation
    quiet: bool = False


def evaluate(options: EvaluateOptions, command: str) -> dict[str, Any]:
    """Load the networks, open the test split, score and time them, write the files; the evaluation."""
    progress = Progress(quiet=options.quiet)
    request = _request(options, command)
    source = external_weights.find(options.weights, option="--weights", confirmed=True)
    other_source = (
        external_weights.find(options.against, option="--against", confirmed=True)
        if options.against
        else None
    )
    dataset = checks.prepare_data(request)
    expected = _expected_model(request, dataset.images, options.network)
    model = checkpoint.load(source, expected)
    other_model = None
    if other_source:
        other_model = checkpoint.load(
            other_source, replace(expected, network="", also=expected.network)
        )
    storage = request.storage
    storage.check_writable()
    networks = [network for network in (model, other_model) if network]
    with lock_study(storage):
        _record(storage, networks, command)
        integers = any(network.quantized for network in networks)
        evaluation, outcome = _examine(
            model, options.batch_size, compiled=integers, progress=progress
        )
        result: dict[str, Any] = {"time": results.now(), "command": command}
        result |= {**facts(model, expected), **evaluation}
        if other_model:
            other_evaluation, other_outcome = _examine(
                other_model, options.batch_size, compiled=integers, progress=progress
            )
            hidden = ("classes", "confusion", "confused", "batches", "batch_size")
            columns = {
                name: value for name, value in other_evaluation.items() if name not in hidden
            }
            result["against"] = columns | compare(
                evaluation, other_evaluation, hits=(outcome.hits, other_outcome.hits)
            )
        result = finite(result)
        result["alarms"] = [alarm._asdict() for alarm in diagnostics.diagnose(result)]
        storage.write("confusion.png", summary.picture(result))
        storage.write("evaluation.json", json.dumps(result, indent=1).encode())
    progress.say(f"evaluation.json, confusion.png and test_access/ in {storage.uri}")
    return result


def _request(options: EvaluateOptions, command: str) -> SearchRequest:
    space, file = loader.find(options.space)
    space.check()
    return SearchRequest(
        space=space,
        file=file,
        storage=Storage(options.out or f"runs/{space.name}_evaluation"),
        data=options.data.expanduser().absolute() if options.data else None,
        limit_train=0,
        seed=0,
        sampler="tpe",
        scheduler="none",
        teacher=None,
        start=None,
        resume=False,
        command=command,
    )


def _expected_model(request: SearchRequest, images: Images, network: str | None) -> ExpectedModel:
    """Return what the weights are taken for, on a GPU where there is one."""
    ctx = context.NodeContext(
        cache=files.cache_folder(),
        data=request.data,
        code=request.base,
        device="cuda:0" if hardware.gpus() else "cpu",
    )
    name = checkpoint.from_here(network) if network else ""
    return checkpoint.ExpectedModel(space=request.space, images=images, ctx=ctx, network=name)


def _record(storage: Storage, networks: list[LoadedModel], command: str) -> None:
    """Each opening of the test split leaves a file."""
    number = len(storage.names("test_access")) + 1
    weights = [{"weights": model.name, "hash": model.file_id} for model in networks]
    record = {"time": results.now(), "command": command, "weights": weights}
    storage.write(f"test_access/{number:04d}.json", json.dumps(record, indent=1).encode())


def facts(model: LoadedModel, expected: ExpectedModel) -> dict[str, Any]:
    """Return what is asked of a network, and whether it knows these images."""
    first = [*expected.space.objectives, default_objective(expected.images.task_kind)][0]
    return {
        "space": expected.space.name,
        "task": expected.space.task,
        "metric": test_twin(first).removeprefix("test_"),
        "expected": getattr(expected.space, f"expected_{model.role}", 0.0),
        "other_images": model.recipe.images.train_hash != expected.images.train_hash,
    }


def _examine(
    model: LoadedModel, batch_size: int, *, compiled: bool, progress: Progress
) -> tuple[dict[str, Any], EvaluationResult]:
    """Return what a network is, what it reaches on the test split, and what it costs."""
    progress.say(f"scoring {model.name} on the test split")
    evaluation, result = score(model, batch_size)
    note = ", compiled as well, which takes a while" if compiled else ""
    progress.say(f"timing {model.name}{note}")
    return {**evaluation, "profile": checkpoint.profile(model, compiled=compiled)}, result


def score(model: LoadedModel, batch_size: int) -> tuple[dict[str, Any], EvaluationResult]:
    """Return what a network is and what it reaches on the test split: an evaluation without its profile."""
    result = checkpoint.evaluate(model, batch_size=batch_size)
    scores, confusion = result.scores, result.scores.confusion.tolist()
    classes = diagnostics.classes(confusion, result.class_names)
    overall = {
        "accuracy_se": _standard_error(result.hits),
        "mean_class_accuracy": diagnostics.mean_accuracy(classes),
        "ece": scores.ece,
    }
    columns = scores.values("test", dense=model.recipe.images.dense)
    overall |= {name.removeprefix("test_"): value for name, value in columns.items()}
    evaluation = {
        "weights": model.name,
        "hash": model.file_id,
        "network": model.recipe.student,
        "role": model.role,
        "stages": [type(stage).__name__ for stage in model.recipe.stages],
        "quantized": model.quantized,
        "not_finite": model.not_finite,
        "images": len(result.hits),
        "overall": overall,
        "classes": classes,
        "confused": diagnostics.rank_confusions(confusion, result.class_names),
        "confusion": confusion,
        "batch_size": batch_size,
        "batches": result.batches,
    }
    return evaluation, result


def compare(
    evaluation: Mapping[str, Any], other: Mapping[str, Any], *, hits: tuple[Any, Any]
) -> dict[str, Any]:
    """Return how a network compares with another one.

    `difference` is of accuracies, mIoU and MB, the other's subtracted; `ratio` of sizes and speeds.
    The standard error is that of the difference image by image, as both saw the same ones.
    """
    metrics = [name for name in SHARES if name in evaluation["overall"]]
    difference = {name: evaluation["overall"][name] - other["overall"][name] for name in metrics}
    difference["accuracy_se"] = _standard_error(hits[0] - hits[1])
    difference["size_mb"] = evaluation["profile"]["size_mb"] - other["profile"]["size_mb"]
    names = ("num_params", "size_mb", "latency_ms", "throughput_per_s", "compiled_latency_ms")
    shared = [name for name in names if name in evaluation["profile"] and name in other["profile"]]
    ratio = {name: evaluation["profile"][name] / other["profile"][name] for name in shared}
    return {"difference": difference, "ratio": ratio}


def _standard_error(each: Any) -> float | None:
    """Of the mean over images, of those that count; None for fewer than two."""
    values = each[~each.isnan()]
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def finite(value: Any) -> Any:
    """Return the same data with None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
