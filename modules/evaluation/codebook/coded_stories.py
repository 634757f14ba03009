"""Stories as codes, the prior's plans to compare them with, and the labels that codes may encode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from modules.common.progress import track
from modules.data.images import fit_image
from modules.encoded.stories import EncodedStories
from modules.evaluation.held_out import KeptPictures, encode_stories, true_attributes
from modules.evaluation.metrics.statistics import story_of_rows
from modules.generation.pipeline import StoryPipeline
from modules.layers.seeding import make_generator
from modules.story import StoryDataset

THUMBNAIL_PIXELS = 80
ENCODE_BATCH, PLAN_BATCH = 128, 64


@dataclass(frozen=True)
class CodedStories:
    """N steps as `codes` (N,S); `fit` (N,S) is the cosine of each slot's vector, before quantising, with its code's."""

    stories: EncodedStories
    codes: np.ndarray
    fit: np.ndarray
    thumbnails: list[Image.Image | None]

    @property
    def lengths(self) -> list[int]:
        """The stories' numbers of steps (B,)."""
        return self.stories.lengths

    @property
    def story(self) -> np.ndarray:
        """The number of the story (N,) that each step belongs to."""
        return story_of_rows(self.lengths)


@torch.no_grad()
def read_stories(pipeline: StoryPipeline, dataset: StoryDataset, count: int, title: str) -> CodedStories:
    """Encode the first `count` stories of a dataset; the codes are those of text and picture together."""
    storyboard, device = pipeline.model.storyboard, pipeline.device
    pictures = KeptPictures(dataset, count, lambda image: fit_image(image, THUMBNAIL_PIXELS))
    stories = encode_stories(pipeline, pictures, f"reading {title}")
    codes, fit = [], []
    for start in track(f"encoding {title}", range(0, len(stories.texts), ENCODE_BATCH)):
        rows = slice(start, start + ENCODE_BATCH)
        board = storyboard(stories.steps(rows).to(device))
        slots, vectors = storyboard.quantizer.normalise(board.slots), storyboard.quantizer.embed(board.codes)
        codes.append(board.codes.cpu())
        fit.append(torch.cosine_similarity(slots, vectors, dim=-1).cpu())
    return CodedStories(stories, torch.cat(codes).numpy(), torch.cat(fit).double().numpy(), pictures.images)


def draw_plans(pipeline: StoryPipeline, stories: EncodedStories, seed: int = 0) -> np.ndarray:
    """Return codes (N,S) sampled from the prior at temperature 1, given the stories' prompts and lengths."""
    prior, device = pipeline.model.prior, pipeline.device
    generator = make_generator(seed, device)
    plans: list[np.ndarray] = [np.empty(0)] * len(stories)
    by_length = sorted(range(len(stories)), key=lambda index: stories.lengths[index])
    batches: list[list[int]] = []
    for index in by_length:
        if not batches or len(batches[-1]) == PLAN_BATCH or stories.lengths[batches[-1][0]] != stories.lengths[index]:
            batches.append([])
        batches[-1].append(index)
    for batch in track("sampling plans", batches):
        ids, mask = stories.prompt_ids[batch].to(device), stories.prompt_mask[batch].to(device)
        codes = prior.sample(ids, mask, stories.lengths[batch[0]], generator=generator).codes
        for index, plan in zip(batch, codes.cpu().numpy(), strict=True):
            plans[index] = plan
    return np.concatenate(plans)


def label_steps(stories: EncodedStories, reference: EncodedStories) -> dict[str, np.ndarray]:
    """Return the labels of every step, (N,) strings by name.

    They are the story world's attributes, if all steps have them, the position in the story, and the quartile of the
    text's number of words among `reference`'s texts.
    """
    steps = true_attributes(stories)
    labels: dict[str, list[str]] = {}
    if steps is not None:
        labels["character"] = [" and ".join(sorted(attributes["characters"])) for attributes in steps]
        labels["hero"] = [attributes["hero"] for attributes in steps]
        labels["colour"] = [attributes["colors"][0] for attributes in steps]
        for name in ("place", "object", "weather", "action"):
            labels[name] = [str(attributes[name] or "none") for attributes in steps]
    labels["position"] = [f"step {step + 1}" for length in stories.lengths for step in range(length)]
    counts = [len(text.split()) for text in reference.texts if text is not None]
    edges = np.unique(np.quantile(counts, [0.25, 0.5, 0.75]).astype(int)) if counts else np.zeros(1, int)
    labels["text length"] = [
        "no text" if text is None else _quartile(len(text.split()), edges) for text in stories.texts
    ]
    return {name: np.array(column) for name, column in labels.items()}


def _quartile(count: int, edges: np.ndarray) -> str:
    place = int(np.searchsorted(edges, count))
    if place == len(edges):
        return f"over {edges[-1]} words"
    return f"{edges[place - 1] + 1} to {edges[place]} words" if place else f"up to {edges[0]} words"
