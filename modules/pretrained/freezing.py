"""Which layers of a pretrained encoder train: none, the last few or all; the rest stays exactly as it was."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from modules.common.errors import UserError

ALL = -1


def prepare_training(
    model: PreTrainedModel, num_layers: int, gradient_checkpointing: bool, what: str
) -> list[nn.Module]:
    """Let the last `num_layers` layers train (0: nothing, -1: the whole model) and return the modules that train.

    Raises UserError, which calls the model `what`, where it has not so many layers or cannot be checkpointed.
    """
    layers = _layers(model)
    if not ALL <= num_layers <= len(layers):
        raise UserError(
            f"{what}: trainable_layers must be from 0 to the {len(layers)} that it has, or -1 for all of it, got {num_layers}"
        )
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise UserError(
                f"{what}: a {model.config.model_type} has no gradient checkpointing: set gradient_checkpointing to false"
            )
        enable_checkpointing(model)
    trained = [model] if num_layers == ALL else layers[len(layers) - num_layers :]
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    set_modes(model, trained, training=True)
    return trained


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Let a model of transformers compute its layers again for the backward pass."""
    # The second is its name in older versions of the library.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def set_modes(model: nn.Module, trained: list[nn.Module], training: bool) -> None:
    """Put `trained` into training mode, everything else into eval mode: no dropout there, and no statistics that move.

    BatchNorm keeps the statistics of its pretraining unless the whole model trains: those of a small batch, its blank
    pictures included, are worse.
    """
    model.eval()
    for module in trained:
        module.train(training)
        if module is not model:
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eval()


def _layers(model: nn.Module) -> list[nn.Module]:
    """In their order: transformer layers or, of a ResNet, stages."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return layers or list(model.encoder.stages)
