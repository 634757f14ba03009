"""What a slot does: one slot's code at a time is replaced, and what is read, told and drawn from the codes is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.batch import draw_noise
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.judge.attributes import GROUPS
from modules.evaluation.metrics.statistics import Figure, bootstrap_mean
from modules.pipeline import StoryPipeline
from modules.storyworld import mentioned
from modules.text_decoder.tokenizers import find_words

SCORE_BATCH = 64
RENDERING = {"num_inference_steps": 10, "scheduler": "dpmsolver++"}
ReadPictures = Callable[[Sequence[Image.Image]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Removal:
    """What it costs R steps to lose a slot's code, for each slot and, last, for all: `text_nats` a text and
    `diffusion_loss`, both (R,S+1) above those with the steps' own codes; NaN where a step has no text or no picture.
    `rows` (R,) says which steps.
    """

    rows: np.ndarray
    text_nats: np.ndarray
    diffusion_loss: np.ndarray


@dataclass(frozen=True)
class Swaps:
    """Pages of M steps from their own codes, then with each slot's code, and last with all codes, taken from another
    step.

    `rows` and `donors` (M,) are row numbers; `replaced` (S+1,M) says where that changed a code; `texts` and `images`
    are S+2 lists of M, `images` empty where none were drawn.
    """

    rows: np.ndarray
    donors: np.ndarray
    replaced: np.ndarray
    texts: list[list[str]]
    images: list[list[Image.Image]]


def marginal_draws(codes: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each slot of the steps `rows` (R,) the code of a random step (R,S): another code, wherever the slot has one
    to offer.
    """
    slots = np.broadcast_to(np.arange(codes.shape[1]), (len(rows), codes.shape[1]))
    drawn = codes[rng.integers(len(codes), size=slots.shape), slots]
    for _ in range(20):  # A slot with one code only has none to offer.
        same = drawn == codes[rows]
        drawn[same] = codes[rng.integers(len(codes), size=same.sum()), slots[same]]
    return drawn


@torch.no_grad()
def remove_codes(
    pipeline: StoryPipeline, stories: EncodedStories, codes: np.ndarray, num_rows: int, seed: int = 0
) -> Removal:
    """Replace each slot's code by a draw from the slot's own codes (in-distribution, which the mean vector would not
    be), on a sample of the steps with codes (N,S). Timesteps and noise are the same with and without, so their variance
    falls out.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(codes))[:num_rows])
    others = marginal_draws(codes, rows, rng)
    config, generator = pipeline.config, torch.Generator().manual_seed(seed)
    parts = [rows[start : start + SCORE_BATCH] for start in range(0, len(rows), SCORE_BATCH)]
    text, diffusion = [], []
    for part, drawn in zip(
        track("codes removed", parts), np.split(others, range(SCORE_BATCH, len(rows), SCORE_BATCH)), strict=True
    ):
        noise = draw_noise(
            len(part), config.autoencoder.latent_shape, config.image_decoder.num_train_timesteps, generator
        )
        scores = [
            _score(pipeline, stories, part, variant, noise.timesteps, noise.noise)
            for variant in swap_variants(codes[part], drawn)
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
    timesteps: Tensor,
    noise: Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Text nats and diffusion loss (R,) of steps given codes (R,S); NaN where there is no text or no picture."""
    model, device = pipeline.model, pipeline.device
    embeds = model.storyboard.embed(torch.from_numpy(codes).to(device)).code_embeds
    text_mask, image_mask = stories.text_mask[rows], stories.image_mask[rows]
    nats = model.text_decoder(embeds, stories.input_ids[rows].to(device), text_mask.to(device)).nll.sum(1).cpu()
    latents, captions = stories.latents[rows].float().to(device), stories.captions(rows, model.image_decoder)
    image = model.image_decoder(embeds, latents, timesteps.to(device), noise.to(device), encoder_hidden_states=captions)
    loss = image.loss.float().cpu()
    lacks = float("nan")
    return nats.masked_fill(~text_mask.any(1), lacks).double().numpy(), loss.masked_fill(
        ~image_mask, lacks
    ).double().numpy()


def swap_variants(codes: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Codes and donors (M,S) -> (S+2,M,S): the codes; for each slot, the codes with that slot's from the donor; the
    donors.
    """
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
    """Tell, and with `draw` also draw, one random step of each of `count` random stories from its codes and from
    swapped ones.

    Codes (N,S) come from the next of these stories; every variant of a step is drawn from the same noise.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(lengths))[:count]
    rows = (np.cumsum([0, *lengths[:-1]]) + rng.integers(0, lengths))[chosen]
    donors = np.roll(rows, 1)
    variants = swap_variants(codes[rows], codes[donors])
    texts, images = [], []
    for variant in track("slots swapped, drawn" if draw else "slots swapped, told", variants):
        if draw:
            told, drawn = pipeline.render(torch.from_numpy(variant), seed=seed, **RENDERING)
            images.append(drawn)
        else:
            embeds = pipeline.model.storyboard.embed(torch.from_numpy(variant).to(pipeline.device)).code_embeds
            told = [pipeline.tokenizer.decode(ids) for ids in pipeline.model.text_decoder.generate(embeds)]
        texts.append(told)
    return Swaps(rows, donors, (variants[1:] != variants[0]).any(-1), texts, images)


