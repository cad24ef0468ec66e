"""Handwritten digits: the teacher of digits_kd, a student to be pruned, accuracy against size.

    python -m tune_kd.search --space digits_kd_prune

Small enough for a laptop: how the front of two objectives looks, and what a constraint does
(`--set constraints="size_mb <= 0.1"`). torch-pruning is needed (`pip install -e '.[compress]'`).
"""

from tune_kd.space import (
    Optimizer,
    SearchSpace,
    Training,
    kd_methods,
    log_uniform,
    prune_methods,
    uniform,
)

RECIPE = {"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0}
KD = kd_methods(
    {
        "lr": log_uniform(0.01, 0.5),
        "weight_decay": log_uniform(5e-5, 2e-3),
        "dropout": uniform(0.0, 0.3),
    },
    defaults=RECIPE,
)

SPACE = SearchSpace(
    name="digits_kd_prune",
    task="digits",
    teacher=Training("digits_teacher", epochs=15, batch_size=64, optimizer=Optimizer(lr=0.05)),
    student=Training("digits_medium", epochs=15, batch_size=64),
    trials=90,  # 5 repeats of 6 for each of 3 methods
    methods={"no_kd": KD["no_kd"], **prune_methods(RECIPE)},
    objectives=("val_accuracy", "size_mb"),
    tables=("pruning", "results", "front"),
)
