"""Interventions: replace the code of one slot at a time, and compare losses, texts and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from modules.batch import StepNoise, draw_noise
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.judge.attributes import GROUPS
from modules.evaluation.metrics.statistics import first_rows, mean_over_rows
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_images, render_texts
from modules.generation.settings import GenerationSettings
from modules.layers.plan_window import PlanWindow
from modules.layers.seeding import make_generator
from modules.storyworld import mentioned
from modules.text_decoder.words import find_words
from modules.training.reliance import Condition

SCORE_BATCH = 64
NUM_REMOVED = 160  # Steps whose codes `analyze` removes.
NUM_TEXT_SWAPS, NUM_DRAWN_SWAPS = 96, 24  # Stories, one step of each, whose codes it swaps.
SWAP_DRAWING: dict[str, Any] = {"num_inference_steps": 10, "scheduler": "dpmsolver++"}
NUM_REDRAWS = 20  # Attempts to draw another code; a slot with a single code has no other.
ReadPictures = Callable[[Sequence[Image.Image]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Removal:
    """The increase of the losses of R steps when a slot's code is replaced, for each slot and, last, for all slots.

    `text_nats` a text and `diffusion_loss`, both (R,S+1); NaN for a step without text or picture. `rows` (R,) are the
    row numbers of the steps.
    """

    rows: np.ndarray
    text_nats: np.ndarray
    diffusion_loss: np.ndarray


@dataclass(frozen=True)
class Swaps:
    """Pages of M steps decoded from S+2 variants of their codes.

    The first variant is the step's own codes, the next S take one slot's code each from another step, and the last
    takes all. `rows` and `donors` (M,) are row numbers; `replaced` (S+1,M) is true if the swap changed a code; `texts`
    and `images` are S+2 lists of M, `images` empty if none were drawn.
    """

    rows: np.ndarray
    donors: np.ndarray
    replaced: np.ndarray
    texts: list[list[str]]
    images: list[list[Image.Image]]


def marginal_draws(codes: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw, for each slot of the steps `rows` (R,), the code of a random step (R,S); a different one if possible."""
    slots = np.broadcast_to(np.arange(codes.shape[1]), (len(rows), codes.shape[1]))
    drawn = codes[rng.integers(len(codes), size=slots.shape), slots]
    for _ in range(NUM_REDRAWS):
        same = drawn == codes[rows]
        drawn[same] = codes[rng.integers(len(codes), size=same.sum()), slots[same]]
    return drawn


@torch.no_grad()
def remove_codes(
    pipeline: StoryPipeline, stories: EncodedStories, codes: np.ndarray, num_rows: int, seed: int = 0
) -> Removal:
    """Replace each slot's code by a random code of the same slot, on a sample of the steps with codes (N,S).

    Random codes are in-distribution, which a mean vector would not be. Timesteps and noise are shared by all variants,
    so their variance cancels.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(codes))[:num_rows])
    others = marginal_draws(codes, rows, rng)
    config, generator = pipeline.config, make_generator(seed)
    latent_shape, num_timesteps = config.autoencoder.latent_shape, config.image_decoder.num_train_timesteps
    around = pipeline.model.window(pipeline.embed(torch.from_numpy(codes)), stories.lengths)
    parts = [rows[start : start + SCORE_BATCH] for start in range(0, len(rows), SCORE_BATCH)]
    text, diffusion = [], []
    drawn_parts = np.split(others, range(SCORE_BATCH, len(rows), SCORE_BATCH))
    for part, drawn in zip(track("removing codes", parts), drawn_parts, strict=True):
        noise = draw_noise(len(part), latent_shape, num_timesteps, generator)
        scores = [
            _score(pipeline, stories, part, variant, noise, around) for variant in swap_variants(codes[part], drawn)
        ]
        nats, losses = (np.stack(values, axis=1) for values in zip(*scores, strict=True))
        text.append(nats[:, 1:] - nats[:, :1])
        diffusion.append(losses[:, 1:] - losses[:, :1])
    return Removal(rows, np.concatenate(text), np.concatenate(diffusion))


def _score(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    rows: np.ndarray,
    codes: np.ndarray,
    noise: StepNoise,
    around: PlanWindow | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return text nats and diffusion loss (R,) of steps given codes (R,S); NaN without a text or a picture.

    The windows `around` all steps contain the other steps' own codes.
    """
    model, device, indices = pipeline.model, pipeline.device, torch.from_numpy(rows)
    embeds = pipeline.embed(torch.from_numpy(codes))
    condition = Condition(embeds, None if around is None else around[indices.to(device)].with_own(embeds))
    text_mask, image_mask = stories.text_mask[indices], stories.image_mask[indices]
    nats = condition.text_nats(model, stories.input_ids[indices].to(device), text_mask.to(device)).cpu()
    latents, captions = stories.latents[indices].float().to(device), stories.captions(indices, model.image_decoder)
    loss = condition.image_loss(model, latents, noise.to(device), captions).cpu()
    nats = nats.masked_fill(~text_mask.any(1), math.nan)
    return nats.double().numpy(), loss.masked_fill(~image_mask, math.nan).double().numpy()


