"""Training logs of the teacher and of each method's recommended trial, in the columns of the labs."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import escaping, selection
from analysis.compression import stages_of
from analysis.study import Study
from tune_kd.metrics import number
from tune_kd.recipe import Stage
from tune_kd.study.results import Row

# Columns and where their numbers come from; training accuracy is not measured.
SOURCES = {
    "lr": "lr",
    "train_loss": "train_loss",
    "train_ce": "hard_loss",
    "train_kd": "soft_loss",
    "train_feature": "feature_loss",
    "val_loss": "val_loss",
    "val_acc": "val_accuracy",
}


def logs(study: Study) -> dict[str, bytes]:
    """File names and contents: `<trial>.csv` and `.json` for the teacher and the chosen trials.

    Trials without epochs have no log. Losses are the terms before they are weighted; alpha and T
    are this project's: the weight of the labels, and the temperature, empty where no outputs are
    taught.
    """
    teacher_row = selection.teacher(study.rows, "teacher")
    files: dict[str, bytes] = {}
    for row in (teacher_row, *(study.recommended_trial(method) for method in study.methods)):
        stages = stages_of(row)
        epoch_rows = study.curves.get(row["trial"], []) if row else []
        epochs = [_epoch(study, e) | _weights(row, stages, e) for e in epoch_rows]
        if row and epochs:
            frame = pd.DataFrame(epochs, dtype=object)
            name = escaping.file_name(row["trial"])
            files[f"{name}.csv"] = frame.to_csv(index=False).encode()
            header = {
                name: row[name] for name in ("study", "phase", "method", "trial", "seed", "status")
            }
            text = json.dumps({**header, "epochs": epochs}, indent=1)
            files[f"{name}.json"] = f"{text}\n".encode()
    return files


def _epoch(study: Study, row: Row) -> dict[str, Any]:
    extra_columns = () if study.metric in SOURCES.values() else (study.metric,)
    values = {name: number(row, column) for name, column in SOURCES.items()}
    return {"epoch": row["step"], **values, **{name: number(row, name) for name in extra_columns}}


def _weights(trial: Row | None, stages: Sequence[Stage], row: Row) -> dict[str, float | None]:
    """Return the weight of the labels and the temperature of an epoch's stage, None where it trains nothing.

    Of the trial's last training stage where the row has no recipe.
    """
    at = row["stage"] or 0
    if at >= len(stages):
        return {"alpha": number(trial, "alpha"), "T": number(trial, "temperature")}
    training = stages[at].training
    if training is None:
        return {"alpha": None, "T": None}
    weights = training.weights
    return {"alpha": weights.alpha, "T": weights.temperature if weights.beta > 0 else None}
