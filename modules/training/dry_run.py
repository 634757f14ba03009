"""The report of `train --dry_run`: resolved config, parameters and memory."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from modules.config import StoryConfig
from modules.story_model.story_model import StoryModel
from modules.training.memory_estimate import (
    STRATEGIES,
    autoencoder_activations,
    build_on_meta,
    count_parameters,
    story_activations,
    trained_parameters,
    training_bytes,
)
from modules.training.plan import trained_phases
from modules.training.settings import TrainSettings
from modules.training.sharding import gathered_sizes

PROCESSES = (2, 4, 8)


def plan(config: StoryConfig, settings: TrainSettings) -> dict[str, Any]:
    """Return the resolved config, the parameters of each factor (trainable, frozen), and the memory of a training."""
    model = build_on_meta(config)
    counts = {
        name: count_parameters(factor)
        for name, factor in {**model.factors, "aids": model.aids, "autoencoder": model.autoencoder}.items()
    }
    return {
        "config": json.loads(config.to_json()),
        "run": {name: str(value) for name, value in dataclasses.asdict(settings).items()},
        "parameters": {
            **{name: {"trainable": trainable, "frozen": frozen} for name, (trainable, frozen) in counts.items()},
            "total": sum(sum(count) for count in counts.values()),
        },
        "memory_mib": memory(model, config, settings),
    }


def memory(model: StoryModel, config: StoryConfig, settings: TrainSettings) -> dict[str, Any]:
    """Return MiB by `training_bytes`: of one process in detail, of several in total, by strategy and number."""
    mixed = settings.mixed_precision != "no"
    trainable, frozen = count_parameters(model)
    root, block = gathered_sizes(model)
    sizes: dict[str, Any] = {
        "trainable": trainable,
        "frozen": frozen,
        "activations": story_activations(config, mixed),
        "mixed": mixed,
    }
    report = {"one process": in_mib(training_bytes(**sizes))}
    for strategy in STRATEGIES:
        several = {
            n: training_bytes(**sizes, strategy=strategy, num_processes=n, root=root, block=block) for n in PROCESSES
        }
        report[f"each process, {strategy}"] = in_mib({str(n): parts["total"] for n, parts in several.items()})
    for phase in trained_phases(config):
        if phase in settings.phases and phase != "joint" and not (phase == "autoencoder" and settings.autoencoder):
            report[f"one process, {phase} phase"] = in_mib(phase_bytes(model, config, phase, mixed))
    return report


def phase_bytes(model: StoryModel, config: StoryConfig, phase: str, mixed: bool) -> dict[str, int]:
    """Return the bytes, by `training_bytes`, that one process needs in a phase."""
    if phase == "autoencoder":
        trained = sum(count_parameters(model.autoencoder))
        frozen = sum(count_parameters(model)) - trained
        activations = autoencoder_activations(config, mixed)
    else:
        trained, frozen = trained_parameters(config, phase)
        activations = story_activations(config, mixed, phase)
    return training_bytes(trained, frozen, activations, mixed=mixed)


def in_mib(sizes: dict[str, int]) -> dict[str, int]:
    """Return sizes in bytes as MiB."""
    return {name: round(size / 2**20) for name, size in sizes.items()}
