"""Intermediate pictures of one page on its way from noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from modules.data.pixels import to_pictures
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import encode_captions, render_texts
from modules.generation.settings import GenerationSettings, nonempty_prompt
from modules.layers.seeding import make_generator
from modules.presentation.visualize.versions import Comparison, PageView

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
    pipeline: StoryPipeline,
    comparisons: Sequence[Comparison],
    seed: int = 0,
    num_inference_steps: int = GenerationSettings.num_inference_steps,
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
    num_inference_steps: int = GenerationSettings.num_inference_steps,
) -> DenoisingTrace:
    """Draw a page and keep up to `SHOWN_STEPS` moments, the last update among them.

    A decoder that also reads text is given the text generated from the same codes.

    Args:
        pipeline: The model.
        page: Shown beside the trace.
        codes: The codes (T, S) of its story, or vectors (T, S, D) in their place.
        number: The page's number in the story, from 0.
        seed: Of the noise.
        num_inference_steps: Updates.
    """
    settings = GenerationSettings(seed=seed, num_inference_steps=num_inference_steps)
    latents, clean = _sample_latents(pipeline, codes, number, settings)
    decoder = pipeline.model.image_decoder
    levels = decoder.alphas_cumprod[decoder.schedule(settings.scheduler, num_inference_steps)[1].long()].tolist()
    shown = sorted({round(1 + part * (num_inference_steps - 1) / (SHOWN_STEPS - 1)) for part in range(SHOWN_STEPS)})
    seen = [*(latents[step - 1] for step in shown), *(clean[step - 1] for step in shown)]
    pixels = pipeline.model.autoencoder.decode(torch.cat(seen))
    pictures = to_pictures(pixels)
    # Sampling starts from pure noise, whatever the schedule's first level is.
    signal = [levels[step - 1] if step > 1 else 0.0 for step in shown]
    return DenoisingTrace(page, shown, signal, pictures[: len(shown)], pictures[len(shown) :])


def _sample_latents(
    pipeline: StoryPipeline, codes: Tensor, number: int, settings: GenerationSettings
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the latents (1, C, H, W) before the first update and after each one, and those that each aims at."""
    model, code_embeds = pipeline.model, pipeline.embed(codes)
    own, window = code_embeds[[number]], model.window(code_embeds, [len(codes)])
    window = None if window is None else window[[number]]
    captions = encode_captions(model, render_texts(model, pipeline.tokenizer, own, settings, window))
    noise = torch.randn(1, *model.image_decoder.latent_shape, generator=make_generator(settings.seed))
    latents, clean = [noise.to(pipeline.device)], list[Tensor]()

    def keep(after: Tensor, expected: Tensor) -> None:
        latents.append(after)
        clean.append(expected)

    model.image_decoder.sample(
        own,
        settings.num_inference_steps,
        settings.guidance_scale,
        settings.scheduler,
        make_generator(settings.seed),  # The same noise: `on_step` is called after updates only.
        on_step=keep,
        encoder_hidden_states=captions,
        window=window,
        guidance_interval=settings.guidance_interval,
    )
    return latents, clean
