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
from tune_kd.execution import progress
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
    said = progress.Progress(quiet=options.quiet)
    asked = _request(options, command)
    found = external_weights.find(options.weights, option="--weights", confirmed=True)
    other = (
        external_weights.find(options.against, option="--against", confirmed=True)
        if options.against
        else None
    )
    material = checks.look_at_data(asked)
    wanted = _wanted(asked, material.images, options.network)
    chosen = checkpoint.load(found, wanted)
    against = None
    if other:
        against = checkpoint.load(other, replace(wanted, network="", also=wanted.network))
    storage = asked.storage
    storage.check_writable()
    with lock_study(storage):
        _record(storage, [one for one in (chosen, against) if one], command)
        integers = any(one.quantized for one in (chosen, against) if one)
        own, marks = _examined(chosen, options.batch_size, compiled=integers, said=said)
        result: dict[str, Any] = {"time": results.now(), "command": command}
        result |= {**facts(chosen, wanted), **own}
        if against:
            theirs, others = _examined(against, options.batch_size, compiled=integers, said=said)
            hidden = ("classes", "confusion", "confused", "batches", "batch_size")
            kept = {name: value for name, value in theirs.items() if name not in hidden}
            result["against"] = kept | compared(own, theirs, hits=(marks.hits, others.hits))
        result = finite(result)
        result["alarms"] = [alarm._asdict() for alarm in diagnostics.diagnose(result)]
        storage.write("confusion.png", summary.picture(result))
        storage.write("evaluation.json", json.dumps(result, indent=1).encode())
    said.say(f"evaluation.json, confusion.png and test_access/ in {storage.uri}")
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


def _wanted(asked: SearchRequest, images: Images, network: str | None) -> ExpectedModel:
    """Return what the weights are taken for, on a GPU where there is one."""
    where = context.NodeContext(
        cache=files.cache_folder(),
        data=asked.data,
        code=asked.base,
        device="cuda:0" if hardware.gpus() else "cpu",
    )
    name = checkpoint.from_here(network) if network else ""
    return checkpoint.ExpectedModel(space=asked.space, images=images, ctx=where, network=name)


def _record(storage: Storage, networks: list[LoadedModel], command: str) -> None:
    """Each opening of the test split leaves a file."""
    number = len(storage.names("test_access")) + 1
    weights = [{"weights": one.name, "hash": one.file_id} for one in networks]
    record = {"time": results.now(), "command": command, "weights": weights}
    storage.write(f"test_access/{number:04d}.json", json.dumps(record, indent=1).encode())


def facts(one: LoadedModel, wanted: ExpectedModel) -> dict[str, Any]:
    """Return what is asked of a network, and whether it knows these images."""
    first = [*wanted.space.objectives, default_objective(wanted.images.task_kind)][0]
    return {
        "space": wanted.space.name,
        "task": wanted.space.task,
        "metric": test_twin(first).removeprefix("test_"),
        "expected": getattr(wanted.space, f"expected_{one.role}", 0.0),
        "other_images": one.recipe.images.train_hash != wanted.images.train_hash,
    }


def _examined(
    one: LoadedModel, batch_size: int, *, compiled: bool, said: Progress
) -> tuple[dict[str, Any], EvaluationResult]:
    """Return what a network is, what it reaches on the test split, and what it costs."""
    said.say(f"scoring {one.name} on the test split")
    found, marks = scored(one, batch_size)
    words = ", compiled as well, which takes a while" if compiled else ""
    said.say(f"timing {one.name}{words}")
    return {**found, "profile": checkpoint.profile(one, compiled=compiled)}, marks


def scored(one: LoadedModel, batch_size: int) -> tuple[dict[str, Any], EvaluationResult]:
    """Return what a network is and what it reaches on the test split: an evaluation without its profile."""
    marks = checkpoint.evaluate(one, batch_size=batch_size)
    scores, confusion = marks.scores, marks.scores.confusion.tolist()
    classes = diagnostics.classes(confusion, marks.class_names)
    overall = {
        "accuracy_se": _standard_error(marks.hits),
        "mean_class_accuracy": diagnostics.mean_accuracy(classes),
        "ece": scores.ece,
    }
    columns = scores.values("test", dense=one.recipe.images.dense)
    overall |= {name.removeprefix("test_"): value for name, value in columns.items()}
    found = {
        "weights": one.name,
        "hash": one.file_id,
        "network": one.recipe.student,
        "role": one.role,
        "stages": [type(stage).__name__ for stage in one.recipe.stages],
        "quantized": one.quantized,
        "not_finite": one.not_finite,
        "images": len(marks.hits),
        "overall": overall,
        "classes": classes,
        "confused": diagnostics.rank_confusions(confusion, marks.class_names),
        "confusion": confusion,
        "batch_size": batch_size,
        "batches": marks.batches,
    }
    return found, marks


def compared(
    own: Mapping[str, Any], theirs: Mapping[str, Any], *, hits: tuple[Any, Any]
) -> dict[str, Any]:
    """`difference` of accuracies, mIoU and MB, own minus theirs; `ratio` of sizes and speeds.

    The standard error is that of the difference image by image, as both saw the same ones.
    """
    metrics = [name for name in SHARES if name in own["overall"]]
    difference = {name: own["overall"][name] - theirs["overall"][name] for name in metrics}
    difference["accuracy_se"] = _standard_error(hits[0] - hits[1])
    difference["size_mb"] = own["profile"]["size_mb"] - theirs["profile"]["size_mb"]
    names = ("num_params", "size_mb", "latency_ms", "throughput_per_s", "compiled_latency_ms")
    there = [name for name in names if name in own["profile"] and name in theirs["profile"]]
    ratio = {name: own["profile"][name] / theirs["profile"][name] for name in there}
    return {"difference": difference, "ratio": ratio}


def _standard_error(each: Any) -> float | None:
    """Of the mean over images, of those that count; None for fewer than two."""
    known = each[~each.isnan()]
    return float(known.std() / math.sqrt(len(known))) if len(known) > 1 else None


def finite(value: Any) -> Any:
    """Return the same data with None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
