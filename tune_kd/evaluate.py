"""Check one network on the test split: accuracy, classes, confusion, batches, size, speed, alarms.

    python -m tune_kd.evaluate --space digits_kd --weights runs/digits_kd:response

The weights are a file that a search, teach or confirm wrote, a checkpoint of the space's student or
teacher, or the best student of a study. Each run opens the test split once and leaves a file in
`openings/`, so use `search` to choose and this to check what was chosen.
"""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd import cli, files

if TYPE_CHECKING:
    from tune_kd.evaluation.checkpoint import Marks, Subject, Wanted
    from tune_kd.execution.progress import Progress
    from tune_kd.recipe import Images
    from tune_kd.study.storage import Storage
    from tune_kd.workflows.checks import Request

MODULE = "tune_kd.evaluate"


def main(arguments: list[str]) -> int:
    """Evaluate a network; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--space", required=True, metavar="NAME_OR_FILE", help="a file of search_spaces/ by name, or your own by path")  # fmt: skip
    add("--weights", required=True, metavar="FILE", help="safetensors or a state dict, or runs/X[:METHOD]: the best student of a study")  # fmt: skip
    add("--network", metavar="NAME", help="what a checkpoint is that does not say it [the space's student, else its teacher]")  # fmt: skip
    add("--against", metavar="FILE", help="another network to compare with, given like --weights, such as the float student of an int8 one")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="own images, as for a search [the task's]")
    add("--batch-size", type=cli.positive_int, default=100, metavar="N", help="images of a line of the results by batch [%(default)s]")  # fmt: skip
    add("--out", metavar="DIR", help="for evaluation.json, confusion.png and openings/ [runs/<space>_evaluation]")  # fmt: skip
    add("--quiet", action="store_true", help="results only")
    given = parser.parse(arguments)

    from tune_kd.execution import environment
    from tune_kd.measure import hardware

    os.environ.setdefault("OMP_NUM_THREADS", str(hardware.cores()))  # nothing else runs beside it
    environment.prepare(None)
    from tune_kd.evaluation import summary

    print(summary.text(evaluate(given, cli.command_line(MODULE, arguments))))
    return 0


def evaluate(given: Namespace, command: str) -> dict[str, Any]:
    """Load the networks, open the test split, score and time them, write the files; the evaluation."""
    from dataclasses import replace

    from tune_kd.evaluation import checkpoint, diagnostics, summary
    from tune_kd.execution import progress
    from tune_kd.study import results
    from tune_kd.study.storage import locked
    from tune_kd.training import external_weights
    from tune_kd.workflows import checks

    said = progress.Progress(quiet=given.quiet)
    asked = _request(given, command)
    found = external_weights.find(given.weights, what="--weights", confirmed=True)
    other = (
        external_weights.find(given.against, what="--against", confirmed=True)
        if given.against
        else None
    )
    material = checks.look_at_data(asked)
    wanted = _wanted(asked, material.images, given.network)
    chosen = checkpoint.load(found, wanted)
    against = None
    if other:
        against = checkpoint.load(other, replace(wanted, network="", also=wanted.network))
    storage = asked.storage
    storage.check_writable()
    with locked(storage):
        _record(storage, [one for one in (chosen, against) if one], command)
        integers = any(one.quantised for one in (chosen, against) if one)
        own, marks = _examined(chosen, given.batch_size, compiled=integers, said=said)
        result: dict[str, Any] = {"time": results.now(), "command": command}
        result |= {**facts(chosen, wanted), **own}
        if against:
            theirs, others = _examined(against, given.batch_size, compiled=integers, said=said)
            hidden = ("classes", "confusion", "confused", "batches", "batch_size")
            kept = {name: value for name, value in theirs.items() if name not in hidden}
            result["against"] = kept | compared(own, theirs, hits=(marks.hits, others.hits))
        result = finite(result)
        result["alarms"] = [alarm._asdict() for alarm in diagnostics.alarms(result)]
        storage.write("confusion.png", summary.picture(result))
        storage.write("evaluation.json", json.dumps(result, indent=1).encode())
    said.say(f"evaluation.json, confusion.png and openings in {storage.uri}")
    return result


def _request(given: Namespace, command: str) -> "Request":
    from tune_kd.space import loader
    from tune_kd.study.storage import Storage
    from tune_kd.workflows.checks import Request

    space, file = loader.load(given.space)
    space.check()
    return Request(
        space=space,
        file=file,
        storage=Storage(given.out or f"runs/{space.name}_evaluation"),
        data=given.data.expanduser().absolute() if given.data else None,
        limit_train=0,
        seed=0,
        sampler="tpe",
        scheduler="none",
        teacher=None,
        start=None,
        resume=False,
        command=command,
    )


def _wanted(asked: "Request", images: "Images", network: str | None) -> "Wanted":
    """What the weights are taken for, on a GPU where there is one."""
    from tune_kd.evaluation import checkpoint
    from tune_kd.measure import hardware
    from tune_kd.training import context

    where = context.Site(
        cache=files.cache_folder(),
        data=asked.data,
        code=asked.file.parent,
        device="cuda:0" if hardware.gpus() else "cpu",
    )
    name = checkpoint.from_here(network) if network else ""
    return checkpoint.Wanted(space=asked.space, images=images, site=where, network=name)


def _record(storage: "Storage", networks: "list[Subject]", command: str) -> None:
    """Each opening of the test split leaves a file."""
    from tune_kd.study.results import now

    number = len(storage.names("openings")) + 1
    weights = [{"weights": one.name, "hash": one.hash} for one in networks]
    record = {"time": now(), "command": command, "weights": weights}
    storage.write(f"openings/{number:04d}.json", json.dumps(record, indent=1).encode())


def facts(one: "Subject", wanted: "Wanted") -> dict[str, Any]:
    """What is asked of a network, and whether it knows these images."""
    return {
        "space": wanted.space.name,
        "task": wanted.space.task,
        "metric": "miou" if wanted.images.dense else "accuracy",
        "expected": getattr(wanted.space, f"expected_{one.role}", 0.0),
        "other_images": one.recipe.images.train_hash != wanted.images.train_hash,
    }


def _examined(
    one: "Subject", batch_size: int, *, compiled: bool, said: "Progress"
) -> "tuple[dict[str, Any], Marks]":
    """What a network is, what it reaches on the test split, and what it costs."""
    from tune_kd.evaluation import checkpoint

    said.say(f"scoring {one.name} on the test split")
    found, marks = scored(one, batch_size)
    words = ", compiled as well, which takes a while" if compiled else ""
    said.say(f"timing {one.name}{words}")
    return {**found, "profile": checkpoint.profile(one, compiled=compiled)}, marks


def scored(one: "Subject", batch_size: int) -> "tuple[dict[str, Any], Marks]":
    """What a network is and what it reaches on the test split: an evaluation without its profile."""
    from tune_kd.evaluation import checkpoint, diagnostics

    marks = checkpoint.mark(one, batch_size=batch_size)
    scores, confusion = marks.scores, marks.scores.confusion.tolist()
    classes = diagnostics.classes(confusion, marks.class_names)
    overall = {
        "accuracy": scores.accuracy,
        "accuracy_se": _standard_error(marks.hits),
        "mean_class_accuracy": diagnostics.mean_accuracy(classes),
        "loss": scores.loss,
        "ece": scores.ece,
    }
    if one.recipe.images.dense:
        overall["miou"] = scores.miou
    found = {
        "weights": one.name,
        "hash": one.hash,
        "network": one.recipe.student,
        "role": one.role,
        "stages": [type(stage).__name__ for stage in one.recipe.stages],
        "quantised": one.quantised,
        "not_finite": one.not_finite,
        "images": len(marks.hits),
        "overall": overall,
        "classes": classes,
        "confused": diagnostics.confused(confusion, marks.class_names),
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
    metrics = [name for name in ("accuracy", "miou") if name in own["overall"]]
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
    """The same data with None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
