"""The pipeline as a library: shapes, honest likelihoods, and nothing of the caller's touched."""

import math
import random
from typing import get_args

import numpy as np
import pytest
import torch

from modules.common.errors import UserError
from modules.generation import settings as checks
from modules.generation.pipeline import StoryPipeline, StoryPipelineOutput
from modules.image_decoder.config import SchedulerName
from modules.presets import PRESETS
from modules.story import StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.config import Decoding

PROMPT = "Rusty the fox wants a kite"
QUICK = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def steps() -> tuple[StoryStep, ...]:
    return StoryWorld(1, image_size=32)[0].steps[:2]


def nll(pipeline: StoryPipeline, codes: torch.Tensor) -> torch.Tensor:
    """What the prior says of whole stories (B, T, S), in one pass without a cache."""
    ids, mask = pipeline.tokenizer.encode_batch([PROMPT] * len(codes), pipeline.config.max_prompt_length)
    with torch.no_grad():
        return pipeline.model.prior(codes, ids, mask, torch.ones(codes.shape[:2], dtype=torch.bool)).nll


def test_story_has_pages_codes_and_bits(tiny_pipeline):
    story = tiny_pipeline(PROMPT, num_steps=3, **QUICK)
    assert isinstance(story, StoryPipelineOutput)
    assert (story.prompt, len(story.texts), [image.size for image in story.images]) == (PROMPT, 3, [(32, 32)] * 3)
    assert story.codes.shape == story.log_probs.shape == (3, 8)
    assert 0 <= story.codes.min() <= story.codes.max() < 32
    assert story.bits == pytest.approx((-story.log_probs.sum(1) / math.log(2)).tolist())


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_plans_are_scored_as_the_prior_scores_them(tiny_pipeline, top_p):
    plan = tiny_pipeline.plan(PROMPT, 3, seed=1, top_p=top_p, num_plans=4)
    assert plan.codes.shape == (4, 3, 8)
    assert len(plan.codes.unique(dim=0)) > 1
    torch.testing.assert_close(-plan.log_probs, nll(tiny_pipeline, plan.codes), atol=1e-4, rtol=0)


def test_given_steps_come_first_in_the_plan(tiny_pipeline, steps):
    given = tiny_pipeline.encode(steps)
    story = tiny_pipeline.continue_story(PROMPT, steps, 2, temperature=0, **QUICK)
    whole = torch.cat([given, story.codes])[None]
    assert len(story.texts) == len(story.images) == 2
    torch.testing.assert_close(-story.log_probs, nll(tiny_pipeline, whole)[0, 2:], atol=1e-4, rtol=0)
    best = tiny_pipeline.plan(PROMPT, 2, temperature=0, codes=given)
    assert torch.equal(best.codes[0], story.codes)


def test_pages_follow_the_codes(tiny_pipeline):
    codes, stories = torch.arange(8) + torch.tensor([[0], [0], [8], [16]]), {"lengths": [1] * 4, **QUICK}
    texts, images = tiny_pipeline.render(codes, **stories)
    again = tiny_pipeline.render(codes, **stories)
    assert (texts, [image.tobytes() for image in images]) == (again[0], [image.tobytes() for image in again[1]])
    assert texts[0] == texts[1]  # Their pictures start from different noise; the same noise shows what codes do.
    assert len(set(texts)) == 3
    alone = [tiny_pipeline.render(row[None], **QUICK)[1][0].tobytes() for row in codes]
    assert alone[0] == alone[1]
    assert len(set(alone)) == 3


def test_complete_keeps_what_is_given_and_adds_what_is_not(tiny_pipeline, steps):
    partial = [steps[0], StoryStep(text=steps[1].text), StoryStep(text=None, image=steps[1].image)]
    story = tiny_pipeline.complete(PROMPT, partial, **QUICK)
    assert story.texts[:2] == [steps[0].text, steps[1].text]
    assert (story.images[0], story.images[2]) == (steps[0].image, steps[1].image)
    assert story.texts[2]
    assert story.images[1].size == (32, 32)
    assert torch.equal(story.codes, tiny_pipeline.encode(partial))
    assert story.bits is None


def test_illustrate_and_caption_read_one_modality(tiny_pipeline, steps):
    drawn = tiny_pipeline.illustrate([step.text for step in steps], **QUICK)
    assert (drawn.texts, len(drawn.images)) == ([step.text for step in steps], 2)
    text, codes = tiny_pipeline.caption(steps[0].image)
    assert text
    assert torch.equal(codes, tiny_pipeline.encode([StoryStep(text=None, image=steps[0].image)])[0])


@pytest.mark.parametrize("decoding", checks.DECODINGS)
def test_global_randomness_is_left_alone(tiny_pipeline, decoding):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = tiny_pipeline(PROMPT, num_steps=2, decoding=decoding, **QUICK)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    torch.rand(3)
    second = tiny_pipeline(PROMPT, num_steps=2, decoding=decoding, **QUICK)
    assert first.texts == second.texts
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]


BAD = {
    "prompt": " ",
    "num_steps": 33,
    "seed": -1,
    "temperature": math.nan,
    "top_p": 0,
    "guidance_scale": math.inf,
    "num_inference_steps": 0,
    "scheduler": "magic",
    "decoding": "magic",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_user_error_that_names_it(tiny_pipeline, name):
    with pytest.raises(UserError, match=name):
        tiny_pipeline(**({"prompt": PROMPT} | {name: BAD[name]}))


def test_model_without_a_codebook_is_refused(tiny_pipeline, steps):
    young = StoryPipeline(StoryModel(PRESETS["tiny"]), tiny_pipeline.tokenizer)
    for tell in (lambda: young(PROMPT), lambda: young.encode(steps), lambda: young.illustrate(["A fox."])):
        with pytest.raises(UserError, match="before its codebook was initialised"):
            tell()


def test_the_checks_know_every_scheduler_and_decoding():
    assert get_args(SchedulerName) == checks.SCHEDULERS
    assert get_args(Decoding) == checks.DECODINGS
