"""Training of single parts of a model on encoded stories."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from gpu_fit import Fit, Length, autocast, say
from gpu_stories import Stories
from torch import Tensor

from modules.batch import StoryBatch, draw_noise
from modules.layers.seeding import derive_seed, make_generator
from modules.prior.given import draw_given
from modules.story_model.story_model import StoryModel
from modules.training.optimizer import parameter_groups
from modules.training.phases import hide_prompts, training_noise

PARTS = ("image_decoder", "text_decoder", "prior")


class PartTrainer:
    """Trains single parts of a model on encoded stories."""

    def __init__(self, model: StoryModel, stories: Stories, held_out: Stories, args: argparse.Namespace) -> None:
        self.model, self.stories, self.held_out, self.args = model, stories, held_out, args
        self.config, self.device = model.config, stories.device

    def train(self, part: str, length: Length) -> dict[str, Any]:
        """Train one part; returns updates, losses, and held-out losses before and after."""
        before = self.measure(part)
        say(f"{part}: held-out loss {before:.4f}")
        model, training, rng = self.model, self.config.training, np.random.default_rng(self.args.seed)
        generator = make_generator(derive_seed(self.args.seed, part), self.device)
        model.train_parts((part,))
        on_cpu = make_generator(derive_seed(self.args.seed, part, "given"))
        rows = self.args.plan_rows if part == "prior" else self.args.rows

        def loss() -> Tensor:
            drawn = self.stories.draw(rows, rng)
            count = len(drawn) * int(self.stories.lengths[drawn[0]])
            noise = training_noise(model, count, generator)
            variant = (~noise.keep_image).long() + 2 * (~noise.keep_text).long()
            batch = self.stories.batch(drawn, None if part == "prior" else variant)
            if part == "prior":
                self.prepare_plans(batch, on_cpu)
            with autocast(self.device):
                return model(batch, noise, (part,)).loss

        groups = parameter_groups(model.parts((part,))[part].named_parameters(), (), (), training)
        peak = getattr(self.args, f"{part}_rate")
        done = Fit(groups, peak, training.adam_betas, length).run(loss)
        model.requires_grad_(False).eval()
        after = self.measure(part)
        say(f"{part}: held-out loss {before:.4f} -> {after:.4f}, {done['updates']} updates, {done['seconds']:.0f} s")
        return {**done, "held_out_before": before, "held_out": after, "rows": rows}

    def prepare_plans(self, batch: StoryBatch, generator: torch.Generator) -> None:
        """Give the prior some pages of some stories of a batch from the start, and hide some prompts."""
        assert batch.codes is not None
        count, length = batch.step_mask.shape
        plans, config = batch.own_plans(batch.codes), self.config.prior
        if config.given_share:
            given = draw_given([length] * count, config.given_share, generator)
            plans.given = given.to(self.device)
            plans.num_steps = batch.num_steps - (given >= 0).sum().to(self.device)
        if config.null_prompt:
            hide_prompts(plans, (torch.rand(count, generator=generator) < config.null_prompt).to(self.device))
        batch.plans = plans

    @torch.no_grad()
    def measure(self, part: str) -> float:
        """Return the loss of a part on held-out stories, without dropout and given pages."""
        self.model.eval()
        losses, weights = [], []
        for length, members in self.held_out.by_length.items():
            batch = self.held_out.batch(members)
            shape, timesteps = self.config.autoencoder.latent_shape, self.config.image_decoder.num_train_timesteps
            noise = draw_noise(len(members) * length, shape, timesteps, make_generator(0, self.device))
            with autocast(self.device):
                losses.append(self.model(batch, noise, (part,)).loss.item())
            weights.append(len(members) * length)
        return float(np.average(losses, weights=weights))
