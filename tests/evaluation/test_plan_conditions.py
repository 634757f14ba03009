"""Reliance on the parts of a plan: a page's own codes and those of the other pages, swapped or left out apart."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import measure_bound
from modules.evaluation.decoded import PlannedPages, decode_pages, decode_texts, plan_next_steps
from modules.evaluation.labels import label
from modules.generation.pipeline import StoryPipeline
from modules.layers.plan_window import PlanWindow
from modules.storyworld import StoryWorld
from modules.training.reliance import Condition, code_reliance, plan_conditions, reliance_summary
from tests.support.models import reading_pages_alone
from tests.support.tensors import CLOSE

WHOLE = ["own", "swapped", "null"]
PARTS = ["page_swapped", "others_swapped", "page_null", "others_null"]
QUICK = {"num_timesteps": 8, "max_vlb_steps": 2}


@pytest.fixture(scope="module")
def stories(tiny_pipeline: StoryPipeline) -> EncodedStories:
    return EncodedStories(StoryWorld(4, split="val", image_size=32), tiny_pipeline.model, tiny_pipeline.tokenizer)


@pytest.fixture(scope="module")
def codes(tiny_pipeline: StoryPipeline, stories: EncodedStories) -> Tensor:
    with torch.no_grad():
        return cache_codes(tiny_pipeline.model, stories, visible=False)[0]


@pytest.fixture(scope="module")
def conditions(tiny_pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor) -> dict[str, Condition]:
    embeds, swap = tiny_pipeline.embed(codes), torch.arange(len(codes)).roll(5)
    return plan_conditions(embeds, tiny_pipeline.model.window(embeds, stories.lengths), swap)


def numbered_conditions() -> dict[str, Condition]:
    """Of two stories, of 2 and 3 pages whose codes are their numbers; every page is swapped with the one before."""
    embeds = torch.arange(5.0)[:, None, None]
    return plan_conditions(embeds, PlanWindow.of_stories(embeds, [2, 3]), torch.arange(5).roll(1))


def pages_read(condition: Condition, page: int) -> tuple[float | None, dict[int, float]]:
    """The number of the page whose codes stand for its own, and those in the window by distance."""
    window, own = condition.window, condition.code_embeds[page, 0, 0].item()
    numbers, distances = window.code_embeds[page, :, 0, 0].tolist(), window.distances[page].tolist()
    places = zip(distances, numbers, window.mask[page].tolist(), strict=True)
    return None if condition.null else own, {far: number for far, number, is_seen in places if is_seen}


# --- the conditions


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own", (3, {-1: 2, 0: 3, 1: 4})),
        ("swapped", (2, {0: 2, 1: 3, 2: 4})),
        ("null", (None, {})),
        ("page_swapped", (2, {-1: 2, 0: 2, 1: 4})),
        ("others_swapped", (3, {0: 3, 1: 3, 2: 4})),
        ("page_null", (None, {-1: 2, 1: 4})),
        ("others_null", (3, {0: 3})),
    ],
)
def test_each_condition_replaces_its_part(name, expected):
    """Of page 3, the second of its story; page 2 takes its place."""
    assert pages_read(numbered_conditions()[name], 3) == expected


def test_conditions_of_some_rows_are_theirs():
    for condition in numbered_conditions().values():
        part = condition.rows(torch.tensor([4, 3]))
        assert [pages_read(part, row) for row in (0, 1)] == [pages_read(condition, page) for page in (4, 3)]


def test_conditions_of_decoders_of_a_page_alone_have_no_parts():
    embeds = torch.randn(4, 8, 8)
    conditions = plan_conditions(embeds, None, torch.arange(4).roll(1))
    assert list(conditions) == WHOLE and all(condition.window is None for condition in conditions.values())
    assert torch.equal(conditions["swapped"].code_embeds, embeds.roll(1, dims=0))
    assert list(numbered_conditions()) == WHOLE + PARTS


@torch.no_grad()
def test_texts_cost_something_else_under_each_condition(tiny_pipeline, stories, conditions):
    model = tiny_pipeline.model
    nats = {name: part.text_nats(model, stories.input_ids, stories.text_mask) for name, part in conditions.items()}
    assert all(values.isfinite().all() for values in nats.values())
    for name in (*WHOLE, *PARTS):
        same = [other for other in nats if torch.allclose(nats[name], nats[other], **CLOSE)]
        assert same == [name]


@torch.no_grad()
def test_null_and_single_pages_are_what_decoders_call_so(tiny_pipeline, stories, codes, conditions):
    model, embeds = tiny_pipeline.model, tiny_pipeline.embed(codes)
    text, everywhere = (stories.input_ids, stories.text_mask), torch.ones(len(codes), dtype=torch.bool)
    null = model.text_decoder(embeds, *text, everywhere).nll.sum(1)
    torch.testing.assert_close(conditions["null"].text_nats(model, *text), null, **CLOSE)
    alone = model.text_decoder(embeds, *text).nll.sum(1)
    torch.testing.assert_close(conditions["others_null"].text_nats(model, *text), alone, **CLOSE)


# --- reports


def test_reliance_is_reported_for_the_parts_of_a_plan(tiny_model, story_batch, story_noise):
    sums = code_reliance(tiny_model, story_batch, story_noise)
    summary = reliance_summary(sums, story_batch.image_mask.flatten())
    for term in ("text_nll", "diffusion_loss"):
        assert {f"{term}_{name}" for name in WHOLE + PARTS} <= set(summary)
        own = summary[f"{term}_own"]
        assert all(summary[f"{term}_{name}"] != own for name in PARTS)
    assert all(math.isfinite(value) for value in summary.values())


def test_the_bound_has_rows_for_the_parts_of_a_plan(tiny_pipeline, stories, codes):
    bound = measure_bound(tiny_pipeline, stories, codes, **QUICK)
    for term in ("text_nats_per_token", "velocity_mse"):
        for name in PARTS:
            gap = bound[f"{term}_{name.replace('swapped', 'swap')}_gap"]["value"]
            assert gap == pytest.approx(bound[f"{term}_{name}"]["value"] - bound[f"{term}_own"]["value"], abs=1e-6)
            assert gap != 0 and label(f"{term}_{name}").startswith(label(f"{term}_own").partition(":")[0])
    assert not any(name.startswith("latent") and ("page" in name or "others" in name) for name in bound)


def test_the_bound_of_pages_read_alone_has_no_such_rows(tiny_pipeline, stories, codes):
    alone, whole = (
        measure_bound(pipeline, stories, codes, **QUICK)
        for pipeline in (reading_pages_alone(tiny_pipeline), tiny_pipeline)
    )
    assert set(whole) - set(alone) == {
        f"{term}_{part}{end}"
        for term in ("text_nats_per_token", "velocity_mse")
        for name in PARTS
        for part, end in ((name, ""), (name.replace("swapped", "swap"), "_gap"))
    }
    assert set(alone) <= set(whole)


def test_a_decoder_deaf_to_codes_has_no_gap_for_its_page(tiny_pipeline, stories, codes):
    """With all weights that read a code at zero its own codes change nothing, but the number of other pages does."""
    deaf = StoryPipeline(copy.deepcopy(tiny_pipeline.model), tiny_pipeline.tokenizer)
    for decoder, layer in ((deaf.model.text_decoder, "to_prefix"), (deaf.model.image_decoder, "to_context")):
        for part in (getattr(decoder, layer), decoder.plan_reader.from_codes):
            torch.nn.init.zeros_(part.weight)
    torch.nn.init.zeros_(deaf.model.image_decoder.unet.class_embedding.linear_1.weight)
    bound = measure_bound(deaf, stories, codes, num_timesteps=8, max_vlb_steps=0)
    for term in ("text_nats_per_token", "velocity_mse"):
        assert bound[f"{term}_page_swap_gap"]["value"] == 0 != bound[f"{term}_others_null_gap"]["value"]


# --- pages decoded for the report


def test_texts_of_all_stories_are_decoded_in_their_plans(tiny_pipeline, stories, codes):
    texts = decode_texts(tiny_pipeline, codes, stories.lengths, "codes")
    for index in range(len(stories)):
        rows = list(stories.rows(index))
        whole, _ = tiny_pipeline.render(codes[rows], num_inference_steps=1)
        assert [texts[row] for row in rows] == whole


def test_next_steps_are_decoded_beside_the_given_ones(tiny_pipeline, stories, codes):
    plans = plan_next_steps(tiny_pipeline, stories, codes, len(stories), seed=0)
    assert plans.story_lengths == [4] * len(plans.rows) and plans.lengths == [1] * len(plans.rows)
    assert plans.pages == [3 + 4 * number for number in range(len(plans.rows))]
    for number, row in enumerate(plans.rows):
        assert torch.equal(plans.codes[4 * number : 4 * number + 3], codes[row - 3 : row])
    texts = plans.texts(tiny_pipeline, "next steps")
    first, _ = tiny_pipeline.render(plans.codes[:4], pages=[3], num_inference_steps=1)
    assert texts[:1] == first and len(texts) == len(plans.rows)
    decoded = decode_pages(tiny_pipeline, plans, "next steps", 0, num_inference_steps=1)
    assert decoded.texts == texts and decoded.rows == plans.rows and len(decoded.images) == len(plans.rows)


def test_whole_plans_are_all_pages_of_their_stories(codes):
    plans = PlannedPages.whole(codes[:7], [3, 4])
    assert plans.pages == plans.rows == list(range(7)) and plans.story_lengths == plans.lengths == [3, 4]
