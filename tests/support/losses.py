"""What the tests of losses share: the terms and what each trains, and changed batches."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from modules.batch import StepNoise, StoryBatch
from modules.config import LossWeights
from modules.story_model.story_model import StoryModel

OPTIONAL = (
    "contrastive_loss",
    "load_balancing_loss",
    "router_z_loss",
)  # Of what only some models have: test_mechanisms.py.
TERMS = tuple(name for name in asdict(LossWeights()) if name not in OPTIONAL)
ENCODER_ONLY = {"commitment_loss", "agreement_loss"}  # The terms that train nothing else.
TEXTS = {"text_nll", "bag_of_words_loss"}
PICTURES = {"diffusion_loss", "bag_of_visual_words_loss", "draft_loss"}
OTHERS = {"other_words_loss", "other_visual_words_loss"}
AIDS = {
    "bag_of_words_loss",
    "bag_of_visual_words_loss",
    "draft_loss",
    "agreement_loss",
} | OTHERS  # What cached codes leave no use for.
FACTORS = ("storyboard", "prior", "text_decoder", "image_decoder", "aids")
TRAINS = {  # What each term trains, and nothing else.
    "text_nll": {"storyboard", "text_decoder"},
    "bag_of_words_loss": {"storyboard", "aids"},
    "bag_of_visual_words_loss": {"storyboard", "aids"},
    "diffusion_loss": {"storyboard", "image_decoder"},
    "draft_loss": {"storyboard", "aids"},
    "other_words_loss": {"storyboard", "aids"},
    "other_visual_words_loss": {"storyboard", "aids"},
    "commitment_loss": {"storyboard"},
    "agreement_loss": {"storyboard"},
    "prior_nll": {"prior"},
}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def changed(batch: StoryBatch, /, **fields: Tensor) -> StoryBatch:
    return StoryBatch(**{**batch, **fields})


def with_noise(noise: StepNoise, /, **fields: Tensor) -> StepNoise:
    return StepNoise(**{**noise, **fields})


def where(mask: Tensor, kept: Tensor, other: Tensor | int) -> Tensor:
    return torch.where(mask.view(*mask.shape, *[1] * (kept.ndim - mask.ndim)), kept, other)


def rows(*values: bool) -> Tensor:
    return torch.tensor(values)


def reached(model: StoryModel, loss: Tensor) -> set[str]:
    """The parts of the model that a loss gives a gradient other than zero."""
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {
        name
        for name, part in model.named_children()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    }
