"""CamVid: segmentation, lraspp_mobilenet_v3_large to lraspp_mobilenet_v3_small.

    python -m tune_kd.search --space camvid_seg_kd

Features are compared at strides 4, 8 and 16 of the student; where the teacher's stride differs, the
larger map is averaged down. AdamW with cosine; trials are ranked by mIoU of the whole split.
"""

from tune_kd.space import Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

ADAMW = Optimizer(name="adamw", lr=0.001, weight_decay=0.01)

SPACE = SearchSpace(
    name="camvid_seg_kd",
    family="segmentation",
    task="camvid",
    teacher=Training(
        "lraspp_mobilenet_v3_large",
        epochs=60,
        batch_size=8,
        optimizer=ADAMW,
    ),
    student=Training("lraspp_mobilenet_v3_small", epochs=60, batch_size=8, optimizer=ADAMW),
    trials=100,  # 5 repeats of 5 for each of 4 methods
    methods=kd_methods(
        {
            "lr": log_uniform(2e-4, 5e-3),
            "weight_decay": log_uniform(1e-4, 0.1),
            "dropout": uniform(0.0, 0.5),
        },
        defaults={"lr": 0.001, "weight_decay": 0.01, "dropout": 0.1},
    ),
    tables=("comparison", "classes"),
)
