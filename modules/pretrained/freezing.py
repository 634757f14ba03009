"""Freezing of pretrained encoders: none, the last few or all of their layers train."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from modules.common.errors import UserError

ALL = -1


def prepare_training(
    model: PreTrainedModel, num_layers: int, gradient_checkpointing: bool, part: str
) -> list[nn.Module]:
    """Make the last `num_layers` layers trainable (0: none, -1: the whole model) and return the modules that train.

    Raises UserError, starting with `part`, where the model has fewer layers or cannot be checkpointed.
    """
    layers = _layers(model)
    if not ALL <= num_layers <= len(layers):
        raise UserError(
            f"{part}: trainable_layers must be from 0 to {len(layers)}, the number of layers, or -1 for all of them,"
            f" got {num_layers}"
        )
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise UserError(
                f"{part}: a {model.config.model_type} has no gradient checkpointing:"
                " set gradient_checkpointing to false"
            )
        enable_checkpointing(model)
    trained: list[nn.Module] = [model] if num_layers == ALL else layers[len(layers) - num_layers :]
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    set_modes(model, trained, training=True)
    return trained


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Make a transformers model recompute its layers in the backward pass."""
    # Older versions of transformers have the second name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def set_modes(model: nn.Module, trained: list[nn.Module], training: bool) -> None:
    """Put `trained` into training mode and everything else into eval mode, without dropout or moving statistics.

    BatchNorm keeps its pretrained statistics unless the whole model trains: those of a small batch with blank images
    are worse.
    """
    model.eval()
    for module in trained:
        module.train(training)
        if module is not model:
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eval()


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the transformer layers in order; of a ResNet, its stages."""
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return layers or list(cast(nn.ModuleList, model.get_submodule("encoder.stages")))
