"""A space of one's own: made images of shapes, two networks and a feature loss from `shapes.py`.

    python -m tune_kd.search --space examples/own_data_and_network/shapes_kd.py --dry-run
    python -m tune_kd.search --space examples/own_data_and_network/shapes_kd.py
    python -m tune_kd.confirm runs/shapes_kd
    python -m analysis.report runs/shapes_kd

The strings `shapes.py:...` are looked for beside this file. Copy the folder and change it.
"""

from tune_kd.recipe import LossWeights, Stage
from tune_kd.space import Method, Optimizer, SearchSpace, Training, kd_methods, log_uniform, uniform

TRAINING = {
    "lr": log_uniform(0.01, 0.5),
    "weight_decay": log_uniform(5e-5, 2e-3),
    "dropout": uniform(0.0, 0.3),
}
RECIPE = {"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0}


def soft_only(space: SearchSpace, *, temperature: float, **training: float) -> tuple[Stage, ...]:
    """Return the stages of a method of one's own, a row of the table: the teacher's outputs alone, no labels."""
    weights = LossWeights(alpha=0.0, beta=1.0, temperature=temperature)
    return (space.distill(weights, **training),)


SPACE = SearchSpace(
    name="shapes_kd",
    task="shapes.py:shapes",
    teacher=Training("shapes.py:teacher", epochs=12, batch_size=64, optimizer=Optimizer(lr=0.05)),
    student=Training("shapes.py:student", epochs=12, batch_size=64),
    feature_loss="shapes.py:attention",
    levels=("mid", "high"),  # the taps of both networks that the feature loss compares
    trials=75,  # 3 repeats of 5 for each of 5 methods
    methods={
        **kd_methods(TRAINING, defaults=RECIPE),
        "soft_only": Method(
            stages=soft_only,
            needs=("logits",),
            ranges={"temperature": log_uniform(1.0, 20.0), **TRAINING},
            defaults={"temperature": 4.0, **RECIPE},
        ),
    },
)
