"""CIFAR-10, ResNet-20 (0.27 M parameters) to ResNet-8 (78 k): what a laptop's CPU can really search.

    python -m tune_kd.search --space cifar10_small_kd --limit-train 5000 --epochs 12

What it reached, on what and over how many seeds: README.md.
"""

from tune_kd.space import SearchSpace, Training, kd_methods, log_uniform, uniform

SPACE = SearchSpace(
    name="cifar10_small_kd",
    task="cifar10",
    teacher=Training("resnet20", epochs=60),
    student=Training("resnet8", epochs=60),
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
