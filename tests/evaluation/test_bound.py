"""The bound: normalised, unbiased, equal to theory where theory is known, and without gaps if codes are ignored."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import count_characters, measure_bound, num_vlb_steps, plan_nats
from modules.evaluation.diffusion_bound import choose_pages
from modules.generation.pipeline import StoryPipeline
from modules.presets import TINY
from modules.story import Story, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from tests.support.models import reading_pages_alone

BIT = math.log(2)
QUICK = {"num_timesteps": 8, "max_vlb_steps": 3}
CONDITIONS = ("own", "swapped", "null")


def encode(pipeline: StoryPipeline, stories: Sequence[Story]) -> EncodedStories:
    return EncodedStories(stories, pipeline.model, pipeline.tokenizer)


@pytest.fixture(scope="module")
def raw_stories() -> list[Story]:
    """Stories of 2, 3 and 4 steps with texts and pictures, except for one text and one picture."""
    world = StoryWorld(3, split="val", image_size=32)
    stories = [Story(str(index), world[index].prompt, world[index].steps[: 2 + index]) for index in range(3)]
    first, second, *rest = stories[1].steps
    return [
        stories[0],
        replace(stories[1], steps=(StoryStep(None, first.image), StoryStep(second.text), *rest)),
        stories[2],
    ]


@pytest.fixture(scope="module")
def stories(tiny_pipeline: StoryPipeline, raw_stories: list[Story]) -> EncodedStories:
    return encode(tiny_pipeline, raw_stories)


@pytest.fixture(scope="module")
def codes(tiny_pipeline: StoryPipeline, stories: EncodedStories) -> Tensor:
    with torch.no_grad():
        return cache_codes(tiny_pipeline.model, stories, visible=False)[0]


@pytest.fixture(scope="module")
def bound(tiny_pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor) -> dict[str, dict]:
    return measure_bound(tiny_pipeline, stories, codes, **QUICK)


@pytest.fixture
def altered(tiny_pipeline: StoryPipeline) -> StoryPipeline:
    """A copy whose weights a test may change."""
    return StoryPipeline(copy.deepcopy(tiny_pipeline.model), tiny_pipeline.tokenizer)


@pytest.fixture(scope="module")
def toy(tiny_pipeline: StoryPipeline) -> StoryPipeline:
    """A model of 2 slots and 3 codes, so that all plans can be counted; its prior is far from uniform."""
    config = replace(TINY, storyboard=replace(TINY.storyboard, codebook_size=3, num_slots=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = StoryModel(config)
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return StoryPipeline(model, tiny_pipeline.tokenizer)


# The codes' part


def test_probabilities_of_all_plans_sum_to_one(toy, raw_stories):
    stories = encode(toy, raw_stories)
    steps = torch.tensor(list(itertools.product(range(3), repeat=2)))
    plans = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    for index in range(3):  # Of 2, 3 and 4 steps: the first two of a story are a distribution whatever its length.
        nats = plan_nats(toy, stories, index, plans)
        assert nats.std() > 0.5
        assert (-nats.sum(1)).exp().sum().item() == pytest.approx(1, abs=1e-5)
        after = plan_nats(toy, stories, index, torch.stack([steps[4].expand(9, 2), steps], dim=1))[:, 1]
        assert (-after).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_cached_sampling_and_full_forward_agree(toy, raw_stories):
    stories, given = encode(toy, raw_stories), torch.tensor([[[2, 0]]])
    generator = torch.Generator().manual_seed(0)
    for index in range(3):
        prompt_ids, prompt_mask = stories.prompt_ids[[index]], stories.prompt_mask[[index]]
        drawn = toy.model.prior.sample(prompt_ids, prompt_mask, 1 + index, generator=generator, codes=given)
        nats = plan_nats(toy, stories, index, torch.cat([given, drawn.codes], dim=1))
        torch.testing.assert_close(-drawn.log_probs.double().sum(-1), nats[:, 1:], atol=1e-5, rtol=0)


def test_a_plan_cut_short_costs_what_it_costs_in_the_whole_one(tiny_pipeline, stories, codes):
    """The prior is conditioned on the true length of a story, not on that of the plan."""
    plan = codes[None, list(stories.rows(2))]
    torch.testing.assert_close(
        plan_nats(tiny_pipeline, stories, 2, plan[:, :2]), plan_nats(tiny_pipeline, stories, 2, plan)[:, :2]
    )


def test_prior_that_knows_nothing_costs_the_ceiling(altered, stories, codes):
    torch.nn.init.zeros_(altered.model.prior.to_code.weight)
    figures = measure_bound(altered, stories, codes, num_timesteps=8, max_vlb_steps=0)
    for name, bits in (("per_code", 5), ("per_step", 40), ("first_step", 40), ("later_steps", 40)):
        figure = figures[f"prior_bits_{name}"]
        assert [figure[name] for name in ("value", "low", "high", "ceiling")] == pytest.approx([bits] * 4)


def test_pages_are_spread_over_the_stories_and_have_pictures(stories):
    assert [choose_pages(stories, count) for count in (0, 99)] == [
        [],
        [0, 1, 2, 4, 5, 6, 7, 8],
    ]  # Row 3 has no picture.
    for seed in range(10):
        owners = [0 if row < 2 else 1 if row < 5 else 2 for row in choose_pages(stories, 5, seed)]
        assert sorted(owners.count(story) for story in range(3)) == [1, 2, 2]
    assert len({tuple(choose_pages(stories, 3, seed)) for seed in range(10)}) > 1


# The whole


def test_metrics_have_intervals_and_are_json(bound):
    assert json.loads(json.dumps(bound, allow_nan=False)) == bound
    for name, figure in bound.items():
        assert figure["low"] <= figure["value"] <= figure["high"], name
    for term in ("text_nats_per_token", "latent_bits_per_dim", "velocity_mse"):
        own = bound[f"{term}_own"]["value"]
        for condition, gap in (("swapped", "swap_gap"), ("null", "null_gap")):
            assert bound[f"{term}_{condition}"]["value"] - own == pytest.approx(
                bound[f"{term}_{gap}"]["value"], abs=1e-6
            )
            assert bound[f"{term}_{gap}"]["value"] != 0
    assert (
        bound["text_nats_per_token_own"]["num_steps"] == bound["velocity_mse_own"]["num_steps"] == 8
    )  # One step lacks each.
    assert bound["prior_bits_per_code"]["num_steps"] == 9
    assert bound["prior_bits_first_step"]["num_steps"] == 3
    assert [bound["latent_bits_per_dim_own"][name] for name in ("num_steps", "num_timesteps")] == [3, 8]
    assert not any("likelihood" in name or "nll" in name for name in bound if "velocity" in name)


def test_parts_add_up(tiny_pipeline, stories, codes):
    """All pages are drawn, so that every sum can be had from the other figures."""
    bound = measure_bound(tiny_pipeline, stories, codes, num_timesteps=8)
    value = {name: figure["value"] for name, figure in bound.items()}
    nats = torch.cat(
        [plan_nats(tiny_pipeline, stories, index, codes[None, list(stories.rows(index))])[0] for index in range(3)]
    )
    assert value["prior_bits_per_step"] == pytest.approx(nats.mean().item() / BIT)
    assert value["prior_bits_per_step"] == pytest.approx(8 * value["prior_bits_per_code"])
    assert 3 * value["prior_bits_first_step"] + 6 * value["prior_bits_later_steps"] == pytest.approx(
        9 * value["prior_bits_per_step"]
    )
    tokens, has_text, has_image = stories.text_mask[:, 1:].sum().item(), stories.text_mask.any(1), stories.image_mask
    charged = value["text_nats_per_token_own"] + nats[has_text].sum().item() / tokens
    assert value["code_charged_nats_per_token"] == pytest.approx(charged)
    characters = count_characters(tiny_pipeline, stories).sum()
    assert value["code_charged_nats_per_character"] == pytest.approx(charged * tokens / characters)
    own = value["text_nats_per_token_own"] * tokens
    assert value["text_nats_per_character_own"] == pytest.approx(own / characters)
    saved = value["text_nats_per_token_null_gap"] * tokens
    assert value["net_code_value_text"] == pytest.approx((saved - nats[has_text].sum().item()) / 8, rel=1e-5)
    dims = math.prod(tiny_pipeline.config.autoencoder.latent_shape)
    latents = stories.latents[has_image].double()
    gaussian = (0.5 * math.log(2 * math.pi) + 0.5 * latents.square().mean().item()) / BIT
    assert bound["latent_bits_per_dim_own"]["ceiling"] == pytest.approx(gaussian)
    row, embeds = [stories.rows(1)[1]], tiny_pipeline.embed(codes)  # The only one without a picture.
    window = tiny_pipeline.model.window(embeds, stories.lengths)[row]
    page = embeds[row], stories.input_ids[row], stories.text_mask[row]
    text = tiny_pipeline.model.text_decoder(*page, window=window).nll.sum()
    nats_without_pictures = value["text_nats_per_token_own"] * tokens - text.item() + nats[has_image].sum().item()
    assert value["bound_nats_per_step"] == pytest.approx(
        nats_without_pictures / 8 + value["latent_bits_per_dim_own"] * dims * BIT, rel=1e-5
    )


def test_characters_are_those_that_are_read(tiny_pipeline, stories):
    whole = ~stories.text_mask.all(1)
    counts = zip(count_characters(tiny_pipeline, stories).tolist(), stories.texts, whole.tolist(), strict=True)
    for count, text, is_whole in counts:
        length = len(text or "")
        assert count == length if is_whole else 20 < count <= length
    assert 0 < whole.sum() < len(whole) and count_characters(tiny_pipeline, stories)[0] < len(stories.texts[0])


def test_decoders_that_ignore_codes_have_no_gaps(tiny_pipeline, stories, codes):
    altered = reading_pages_alone(tiny_pipeline)
    model = altered.model
    for weight in (model.text_decoder.to_prefix.weight, model.image_decoder.to_context.weight):
        torch.nn.init.zeros_(weight)
    torch.nn.init.zeros_(model.image_decoder.unet.class_embedding.linear_1.weight)
    figures = measure_bound(altered, stories, codes, num_timesteps=8)
    for name, figure in figures.items():
        if name.endswith("gap"):
            assert figure["value"] == figure["low"] == figure["high"] == 0, name
    with_text = stories.text_mask.any(1)
    nats = torch.cat(
        [plan_nats(altered, stories, index, codes[None, list(stories.rows(index))])[0] for index in range(3)]
    )
    assert figures["net_code_value_text"]["value"] == pytest.approx(-nats[with_text].mean().item())
    assert figures["net_code_value_text_and_picture"]["value"] == pytest.approx(-nats[stories.image_mask].mean().item())


def test_bound_depends_on_nothing_but_model_stories_and_seed(tiny_pipeline, stories, codes, bound):
    assert measure_bound(tiny_pipeline, stories, codes, **QUICK) == bound
    other = measure_bound(tiny_pipeline, stories, codes, seed=1, **QUICK)
    assert other["latent_bits_per_dim_own"]["value"] != bound["latent_bits_per_dim_own"]["value"]
    assert other["prior_bits_per_code"]["value"] == bound["prior_bits_per_code"]["value"]


@pytest.mark.parametrize(
    ("keep", "missing"), [("text", ("latent", "velocity", "bound")), ("image", ("text", "code_charged"))]
)
def test_bound_of_texts_alone_and_of_pictures_alone(tiny_pipeline: StoryPipeline, raw_stories, keep, missing):
    def cut(step: StoryStep) -> StoryStep:
        return StoryStep(step.text) if keep == "text" else StoryStep(None, step.image)

    stories = encode(
        tiny_pipeline, [replace(story, steps=tuple(cut(step) for step in story.steps)) for story in raw_stories[::2]]
    )
    figures = measure_bound(tiny_pipeline, stories, torch.randint(32, (6, 8)), **QUICK)
    json.dumps(figures, allow_nan=False)
    unmeasured = {name for name, figure in figures.items() if figure["value"] is None}
    value = "net_code_value_text_and_picture" if keep == "text" else "net_code_value_text"
    assert unmeasured == {name for name in figures if name.startswith(missing)} | {value}
    assert all(figures[name]["num_steps"] == 0 for name in unmeasured)


def test_settings_out_of_range_are_told(tiny_pipeline, stories, codes):
    with pytest.raises(UserError, match="num_timesteps must be 8 or more, got 7"):
        measure_bound(tiny_pipeline, stories, codes, num_timesteps=7)
    with pytest.raises(UserError, match="max_vlb_steps must be 0 or more, got -1"):
        measure_bound(tiny_pipeline, stories, codes, max_vlb_steps=-1)


def test_timesteps_beyond_the_schedule_are_all_of_them(altered: StoryPipeline, stories, codes):
    config: StoryConfig = replace(TINY, image_decoder=replace(TINY.image_decoder, num_train_timesteps=10))
    model = StoryModel(config).eval()
    model.storyboard.load_state_dict(altered.model.storyboard.state_dict())
    figures = measure_bound(StoryPipeline(model, altered.tokenizer), stories, codes, max_vlb_steps=1)
    assert figures["latent_bits_per_dim_own"]["num_timesteps"] == 10


def test_few_stories_have_few_pages_for_the_bound_of_pictures():
    assert [num_vlb_steps(count) for count in (1, 10, 48, 200)] == [2, 20, 96, 96]
