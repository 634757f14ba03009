"""The pipeline with decoders that read the whole plan: some pages alone, several stories at once, very long ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.layers.plan_window import MAX_SEEN
from modules.story import StoryStep
from modules.storyworld import StoryWorld

PROMPT = "Rusty the fox wants a kite"
QUICK = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def steps() -> tuple[StoryStep, ...]:
    return StoryWorld(1, image_size=32)[0].steps[:2]


def random_codes(num_pages: int, seed: int = 0) -> Tensor:
    return torch.randint(32, (num_pages, 8), generator=torch.Generator().manual_seed(seed))


def difference(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of two images, of 255 levels."""
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


# --- some pages of a story


def test_some_pages_are_those_of_the_whole_story(tiny_pipeline):
    codes = random_codes(5)
    texts, images = tiny_pipeline.render(codes, seed=3, **QUICK)
    some, drawn = tiny_pipeline.render(codes, seed=3, pages=[0, 1], **QUICK)
    assert some == texts[:2] and max(map(difference, drawn, images)) <= 1
    later, drawn = tiny_pipeline.render(codes, seed=3, pages=[4, 2], **QUICK)
    assert later == [texts[4], texts[2]]
    _, alone = tiny_pipeline.render(codes[[4, 2]], seed=3, **QUICK)  # A story of these two pages.
    assert all(image.tobytes() != other.tobytes() for image, other in zip(drawn, alone, strict=True))


def test_given_texts_are_those_of_the_rendered_pages(tiny_pipeline):
    codes = random_codes(4)
    whole, _ = tiny_pipeline.render(codes, **QUICK)
    texts, images = tiny_pipeline.render(codes, pages=[1, 3], texts=["A kite.", None], **QUICK)
    assert texts == ["A kite.", whole[3]] and len(images) == 2


def test_stories_rendered_together_are_those_rendered_apart(tiny_pipeline):
    lengths, codes = [3, 1, 12], random_codes(16)
    together, images = tiny_pipeline.render(codes, lengths=lengths, **QUICK)
    apart = [text for part in codes.split(lengths) for text in tiny_pipeline.render(part, **QUICK)[0]]
    assert together == apart and len(images) == 16
    assert together != tiny_pipeline.render(codes, **QUICK)[0]


def test_an_edited_page_leaves_the_others_alone(tiny_pipeline):
    """Only the pages that are asked for are decoded again, in the new plan."""
    codes = random_codes(4)
    edited = codes.clone()
    edited[1] = random_codes(1, seed=9)[0]
    before, _ = tiny_pipeline.render(codes, **QUICK)
    after, _ = tiny_pipeline.render(edited, **QUICK)
    (page,), _ = tiny_pipeline.render(edited, pages=[1], **QUICK)
    assert page == after[1] != before[1]


def test_pages_are_continued_in_the_plan_of_the_given_ones(tiny_pipeline, steps):
    given = tiny_pipeline.encode(steps)
    story = tiny_pipeline.continue_story(PROMPT, steps, 2, seed=1, **QUICK)
    whole = torch.cat([given, story.codes])
    texts, images = tiny_pipeline.render(whole, seed=1, pages=[2, 3], **QUICK)
    assert story.texts == texts
    assert [image.tobytes() for image in story.images] == [image.tobytes() for image in images]
    assert tiny_pipeline.render(story.codes, seed=1, **QUICK)[0] != texts


def test_missing_parts_are_completed_in_the_plan(tiny_pipeline, steps):
    partial = [steps[0], StoryStep(text=None, image=steps[1].image)]
    story = tiny_pipeline.complete(PROMPT, partial, **QUICK)
    texts, _ = tiny_pipeline.render(tiny_pipeline.encode(partial), pages=[1], **QUICK)
    assert story.texts == [steps[0].text, texts[0]]


