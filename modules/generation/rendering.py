"""From plans to pages: texts and images decoded from codes, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from PIL import Image
from torch import Tensor

from modules.common.precision import inference_autocast
from modules.common.threads import one_at_a_time
from modules.data.pixels import pixels_of, to_pictures
from modules.generation.settings import GenerationSettings
from modules.generation.watching import OnStep
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.stable_diffusion import offload
from modules.layers.plan_window import PlanWindow
from modules.layers.seeding import make_generator
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

RENDER_BATCH = 32  # Steps decoded at once, so that longer stories need no more memory.
TEXT_BATCH = 64  # A text needs less memory.
Watcher = Callable[[Tensor, Tensor], None]  # Called with latents (N,c,h,w), and the clean ones predicted from them.
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_READER: ContextVar[Callable[[list[str]], None] | None] = ContextVar("reader", default=None)


@contextmanager
def watch_denoising(watcher: Watcher) -> Iterator[None]:
    """Inside, call `watcher` after every denoising step of any picture of this thread.

    What it raises ends the work: so a long operation is shown while it runs, and cancelled.
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def watch_writing(reader: Callable[[list[str]], None]) -> Iterator[None]:
    """Inside, call `reader` with the texts so far after every token of `render_texts` in this thread, but for beams.

    What it raises ends the work.
    """
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)


@torch.no_grad()
def render_pages(
    model: StoryModel,
    tokenizer: Vocabulary,
    code_embeds: Tensor,
    window: PlanWindow | None,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    previous: Image.Image | None = None,
    on_step: OnStep | None = None,
) -> tuple[list[str], list[Image.Image]]:
    """Decode code_embeds (T,S,d) and the plan around them to T texts, those that are not given, and T images."""
    given = list(texts) or [None] * len(code_embeds)
    written = [""] * len(given)
    if None in given:
        written = render_texts(model, tokenizer, code_embeds, settings, window)
    pages = [new if old is None else old for old, new in zip(given, written, strict=True)]
    return pages, render_images(model, code_embeds, pages, settings, previous, window, on_step=on_step)


@one_at_a_time
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
    reader = _READER.get()

    def on_token(ids: Tensor) -> None:
        assert reader is not None
        reader(texts + [tokenizer.decode(row) for row in ids])

    for start in range(0, len(code_embeds), TEXT_BATCH):
        rows = slice(start, start + TEXT_BATCH)
        ids = model.text_decoder.generate(
            code_embeds[rows],
            "greedy" if is_limit else settings.decoding,
            settings.temperature,
            settings.top_p,
            seed=settings.seed,
            guidance_scale=settings.text_guidance_scale,
            penalty_alpha=settings.penalty_alpha,
            window=None if window is None else window[rows],
            on_token=None if reader is None else on_token,
        )
        texts += [tokenizer.decode(row) for row in ids]
    return texts


@one_at_a_time
@torch.no_grad()
def render_images(
    model: StoryModel,
    code_embeds: Tensor,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    previous: Image.Image | None = None,
    window: PlanWindow | None = None,
    noise: Tensor | None = None,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Decode code_embeds (T,S,d) and the plan around them to T images, with their texts where the image decoder reads
    texts.

    With a `strength` below 1 each image starts from the one before, the first from `previous` if given. `noise`
    (T,c,h,w) is by default drawn from the seed. `on_step` is called after every denoising step of every batch.
    """
    images = [] if previous is None else [previous]
    generator = make_generator(settings.seed)
    size = 1 if settings.strength < 1 else RENDER_BATCH
    for start in range(0, len(texts), size):
        rows = slice(start, start + size)
        first = encode_images(model, images[-1:]) if settings.strength < 1 and images else None
        with inference_autocast(settings.precision, model.device):
            latents = _denoise(model, rows, code_embeds, texts, settings, window, noise, generator, first, on_step)
            pixels = model.autoencoder.decode(latents)
        images += to_pictures(pixels.float())
    return images[-len(texts) :]


@one_at_a_time
@torch.no_grad()
def draw_latents(
    model: StoryModel,
    code_embeds: Tensor,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    window: PlanWindow | None,
    noise: Tensor,
) -> Tensor:
    """Return the latents (T,c,h,w) of the images that `render_images` draws, from `noise` (T,c,h,w) alone."""
    parts = []
    for start in range(0, len(texts), RENDER_BATCH):
        rows = slice(start, start + RENDER_BATCH)
        with inference_autocast(settings.precision, model.device):
            parts.append(_denoise(model, rows, code_embeds, texts, settings, window, noise).float())
    return torch.cat(parts)


def _denoise(
    model: StoryModel,
    rows: slice,
    code_embeds: Tensor,
    texts: Sequence[str | None],
    settings: GenerationSettings,
    window: PlanWindow | None,
    noise: Tensor | None,
    generator: torch.Generator | None = None,
    first: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return the latents (N,c,h,w) of some rows of T images, from `noise` (T,c,h,w) or drawn by `generator`; `first`
    (1,c,h,w) are those of an image to start from.
    """
    return model.image_decoder.sample(
        code_embeds[rows],
        settings.num_inference_steps,
        settings.guidance_scale,
        settings.scheduler,
        generator,
        init_latents=first,
        strength=settings.strength,
        on_step=_watched(on_step and _numbered(on_step, model, settings, first is not None)),
        encoder_hidden_states=encode_captions(model, texts[rows]),
        window=None if window is None else window[rows],
        guidance_interval=settings.guidance_interval,
        noise=None if noise is None else noise[rows],
    )


def _watched(on_step: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what calls the watcher of this thread, if there is one, and then `on_step`."""
    watcher = _WATCHER.get()
    if watcher is None and on_step is None:
        return None

    def both(latents: Tensor, clean: Tensor) -> Tensor:
        if watcher is not None:
            watcher(latents, clean)
        return latents if on_step is None else on_step(latents)

    return both


def _numbered(
    on_step: OnStep, model: StoryModel, settings: GenerationSettings, begins_with_image: bool
) -> Callable[[Tensor], Tensor]:
    """Return what calls `on_step` with the number and the timestep of each denoising step of a batch."""
    share = settings.strength if begins_with_image else None
    schedule = model.image_decoder.schedule(settings.scheduler, settings.num_inference_steps, share)
    steps = iter(enumerate(schedule[1]))
    return lambda latents: on_step(*next(steps), latents)


def count_updates(num_pages: int, settings: GenerationSettings) -> int:
    """Return how many denoising steps the batches of so many pages have, at most."""
    batches = num_pages if settings.strength < 1 else math.ceil(num_pages / RENDER_BATCH)
    return batches * settings.num_inference_steps


def noise_of_pages(model: StoryModel, num_pages: int, seed: int) -> Tensor:
    """Return the noise (T,c,h,w) that `render_images` draws for a story of T pages."""
    generator, sizes = make_generator(seed), [RENDER_BATCH] * (num_pages // RENDER_BATCH)
    sizes += [num_pages % RENDER_BATCH] if num_pages % RENDER_BATCH else []
    shape = model.image_decoder.latent_shape
    return torch.cat([torch.randn(size, *shape, generator=generator) for size in sizes])


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
