"""From plans to pages: texts and images decoded from codes, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from modules.data.pixels import pixels_of, to_pictures
from modules.generation.settings import GenerationSettings
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.stable_diffusion import offload
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

RENDER_BATCH = 32  # Steps decoded at once, so that longer stories need no more memory.


@torch.no_grad()
def render_texts(
    model: StoryModel, tokenizer: Vocabulary, code_embeds: Tensor, settings: GenerationSettings
) -> list[str]:
    """Decode code_embeds (T,S,d) to T texts."""
    # Greedy decoding is the limit of sampling as the temperature falls; the logits cannot be divided by 0.
    is_limit = settings.decoding == "top_p" and settings.temperature == 0
    texts: list[str] = []
    for batch in code_embeds.split(RENDER_BATCH):
        ids = model.text_decoder.generate(
            batch,
            "greedy" if is_limit else settings.decoding,
            settings.temperature,
            settings.top_p,
            seed=settings.seed,
            guidance_scale=settings.text_guidance_scale,
            penalty_alpha=settings.penalty_alpha,
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
) -> list[Image.Image]:
    """Decode code_embeds (T,S,d) to T images, with their texts where the image decoder reads texts.

    With a `strength` below 1 each image starts from the one before, the first from `previous` if given.
    """
    images = [] if previous is None else [previous]
    generator = torch.Generator().manual_seed(settings.seed)
    size = 1 if settings.strength < 1 else RENDER_BATCH
    for start, batch in zip(range(0, len(texts), size), code_embeds.split(size), strict=True):
        latents = model.image_decoder.sample(
            batch,
            settings.num_inference_steps,
            settings.guidance_scale,
            settings.scheduler,
            generator,
            init_latents=encode_images(model, images[-1:]) if settings.strength < 1 and images else None,
            strength=settings.strength,
            encoder_hidden_states=encode_captions(model, texts[start : start + size]),
        )
        images += to_pictures(model.autoencoder.decode(latents))
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