def removal_report(removal: Removal, story: np.ndarray) -> dict[str, Any]:
    """Mean effects by slot, with intervals over the stories (N,) of all rows; the ceiling is that of losing all slots
    at once.
    """
    report: dict[str, Any] = {"num_steps": len(removal.rows)}
    for name in ("text_nats", "diffusion_loss"):
        values = getattr(removal, name)
        everything = _mean_over_stories(values[:, -1], ~np.isnan(values[:, -1]), story[removal.rows])
        ceiling = None if np.isnan(everything.value) else everything.value
        figures = [_mean_over_stories(column, ~np.isnan(column), story[removal.rows], ceiling) for column in values.T]
        report[name] = [figure.to_dict() for figure in figures]
    return report


def code_removal(removal: Removal, codes: np.ndarray, code: int) -> dict[str, Any] | None:
    """Mean effect of removing one code from wherever it stands in the sampled steps; None where it stands in none of
    them.
    """
    places = codes[removal.rows] == code
    if not places.any():
        return None
    effects = {name: getattr(removal, name)[:, :-1][places] for name in ("text_nats", "diffusion_loss")}
    means = {
        name: float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else None
        for name, values in effects.items()
    }
    return {"places": int(places.sum()), **means}


def swap_report(
    texts: Swaps, drawn: Swaps | None, story: np.ndarray, world: bool, read_pictures: ReadPictures | None = None
) -> dict[str, Any]:
    """How much of texts and pictures changes with each slot, and, last in each list, with all slots at once, over the
    steps where a code changed; in the story world also how often what is named, or with `read_pictures` shown, of each
    attribute changes.
    """
    bags = [[set(find_words(text)) for text in variant] for variant in texts.texts]
    report = {
        "text": {"num_steps": len(texts.rows), "words": _changes(bags, texts, story, _distance), "attributes": {}}
    }
    if world:
        report["text"]["attributes"] = _attribute_changes(
            [[mentioned(text) for text in variant] for variant in texts.texts], texts, story
        )
    if drawn is not None:
        pixels = [[np.asarray(image, dtype=np.float32) / 255 for image in variant] for variant in drawn.images]
        difference = _changes(pixels, drawn, story, lambda own, other: float(np.abs(own - other).mean()))
        report["pictures"] = {"num_steps": len(drawn.rows), "pixels": difference, "attributes": {}}
        if read_pictures is not None:
            readings = [list(read_pictures(variant)) for variant in drawn.images]
            report["pictures"]["attributes"] = _attribute_changes(readings, drawn, story)
    return report


def _distance(words: set[str], others: set[str]) -> float:
    """Share of the words of two texts that only one of them has."""
    return len(words ^ others) / max(1, len(words | others))


def _changes(
    variants: Sequence[Sequence[Any]], swaps: Swaps, story: np.ndarray, distance: Callable[[Any, Any], float]
) -> list[dict]:
    own, *others = variants
    values = np.array(
        [[distance(before, after) for before, after in zip(own, variant, strict=True)] for variant in others]
    )
    return _figures(values, swaps.replaced, story[swaps.rows])


def _attribute_changes(
    readings: Sequence[Sequence[Mapping[str, Any]]], swaps: Swaps, story: np.ndarray
) -> dict[str, list[dict]]:
    """For each attribute, how often its reading changes, over the steps where there is anything of it to begin with."""
    report = {}
    for key in readings[0][0]:
        own, *others = [[_comparable(labels[key]) for labels in variant] for variant in readings]
        changed = np.array(
            [[before != after for before, after in zip(own, variant, strict=True)] for variant in others]
        )
        counted = swaps.replaced & np.array([bool(value) for value in own])
        report[GROUPS.get(key, key)] = _figures(changed.astype(float), counted, story[swaps.rows])
    return report


def _comparable(value: Any) -> Any:
    """The colours alone of who wears which: another character in the same colour changes no colour."""
    return set(value.values()) if isinstance(value, Mapping) else value


def _figures(values: np.ndarray, counted: np.ndarray, story: np.ndarray) -> list[dict[str, float | None]]:
    """Means of values (S+1,M) where `counted`, the last row's being the ceiling of the others."""
    everything = _mean_over_stories(values[-1], counted[-1], story).value
    ceiling = None if np.isnan(everything) else everything
    return [_mean_over_stories(row, mask, story, ceiling).to_dict() for row, mask in zip(values, counted, strict=True)]


def _mean_over_stories(
    values: np.ndarray, counted: np.ndarray, story: np.ndarray, ceiling: float | None = None
) -> Figure:
    number = np.unique(story, return_inverse=True)[1]
    sums, counts = (np.bincount(number, np.where(counted, amounts, 0)) for amounts in (values, np.ones(len(values))))
    return bootstrap_mean(sums, counts, floor=0.0, ceiling=ceiling)
