"""Guidance of the plan: the prior beside itself without a prompt."""

from __future__ import annotations

import pytest
import torch

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.prior.config import PriorConfig
from modules.prior.prior import Prior
from modules.prior.sampling import guide

CODES, SLOTS, STEPS = 16, 2, 3
PROMPT = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]])
PROMPT_MASK = torch.tensor([[True, True, True, False], [True] * 4])


def make_prior(null_prompt: float) -> Prior:
    torch.manual_seed(0)
    config = PriorConfig(dim=32, code_dim=16, num_layers=2, num_heads=2, dropout=0.0, null_prompt=null_prompt)
    return Prior(config, 11, CODES, SLOTS).eval()


@torch.no_grad()
def expected(prior: Prior, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest guided codes (B,T,S) and their log-probabilities, one code after the other by whole passes."""
    codes, mask = torch.zeros(2, STEPS, SLOTS, dtype=torch.long), torch.ones(2, STEPS, dtype=torch.bool)
    log_probs = torch.zeros(2, STEPS, SLOTS)
    for index in range(STEPS * SLOTS):
        place = (slice(None), index // SLOTS, index % SLOTS)
        rows = [
            prior(codes, PROMPT, prompt_mask, mask).logits[place]
            for prompt_mask in (PROMPT_MASK, torch.zeros_like(PROMPT_MASK))
        ]
        guided, own = guide(torch.cat(rows), scale)
        codes[place] = guided.argmax(-1)
        log_probs[place] = own.log_softmax(-1).gather(-1, codes[place][:, None])[:, 0]
    return codes, log_probs


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guided_plans_are_those_of_both_passes(scale):
    prior = make_prior(0.1)
    found = prior.sample(PROMPT, PROMPT_MASK, STEPS, temperature=0, guidance_scale=scale)
    codes, log_probs = expected(prior, scale)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.log_probs, log_probs)


def test_guided_plans_go_on_from_codes_and_keep_fixed_ones():
    prior, given = make_prior(0.1), torch.randint(CODES, (1, 1, SLOTS))
    fixed = torch.tensor([[-1, -1], [5, 7]])
    found = prior.sample(
        PROMPT[1:],
        PROMPT_MASK[1:],
        2,
        generator=torch.Generator().manual_seed(0),
        codes=given,
        num_samples=5,
        fixed=fixed,
        guidance_scale=2.0,
    )
    assert found.codes.shape == found.log_probs.shape == (5, 2, SLOTS)
    assert (found.codes[:, 1] == fixed[1]).all() and len(found.codes[:, 0].unique(dim=0)) > 1


def test_scale_0_forgets_the_prompt():
    prior = make_prior(0.1)
    one, other = (
        prior.sample(ids, PROMPT_MASK[1:], STEPS, temperature=0, guidance_scale=0.0)
        for ids in (PROMPT[1:], PROMPT[1:] + 1)
    )
    assert torch.equal(one.codes, other.codes) and not torch.equal(one.log_probs, other.log_probs)


def test_a_prior_that_always_saw_a_prompt_is_refused(tiny_pipeline, monkeypatch):
    with pytest.raises(ValueError, match="null_prompt is 0"):
        make_prior(0.0).sample(PROMPT, PROMPT_MASK, STEPS, guidance_scale=2.0)
    assert isinstance(tiny_pipeline, StoryPipeline)
    monkeypatch.setattr(tiny_pipeline.model.prior, "config", PriorConfig())
    with pytest.raises(UserError, match="plan_guidance_scale must be 1 with this model, got 2"):
        tiny_pipeline.plan("a fox wants a kite", 2, plan_guidance_scale=2.0)
