"""Recipes: JSON, ids, rules."""

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tune_kd.recipe import (
    Compute,
    Distill,
    Images,
    LossWeights,
    Optimizer,
    Prune,
    Quantize,
    Recipe,
    digest,
    from_json,
    rebuild,
    recipe,
    stream,
    to_json,
)

IMAGES = Images(task="digits", train_hash="abc", num_classes=10)
STAGE = Distill(
    epochs=3,
    optimizer=Optimizer(schedule="step", decay_at=(0.5, 0.75)),
    weights=LossWeights(alpha=0.1, beta=0.9, gamma=0.5, temperature=4.0),
    levels=("low", "high"),
    monitor="val_accuracy",
)
FULL = Recipe(
    images=IMAGES,
    student="resnet8",
    stages=(STAGE, Distill(epochs=1)),
    teacher="resnet20",
    teacher_model="f00d",
    start="beef",
    compute=Compute(precision="bfloat16", layout="channels_last"),
    sources=("a", "b"),
)


def other_value(value):
    """Another valid value of the same kind, for any field of a recipe."""
    replacements = {
        "sgd": "adamw",
        "step": "constant",
        "cosine": "step",
        "train": "train+val",
        "float32": "bfloat16",
        "none": "mixup",
        "val_accuracy": "val_miou",
    }
    match value:
        case dict():
            return {**value, "option": 1.5}
        case bool():
            return not value
        case str():
            return replacements.get(value, value + "x")
        case int():
            return value + 1
        case float():
            return value / 2 + 0.01
        case tuple() if value and isinstance(value[0], str):
            return value[:-1]
        case tuple():
            step = 1 if value and isinstance(value[0], int) else 0.01
            return (*value[:-1], value[-1] + step) if value else (0.5,)
    raise AssertionError(value)


