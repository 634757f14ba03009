"""From plans to pages: texts and images decoded from codes, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from PIL import Image
from torch import Tensor

from modules.common.precision import inference_autocast
from modules.data.pixels import pixels_of, to_pictures
from modules.generation.settings import GenerationSettings
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.stable_diffusion import offload
from modules.layers.plan_window import PlanWindow
from modules.layers.seeding import make_generator
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

RENDER_BATCH = 32  # Steps decoded at once, so that longer stories need no more memory.
OnStep = Callable[[Tensor], None]
_ON_STEP: ContextVar[OnStep | None] = ContextVar("on_step", default=None)


@contextmanager
def watch_denoising(on_step: OnStep) -> Iterator[None]:
    """Inside, call `on_step` with the latents (N,c,h,w) after every denoising step of any picture of this thread.

    What it raises ends the work: so a long operation is shown while it runs, and cancelled.
    """
    token = _ON_STEP.set(on_step)
    try:
        yield
    finally:
        _ON_STEP.reset(token)


@torch.no_grad()
def render_pages(
    model: StoryModel,
    tokenizer: Vocabulary,
    code_embeds: Tensor,
    window: PlanWindow | None,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    previous: Image.Image | None = None,
) -> tuple[list[str], list[Image.Image]]:
    """Decode code_embeds (T,S,d) and the plan around them to T texts, those that are not given, and T images."""
    given = list(texts) or [None] * len(code_embeds)
    written = [""] * len(given)
    if None in given:
        written = render_texts(model, tokenizer, code_embeds, settings, window)
    pages = [new if old is None else old for old, new in zip(given, written, strict=True)]
    return pages, render_images(model, code_embeds, pages, settings, previous, window)


@torch.no_grad()
def render_texts(
    model: StoryModel,
    tokenizer: Vocabulary,
    code_embeds: Tensor,
    settings: GenerationSettings,
    window: PlanWindow | None = None,
) -> list[str]:
    """Decode code_embeds (T,S,d) and the plan around them to T texts."""
    # Greedy decoding is the limit of sampling as the temperature falls; the logits cannot be divided by 0.
    is_limit = settings.decoding == "top_p" and settings.temperature == 0
    texts: list[str] = []
    for start in range(0, len(code_embeds), RENDER_BATCH):
        rows = slice(start, start + RENDER_BATCH)
        ids = model.text_decoder.generate(
            code_embeds[rows],
            "greedy" if is_limit else settings.decoding,
            settings.temperature,
            settings.top_p,
            seed=settings.seed,
            guidance_scale=settings.text_guidance_scale,
            penalty_alpha=settings.penalty_alpha,
            window=None if window is None else window[rows],
        )
        texts += [tokenizer.decode(row) for row in ids]
    return texts


@torch.no_grad()
def render_images(
    model: StoryModel,
    code_embeds: Tensor,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    previous: Image.Image | None = None,
    window: PlanWindow | None = None,
    noise: Tensor | None = None,
) -> list[Image.Image]:
    """Decode code_embeds (T,S,d) and the plan around them to T images, with their texts where the image decoder reads
    texts.

    With a `strength` below 1 each image starts from the one before, the first from `previous` if given. `noise`
    (T,c,h,w) is by default drawn from the seed.
    """
    images = [] if previous is None else [previous]
    generator = make_generator(settings.seed)
    size = 1 if settings.strength < 1 else RENDER_BATCH
    for start in range(0, len(texts), size):
        rows = slice(start, start + size)
        first = encode_images(model, images[-1:]) if settings.strength < 1 and images else None
        with inference_autocast(settings.precision, model.device):
            latents = model.image_decoder.sample(
                code_embeds[rows],
                settings.num_inference_steps,
                settings.guidance_scale,
                settings.scheduler,
                generator,
                init_latents=first,
                strength=settings.strength,
                on_step=_ON_STEP.get(),
                encoder_hidden_states=encode_captions(model, texts[rows]),
                window=None if window is None else window[rows],
                guidance_interval=settings.guidance_interval,
                noise=None if noise is None else noise[rows],
            )
            pixels = model.autoencoder.decode(latents)
        images += to_pictures(pixels.float())
    return images[-len(texts) :]


@torch.no_grad()
def encode_captions(model: StoryModel, texts: Sequence[str | None]) -> Tensor | None:
    """Encode T texts for the image decoder (T,L,D); None if it reads the codes alone."""
    decoder = model.image_decoder
    if decoder.text_encoder is None:
        return None
    return decoder.encode_text(decoder.tokenize([text or "" for text in texts]))


def encode_images(model: StoryModel, images: Sequence[Image.Image | None]) -> Tensor:
    """Encode images of any shape to latents (N,c,h,w); a missing image is black."""
    pixels = pixels_of(images, model.config.autoencoder.image_size)
    return model.autoencoder.encode(pixels.to(model.autoencoder.latent_mean.device))


def place_model(model: StoryModel, device: torch.device, save_memory: bool) -> None:
    """Move a model to `device`; to save memory, decode one image at a time and keep large parts in main memory."""
    model.to(device)
    if save_memory and isinstance(model.autoencoder, PretrainedAutoencoder):
        model.autoencoder.save_memory()
        if device.type != "cpu":
            offload([model.text_decoder.language_model, model.image_decoder.unet, model.autoencoder.vae], device)
