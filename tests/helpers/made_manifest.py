"""Manifests of studies that were never searched, as the one writer writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tune_kd.recipe import Compute, Images
from tune_kd.study.manifest import Manifest, SearchedMethod

IMAGES = Images(task="digits", train_hash="feedbeef", num_classes=10)
METHODS = ("no_kd", "response", "feature", "combined")
LR = SearchedMethod(
    ranges={"lr": "0.01 .. 1 log"}, bounds={"lr": (0.01, 1.0, True)}, defaults={"lr": 0.1}
)
MADE = Manifest(
    study="made_up",
    space="digits_kd",
    family="cnn",
    task="digits",
    teacher="digits_large",
    student="digits_small",
    settings={},
    methods=dict.fromkeys(METHODS, LR),
    fields={"student.epochs": 6, "student.batch_size": 64, "student.optimizer.name": "sgd"},
    trials=36,
    repeats=3,
    trials_per_repeat=3,
    validation_rule="max(n/10, min(2000, 3n/10))",
    seed=0,
    epochs=6,
    teacher_epochs=8,
    limit_train=0,
    images=IMAGES,
    num_train=1300,
    num_val=140,
    rungs=(2,),
    sampler="tpe",
    scheduler="asha",
    compute=Compute(),
    random_start=3,
    metric="val_accuracy",
    objectives=("val_accuracy",),
    needs_teacher=True,
    config_types={"lr": "double"},
    commit="abc1234",
    teacher_model="f00d",
    device="cpu",
    marker="made",
    versions={"python": "3.12", "torch": "2.15.0", "system": "Linux 6.1"},
    command="python -m tune_kd.search --space digits_kd",
)


def manifest(
    *, methods: Mapping[str, SearchedMethod | Mapping[str, Any]] | None = None, **changes: Any
) -> Manifest:
    """A study's manifest with changes; `methods` may be given as their fields by name.

    Where another metric is given, it is the only objective.
    """
    if methods is not None:
        changes["methods"] = {
            name: method if isinstance(method, SearchedMethod) else SearchedMethod(**method)
            for name, method in methods.items()
        }
    if "metric" in changes:
        changes.setdefault("objectives", (changes["metric"],))
    lists = {name: tuple(value) for name, value in changes.items() if isinstance(value, list)}
    return replace(MADE, **(changes | lists))
