"""Ranking by code likelihood: a prior that knows the stories is always right, an ignorant one is right by chance."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.encoded.stories import EncodedStories
from modules.evaluation.ranking import possible_ranks, rank_next_steps
from modules.generation.pipeline import StoryPipeline
from modules.prior.prior import Prior
from modules.story import Story, StoryStep

CHOICES = ("choice_of_4", "choice_of_4_same_story")
RECALL = ("recall_at_1", "recall_at_5", "recall_at_10")


def random_stories(pipeline: StoryPipeline, lengths: Sequence[int]) -> tuple[EncodedStories, Tensor]:
    """Stories of texts alone, each with a prompt of its own, and random codes: their content plays no part here."""
    stories = [
        Story(str(index), f"Story {index} of {len(lengths)}.", (StoryStep("A fox."),) * length)
        for index, length in enumerate(lengths)
    ]
    encoded = EncodedStories(stories, pipeline.model, pipeline.tokenizer)
    board = pipeline.config.storyboard
    return encoded, torch.randint(
        board.codebook_size, (sum(lengths), board.num_slots), generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def fresh(tiny_pipeline: StoryPipeline) -> Iterator[StoryPipeline]:
    """The pipeline with a prior of its own, as it is before training."""
    model = copy.deepcopy(tiny_pipeline.model)
    config = tiny_pipeline.config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.prior = Prior(
            config.prior, config.vocab_size, config.storyboard.codebook_size, config.storyboard.num_slots
        )
        yield StoryPipeline(model, tiny_pipeline.tokenizer)


def memorise(prior: Prior, stories: EncodedStories, codes: Tensor, num_steps: int = 120) -> None:
    stories.codes = codes[None]
    plans = stories.plans(range(len(stories)))
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(num_steps):
        nll = prior(plans.codes, plans.prompt_ids, plans.prompt_mask, plans.step_mask).nll
        optimizer.zero_grad()
        nll[plans.step_mask].mean().backward()
        optimizer.step()


def test_prior_that_knows_the_stories_is_always_right(fresh):
    stories, codes = random_stories(fresh, [4, 5, 6, 4, 5, 6])
    memorise(fresh.model.prior, stories, codes)
    figures = rank_next_steps(fresh, stories, codes, num_candidates=20, contexts_per_story=2)
    for name, figure in figures.items():
        assert figure["value"] == figure["high"] == figure["ceiling"] == 1, name
        assert figure["low"] == pytest.approx(0.025 ** (1 / 6)) or figure["floor"] == figure["low"] == 1, name
    assert figures["mrr"]["num_questions"] == 12
    assert figures["order_auc"]["num_questions"] == 6
    assert [figures[name]["num_candidates"] for name in ("mrr", *CHOICES, "order_auc")] == [20, 4, 4, 2]


def test_untrained_prior_is_right_by_chance(fresh):
    stories, codes = random_stories(fresh, [4, 5] * 30)
    figures = rank_next_steps(fresh, stories, codes, num_candidates=20, num_shuffles=4)
    for name, figure in figures.items():
        assert figure["low"] <= figure["floor"] <= figure["high"], name
        assert figure["low"] < figure["value"] < figure["high"] < 1, name


@pytest.mark.parametrize("same_codes", [False, True])
def test_where_all_is_alike_scores_are_exactly_chance(fresh, same_codes):
    """A prior without preferences, and codes without differences: ties are broken at random, in expectation."""
    stories, codes = random_stories(fresh, [4, 4, 5])
    if same_codes:
        codes = torch.full_like(codes, 7)
    else:
        torch.nn.init.zeros_(fresh.model.prior.to_code.weight)
    figures = rank_next_steps(fresh, stories, codes, num_candidates=8)
    for name, figure in figures.items():
        assert figure["value"] == figure["low"] == figure["high"] == pytest.approx(figure["floor"]), name
    floors = [figures[name]["floor"] for name in (*CHOICES, "mrr", *RECALL, "order_auc")]
    assert floors == pytest.approx([0.25, 0.25, sum(1 / rank for rank in range(1, 9)) / 8, 1 / 8, 5 / 8, 1, 0.5])


def test_a_prior_that_repeats_itself_fails_the_same_story(fresh):
    """Every story repeats one step and then changes: the continuation that repetition suggests is wrong."""
    stories, codes = random_stories(fresh, [4] * 8)
    by_story = codes.view(8, 4, -1)
    repeating = by_story[:, :1].expand(-1, 4, -1).flatten(0, 1)
    memorise(fresh.model.prior, stories, repeating)
    ending = repeating.clone()
    ending[3::4] = codes[3::4]
    figures = rank_next_steps(fresh, stories, ending, contexts_per_story=3)
    assert figures["choice_of_4"]["value"] >= 2 / 3
    assert figures["choice_of_4_same_story"]["value"] < 0.5


def test_possible_ranks_depend_on_better_and_equal_scores():
    assert possible_ranks(torch.tensor([1.0, 0.0, -1.0])).tolist() == [1]
    assert possible_ranks(torch.tensor([0.0, 3.0, -1.0, 3.0])).tolist() == [3]
    assert possible_ranks(torch.tensor([0.0, 3.0, 1e-6, -1e-6, -9.0])).tolist() == [2, 3, 4]
    assert possible_ranks(torch.tensor([0.0])).tolist() == [1]


def test_ranking_depends_only_on_model_stories_and_seed(tiny_pipeline):
    stories, codes = random_stories(tiny_pipeline, [4, 5, 4])
    first, again, other = (rank_next_steps(tiny_pipeline, stories, codes, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_fewer_stories_give_fewer_candidates_and_say_so(tiny_pipeline):
    two = rank_next_steps(tiny_pipeline, *random_stories(tiny_pipeline, [5, 3]))
    assert [two[name]["num_candidates"] for name in ("mrr", "recall_at_1", "choice_of_4")] == [4, 4, 4]
    assert [two[name]["num_questions"] for name in ("mrr", *CHOICES)] == [
        2,
        2,
        1,
    ]  # A story of 3 steps has no 3 others.
    alone = rank_next_steps(tiny_pipeline, *random_stories(tiny_pipeline, [5]))
    assert {name for name, figure in alone.items() if figure["value"] is None} == {"choice_of_4", "mrr", *RECALL}
    single = rank_next_steps(tiny_pipeline, *random_stories(tiny_pipeline, [1, 1, 1, 1, 1]))
    assert all(figure["value"] is None and figure["num_questions"] == 0 for figure in single.values())
    json.dumps([two, alone, single], allow_nan=False)


def test_short_stories_are_shuffled_in_every_other_order(fresh):
    """Of two steps there is one other order, of three there are five: the share of those that the true one beats is
    exact.
    """
    stories, codes = random_stories(fresh, [2, 3])
    shares = {rank_next_steps(fresh, stories, codes, seed)["order_auc"]["value"] for seed in range(5)}
    assert len(shares) == 1
    assert (10 * shares.pop()) % 1 == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("setting", "least"), [("num_candidates", 4), ("contexts_per_story", 1), ("num_shuffles", 1)])
def test_settings_out_of_range_are_told(tiny_pipeline, setting, least):
    stories, codes = random_stories(tiny_pipeline, [4, 4])
    with pytest.raises(UserError, match=f"{setting} must be {least} or more, got {least - 1}"):
        rank_next_steps(tiny_pipeline, stories, codes, **{setting: least - 1})
