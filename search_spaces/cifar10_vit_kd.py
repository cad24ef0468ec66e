"""CIFAR-10, ViT-Tiny (12 layers, 5.36 M parameters) to its half (6 layers, 2.69 M), for a GPU.

    python -m tune_kd.search --space cifar10_vit_kd
    python -m analysis.report runs/cifar10_kd runs/cifar10_vit_kd

AdamW with warm-up and cosine: the CNN-ViT system of docs/reference-systems.md trains both with SGD
at lr 0.1, which left its teacher below its student. Beside cifar10_kd it fills the key `vit` of
report.json.
"""

from tune_kd.space import Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

ADAMW = Optimizer(name="adamw", lr=5e-4, weight_decay=0.05, warmup_epochs=5.0)

SPACE = SearchSpace(
    name="cifar10_vit_kd",
    family="vit",
    task="cifar10",
    teacher=Training(
        "vit_tiny",
        epochs=100,
        dropout=0.1,
        clip=1.0,
        optimizer=ADAMW,
    ),
    student=Training("vit_tiny_6", epochs=100, clip=1.0, optimizer=ADAMW),
    trials=120,  # 5 repeats of 6 for each of 4 methods
    tables=("classes",),
    methods=kd_methods(
        {
            "lr": log_uniform(1e-4, 2e-3),
            "weight_decay": log_uniform(1e-2, 0.3),
            "dropout": uniform(0.0, 0.2),
        },
        defaults={"lr": 5e-4, "weight_decay": 0.05, "dropout": 0.0},
    ),
)
