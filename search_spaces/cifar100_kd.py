"""CIFAR-100, ResNet-50 (23.7 M parameters) to MobileNetV3-Small (1.6 M), for a GPU.

    python -m tune_kd.search --space cifar100_kd
    python -m tune_kd.search --space cifar100_kd --set teacher.initial=imagenet

SGD with Nesterov momentum, cosine, gradients clipped at norm 1; both networks have stems for 32
pixels. The teacher may begin with ImageNet's weights, where they can be downloaded.
"""

from tune_kd.space import Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

SPACE = SearchSpace(
    name="cifar100_kd",
    task="cifar100",
    teacher=Training("resnet50", epochs=40, batch_size=256, clip=1.0, optimizer=Optimizer(lr=0.05)),
    student=Training("mobilenet_v3_small", epochs=120, batch_size=256, clip=1.0),
    trials=100,  # 5 repeats of 5 for each of 4 methods
    methods=kd_methods(
        {
            "lr": log_uniform(0.01, 0.5),
            "weight_decay": log_uniform(5e-5, 2e-3),
            "dropout": uniform(0.0, 0.4),
        },
        defaults={"lr": 0.2, "weight_decay": 5e-4, "dropout": 0.2},
    ),
    tables=("calibration", "classes"),
)
