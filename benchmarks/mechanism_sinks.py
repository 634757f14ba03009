"""The study of attention sinks: plans and stories far longer than those that the prior was trained on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from mechanism_bench import Bench, Metrics, hero_of

from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.decoded import decode_texts
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean
from modules.story import Story
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld, mentioned
from modules.training.phases import PlanningPhase

WINDOW = 8  # Steps of a training window, and of the past that the prior attends to.


class Windows:
    """Windows of WINDOW steps of long stories, under the story's own prompt."""

    def __init__(self, dataset: StoryWorld) -> None:
        self.dataset = dataset
        self.places = [
            (story, first)
            for story, length in enumerate(dataset.lengths)
            for first in range(0, length - WINDOW + 1, WINDOW // 2)
        ]
        self._last: tuple[int, Story] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Story:
        number, first = self.places[index]
        if self._last is None or self._last[0] != number:
            self._last = number, self.dataset[number]
        story = self._last[1]
        return Story(f"{story.id}-{first}", story.prompt, story.steps[first : first + WINDOW])


def study_sinks(bench: Bench) -> Metrics:
    """Train on windows of 8 steps of one hero's adventures; score plans ten times as long, and stories of 100 pages.

    The prior attends to the last 8 steps and the prompt, with or without the first step as a sink, or to everything.
    """
    # With max_steps=1, the prior is not conditioned on the number of steps left.
    config = replace(bench.config, prior=replace(bench.config.prior, max_steps=1))
    windows = bench.encode(Windows(bench.world("train", bench.args.num_stories // 3, 3)), "windows")
    model = bench.train(PlanningPhase, bench.model(config), windows)
    long = bench.encode(bench.world("val", bench.args.num_long, 14), "long stories")
    metrics = {}
    for name, window, sinks in (("first step and window", WINDOW, 1), ("window", WINDOW, 0), ("everything", 0, 0)):
        config = replace(config, prior=replace(config.prior, attention_window=8 * window, num_sink_steps=sinks))
        variant = bench.model(config)
        variant.load_state_dict(model.state_dict())
        metrics[name] = {**long_bits(variant.eval(), long), **long_heroes(bench, variant, long)}
    return metrics


@torch.no_grad()
def long_bits(model: StoryModel, stories: EncodedStories) -> dict[str, Estimate]:
    """Return the bits a step within the trained length (steps 2 to 8) and far beyond it (steps 41 to 80)."""
    bits = []
    for index in track("long plans", range(len(stories))):
        codes = stories.codes[0, list(stories.rows(index))[:80]][None]
        ids, mask = stories.prompt_ids[[index]], stories.prompt_mask[[index]]
        nll = model.prior.score(codes, ids, mask, torch.ones(codes.shape[:2], dtype=torch.bool)).nll
        bits.append(nll[0].sum(-1).double().numpy() / math.log(2))
    spans = {"bits a step, steps 2 to 8": slice(1, WINDOW), "bits a step, steps 41 to 80": slice(40, 80)}
    return {
        name: bootstrap_mean([story[span].sum() for story in bits], [len(story[span]) for story in bits])
        for name, span in spans.items()
    }


def long_heroes(bench: Bench, model: StoryModel, stories: EncodedStories, num_steps: int = 100) -> dict[str, Estimate]:
    """Generate stories of 100 pages from prompts that name their hero.

    Returns the share of pages that name the hero, among pages that name any character, in the first and the last third.
    """
    thirds = {"pages 1 to 33": slice(0, 33), "pages 68 to 100": slice(67, 100)}
    heroes = {index: hero for index, prompt in enumerate(stories.prompts) if (hero := hero_of(prompt))}
    kept: dict[str, list[float]] = {name: [] for name in thirds}
    counted: dict[str, list[float]] = {name: [] for name in thirds}
    for index, hero in track("stories of 100 pages", list(heroes.items())):
        mask = stories.prompt_mask[[index]]
        ids, mask = stories.prompt_ids[[index]][:, mask[0]], mask[:, mask[0]]
        codes = model.prior.sample(ids, mask, num_steps, 0.5, 0.95, torch.Generator().manual_seed(index)).codes[0]
        pages = [mentioned(text)["characters"] for text in decode_texts(bench.pipeline, codes, [len(codes)], "plans")]
        for name, span in thirds.items():
            named = [page for page in pages[span] if page]
            kept[name].append(sum(hero in page for page in named))
            counted[name].append(len(named))
    return {f"hero named, {name}": bootstrap_mean(kept[name], counted[name]) for name in thirds}
