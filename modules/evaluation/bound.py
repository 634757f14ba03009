"""The upper bound on -log p(text, picture | prompt). Every term is a likelihood or a bound on one, not a training loss.

    -log p(s, x | c)  <=  sum_t  -log p(s_t | z_t, z)  - log p(z_t | z_<t, c)  +  VLB(x_t | z_t, z)    where z = q(s, x)

q is one-hot, so KL(q || p) = -log p(z): the codes are charged in full, including the first step's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.batch import draw_noise
from modules.common.errors import UserError
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.diffusion_bound import (
    ROWS_PER_BATCH,
    choose_pages,
    diffusion_vlb,
    error_name,
    sample_timesteps,
    vlb_weights,
)
from modules.evaluation.metrics.statistics import mean_over_steps
from modules.generation.pipeline import StoryPipeline
from modules.layers.seeding import make_generator
from modules.training.reliance import Condition, plan_conditions, swap_rows

MIN_TIMESTEPS, NUM_TIMESTEPS, MAX_VLB_STEPS = 8, 64, 96
CONDITIONS = ("own", "swapped", "null")  # Of all terms; of texts and picture errors also those of a plan's parts.
Conditions = dict[str, Condition]
Values = NDArray[np.float64]  # (N,): nats or counts of every step, 0 where a step does not count.
Metrics = dict[str, dict[str, Any]]


def num_vlb_steps(num_stories: int) -> int:
    """Return on how many pages `evaluate` measures the bound of the pictures, half of a short evaluation's time.

    Pages of one story are alike and count as one for the interval: more than two of each add little.
    """
    return min(MAX_VLB_STEPS, 2 * num_stories)


@torch.no_grad()
def measure_bound(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    seed: int = 0,
    num_timesteps: int = NUM_TIMESTEPS,
    max_vlb_steps: int = MAX_VLB_STEPS,
) -> Metrics:
    """Return the costs of text, codes and pictures given the true codes (N,S) of all steps, as dicts of `Estimate`.

    Names ending in `own`, `swapped` and `null` are one term given a step's own codes, the codes of a step half the data
    away, and the learned null codes. All share their noise, so the gaps between them are paired. A picture that is also
    conditioned on its text gets the true text in all. Where decoders read the whole plan, all of it is swapped or left
    out; of texts and picture errors, names with `page_` and `others_` are those with the page's own codes, or those of
    the other pages, replaced alone.

    `text_nats_per_token` counts <eos>. `prior_bits_*` include p(z_1). `latent_bits_per_dim` bounds the density of the
    autoencoder's standardised latents, not of pixels: it may be negative, and compares only models with the same
    autoencoder; its ceiling is the cost of the same latents under a unit Gaussian. It is measured on up to
    `max_vlb_steps` pages spread over the stories, each with one timestep from each of `num_timesteps` strata.
    `code_charged_nats_per_token` is the cost of text and codes together (ceiling: the text without codes). The costs a
    *character* of what is read also compare models with different tokenizers.
    `net_code_value_*` is NLL(null) - NLL(own) - prior NLL in nats a step: below 0 the codes cost more than they save.
    `bound_nats_per_step` is the whole bound on the drawn pages. `velocity_mse` (`noise_mse` if the UNet predicts noise)
    is the training loss at one random timestep a page, not a likelihood.

    A baseline has vectors (N,S,D) in place of codes (`condition_steps`). They are functions of the previous steps and
    cost nothing: no `prior_*` is reported, the prior's cost is 0, and `bound_nats_per_step` is still a bound.

    Raises UserError if `num_timesteps` < 8, `max_vlb_steps` < 0, or the noise schedule has no bound.
    """
    for name, value, least in (("num_timesteps", num_timesteps, MIN_TIMESTEPS), ("max_vlb_steps", max_vlb_steps, 0)):
        if value < least:
            raise UserError(f"{name} must be {least} or more, got {value}")
    has_plans, config = not codes.is_floating_point(), pipeline.config
    conditions = conditions_of(pipeline, stories, codes)
    values = decoder_nats(pipeline, stories, conditions, seed)
    values["characters"] = count_characters(pipeline, stories)
    values["prior"] = story_nats(pipeline, stories, codes).numpy() if has_plans else np.zeros(len(codes))
    pages = choose_pages(stories, max_vlb_steps, seed)
    values |= page_nats(pipeline, stories, conditions, pages, seed, num_timesteps)
    terms = _BoundTerms(values, stories, seed)
    vlb_timesteps = {"num_timesteps": min(num_timesteps, config.image_decoder.num_train_timesteps)}
    latent_metrics = terms.latent_metrics(math.prod(config.autoencoder.latent_shape))
    return {
        **terms.compared("text_nats_per_token", "text", "tokens", 1.0, 0.0, math.log(pipeline.model.vocab_size)),
        **(terms.prior_metrics(codes.shape[1], config.storyboard.codebook_size) if has_plans else {}),
        **{name: metric | vlb_timesteps for name, metric in latent_metrics.items()},
        **terms.code_value(),
        **terms.compared(error_name(pipeline.model.image_decoder), "error", "pictures", floor=0.0),
    }


# The nats of every step


def conditions_of(pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor) -> Conditions:
    """Return what all steps are decoded from, by name, given their true codes (N,S) or a baseline's vectors (N,S,D)."""
    own = pipeline.embed(codes)
    return plan_conditions(own, pipeline.model.window(own, stories.lengths), swap_rows(len(own)).to(own.device))


