"""CIFAR-10, ResNet-34 (21 M parameters) to MobileNetV2 (2.2 M), then pruned and recovered, for a GPU.

    python -m tune_kd.search --space cifar10_kd_prune

`prune` and `kd+prune` train one student for all their trials, on labels alone and with the teacher,
and search how it is pruned: channels or single weights, how many, in how many steps, and how it
recovers. torch-pruning is needed (`pip install -e '.[compress]'`). `--set start=FILE` or `--set
start=runs/X:response` begins from another student.
"""

from tune_kd.space import SearchSpace, Training, kd_methods, log_uniform, prune_methods, uniform

RECIPE = {"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0}
KD = kd_methods(
    {
        "lr": log_uniform(0.01, 0.3),
        "weight_decay": log_uniform(5e-5, 2e-3),
        "dropout": uniform(0.0, 0.3),
    },
    defaults=RECIPE,
)

SPACE = SearchSpace(
    name="cifar10_kd_prune",
    task="cifar10",
    teacher=Training("resnet34", epochs=200),
    student=Training("mobilenet_v2", epochs=200),
    trials=100,  # 5 repeats of 5 for each of 4 methods
    finetune_epochs=10,
    methods={"no_kd": KD["no_kd"], "response": KD["response"], **prune_methods(RECIPE)},
    objectives=("val_accuracy", "size_mb"),
    tables=("pruning", "results", "front"),
)
