"""A prior whose codes become likelier where the slot has had some like them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from modules.prior.config import PriorConfig
from modules.prior.prior import Prior
from modules.prior.slot_cache import DECAY
from modules.story_model.story_model import StoryModel
from modules.storyboard.quantizer import VectorQuantizer

CODES, SLOTS, STEPS = 16, 2, 3
CONFIG = PriorConfig(dim=32, code_dim=16, num_layers=2, num_heads=2, dropout=0.0, cache=True, null_prompt=0.1)
PROMPT = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]])
PROMPT_MASK = torch.tensor([[True, True, True, False], [True] * 4])
THERE = torch.ones(2, STEPS, dtype=torch.bool)


@pytest.fixture
def quantizer() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(8, CODES, decay=0.9, dead_code_threshold=0.1)


@pytest.fixture
def prior(quantizer) -> Prior:
    torch.manual_seed(0)
    return Prior(CONFIG, 11, CODES, SLOTS, quantizer).eval()


@torch.no_grad()
def test_bias_is_the_likeness_to_what_the_slot_has_had(prior, quantizer):
    codes = torch.randint(CODES, (2, STEPS, SLOTS), generator=torch.Generator().manual_seed(1))
    prior.cache.scale.copy_(torch.tensor([2.0, 3.0]))
    bias, book = prior.cache(codes), torch.nn.functional.normalize(quantizer.codebook, dim=-1)
    assert bias.shape == (2, STEPS, SLOTS, CODES) and not bias[:, 0].any()
    expected = 3.0 * (DECAY * book[codes[1, 0, 1]] + book[codes[1, 1, 1]]) / (1 + DECAY) @ book.t()
    torch.testing.assert_close(bias[1, 2, 1], expected)
    for place in range(STEPS * SLOTS):
        following = prior.cache.next(codes.flatten(1)[:, :place])
        torch.testing.assert_close(following, bias[:, place // SLOTS, place % SLOTS])


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
    assert [name for name in prior.state_dict() if "cache" in name] == ["cache.scale"]
    prior(torch.zeros(2, STEPS, SLOTS, dtype=torch.long), PROMPT, PROMPT_MASK, THERE).nll.sum().backward()
    assert prior.cache.scale.grad.all()
    with pytest.raises(ValueError, match="needs the quantiser"):
        Prior(CONFIG, 11, CODES, SLOTS)


@torch.no_grad()
def test_a_copy_of_a_model_reads_its_own_codebook(tiny_config):
    model = StoryModel(replace(tiny_config, prior=replace(tiny_config.prior, cache=True)))
    same = copy.deepcopy(model)
    codes = torch.randint(tiny_config.storyboard.codebook_size, (1, 2, tiny_config.storyboard.num_slots))
    before = model.prior.cache(codes)
    same.storyboard.quantizer.codebook.copy_(same.storyboard.quantizer.codebook.flip(0))
    assert torch.equal(model.prior.cache(codes), before)
    assert not torch.allclose(same.prior.cache(codes), before)
