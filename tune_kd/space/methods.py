"""The methods that spaces share: what is done with a teacher, and how a student is made smaller.

A method's function takes the space and sampled values and gives stages; it is pure. `**training`
are the values that every method tunes: lr, weight decay and dropout.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from optuna.distributions import BaseDistribution

from tune_kd.recipe import LossWeights, Prune, Quantize, Stage
from tune_kd.space.distributions import choice, integer, log_uniform, uniform
from tune_kd.space.method import Config, Method
from tune_kd.space.search_space import SearchSpace

RESPONSE = {
    "alpha": 0.3,
    "temperature": 4.0,
}  # of the methods that make a distilled student smaller


def no_kd(space: SearchSpace, **training: float) -> tuple[Stage, ...]:
    """Return the baseline: labels alone, tuned like the others."""
    return (space.distill(LossWeights(), **training),)


def response(
    space: SearchSpace, *, alpha: float, temperature: float, **training: float
) -> tuple[Stage, ...]:
    """Hinton's distillation of logits, with beta = 1 - alpha."""
    weights = LossWeights(alpha=alpha, beta=1 - alpha, temperature=temperature)
    return (space.distill(weights, **training),)


def feature(space: SearchSpace, *, gamma: float, **training: float) -> tuple[Stage, ...]:
    """Labels and features, alpha = 1."""
    return (space.distill(LossWeights(gamma=gamma), **training),)


def combined(
    space: SearchSpace,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    temperature: float,
    **training: float,
) -> tuple[Stage, ...]:
    """Labels, logits and features with three free weights."""
    weights = LossWeights(alpha=alpha, beta=beta, gamma=gamma, temperature=temperature)
    return (space.distill(weights, **training),)


def kd_methods(
    training: Mapping[str, BaseDistribution],
    *,
    defaults: Config,
    response_defaults: Config | None = None,
) -> dict[str, Method]:
    """no_kd, response, feature and combined over the ranges of `training` (lr, weight_decay, dropout).

    `defaults` has the default value of each of these, `response_defaults` those of alpha (beta = 1
    - alpha) and temperature for response, where a pair has its own (else 0.5 and 4). The ranges of
    the loss weights are those that published work spans; its settings are tried as well:
    alpha/beta/T 0.3/0.7, 0.1/0.9 at T 4 and 0.3/0.7 at T 16 for response (CRD benchmark, Tian et
    al. 2020, and others).
    """
    temperature = log_uniform(1.0, 20.0)
    response_setting = dict(response_defaults or {"alpha": 0.5, "temperature": 4.0})
    others = (
        {"alpha": 0.1, "temperature": 4.0},
        {"alpha": 0.3, "temperature": 16.0},
        {"alpha": 0.3, "temperature": 4.0},
    )
    return {
        "no_kd": Method(stages=no_kd, ranges=training, defaults=defaults),
        "response": Method(
            stages=response,
            needs=("logits",),
            ranges={"alpha": uniform(0.05, 0.95), "temperature": temperature, **training},
            defaults={**response_setting, **defaults},
            published=tuple(setting for setting in others if setting != response_setting),
        ),
        "feature": Method(
            stages=feature,
            needs=("features",),
            ranges={"gamma": log_uniform(0.05, 5.0), **training},
            defaults={"gamma": 0.5, **defaults},
        ),
        "combined": Method(
            stages=combined,
            needs=("logits", "features"),
            ranges={
                "alpha": log_uniform(0.05, 2.0),
                "beta": log_uniform(0.05, 5.0),
                "gamma": log_uniform(0.05, 5.0),
                "temperature": temperature,
                **training,
            },
            defaults={"alpha": 1.0, "beta": 0.7, "gamma": 0.5, "temperature": 4.0, **defaults},
            published=({"alpha": 0.1, "beta": 0.9},),
        ),
    }


def dkd(
    space: SearchSpace,
    *,
    target_weight: float,
    other_weight: float,
    temperature: float,
    **training: float,
) -> tuple[Stage, ...]:
    """Labels and decoupled distillation of logits (Zhao et al. 2022), with its warm-up of a twelfth."""
    return (
        space.distill(
            LossWeights(alpha=1.0, beta=1.0, temperature=temperature),
            logit_loss="dkd",
            logit_options={"target_weight": target_weight, "other_weight": other_weight},
            logit_warmup_epochs=space.student.epochs / 12,  # 20 of 240 in the paper
            **training,
        ),
    )


def attention(space: SearchSpace, *, gamma: float, **training: float) -> tuple[Stage, ...]:
    """Labels and attention transfer (Zagoruyko and Komodakis 2017)."""
    weights = LossWeights(gamma=gamma)
    return (space.distill(weights, feature_loss="attention", **training),)


