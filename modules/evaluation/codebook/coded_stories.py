"""Stories as codes: what the analysis of a codebook reads, the plans that it compares them with, and what there is to
tell of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from modules.common.progress import progress_line, track
from modules.data.images import fit_image
from modules.encoded.stories import EncodedStories
from modules.pipeline import StoryPipeline
from modules.story import Story, StoryDataset

THUMBNAIL_PIXELS = 80
ENCODE_BATCH, PLAN_BATCH = 128, 64


class Gallery:
    """The first stories of a source, of whose pictures small ones are kept as they are read: they are drawn or decoded
    once.
    """

    def __init__(self, source: StoryDataset, count: int) -> None:
        self.source, self.count = source, count
        self._kept: dict[int, list[Image.Image | None]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        story = self.source[index]
        self._kept[index] = [
            None if step.image is None else fit_image(step.image, THUMBNAIL_PIXELS) for step in story.steps
        ]
        return story

    @property
    def thumbnails(self) -> list[Image.Image | None]:
        """Those of all steps read, in the order of the stories."""
        return [thumbnail for index in sorted(self._kept) for thumbnail in self._kept[index]]


@dataclass(frozen=True)
class CodedStories:
    """N steps as `codes` (N,S); `fit` (N,S) is the cosine of each slot, before quantising, and its code."""

    stories: EncodedStories
    codes: np.ndarray
    fit: np.ndarray
    thumbnails: list[Image.Image | None]

    @property
    def lengths(self) -> list[int]:
        return self.stories.lengths

    @property
    def story(self) -> np.ndarray:
        """(N,): which story each step is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@torch.no_grad()
def read_stories(pipeline: StoryPipeline, source: StoryDataset, count: int, what: str) -> CodedStories:
    """Read and encode the first `count` stories of a source; codes are from all that a step has, text and picture."""
    model, device, gallery = pipeline.model, pipeline.device, Gallery(source, count)
    with progress_line(f"reading {what}", count) as progress:
        stories = EncodedStories(gallery, model, pipeline.tokenizer, progress.update)
    codes, fit = [], []
    for start in track(f"encoding {what}", range(0, len(stories.texts), ENCODE_BATCH)):
        rows = slice(start, start + ENCODE_BATCH)
        board = model.storyboard(stories.steps(rows).to(device))
        quantizer = model.storyboard.quantizer
        codes.append(board.codes.cpu())
        fit.append(
            torch.cosine_similarity(quantizer.normalise(board.slots), quantizer.embed(board.codes), dim=-1).cpu()
        )
    return CodedStories(stories, torch.cat(codes).numpy(), torch.cat(fit).double().numpy(), gallery.thumbnails)


def draw_plans(pipeline: StoryPipeline, stories: EncodedStories, seed: int = 0) -> np.ndarray:
    """Codes (N,S) that the prior plans, at temperature 1, for the stories' prompts and lengths."""
    prior, device = pipeline.model.prior, pipeline.device
    generator = torch.Generator(device).manual_seed(seed)
    plans: list[np.ndarray] = [np.empty(0)] * len(stories)
    by_length = sorted(range(len(stories)), key=lambda index: stories.lengths[index])
    batches = []
    for index in by_length:
        if not batches or len(batches[-1]) == PLAN_BATCH or stories.lengths[batches[-1][0]] != stories.lengths[index]:
            batches.append([])
        batches[-1].append(index)
    for batch in track("plans drawn", batches):
        ids, mask = stories.prompt_ids[batch].to(device), stories.prompt_mask[batch].to(device)
        codes = prior.sample(ids, mask, stories.lengths[batch[0]], generator=generator).codes
        for index, plan in zip(batch, codes.cpu().numpy(), strict=True):
            plans[index] = plan
    return np.concatenate(plans)


def label_steps(stories: EncodedStories, reference: EncodedStories) -> dict[str, np.ndarray]:
    """What there is to tell of every step, by name, (N,) of words each: the story world's attributes where all steps
    have them, the position in the story, and the quarter of `reference`'s texts that the step's text is among by its
    number of words.
    """
    steps = [attributes for story in stories.attributes for attributes in story]
    labels: dict[str, list[str]] = {}
    if all(attributes and "hero" in attributes for attributes in steps):
        labels["character"] = [" and ".join(sorted(attributes["characters"])) for attributes in steps]
        labels["hero"] = [attributes["hero"] for attributes in steps]
        labels["colour"] = [attributes["colors"][0] for attributes in steps]
        for name in ("place", "object", "weather", "action"):
            labels[name] = [str(attributes[name] or "none") for attributes in steps]
    labels["position"] = [f"step {step + 1}" for length in stories.lengths for step in range(length)]
    counts = [len(text.split()) for text in reference.texts if text is not None]
    edges = np.unique(np.quantile(counts, [0.25, 0.5, 0.75]).astype(int)) if counts else np.zeros(1, int)
    labels["text length"] = [
        "no text" if text is None else _quarter(len(text.split()), edges) for text in stories.texts
    ]
    return {name: np.array(column) for name, column in labels.items()}


def _quarter(count: int, edges: np.ndarray) -> str:
    place = int(np.searchsorted(edges, count))
    if place == len(edges):
        return f"over {edges[-1]} words"
    return f"{edges[place - 1] + 1} to {edges[place]} words" if place else f"up to {edges[0]} words"