def changes(value):
    """(path, changed copy) for every field, in stages and parts as well."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            for path, changed in changes(inner):
                yield f"{field.name}.{path}", dataclasses.replace(value, **{field.name: changed})
        elif field.name == "stages":
            for path, changed in changes(inner[0]):
                yield f"stages.{path}", dataclasses.replace(value, stages=(changed, *inner[1:]))
        else:
            yield field.name, dataclasses.replace(value, **{field.name: other_value(inner)})


CHANGES = dict(changes(FULL))


def test_every_field_is_changed_here():
    def leaves(kind):
        hints = {f.name: f.type for f in dataclasses.fields(kind)}
        parts = [k for k in hints.values() if dataclasses.is_dataclass(k)]
        return len(hints) - len(parts) + sum(map(leaves, parts))

    assert len(CHANGES) == leaves(Recipe) - 1 + leaves(Distill)  # stages are no leaf


@pytest.mark.parametrize("path", CHANGES)
def test_every_changed_field_is_another_model(path):
    assert CHANGES[path] != FULL
    assert CHANGES[path].recipe_id(0) != FULL.recipe_id(0)


def test_ids_of_all_changes_seeds_and_orders_differ():
    turned = dataclasses.replace(FULL, stages=FULL.stages[::-1])
    ids = {r.recipe_id(seed) for r in (FULL, turned, *CHANGES.values()) for seed in (0, 1)}
    assert len(ids) == 2 * (2 + len(CHANGES))


@pytest.mark.parametrize("recipe_", [FULL, *CHANGES.values()], ids=["full", *CHANGES])
def test_json_gives_the_same_recipe_back(recipe_):
    again = from_json(to_json(recipe_))
    assert again == recipe_
    assert to_json(again) == to_json(recipe_)
    assert again.recipe_id(7) == recipe_.recipe_id(7)
    assert [type(stage) for stage in again.stages] == [type(stage) for stage in recipe_.stages]


def test_random_floats_survive_json():
    draw = random.Random(0)
    for _ in range(200):
        weights = LossWeights(alpha=draw.random(), temperature=10 ** draw.uniform(-5, 5))
        assert rebuild(LossWeights, json.loads(to_json(weights))) == weights


def test_whole_numbers_of_json_become_the_floats_that_they_mean():
    again = from_json(
        to_json(dataclasses.replace(FULL)).replace('"temperature":4.0', '"temperature":4')
    )
    assert again.recipe_id(0) == FULL.recipe_id(0)


def test_a_number_and_the_same_number_of_another_type_are_one_model():
    """What a space wrote as 1 is 1.0 when a worker has read it."""
    recipe = Recipe(
        images=Images(task="digits", train_hash="x", num_classes=10, mix_alpha=1),
        student="a",
        stages=(Distill(epochs=2, clip=1, optimizer=Optimizer(warmup_epochs=5, decay_factor=1)),),
    )
    assert to_json(recipe) != to_json(from_json(to_json(recipe)))
    assert recipe.recipe_id(0) == from_json(to_json(recipe)).recipe_id(0)


def test_the_id_is_the_one_that_models_on_disk_are_named_by():
    """Where this fails RECIPE_VERSION must have been raised: another value makes all cached models unknown."""
    small = Recipe(images=Images(task="digits", train_hash="", num_classes=10), student="x")
    assert recipe.RECIPE_VERSION == 4
    assert small.recipe_id(0) == "f7db2eca4999f947"
    assert FULL.recipe_id(3) == "7fc488a1972fc172"


def test_ids_are_the_same_in_every_process():
    code = "from tune_kd.recipe import from_json, stream; print(from_json(input()).recipe_id(3), stream(3, 'order', 1))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            input=to_json(FULL),
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(recipe.__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == [FULL.recipe_id(3), str(stream(3, "order", 1))]


def test_a_new_version_of_training_makes_new_models(monkeypatch):
    before = FULL.recipe_id(0)
    monkeypatch.setattr(recipe, "RECIPE_VERSION", recipe.RECIPE_VERSION + 1)
    assert FULL.recipe_id(0) != before


def test_epochs_are_those_of_all_stages():
    assert FULL.epochs == 4
    assert Recipe(images=IMAGES, student="x").epochs == 0


BAD = [
    (LossWeights, {"alpha": -0.1}, "alpha"),
    (LossWeights, {"beta": math.inf}, "beta"),
    (LossWeights, {"gamma": math.nan}, "gamma"),
    (LossWeights, {"temperature": 0.0}, "temperature"),
    (LossWeights, {"temperature": math.inf}, "temperature"),
    (LossWeights, {"alpha": 0.0}, "alpha"),
    (Optimizer, {"name": "adam"}, "adam"),
    (Optimizer, {"schedule": "linear"}, "linear"),
    (Optimizer, {"lr": 0.0}, "lr"),
    (Optimizer, {"lr": math.nan}, "lr"),
    (Optimizer, {"weight_decay": -1e-4}, "weight_decay"),
    (Optimizer, {"momentum": 1.0}, "momentum"),
    (Optimizer, {"warmup_epochs": -1.0}, "warmup_epochs"),
    (Optimizer, {"decay_at": (0.75, 0.5)}, "decay_at"),
    (Optimizer, {"decay_at": (0.5, 1.0)}, "decay_at"),
    (Optimizer, {"decay_factor": 0.0}, "decay_factor"),
    (Distill, {"epochs": 0}, "epochs"),
    (Distill, {"epochs": 1, "batch_size": 1}, "batch_size"),
    (Distill, {"epochs": 1, "dropout": 1.0}, "dropout"),
    (Distill, {"epochs": 1, "label_smoothing": -0.1}, "label_smoothing"),
    (Distill, {"epochs": 1, "weights": LossWeights(gamma=1.0), "levels": ()}, "levels"),
    (Images, {"task": "x", "train_hash": "", "num_classes": 1}, "num_classes"),
    (Images, {"task": "x", "train_hash": "", "num_classes": 2, "fit_on": "test"}, "fit_on"),
    (Images, {"task": "x", "train_hash": "", "num_classes": 2, "pad": -1}, "pad"),
    (
        Recipe,
        {"images": IMAGES, "student": "x", "stages": (Prune(method="channel"), Quantize())},
        "shapes",
    ),
]


@pytest.mark.parametrize(("kind", "fields", "name"), BAD)
def test_rules_name_what_broke_them(kind, fields, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**fields)
    assert "must hold, but got" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unweighted_labels_are_allowed_where_something_else_teaches():
    assert LossWeights(alpha=0.0, beta=1.0).beta == 1.0
    assert LossWeights(alpha=0.0, gamma=1.0).gamma == 1.0


def test_streams_and_digests():
    parts = [(0,), (1,), (0, 1), ("0",), (0, "order", 1), (0, "order", 11), (0, "orde", "r1")]
    assert len({stream(*p) for p in parts}) == len(parts)
    assert all(0 <= stream(*p) < 2**63 for p in parts)
    assert digest("a", "bc") != digest("ab", "c") != digest("abc")
    assert len(digest("x", length=7)) == 7
    assert digest("é") == digest("é".encode())
