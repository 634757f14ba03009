"""The pages of several stories, decoded in the same batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from modules.generation.reading import StoryReader
from modules.generation.rendering import noise_of_pages, render_images, render_texts
from modules.generation.requests import StoryRequest
from modules.generation.settings import GenerationSettings
from modules.generation.watching import OnStep


def can_share_batches(requests: Sequence[StoryRequest]) -> bool:
    """Return whether stories can be decoded together: no page starts from the one before, no token is drawn."""
    return all(request.settings.strength == 1 and request.settings.decoding != "top_p" for request in requests)


def render_stories(
    reader: StoryReader,
    codes: Tensor,
    num_given: int,
    seeds: Sequence[int],
    settings: GenerationSettings,
    on_step: OnStep | None = None,
) -> tuple[list[list[str]], list[list[Image.Image]]]:
    """Decode the pages after the `num_given` first ones of B stories, codes (B,T,S), each with the noise of its seed;
    return the texts and images of each story.
    """
    model, (count, total) = reader.model, codes.shape[:2]
    code_embeds, new = reader.embed(codes.flatten(0, 1)), total - num_given
    window = model.window(code_embeds, [total] * count)
    rows = torch.arange(count * total, device=code_embeds.device).view(count, total)[:, num_given:].flatten()
    code_embeds, window = code_embeds[rows], None if window is None else window[rows]
    texts = render_texts(model, reader.tokenizer, code_embeds, settings, window)
    noise = torch.cat([noise_of_pages(model, new, seed) for seed in seeds])
    images = render_images(model, code_embeds, texts, settings, None, window, noise, on_step)
    starts = range(0, count * new, new)
    return [texts[start : start + new] for start in starts], [images[start : start + new] for start in starts]
