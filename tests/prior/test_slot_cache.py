"""A prior whose codes become likelier where the story has said something like them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from modules.prior.config import PriorConfig
from modules.prior.prior import Prior
from modules.prior.slot_cache import DECAY, RECENT
from modules.story_model.parts import STORYBOARDS
from modules.story_model.story_model import StoryModel
from modules.storyboard.config import StoryboardConfig, TextEncoderConfig
from modules.storyboard.storyboard import Storyboard

CODES, SLOTS, STEPS, VOCAB = 16, 2, 3, 11
CONFIG = PriorConfig(dim=32, code_dim=16, num_layers=2, num_heads=2, dropout=0.0, cache=True, null_prompt=0.1)
PROMPT = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]])
PROMPT_MASK = torch.tensor([[True, True, True, False], [True] * 4])
THERE = torch.ones(2, STEPS, dtype=torch.bool)


@pytest.fixture
def storyboard() -> Storyboard:
    torch.manual_seed(0)
    config = StoryboardConfig(num_slots=SLOTS, codebook_dim=8, codebook_size=CODES, dim=16, num_layers=1, num_heads=2)
    return Storyboard(config, VOCAB, 8, (4, 4, 4)).eval()


@pytest.fixture
def prior(storyboard) -> Prior:
    torch.manual_seed(0)
    return Prior(CONFIG, VOCAB, CODES, SLOTS, storyboard).eval()


@torch.no_grad()
def test_bias_is_the_likeness_to_what_was_said_before(prior, storyboard):
    codes = torch.randint(CODES, (2, STEPS, SLOTS), generator=torch.Generator().manual_seed(1))
    for name, scales in (("scale", (2.0, 3.0)), ("step_scale", (4.0, 5.0)), ("prompt_scale", (6.0, 7.0))):
        getattr(prior.cache, name).copy_(torch.tensor(scales))
    asked = prior.cache.read(PROMPT, PROMPT_MASK)
    bias, book = prior.cache(codes, asked), normalize(storyboard.quantizer.codebook, dim=-1)
    assert bias.shape == (2, STEPS, SLOTS, CODES)
    torch.testing.assert_close(bias[1, 0, 0], 6.0 * asked[1, 0] @ book.t())
    steps = (DECAY * book[codes[1, 0, 1]] + book[codes[1, 1, 1]]) / (1 + DECAY)
    torch.testing.assert_close(bias[1, 2, 1], (3 * steps + 5 * book[codes[1, 2, 0]] + 7 * asked[1, 1]) @ book.t())
    for place in range(STEPS * SLOTS):
        following = prior.cache.next(codes.flatten(1)[:, :place], asked)
        torch.testing.assert_close(following, bias[:, place // SLOTS, place % SLOTS])


@torch.no_grad()
def test_what_is_long_ago_is_forgotten(prior):
    codes = torch.randint(CODES, (1, RECENT + 3, SLOTS), generator=torch.Generator().manual_seed(4))
    asked = prior.cache.read(PROMPT[1:], PROMPT_MASK[1:])
    others = codes.clone()
    others[:, 0] = (others[:, 0] + 1) % CODES
    same = (prior.cache(codes, asked) == prior.cache(others, asked)).flatten(2).all(-1)[0]
    assert same.tolist() == [False] * (RECENT + 1) + [True] * 2
    for place in range((RECENT + 1) * SLOTS, (RECENT + 3) * SLOTS):
        following = prior.cache.next(codes.flatten(1)[:, :place], asked)
        torch.testing.assert_close(following, prior.cache(codes, asked)[:, place // SLOTS, place % SLOTS])


@torch.no_grad()
def test_a_prompt_is_read_as_a_text_without_its_padding(prior, storyboard):
    asked = prior.cache.read(PROMPT, PROMPT_MASK)
    alone = storyboard.encode_texts(PROMPT[:1, :3], PROMPT_MASK[:1, :3])
    torch.testing.assert_close(asked[:1], normalize(alone, dim=-1))
    assert not prior.cache.read(PROMPT, PROMPT_MASK & False).any()


@torch.no_grad()
def test_every_pooling_reads_texts(tiny_config):
    for pooling, storyboard_class in STORYBOARDS.items():
        config = replace(tiny_config.storyboard, pooling=pooling, text_encoder=TextEncoderConfig())
        storyboard = storyboard_class(config, VOCAB, 8, tiny_config.autoencoder.latent_shape).eval()
        slots = storyboard.encode_texts(PROMPT, PROMPT_MASK)
        assert slots.shape == (2, config.num_slots, config.codebook_dim) and slots.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_drawn_codes_have_the_probability_of_forward(prior, guidance_scale):
    drawn = prior.sample(
        PROMPT, PROMPT_MASK, STEPS, generator=torch.Generator().manual_seed(2), guidance_scale=guidance_scale
    )
    scored = prior(drawn.codes, PROMPT, PROMPT_MASK, THERE)
    torch.testing.assert_close(drawn.log_probs, -scored.nll, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.score(drawn.codes, PROMPT, PROMPT_MASK, THERE).logits, scored.logits)


@torch.no_grad()
def test_codes_read_one_by_one_have_the_same_logits(prior):
    codes = torch.randint(CODES, (1, STEPS, SLOTS), generator=torch.Generator().manual_seed(3))
    reading = prior.read_on(PROMPT[1:], PROMPT_MASK[1:], STEPS)
    logits = [next(reading), *(reading.send(code) for code in codes.flatten().tolist())]
    expected = prior(codes, PROMPT[1:], PROMPT_MASK[1:], THERE[1:]).logits[0].flatten(0, 1)
    torch.testing.assert_close(torch.stack(logits[:-1]), expected, atol=1e-5, rtol=1e-4)


def test_the_codebook_stays_the_storyboards(prior):
    assert [name for name in prior.state_dict() if "cache" in name] == [
        "cache.scale",
        "cache.step_scale",
        "cache.prompt_scale",
    ]
    prior(torch.zeros(2, STEPS, SLOTS, dtype=torch.long), PROMPT, PROMPT_MASK, THERE).nll.sum().backward()
    assert prior.cache.scale.grad.all() and prior.cache.prompt_scale.grad.all()
    assert prior.cache.step_scale.grad.tolist()[0] == 0 and prior.cache.step_scale.grad[1:].all()
    with pytest.raises(ValueError, match="needs the storyboard"):
        Prior(CONFIG, VOCAB, CODES, SLOTS)


@torch.no_grad()
def test_a_copy_of_a_model_reads_its_own_codebook(tiny_config):
    model = StoryModel(replace(tiny_config, prior=replace(tiny_config.prior, cache=True)))
    same = copy.deepcopy(model)
    codes = torch.randint(tiny_config.storyboard.codebook_size, (1, 2, tiny_config.storyboard.num_slots))
    asked = torch.zeros(1, tiny_config.storyboard.num_slots, tiny_config.storyboard.codebook_dim)
    before = model.prior.cache(codes, asked)
    same.storyboard.quantizer.codebook.copy_(same.storyboard.quantizer.codebook.flip(0))
    assert torch.equal(model.prior.cache(codes, asked), before)
    assert not torch.allclose(same.prior.cache(codes, asked), before)
