"""What `train --dry_run` prints."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

from modules.config import StoryConfig
from modules.story_model import build_model
from modules.training import TrainArgs


def plan(config: StoryConfig, args: TrainArgs) -> dict[str, Any]:
    """The resolved config, parameters by factor (trainable, frozen), and the memory that training needs besides activations."""
    with torch.device("meta"):
        model = build_model(config, "this config")
    parameters = {}
    for name, factor in {**model.factors, "aids": model.aids, "autoencoder": model.autoencoder}.items():
        trainable = sum(parameter.numel() for parameter in factor.parameters() if parameter.requires_grad)
        parameters[name] = {"trainable": trainable, "frozen": sum(parameter.numel() for parameter in factor.parameters()) - trainable}
    count = sum(entry["trainable"] + entry["frozen"] for entry in parameters.values())
    return {
        "config": json.loads(config.to_json()),
        "run": {name: str(value) for name, value in dataclasses.asdict(args).items()},
        "parameters": {**parameters, "total": count},
        "memory_mib": {"weights, averages, gradients and two Adam moments in float32": round(count * 5 * 4 / 2**20)},
    }
