"""What texts mean, by the model's own sentence encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.evaluation.held_out import HeldOutStories
from modules.evaluation.meaning import NUM_DRAWS, _own_prompts, measure_meaning
from modules.generation.pipeline import StoryPipeline
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import make_vocabulary
from tests.support.tiny_presets import IMAGE_SIZE, tiny_preset

NUM_STORIES = 5


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(NUM_STORIES, split="val", image_size=IMAGE_SIZE)


def pipeline_of(name: str, hub: Path, world: StoryWorld, **changes: str) -> StoryPipeline:
    config = replace(tiny_preset(name, hub), **changes)
    torch.manual_seed(0)
    model = StoryModel(config, offline=True).eval()
    if model.has_codes:
        model.storyboard.quantizer.is_active = True
    return StoryPipeline(model, make_vocabulary(config.text_decoder, config.vocab_size, world.texts()))


@pytest.fixture(scope="module")
def pipeline(hub: Path, world: StoryWorld) -> StoryPipeline:
    return pipeline_of("picturebooks", hub, world)


def test_true_texts_mean_what_they_mean(pipeline, world):
    held_out = HeldOutStories.read(pipeline, world, NUM_STORIES)
    measured = measure_meaning(pipeline, held_out, held_out.true_texts)
    assert list(measured) == ["cosine", "own_prompt_of_4"]
    assert measured["cosine"].value == pytest.approx(1, abs=1e-5) and measured["cosine"].ceiling == 1
    assert measured["cosine"].floor < 0.999
    prompts = measured["own_prompt_of_4"]
    assert (
        prompts.floor == 0.25 and 0 <= prompts.low <= prompts.value <= prompts.high <= 1 and 0 <= prompts.ceiling <= 1
    )
    assert measured == measure_meaning(pipeline, held_out, held_out.true_texts)
    others = [*held_out.true_texts[1:], held_out.true_texts[0]]
    assert measure_meaning(pipeline, held_out, others)["cosine"].value < 0.999


def test_a_prompt_is_found_among_others():
    prompts, vectors = ["a", "b", "c", "d", "d"], torch.eye(5)
    lengths = [1, 2, 1, 1, 1]
    texts = vectors.repeat_interleave(torch.tensor(lengths), dim=0)
    assert _own_prompts(vectors, prompts, texts, lengths, 0).tolist() == [1, 1, 1, 1, 1]
    assert not _own_prompts(vectors, prompts, -texts, lengths, 0).any()
    shares = _own_prompts(vectors, prompts, texts[[1, 0, 2, 3, 4, 5]], lengths, 0)  # The first tells of the second.
    assert shares[0] < 1 and np.isclose(shares[0] * NUM_DRAWS % 1, 0)
    assert not len(_own_prompts(vectors[:3], prompts[:3], texts[:4], lengths[:3], 0))


def test_a_model_without_sentence_encoder_or_codes_has_none(pipeline, hub, world):
    held_out = HeldOutStories.read(pipeline, world, 2)
    assert measure_meaning(pipeline_of("gpt2-sd15", hub, world), held_out, held_out.true_texts) == {}
    assert measure_meaning(pipeline_of("picturebooks", hub, world, plan="prompt"), held_out, held_out.true_texts) == {}


@torch.no_grad()
def test_a_sentence_is_the_mean_of_its_tokens(pipeline):
    encoder = pipeline.model.storyboard.text_encoder
    texts = ["A fox sleeps.", "The hare and the drum", ""]
    ids, mask = encoder.tokenizer.encode_batch(texts[1:2])
    alone = encoder(ids[:, : mask.sum()], mask[:, : mask.sum()])[0].mean(0)
    sentences = encoder.sentences(texts)
    torch.testing.assert_close(sentences[1], alone / alone.norm(), atol=1e-5, rtol=1e-4)
    assert sentences.isfinite().all() and torch.allclose(sentences.norm(dim=-1), torch.ones(3))
