"""CIFAR-100, ResNet-56 to ResNet-20: a classic benchmark pair, for a GPU.

    python -m tune_kd.search --space cifar100_resnet56_20

240 epochs with steps, and response at 0.1 CE + 0.9 KL and T 4 as its default settings, as published
comparisons train it (Tian et al. 2020, appendix): `--trials 4`, confirmed, repeats their KD column.
Trials are not compared before the first step: accuracy jumps there, and before it says little of
what comes.
"""

from tune_kd.space import Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

STEPS = Optimizer(lr=0.05, nesterov=False, schedule="step", decay_at=(0.625, 0.75, 0.875))

SPACE = SearchSpace(
    name="cifar100_resnet56_20",
    task="cifar100",
    teacher=Training(
        "resnet56",
        epochs=240,
        batch_size=64,
        optimizer=STEPS,
    ),
    student=Training(
        "resnet20",
        epochs=240,
        batch_size=64,
        optimizer=STEPS,
    ),
    trials=100,  # 5 repeats of 5 for each of 4 methods
    methods=kd_methods(
        {
            "lr": log_uniform(0.01, 0.2),
            "weight_decay": log_uniform(1e-4, 2e-3),
            "dropout": uniform(0.0, 0.3),
        },
        defaults={"lr": 0.05, "weight_decay": 5e-4, "dropout": 0.0},
        response_defaults={"alpha": 0.1, "temperature": 4.0},  # 0.1 CE + 0.9 KL
    ),
)
