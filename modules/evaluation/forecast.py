"""How long `evaluate` and `analyze` will take: each kind of their work is timed on the first stories."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from modules.common.progress import hidden_progress, seconds_of
from modules.evaluation.bound import NUM_TIMESTEPS, conditions_of, decoder_nats, num_vlb_steps, page_nats, story_nats
from modules.evaluation.codebook.coded_stories import draw_plans
from modules.evaluation.codebook.interventions import (
    NUM_DRAWN_SWAPS,
    NUM_REMOVED,
    NUM_TEXT_SWAPS,
    SWAP_DRAWING,
    remove_codes,
)
from modules.evaluation.decoded import PlannedPages, decode_pages, decode_texts
from modules.evaluation.diffusion_bound import choose_pages
from modules.evaluation.held_out import HeldOutStories
from modules.evaluation.ranking import NUM_CANDIDATES, NUM_SHUFFLES, rank_next_steps
from modules.generation.pipeline import StoryPipeline
from modules.story import StoryDataset

SMALLEST = 4  # Stories; fewer take no longer than a forecast.
TRIED, MOST_TRIED, SHARE_TRIED = 2, 4, 20  # A trial reads one story in 20: at least two, at most four.
KINDS, KINDS_WITHOUT_CODES = 5, 1  # Of whole stories that `evaluate` draws; of each story one next page beside them.
TRIED_PAGES, TRIED_TIMESTEPS = 8, 16  # That a trial draws, and by which it bounds one page's picture.


@torch.no_grad()
def forecast_evaluation(
    pipeline: StoryPipeline, dataset: StoryDataset, num_stories: int, num_drawn: int, seed: int
) -> float | None:
    """Return about how many seconds `evaluate` will take, without steering; None for a handful of stories."""
    if num_stories < SMALLEST or not pipeline.model.is_ready:
        return None
    count = min(MOST_TRIED, max(TRIED, num_stories // SHARE_TRIED))
    with hidden_progress():
        trial = _Trial(pipeline, dataset, count, seed)
        times, has_codes = num_stories / count, pipeline.model.has_codes
        num_pages, drawn = times * trial.num_pages, min(num_drawn, num_stories) / count * trial.num_pages
        kinds, variants = (KINDS, len(trial.held_out.codes)) if has_codes else (KINDS_WITHOUT_CODES, 1)
        seconds = times * (trial.reading() + trial.likelihoods())
        seconds += (times * variants + kinds * drawn / trial.num_pages) * trial.texts()
        seconds += min(num_vlb_steps(num_stories), num_pages) * trial.picture_bound()
        seconds += times * trial.ranking() if has_codes else 0.0
        return seconds + (drawn * kinds * trial.picture() if drawn else 0.0)


@torch.no_grad()
def forecast_analysis(pipeline: StoryPipeline, dataset: StoryDataset, num_stories: int, seed: int) -> float | None:
    """Return about how many seconds `analyze` will take for its passes of the model; None for a handful of stories."""
    if num_stories < SMALLEST:
        return None
    count = min(MOST_TRIED, max(TRIED, num_stories // SHARE_TRIED))
    with hidden_progress():
        trial = _Trial(pipeline, dataset, count, seed)
        times, variants = num_stories / count, trial.held_out.own_codes.shape[1] + 2
        seconds = times * (2 * trial.reading() + trial.plans())
        seconds += min(NUM_REMOVED, times * trial.num_pages) * trial.removal()
        told, drawn = (variants * min(count, num_stories) for count in (NUM_TEXT_SWAPS, NUM_DRAWN_SWAPS))
        return seconds + (told + drawn) * trial.texts() / trial.num_pages + drawn * trial.picture(**SWAP_DRAWING)


class _Trial:
    """The first stories of a dataset, and the seconds that each kind of work takes for all of them."""

    def __init__(self, pipeline: StoryPipeline, dataset: StoryDataset, count: int, seed: int) -> None:
        self.pipeline, self.dataset, self.count, self.seed = pipeline, dataset, count, seed
        self.held_out = HeldOutStories.read(pipeline, dataset, count)
        self.stories, self.codes = self.held_out.encoded, self.held_out.own_codes
        self.num_pages = len(self.stories.texts)
        self._conditions = conditions_of(pipeline, self.stories, self.codes)

    def reading(self) -> float:
        return seconds_of(lambda: HeldOutStories.read(self.pipeline, self.dataset, self.count))

    def likelihoods(self) -> float:
        """Return the seconds of the likelihoods of texts and codes, and of the pictures' errors."""
        return seconds_of(self._likelihoods)

    def _likelihoods(self) -> None:
        decoder_nats(self.pipeline, self.stories, self._conditions, self.seed)
        if self.pipeline.model.has_codes:
            story_nats(self.pipeline, self.stories, self.codes)

    def ranking(self) -> float:
        """Return the seconds of ranking the next steps, for as many candidates as more stories have."""
        candidates = max(1, 1 + self.num_pages - max(self.stories.lengths))
        more = (NUM_CANDIDATES + NUM_SHUFFLES) / (min(NUM_CANDIDATES, candidates) + NUM_SHUFFLES)
        return more * seconds_of(lambda: rank_next_steps(self.pipeline, self.stories, self.codes, self.seed))

    def texts(self) -> float:
        return seconds_of(lambda: decode_texts(self.pipeline, self.codes, self.stories.lengths, "the codes"))

    def plans(self) -> float:
        return seconds_of(lambda: draw_plans(self.pipeline, self.stories))

    def picture_bound(self) -> float:
        """Return the seconds of the bound of one page's picture."""
        page = choose_pages(self.stories, 1)
        few = partial(page_nats, self.pipeline, self.stories, self._conditions, page, self.seed, TRIED_TIMESTEPS)
        return seconds_of(few) * NUM_TIMESTEPS / TRIED_TIMESTEPS

    def picture(self, **options: Any) -> float:
        """Return the seconds of one drawn page, without its text."""
        pages = PlannedPages.first_pages(self.codes, self.stories.lengths[:1], TRIED_PAGES)
        texts = self.held_out.true_texts[: len(pages.pages)]
        drawn = seconds_of(lambda: decode_pages(self.pipeline, pages, "the codes", self.seed, texts, **options))
        return drawn / len(pages.pages)

    def removal(self) -> float:
        """Return the seconds of the removal of one page's codes."""
        rows = min(TRIED_PAGES, self.num_pages)
        codes = self.codes.numpy()
        return seconds_of(lambda: remove_codes(self.pipeline, self.stories, codes, rows, self.seed)) / rows
