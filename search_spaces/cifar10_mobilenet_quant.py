"""CIFAR-10, ResNet-152 (58 M parameters) to MobileNetV2 (2.2 M), then to int8: calibrated or trained.

    python -m tune_kd.search --space cifar10_mobilenet_quant

`static` calibrates the distilled student on images, `qat` trains it with fake quantization and the
same teacher; dropout is searched. torchao is needed (`pip install -e '.[compress]'`). Its lists of
teacher learning rates are a study of their own, with the same network and no_kd alone, whose best
trial is this study's teacher by `--teacher runs/X` (docs/guide.md).
"""

from tune_kd.space import (
    Optimizer,
    SearchSpace,
    Training,
    kd_methods,
    log_uniform,
    quantized_methods,
    uniform,
)

KD = kd_methods(
    {
        "lr": log_uniform(0.005, 0.2),
        "weight_decay": log_uniform(5e-5, 2e-3),
        "dropout": uniform(0.0, 0.3),
    },
    defaults={"lr": 0.05, "weight_decay": 5e-4, "dropout": 0.1},
)

SPACE = SearchSpace(
    name="cifar10_mobilenet_quant",
    task="cifar10",
    teacher=Training("resnet152", epochs=50, patience=20, optimizer=Optimizer(lr=0.05)),
    student=Training("mobilenet_v2", epochs=20, patience=20),
    trials=100,  # 5 repeats of 5 for each of 4 methods
    methods={
        "no_kd": KD["no_kd"],
        "response": KD["response"],
        **quantized_methods(KD["response"]),
    },
    tables=("quantization", "results", "classes"),
    expected_teacher=0.94,
    expected_student=0.88,
)