def swap_variants(codes: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Return the variants (S+2,M,S) of codes (M,S): the codes, one slot each from the donor, the donors."""
    slots = codes.shape[1]
    variants = np.repeat(codes[None], slots + 2, axis=0)
    for slot in range(slots):
        variants[1 + slot, :, slot] = donors[:, slot]
    variants[-1] = donors
    return variants


@torch.no_grad()
def swap_slots(
    pipeline: StoryPipeline, codes: np.ndarray, lengths: Sequence[int], count: int, draw: bool, seed: int = 0
) -> Swaps:
    """Decode the texts, and with `draw` the pictures, of one random step of each of `count` random stories.

    Every step is decoded from its own codes and from all swapped variants, beside the other steps' own codes; donors
    are steps of the next of these stories. All variants of a step are drawn from the same noise.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(lengths))[:count]
    rows = (first_rows(lengths) + rng.integers(0, lengths))[chosen]
    donors = np.roll(rows, 1)
    variants = swap_variants(codes[rows], codes[donors])
    around = pipeline.model.window(pipeline.embed(torch.from_numpy(codes)), lengths)
    settings = GenerationSettings(seed=seed, **SWAP_DRAWING)
    texts: list[list[str]] = []
    images: list[list[Image.Image]] = []
    for variant in track("swapping slots, pages" if draw else "swapping slots, texts", list(variants)):
        embeds = pipeline.embed(torch.from_numpy(variant))
        window = None if around is None else around[torch.from_numpy(rows)].with_own(embeds)
        new_texts = render_texts(pipeline.model, pipeline.tokenizer, embeds, settings, window)
        if draw:
            images.append(render_images(pipeline.model, embeds, new_texts, settings, window=window))
        texts.append(new_texts)
    return Swaps(rows, donors, (variants[1:] != variants[0]).any(-1), texts, images)


def removal_report(removal: Removal, story: np.ndarray) -> dict[str, Any]:
    """Report the mean effects by slot, with intervals over stories; the ceiling is the effect of removing all slots.

    `story` (N,) is the story of every row.
    """
    report: dict[str, Any] = {"num_steps": len(removal.rows)}
    for name, values in (("text_nats", removal.text_nats), ("diffusion_loss", removal.diffusion_loss)):
        report[name] = _means(values.T, story[removal.rows])
    return report


def code_removal(removal: Removal, codes: np.ndarray, code: int) -> dict[str, Any] | None:
    """Return the mean effect of removing one code, over all its places in the sampled steps; None if it has none."""
    places = codes[removal.rows] == code
    if not places.any():
        return None
    effects: dict[str, Any] = {"places": int(places.sum())}
    for name, values in (("text_nats", removal.text_nats), ("diffusion_loss", removal.diffusion_loss)):
        measured = values[:, :-1][places]
        measured = measured[~np.isnan(measured)]
        effects[name] = float(measured.mean()) if len(measured) else None
    return effects


def swap_report(
    texts: Swaps, drawn: Swaps | None, story: np.ndarray, world: bool, read_pictures: ReadPictures | None = None
) -> dict[str, Any]:
    """Report how much texts and pictures change with each slot and, last in each list, with all slots at once.

    Only steps where a code changed are counted. In the story `world`, it also reports how often each attribute named in
    the text changes, and, with `read_pictures`, each attribute shown.
    """
    words = [[set(find_words(text)) for text in variant] for variant in texts.texts]
    report: dict[str, Any] = {
        "text": {"num_steps": len(texts.rows), "words": _changes(words, texts, story, _distance), "attributes": {}}
    }
    if world:
        named = [[mentioned(text) for text in variant] for variant in texts.texts]
        report["text"]["attributes"] = _attribute_changes(named, texts, story)
    if drawn is not None:
        pixels = [[np.asarray(image, dtype=np.float32) / 255 for image in variant] for variant in drawn.images]
        difference = _changes(pixels, drawn, story, lambda own, other: float(np.abs(own - other).mean()))
        report["pictures"] = {"num_steps": len(drawn.rows), "pixels": difference, "attributes": {}}
        if read_pictures is not None:
            predictions = [list(read_pictures(variant)) for variant in drawn.images]
            report["pictures"]["attributes"] = _attribute_changes(predictions, drawn, story)
    return report


def _distance(words: set[str], others: set[str]) -> float:
    """Return the share of the words of two texts that only one of them contains."""
    return len(words ^ others) / max(1, len(words | others))


def _changes(
    variants: Sequence[Sequence[Any]], swaps: Swaps, story: np.ndarray, distance: Callable[[Any, Any], float]
) -> list[dict[str, float | None]]:
    own, *others = variants
    values = np.array([[distance(*pair) for pair in zip(own, variant, strict=True)] for variant in others])
    return _means(np.where(swaps.replaced, values, np.nan), story[swaps.rows])


def _attribute_changes(
    labels: Sequence[Sequence[Mapping[str, Any]]], swaps: Swaps, story: np.ndarray
) -> dict[str, list[dict[str, float | None]]]:
    """Return, for each attribute, how often its label changes, over the steps that have one to begin with."""
    report = {}
    for key in labels[0][0]:
        own, *others = [[_comparable(step[key]) for step in variant] for variant in labels]
        changed = np.array([[before != after for before, after in zip(own, other, strict=True)] for other in others])
        counted = swaps.replaced & np.array([bool(value) for value in own])
        report[GROUPS.get(key, key)] = _means(np.where(counted, changed, np.nan), story[swaps.rows])
    return report


def _comparable(value: Any) -> Any:
    """Return only the colours of a mapping from kinds to colours: another kind in the same colour is no change."""
    return set(value.values()) if isinstance(value, Mapping) else value


def _means(values: np.ndarray, story: np.ndarray) -> list[dict[str, float | None]]:
    """Return the means of values (S+1,M), without those that are NaN; the last one is the ceiling of all.

    `story` (M,) is the story of every column.
    """
    stories = np.unique(story, return_inverse=True)[1]
    ceiling = mean_over_rows(values[-1], stories).to_dict()["value"]
    return [mean_over_rows(row, stories, floor=0.0, ceiling=ceiling).to_dict() for row in values]
