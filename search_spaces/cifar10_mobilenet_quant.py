"""CIFAR-10, ResNet-152 (58 M parameters) to MobileNetV2 (2.2 M), then to int8: calibrated or trained.

    python -m tune_kd.search --space cifar10_mobilenet_quant

`static` calibrates the distilled student on images, `qat` trains it with fake quantisation and the same
teacher; dropout is searched. torchao is needed (`pip install -e '.[compress]'`). Its lists of
teacher learning rates are a study of their own, with the same network and no_kd alone, whose best trial
is this study's teacher by `--teacher runs/X` (docs/guide.md).
"""

from tune_kd.space import SearchSpace, kd_methods, log_uniform, quantised_methods, uniform

KD = kd_methods(
    {
        "lr": log_uniform(0.005, 0.2),
        "weight_decay": log_uniform(5e-5, 2e-3),
        "dropout": uniform(0.0, 0.3),
    },
    recipe={"lr": 0.05, "weight_decay": 5e-4, "dropout": 0.1},
)

SPACE = SearchSpace(
    name="cifar10_mobilenet_quant",
    task="cifar10",
    teacher="resnet152",
    student="mobilenet_v2",
    trials=100,  # 5 repeats of 5 for each of 4 methods
    epochs=20,
    teacher_epochs=50,
    patience=20,
    teacher_lr=0.05,
    methods={
        "no_kd": KD["no_kd"],
        "response": KD["response"],
        **quantised_methods(KD["response"]),
    },
    tables=("quantisation", "results", "classes"),
    expected_teacher=0.94,
    expected_student=0.88,
)