def decoder_nats(
    pipeline: StoryPipeline, stories: EncodedStories, conditions: Conditions, seed: int
) -> dict[str, Values]:
    """Return `text_*`, the nats of a step's text, `error_*`, its picture's loss a dimension, and their counts."""
    model, device, generator = pipeline.model, pipeline.device, make_generator(seed)
    scores: dict[str, list[Tensor]] = {f"{term}_{name}": [] for term in ("text", "error") for name in conditions}
    num_timesteps, latent_shape = model.config.image_decoder.num_train_timesteps, model.config.autoencoder.latent_shape
    for rows in track("text likelihoods and picture errors", torch.arange(len(stories.texts)).split(ROWS_PER_BATCH)):
        input_ids, text_mask = stories.input_ids[rows].to(device), stories.text_mask[rows].to(device)
        latents, image_mask = stories.latents[rows].float().to(device), stories.image_mask[rows].to(device)
        noise = draw_noise(len(rows), latent_shape, num_timesteps, generator).to(device)
        captions = stories.captions(rows, model.image_decoder)
        for name, condition in conditions.items():
            part = condition.rows(rows.to(device))
            scores[f"text_{name}"].append(part.text_nats(model, input_ids, text_mask).cpu())
            scores[f"error_{name}"].append((part.image_loss(model, latents, noise, captions) * image_mask).cpu())
    values = {name: torch.cat(parts) for name, parts in scores.items()}
    values |= {"tokens": stories.text_mask[:, 1:].sum(1), "pictures": stories.image_mask}
    return {name: value.double().numpy() for name, value in values.items()}


def count_characters(pipeline: StoryPipeline, stories: EncodedStories) -> Values:
    """Return the characters of each step's text, without the end that a text of too many tokens loses."""
    rows = zip(stories.texts, stories.input_ids, stories.text_mask.all(1).tolist(), strict=True)
    read = [pipeline.tokenizer.decode(ids) if is_full and text else text or "" for text, ids, is_full in rows]
    return np.array([len(text) for text in read], dtype=np.float64)


def story_nats(pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor) -> Tensor:
    """Return -log p(z_t | z_<t, c) of the codes (N,S) of all steps, in nats (N,) float64."""
    nats = [
        plan_nats(pipeline, stories, index, codes[None, list(stories.rows(index))])[0]
        for index in track("code likelihoods", range(len(stories)))
    ]
    return torch.cat(nats)


def plan_nats(pipeline: StoryPipeline, stories: EncodedStories, index: int, plans: Tensor) -> Tensor:
    """Return -log p(z_t | z_<t, c) of every step of R plans (R,T,S) given the prompt of story `index`: (R,T) float64.

    The prior is conditioned on the story's true length, also if the plans are shorter.
    """
    device, length, prior = pipeline.device, stories.lengths[index], pipeline.model.prior
    prompt_ids = stories.prompt_ids[index][stories.prompt_mask[index]].to(device)
    nats = []
    for part in plans.to(device).split(ROWS_PER_BATCH):
        prompts = prompt_ids.expand(len(part), -1)
        step_mask = torch.ones(len(part), length, dtype=torch.bool, device=device)
        output = prior(part, prompts, torch.ones_like(prompts, dtype=torch.bool), step_mask)
        nats.append(output.nll.double().sum(-1).cpu())
    return torch.cat(nats)


