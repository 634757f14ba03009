"""Intermediate pictures of one page on its way from noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modules.data.pixels import to_pictures
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import encode_captions, render_texts
from modules.generation.settings import GenerationSettings
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.seeding import make_generator
from modules.presentation.visualize.versions import Comparison, PageView, nonempty_prompt

SHOWN_STEPS = 7


@dataclass(frozen=True)
class DenoisingTrace:
    """M moments of the denoising of `page`: before update `steps[i]`, the share `signal[i]` of the variance is signal.

    `noisy[i]` is the picture that update starts from, `guesses[i]` the finished picture that it predicts; the last
    guess is the result.
    """

    page: PageView
    steps: list[int]
    signal: list[float]
    noisy: list[Image.Image]
    guesses: list[Image.Image]


def denoise_one(
    pipeline: StoryPipeline, comparisons: Sequence[Comparison], seed: int = 0, num_inference_steps: int = 20
) -> DenoisingTrace:
    """Trace the first true page with a picture; without codes, the first page, drawn from the prompt alone."""
    if comparisons[0].has_codes:
        story, number = next(_pages_with_picture(comparisons), (comparisons[0].pages, 0))
        codes = torch.tensor([page.codes for page in story])
        return denoise(pipeline, story[number], codes, number, seed, num_inference_steps)
    vectors = pipeline.plan_next(nonempty_prompt(comparisons[0].prompt), len(comparisons[0].pages), ())
    return denoise(pipeline, comparisons[0].pages[0], vectors, 0, seed, num_inference_steps)


def _pages_with_picture(comparisons: Sequence[Comparison]) -> Iterator[tuple[Sequence[PageView], int]]:
    """Yield the true pages that have a picture, each as its story's pages and its number among them."""
    for comparison in comparisons:
        for number, page in enumerate(comparison.pages):
            if page.image is not None:
                yield comparison.pages, number


@torch.no_grad()
def denoise(
    pipeline: StoryPipeline,
    page: PageView,
    codes: Tensor,
    number: int = 0,
    seed: int = 0,
    num_inference_steps: int = 20,
) -> DenoisingTrace:
    """Draw a page by DDIM (arXiv 2010.02502) and keep up to `SHOWN_STEPS` moments, the last update among them.

    A decoder that also reads text is given the text generated from the same codes.

    Args:
        pipeline: The model.
        page: Shown beside the trace.
        codes: The codes (T, S) of its story, or vectors (T, S, D) in their place.
        number: The page's number in the story, from 0.
        seed: Of the noise.
        num_inference_steps: Updates.
    """
    before, after = signal_levels(pipeline.model.image_decoder, num_inference_steps)
    settings = GenerationSettings(seed=seed, num_inference_steps=num_inference_steps)
    latents = _sample_latents(pipeline, codes, number, settings)
    shown = sorted({round(1 + part * (num_inference_steps - 1) / (SHOWN_STEPS - 1)) for part in range(SHOWN_STEPS)})
    guesses = [predicted_clean(latents[step - 1], latents[step], before[step - 1], after[step - 1]) for step in shown]
    pixels = pipeline.model.autoencoder.decode(torch.cat([*(latents[step - 1] for step in shown), *guesses]))
    pictures = to_pictures(pixels)
    # Sampling starts from pure noise, whatever the schedule's first level is.
    signal = [before[step - 1] if step > 1 else 0.0 for step in shown]
    return DenoisingTrace(page, shown, signal, pictures[: len(shown)], pictures[len(shown) :])


def _sample_latents(pipeline: StoryPipeline, codes: Tensor, number: int, settings: GenerationSettings) -> list[Tensor]:
    """Return the latents (1, C, H, W) before the first update and after each one."""
    model, code_embeds = pipeline.model, pipeline.embed(codes)
    own, window = code_embeds[[number]], model.window(code_embeds, [len(codes)])
    window = None if window is None else window[[number]]
    captions = encode_captions(model, render_texts(model, pipeline.tokenizer, own, settings, window))
    noise = torch.randn(1, *model.image_decoder.latent_shape, generator=make_generator(settings.seed))
    latents = [noise.to(pipeline.device)]
    model.image_decoder.sample(
        own,
        settings.num_inference_steps,
        settings.guidance_scale,
        "ddim",
        make_generator(settings.seed),  # The same noise: `on_step` is called after updates only.
        on_step=latents.append,
        encoder_hidden_states=captions,
        window=window,
        guidance_interval=settings.guidance_interval,
    )
    return latents


def signal_levels(decoder: ImageDecoder, num_inference_steps: int) -> tuple[list[float], list[float]]:
    """Return the share of the variance that is signal before and after each of DDIM's updates."""
    scheduler: Any = decoder.make_scheduler("ddim")
    scheduler.set_timesteps(num_inference_steps)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    levels, last = scheduler.alphas_cumprod.tolist(), float(scheduler.final_alpha_cumprod)
    timesteps = scheduler.timesteps.tolist()
    return [levels[t] for t in timesteps], [levels[t - stride] if t >= stride else last for t in timesteps]


def predicted_clean(before: Tensor, after: Tensor, signal_before: float, signal_after: float) -> Tensor:
    """Return the clean latents that a DDIM update predicted.

    The latents before and after it are both alpha x + sigma eps of one x and eps, so two equations give x.
    """
    alpha, alpha_after = math.sqrt(signal_before), math.sqrt(signal_after)
    sigma, sigma_after = math.sqrt(1 - signal_before), math.sqrt(1 - signal_after)
    return (sigma * after - sigma_after * before) / (sigma * alpha_after - sigma_after * alpha)
