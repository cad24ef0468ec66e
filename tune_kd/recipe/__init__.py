"""What one student is made of: frozen data, its canonical JSON and its hashes."""

from tune_kd.recipe.canonical import rebuild, to_builtins, to_json
from tune_kd.recipe.hashing import bytes_hash, digest, external_model_id, file_id, stream
from tune_kd.recipe.recipe import (
    RECIPE_VERSION,
    Compute,
    Images,
    Recipe,
    from_json,
    stages_from_json,
    stages_to_json,
)
from tune_kd.recipe.stages import (
    NEEDS,
    STAGES,
    Distill,
    LossWeights,
    Optimizer,
    Prune,
    Quantize,
    Stage,
    TrainingOptions,
    Transform,
    training_stages,
)

__all__ = [
    "NEEDS",
    "RECIPE_VERSION",
    "STAGES",
    "Compute",
    "Distill",
    "Images",
    "LossWeights",
    "Optimizer",
    "Prune",
    "Quantize",
    "Recipe",
    "Stage",
    "TrainingOptions",
    "Transform",
    "bytes_hash",
    "digest",
    "external_model_id",
    "file_id",
    "from_json",
    "rebuild",
    "stages_from_json",
    "stages_to_json",
    "stream",
    "to_builtins",
    "to_json",
    "training_stages",
]
