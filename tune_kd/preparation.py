"""What is measured on an idle worker before a study's first trial."""

from typing import Any

import torch

from tune_kd import measure, models, trial
from tune_kd.recipe import Compute, Images, rebuild


def prepare(config: dict[str, Any], site: trial.Site) -> dict[str, Any]:
    """Precision and layout by timing the student's training step, then both networks' footprint.

    Each answer is kept in the node's cache, so that two studies on one machine choose alike.
    """
    images: Images = rebuild(Images, config["images"])
    shape = (images.channels, images.size, images.size)
    device = torch.device(site.device)

    def network(name: str) -> torch.nn.Module:
        wanted = models.Shape(num_classes=images.num_classes, channels=images.channels)
        return models.build(name, shape=wanted, base=site.code).to(device)

    def label(name: str) -> str:
        parts = [name, f"{images.num_classes} classes", *config["sources"]]
        return ", ".join(parts)

    step = measure.Step(
        network=label(config["student"]),
        shape=shape,
        batch_size=config["batch_size"],
        device=device,
    )
    compute: Compute = measure.probe(
        lambda: network(config["student"]), step=step, cache=site.cache
    )
    measured = {
        role: measure.measure_once(
            network(config[role]),
            name=label(config[role]),
            shape=shape,
            device=device,
            cache=site.cache,
        )
        for role in ("teacher", "student")
    }
    return {
        "precision": compute.precision,
        "layout": compute.layout,
        "measured": measured,
        "device": measure.device_name(device),
    }
