"""The terms of the loss (labels, logits, features) and their weighted sum."""

from tune_kd.data.batch import IGNORE, Batch
from tune_kd.losses.features import (
    FEATURE_LOSSES,
    FeatureLoss,
    attention_loss,
    cosine_loss,
    find_feature_loss,
)
from tune_kd.losses.labels import hard_loss, mixed_loss
from tune_kd.losses.logits import LOGIT_LOSSES, LogitLoss, dkd, find_logit_loss, kl, soft_loss
from tune_kd.losses.outputs import Outputs
from tune_kd.losses.projections import Projections
from tune_kd.losses.total import LossOptions, LossTerms, Weights, total

__all__ = [
    "FEATURE_LOSSES",
    "IGNORE",
    "LOGIT_LOSSES",
    "Batch",
    "FeatureLoss",
    "LogitLoss",
    "LossOptions",
    "LossTerms",
    "Outputs",
    "Projections",
    "Weights",
    "attention_loss",
    "cosine_loss",
    "dkd",
    "find_feature_loss",
    "find_logit_loss",
    "hard_loss",
    "kl",
    "mixed_loss",
    "soft_loss",
    "total",
]