def page_nats(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    conditions: Conditions,
    pages: Sequence[int],
    seed: int,
    num_timesteps: int,
) -> dict[str, Values]:
    """Return, for the pages with row numbers `pages`, `vlb_*`, the nats of a picture, and `gaussian`, its nats under a
    unit Gaussian; `pages` is 1 for them.
    """
    decoder, generator = pipeline.model.image_decoder, make_generator(seed)
    weights, _ = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    names = (*(f"vlb_{name}" for name in CONDITIONS), "gaussian", "pages")
    values = {name: np.zeros(len(stories.texts)) for name in names}
    for row in track("diffusion bound", pages):
        latents, text = stories.latents[torch.tensor(row)].float(), stories.captions([row], decoder)
        sample = sample_timesteps(weights, num_timesteps, tuple(latents.shape), generator)
        for name in CONDITIONS:
            page = conditions[name].rows(torch.tensor([row]))
            values[f"vlb_{name}"][row] = diffusion_vlb(decoder, page, latents, sample, text)
        values["gaussian"][row] = 0.5 * (latents.double().square() + math.log(2 * math.pi)).sum().item()
        values["pages"][row] = 1
    return values


# From steps to metrics


@dataclass(frozen=True)
class _BoundTerms:
    """The `values` of all steps by name, and the metrics made of them."""

    values: dict[str, Values]
    stories: EncodedStories
    seed: int

    def mean(
        self, sums: Values, counts: Values, floor: float | None = None, ceiling: float | None = None
    ) -> dict[str, Any]:
        """Return sum(sums) / sum(counts) over steps (N,) as a dict, with its interval over stories."""
        estimate = mean_over_steps(sums, counts, self.stories.lengths, self.seed, floor, ceiling)
        return {**estimate.to_dict(), "num_steps": int((counts > 0).sum())}

    def compared(
        self,
        title: str,
        term: str,
        count: str,
        unit: float = 1.0,
        floor: float | None = None,
        ceiling: float | None = None,
    ) -> Metrics:
        """Return one term under all conditions, a counted item and unit, and the paired gaps to the own codes."""
        counts = self.values[count] * unit
        names = [name.removeprefix(f"{term}_") for name in self.values if name.startswith(f"{term}_")]
        own = self.values[f"{term}_own"]
        metrics = {f"{title}_own": self.mean(own, counts, floor, ceiling)}
        for name in names[1:]:
            metrics[f"{title}_{name}"] = self.mean(self.values[f"{term}_{name}"], counts, floor, ceiling)
        for name in names[1:]:
            gap = name.replace("swapped", "swap") + "_gap"
            metrics[f"{title}_{gap}"] = self.mean(self.values[f"{term}_{name}"] - own, counts, 0.0)
        return metrics

    def prior_metrics(self, num_slots: int, codebook_size: int) -> Metrics:
        """Return the bits of the codes; the ceiling is the cost under a uniform distribution."""
        prior, bit, bits = self.values["prior"], math.log(2), math.log2(codebook_size)
        ones, first = np.ones_like(prior), np.zeros_like(prior)
        first[self.stories.starts] = 1
        return {
            "prior_bits_per_code": self.mean(prior, ones * num_slots * bit, 0.0, bits),
            "prior_bits_per_step": self.mean(prior, ones * bit, 0.0, num_slots * bits),
            "prior_bits_first_step": self.mean(prior * first, first * bit, 0.0, num_slots * bits),
            "prior_bits_later_steps": self.mean(prior * (1 - first), (1 - first) * bit, 0.0, num_slots * bits),
        }

    def latent_metrics(self, num_dims: int) -> Metrics:
        """Return the bits of the drawn pages' latents a dimension."""
        bits = num_dims * math.log(2)
        unit_gaussian = self.mean(self.values["gaussian"], self.values["pages"] * bits)["value"]
        return self.compared("latent_bits_per_dim", "vlb", "pages", bits, ceiling=unit_gaussian)

    def code_value(self) -> Metrics:
        """Return what codes cost and save: for the text over steps with a text, with the picture over drawn pages."""
        prior, pages, tokens = self.values["prior"], self.values["pages"], self.values["tokens"]
        text_own, text_null, has_text = self.values["text_own"], self.values["text_null"], (tokens > 0).astype(float)
        picture_own, text_saved = self.values["vlb_own"], text_null - text_own
        saved = text_saved + self.values["vlb_null"] - picture_own
        ceiling = self.mean(text_null, tokens)["value"]
        characters, charged = self.values["characters"], text_own + prior * has_text
        without_codes = self.mean(text_null, characters)["value"]
        return {
            "text_nats_per_character_own": self.mean(text_own, characters, 0.0),
            "code_charged_nats_per_character": self.mean(charged, characters, 0.0, without_codes),
            "code_charged_nats_per_token": self.mean(charged, tokens, 0.0, ceiling),
            "net_code_value_text": self.mean(text_saved - prior * has_text, has_text, 0.0),
            "net_code_value_text_and_picture": self.mean((saved - prior) * pages, pages, 0.0),
            "bound_nats_per_step": self.mean((text_own + prior + picture_own) * pages, pages),
        }
