"""CIFAR-10, ResNet-18 (11.2 M parameters) to the wide ResNet-8 (4.9 M): the main job, for a GPU.

    python -m tune_kd.search --space cifar10_kd

The recipe's lr, batch size and epochs are those of the CNN-ViT system of docs/reference-systems.md;
a trial of 100 epochs takes hours on a CPU core, where cifar10_small_kd is the space to use.
"""

from tune_kd.space import SearchSpace, Training, kd_methods, log_uniform, uniform

SPACE = SearchSpace(
    name="cifar10_kd",
    task="cifar10",
    teacher=Training("resnet18", epochs=100),
    student=Training("resnet8_wide", epochs=100),
    trials=160,  # 5 repeats of 8 for each of 4 methods
    tables=("classes",),
    methods=kd_methods(
        {
            "lr": log_uniform(0.005, 0.3),
            "weight_decay": log_uniform(5e-5, 2e-3),
            "dropout": uniform(0.0, 0.4),
        },
        defaults={"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0},
    ),
)