def more_methods(
    training: Mapping[str, BaseDistribution], *, defaults: Config
) -> dict[str, Method]:
    """Methods that every space takes by name (`--methods no_kd response dkd`), beside its own.

    Ranges contain the published settings: DKD weighs its two terms 1 and 1 to 8 at T 4, attention
    transfer's 1,000 for a mean over 64 positions and a sum over three levels is about 50 in ours.
    """
    return {
        "dkd": Method(
            stages=dkd,
            needs=("logits",),
            ranges={
                "target_weight": log_uniform(0.2, 5.0),
                "other_weight": log_uniform(0.2, 20.0),
                "temperature": log_uniform(1.0, 20.0),
                **training,
            },
            defaults={"target_weight": 1.0, "other_weight": 8.0, "temperature": 4.0, **defaults},
            published=({"other_weight": 2.0}, {"other_weight": 1.0}),
        ),
        "attention": Method(
            stages=attention,
            needs=("features",),
            ranges={"gamma": log_uniform(1.0, 200.0), **training},
            defaults={"gamma": 50.0, **defaults},
        ),
    }


MORE = ("dkd", "attention")


class Cut(NamedTuple):
    """How a network is pruned: `ratio` of what there was at first, in so many steps."""

    method: str
    ratio: float
    steps: int


def pruning_stages(
    space: SearchSpace, cut: Cut, *, recover: LossWeights, lr: float
) -> tuple[Stage, ...]:
    """Pruning in steps, each followed by training with `recover`.

    The space's finetune_epochs are divided among the steps, one each at the least.
    """
    each = 1 - (1 - cut.ratio) ** (1 / cut.steps)
    epochs = max(1, space.finetune_epochs // cut.steps)
    mend = space.finetune(recover, lr=lr, epochs=epochs)
    return (Prune(method=cut.method, ratio=each), mend) * cut.steps


def prune_methods(training: Config) -> dict[str, Method]:
    """`prune` and `kd+prune`: one student for all trials, then how it is pruned is searched.

    `training` are the values of the first stage, on labels alone and with Hinton's distillation.
    The second one may recover with or without the teacher, as is sampled. Channels or single
    weights, and the gradual way: Zhu and Gupta 2018; Li et al. 2017 for norms of channels.
    """
    labels = LossWeights()
    taught = LossWeights(
        alpha=RESPONSE["alpha"], beta=1 - RESPONSE["alpha"], temperature=RESPONSE["temperature"]
    )

    def prune(
        space: SearchSpace,
        *,
        prune_method: str,
        prune_ratio: float,
        prune_steps: int,
        finetune_lr: float,
    ) -> tuple[Stage, ...]:
        cut = Cut(prune_method, prune_ratio, prune_steps)
        first = space.distill(labels, **training)
        return (first, *pruning_stages(space, cut, recover=labels, lr=finetune_lr))

    def kd_prune(
        space: SearchSpace,
        *,
        recover: str,
        prune_method: str,
        prune_ratio: float,
        prune_steps: int,
        finetune_lr: float,
    ) -> tuple[Stage, ...]:
        cut = Cut(prune_method, prune_ratio, prune_steps)
        weights = taught if recover == "teacher" else labels
        first = space.distill(taught, **training)
        return (first, *pruning_stages(space, cut, recover=weights, lr=finetune_lr))

    ranges: dict[str, BaseDistribution] = {
        "prune_method": choice("channel", "magnitude"),
        "prune_ratio": uniform(0.1, 0.8),
        "prune_steps": integer(1, 3),
        "finetune_lr": log_uniform(0.001, 0.1),
    }
    defaults = {
        "prune_method": "channel",
        "prune_ratio": 0.3,
        "prune_steps": 1,
        "finetune_lr": 0.01,
    }
    published = ({"prune_method": "magnitude", "prune_ratio": 0.5},)
    return {
        "prune": Method(
            stages=prune,
            needs=("pruning",),
            ranges=ranges,
            defaults=defaults,
            published=published,
            shared=1,
        ),
        "kd+prune": Method(
            stages=kd_prune,
            needs=("logits", "pruning"),
            ranges={"recover": choice("labels", "teacher"), **ranges},
            defaults={"recover": "labels", **defaults},
            published=({"recover": "teacher"}, *published),
            shared=1,
        ),
    }


def static(
    space: SearchSpace, *, alpha: float, temperature: float, **training: float
) -> tuple[Stage, ...]:
    """Response, then int8 by calibration."""
    stages = response(space, alpha=alpha, temperature=temperature, **training)
    return (*stages, Quantize(calibration_images=space.calibration_images))


def qat(
    space: SearchSpace, *, alpha: float, temperature: float, **training: float
) -> tuple[Stage, ...]:
    """Response, then int8 with fake quantization trained with the same teacher and weights."""
    stages = response(space, alpha=alpha, temperature=temperature, **training)
    weights = LossWeights(alpha=alpha, beta=1 - alpha, temperature=temperature)
    mend = space.finetune(weights, lr=space.qat_lr, epochs=space.finetune_epochs)
    return (*stages, Quantize(training=mend))


def quantized_methods(of: Method) -> dict[str, Method]:
    """Return `static` and `qat`: the ranges and settings of `response`, and int8 at the end (Jacob et al. 2018)."""
    needs = (*of.needs, "integers")
    return {
        function.__name__: dataclasses.replace(of, stages=function, needs=needs)
        for function in (static, qat)
    }