def test_one_page_is_a_story_of_one_page(tiny_pipeline, steps):
    text, codes = tiny_pipeline.caption(steps[0].image)
    assert tiny_pipeline.render(codes[None], **QUICK)[0] == [text]
    drawn = tiny_pipeline.illustrate([steps[0].text], **QUICK)
    encoded = tiny_pipeline.encode([StoryStep(text=steps[0].text)])
    _, (image,) = tiny_pipeline.render(encoded, texts=[steps[0].text], **QUICK)
    assert drawn.images[0].tobytes() == image.tobytes()


# --- very long stories


@torch.no_grad()
def work_of_a_page(pipeline: StoryPipeline, num_pages: int) -> tuple[int, int]:
    """Floating-point operations to decode the page in the middle of a story, and the codes that it reads."""
    embeds = pipeline.embed(random_codes(num_pages))
    window = pipeline.model.window(embeds, [num_pages])
    page = [num_pages // 2]
    own, around, ids = embeds[page], window[page], torch.ones(1, 8, dtype=torch.long)
    decoder = pipeline.model.image_decoder
    with FlopCounterMode(display=False) as counter:
        pipeline.model.text_decoder.logits(own, ids, ids.bool(), None, around)
        context = decoder.context(own, window=around)
        decoder.predict(torch.zeros(1, *decoder.latent_shape), torch.tensor([500]), context)
    return counter.get_total_flops(), context.vectors.shape[1]


def test_a_page_costs_the_same_however_long_the_story(tiny_pipeline):
    slots = tiny_pipeline.config.storyboard.num_slots
    short, long, longest = (work_of_a_page(tiny_pipeline, num_pages) for num_pages in (8, 100, 1000))
    assert long == longest and long[1] == (MAX_SEEN + 1) * slots
    assert short[0] < long[0] and short[1] == (8 + 1) * slots


def test_pages_of_a_story_of_1000_pages_are_decoded(tiny_pipeline):
    codes = random_codes(1000)
    texts, images = tiny_pipeline.render(codes, pages=[0, 500, 999], **QUICK)
    assert all(texts) and len(images) == 3
    changed = codes.clone()
    changed[20:480], changed[520:980] = random_codes(460, seed=1), random_codes(460, seed=2)
    assert tiny_pipeline.render(changed, pages=[0, 500, 999], **QUICK)[0] == texts  # These pages are far from all.
    (before,) = tiny_pipeline.render(changed, pages=[500], **QUICK)[1]
    changed[0] = random_codes(1, seed=3)[0]
    (after,) = tiny_pipeline.render(changed, pages=[500], **QUICK)[1]
    assert before.tobytes() != after.tobytes()  # The first page is far from none.


# --- the guidance interval


def test_the_guidance_interval_changes_pictures_alone(tiny_pipeline):
    codes = random_codes(2)
    plain = tiny_pipeline.render(codes, guidance_scale=1.0, **QUICK)
    nowhere = tiny_pipeline.render(codes, guidance_scale=4.0, guidance_interval=(0.0, 0.0), **QUICK)
    everywhere = tiny_pipeline.render(codes, guidance_scale=4.0, guidance_interval=(0.0, 1.0), **QUICK)
    drawn = [[image.tobytes() for image in images] for _, images in (plain, nowhere, everywhere)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert plain[0] == nowhere[0] == everywhere[0]


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ((0.9, 0.1), "guidance_interval must be two numbers, the lower one first, got [0.9, 0.1]"),
        ((0.0, float("nan")), "must be two numbers, the lower one first, got [0.0, nan]"),
        ((0.5,), "must be two numbers, the lower one first, got [0.5]"),
        ((0.1, 0.2, 0.3), "must be two numbers"),
        (("low", "high"), "must be two numbers"),
        (0.5, "must be two numbers, the lower one first, got [0.5]"),
        ((0.0, 1.5), "guidance_interval must lie from 0 to 1, got [0.0, 1.5]"),
        ((-0.5, 0.5), "guidance_interval must lie from 0 to 1, got [-0.5, 0.5]"),
    ],
)
def test_a_bad_guidance_interval_is_a_user_error(interval, message):
    with pytest.raises(UserError) as error:
        GenerationSettings(guidance_interval=interval)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError):
        dataclasses.replace(GenerationSettings(), guidance_interval=interval)
