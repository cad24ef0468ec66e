"""Handwritten digits (embedded in scikit-learn, 8x8): four methods, five times over, in minutes on 2 cores.

    python -m tune_kd.search --space digits_kd

A small CNN teaches a tiny one. What it reached, on what and over how many seeds: README.md.
"""

from tune_kd.space import Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

SPACE = SearchSpace(
    name="digits_kd",
    task="digits",
    teacher=Training("digits_teacher", epochs=12, batch_size=64, optimizer=Optimizer(lr=0.05)),
    student=Training("digits_student", epochs=15, batch_size=64),
    trials=120,  # 5 repeats of 6 for each of 4 methods
    methods=kd_methods(
        {
            "lr": log_uniform(0.01, 0.5),
            "weight_decay": log_uniform(5e-5, 2e-3),
            "dropout": uniform(0.0, 0.3),
        },
        defaults={"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0},
    ),
)
