"""Given pages: what is drawn, that they change nothing when there are none, and that the prior writes towards them."""

from __future__ import annotations

import pytest
import torch

from modules.prior.config import PriorConfig
from modules.prior.given import draw_given, written_steps
from modules.prior.prior import Prior

VOCAB, CODES, SLOTS = 11, 16, 2
PROMPT = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]])
PROMPT_MASK = torch.tensor([[True, True, True, False], [True] * 4])


def make_prior(given_share: float, seed: int = 0) -> Prior:
    torch.manual_seed(seed)
    config = PriorConfig(dim=32, code_dim=16, num_layers=2, num_heads=2, dropout=0.0, given_share=given_share)
    return Prior(config, VOCAB, CODES, SLOTS).eval()


def random_codes(num_stories: int, num_steps: int) -> torch.Tensor:
    return torch.randint(CODES, (num_stories, num_steps, SLOTS), generator=torch.Generator().manual_seed(1))


def test_a_share_of_the_stories_has_given_pages():
    lengths = [1, 2, 5, 8] * 200
    given = draw_given(lengths, 0.5, torch.Generator().manual_seed(0))
    written = written_steps(torch.arange(8) < torch.tensor(lengths)[:, None], given)
    assert torch.equal(written.sum(1) + (given >= 0).sum(1), torch.tensor(lengths)) and (written.sum(1) >= 1).all()
    has_some = (given >= 0).any(1)[torch.tensor(lengths) > 1]
    assert 0.42 < has_some.float().mean() < 0.58
    fives = given[torch.tensor(lengths) == 5]
    is_only_last = (fives[:, 0] == 4) & (fives[:, 1:] < 0).all(1)
    assert is_only_last.any() and (fives == 0).any() and not (given >= torch.tensor(lengths)[:, None]).any()
    assert draw_given([4, 4], 0.0, torch.Generator()).shape == (2, 0)


def test_without_given_pages_nothing_changes():
    plain, able, codes = make_prior(0.0), make_prior(0.5), random_codes(2, 3)
    assert set(able.state_dict()) - set(plain.state_dict()) == {"given_pages"}
    able.load_state_dict(plain.state_dict(), strict=False)
    arguments = (codes, PROMPT, PROMPT_MASK, torch.ones(2, 3, dtype=torch.bool))
    nothing = torch.full((2, 2), -1)
    for score in (plain.forward, plain.score):
        able_score = getattr(able, score.__name__)
        torch.testing.assert_close(able_score(*arguments, given=nothing).nll, score(*arguments).nll)
    with pytest.raises(ValueError, match="given_share is 0"):
        plain(*arguments, given=torch.zeros(2, 1, dtype=torch.long))


def test_a_given_page_reaches_the_pages_before_it():
    prior, codes = make_prior(0.5), random_codes(2, 4)
    mask = torch.ones(2, 4, dtype=torch.bool)
    given = torch.tensor([[3, -1], [2, 3]])
    nll = prior(codes, PROMPT, PROMPT_MASK, mask, given=given).nll
    changed = codes.clone()
    changed[0, 3] = (changed[0, 3] + 1) % CODES
    difference = (prior(changed, PROMPT, PROMPT_MASK, mask, given=given).nll - nll).abs().amax(-1)
    assert (difference[0, :3] > 0).all() and not difference[1].any()
    alone = prior(codes[:1], PROMPT[:1, :3], PROMPT_MASK[:1, :3], mask[:1], given=torch.tensor([[3]])).nll
    torch.testing.assert_close(alone, nll[:1])
    torch.testing.assert_close(prior.score(codes, PROMPT, PROMPT_MASK, mask, given).nll, nll)


def test_a_prior_that_was_shown_endings_writes_towards_them():
    """Every page of a story repeats one random pair of codes: without the last page the first cannot be known."""
    prior = make_prior(0.5).train()
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    draws, mask = torch.Generator().manual_seed(0), torch.ones(32, 3, dtype=torch.bool)
    prompt, prompt_mask = torch.full((32, 1), 3), torch.ones(32, 1, dtype=torch.bool)
    for _ in range(150):
        codes = torch.randint(CODES, (32, 1, SLOTS), generator=draws).expand(-1, 3, -1)
        given = draw_given([3] * 32, 0.5, draws)
        nll = prior(codes, prompt, prompt_mask, mask, given=given).nll
        loss = nll.mean(-1)[written_steps(mask, given)].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prior.eval()
    fixed = torch.full((3, SLOTS), -1)
    fixed[2] = torch.tensor([5, 9])
    sample = prior.sample(
        prompt[:1], prompt_mask[:1], 3, generator=torch.Generator().manual_seed(0), num_samples=16, fixed=fixed
    )
    assert (sample.codes[:, :2] == fixed[2]).float().mean() > 0.9
    after = prior.sample(
        prompt[:1],
        prompt_mask[:1],
        2,
        generator=torch.Generator().manual_seed(0),
        codes=fixed[None, 2:],
        fixed=fixed[1:],
    )
    assert torch.equal(after.codes[0, 1], fixed[2])
