"""p(z | c): the prior on its own."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from modules.prior.config import PriorConfig
from modules.prior.prior import Prior
from tests.support.tensors import CLOSE, differ, generator


@pytest.fixture
def prior(tiny_model) -> Prior:
    return tiny_model.prior


@pytest.fixture
def told(story_batch) -> dict[str, Tensor]:
    """What the prior is given; the last step of story 1 is padding."""
    codes = torch.randint(0, 32, (2, 3, 8), generator=generator(4))
    return {"codes": codes, **{name: story_batch[name] for name in ("prompt_ids", "prompt_mask", "step_mask")}}


def test_prior_is_causal_by_gradient(prior, told):
    inputs = []
    handle = prior.code_embed.register_forward_hook(lambda module, args, output: inputs.append(output))
    logits = prior(**told).logits.flatten(1, 2)
    handle.remove()
    assert inputs[0].shape[1] == 25 and logits.shape[1] == 24  # BOS and 24 codes, the last of which predicts nothing.
    for position in range(24):
        (gradient,) = torch.autograd.grad(logits[0, position].square().sum(), inputs[0], retain_graph=True)
        reached = gradient.abs().amax(-1)
        assert (reached[0, : position + 1] > 0).all(), position  # BOS and all codes before `position`.
        assert (reached[0, position + 1 :] == 0).all() and (reached[1] == 0).all(), position


def test_prior_nll_is_that_of_its_logits(prior, told):
    out = prior(**told)
    assert out.logits.shape == (2, 3, 8, 32)
    expected = -out.logits.log_softmax(-1).gather(-1, told["codes"][..., None])[..., 0]
    torch.testing.assert_close(out.nll, expected)


def test_prior_does_not_see_the_future(prior, told):
    other = {**told, "codes": told["codes"].clone()}
    other["codes"][:, 1, 3:] = (told["codes"][:, 1, 3:] + 5) % 32
    other["codes"][:, 2] = 0
    before, after = prior(**told).logits.flatten(1, 2), prior(**other).logits.flatten(1, 2)
    assert torch.equal(before[:, :12], after[:, :12])  # The first code that changed is predicted from those before it.
    assert differ(before[:, 12], after[:, 12])


@pytest.mark.parametrize("where", ["longer", "cropped", "garbage", "left"])
def test_padding_of_the_prompt_changes_nothing(prior, told, where):
    ids, mask = told["prompt_ids"], told["prompt_mask"]
    if where == "longer":
        ids, mask = torch.nn.functional.pad(ids, (0, 9), value=5), torch.nn.functional.pad(mask, (0, 9))
    elif where == "cropped":
        ids, mask = ids[:, :11], mask[:, :11]
    elif where == "garbage":
        ids = torch.where(mask, ids, 9)
    else:
        ids, mask = ids.roll(3, dims=1), mask.roll(3, dims=1)
    torch.testing.assert_close(
        prior(**{**told, "prompt_ids": ids, "prompt_mask": mask}).nll, prior(**told).nll, **CLOSE
    )


def test_padded_steps_change_nothing(prior, told):
    other = {**told, "codes": told["codes"].clone()}
    other["codes"][1, 2] = 3
    cropped = {name: value[1:] for name, value in told.items()}
    cropped["codes"], cropped["step_mask"] = told["codes"][1:, :2], told["step_mask"][1:, :2]
    expected = prior(**told).nll
    assert torch.equal(prior(**other).nll[told["step_mask"]], expected[told["step_mask"]])
    torch.testing.assert_close(prior(**cropped).nll[0], expected[1, :2], **CLOSE)


def test_an_empty_prompt_is_a_prompt(prior, told):
    nothing = torch.zeros_like(told["prompt_mask"])
    masked = prior(**{**told, "prompt_mask": nothing}).nll
    cropped = prior(**{**told, "prompt_ids": told["prompt_ids"][:, :0], "prompt_mask": nothing[:, :0]}).nll
    assert masked.isfinite().all()
    torch.testing.assert_close(masked, cropped, **CLOSE)


def test_prompt_its_order_and_the_steps_left_matter(prior, told):
    first = prior(**told).logits[0, 0]
    other = {**told, "prompt_ids": told["prompt_ids"].clone()}
    other["prompt_ids"][0, 2] += 1
    assert differ(prior(**other).logits[0, 0], first)
    other["prompt_ids"] = torch.cat([told["prompt_ids"][:, :6].flip(1), told["prompt_ids"][:, 6:]], dim=1)
    assert differ(prior(**other).logits[0, 0], first)
    shorter = {**told, "step_mask": told["step_mask"].clone()}
    shorter["step_mask"][0, 2] = False
    assert differ(prior(**shorter).logits[0, 0], first)


@pytest.mark.parametrize(("num_steps", "counts"), [(1, 1), (3, 3), (34, 32)])
def test_prior_counts_the_steps_that_are_left(prior, told, num_steps, counts):
    """Each step of a story uses the embedding of its own count; counts beyond `max_steps` share the last one."""
    codes, there = torch.zeros(2, num_steps, 8, dtype=torch.long), torch.ones(2, num_steps, dtype=torch.bool)
    logits = prior(codes, told["prompt_ids"], told["prompt_mask"], there).logits
    (gradient,) = torch.autograd.grad(logits[:, -1].square().sum(), prior.steps_left_embed.weight, retain_graph=True)
    assert (gradient.abs().amax(1) > 0).tolist() == [count < counts for count in range(32)]
    (gradient,) = torch.autograd.grad(logits[:, 0].square().sum(), prior.steps_left_embed.weight)
    assert (gradient.abs().amax(1) > 0).nonzero()[:, 0].tolist() == [counts - 1]


def test_prior_starts_from_a_token_of_its_own(prior, told):
    (gradient,) = torch.autograd.grad(prior(**told).logits[:, 0, 0, 0].square().sum(), prior.code_embed.weight)
    assert (gradient.abs().amax(1) > 0).nonzero()[:, 0].tolist() == [
        0,
        32,
    ]  # Code 0, which is asked for, is read nowhere.


@pytest.mark.parametrize("given", [0, 1, 2])
def test_sampled_log_probs_are_those_of_forward(prior, told, given):
    history = told["codes"][:, :given] if given else None
    plan = prior.sample(
        told["prompt_ids"], told["prompt_mask"], 3, temperature=0.7, top_p=0.9, generator=generator(), codes=history
    )
    assert plan.codes.shape == plan.log_probs.shape == (2, 3, 8)
    whole = torch.cat([told["codes"][:, :given], plan.codes], dim=1)
    out = prior(whole, told["prompt_ids"], told["prompt_mask"], torch.ones(whole.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(plan.log_probs, -out.nll[:, given:].detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("given", [0, 2])
def test_many_plans_of_one_prompt(prior, told, given):
    ids, mask = told["prompt_ids"][:1], told["prompt_mask"][:1]
    history = told["codes"][:1, :given] if given else None
    plan = prior.sample(ids, mask, 2, generator=generator(), codes=history, num_samples=5)
    assert plan.codes.shape == (5, 2, 8) and len(plan.codes.flatten(1).unique(dim=0)) == 5
    whole = torch.cat([told["codes"][:1, :given].expand(5, -1, -1), plan.codes], dim=1)
    out = prior(whole, ids.expand(5, -1), mask.expand(5, -1), torch.ones(whole.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(plan.log_probs, -out.nll[:, given:].detach(), atol=1e-4, rtol=1e-5)


def test_temperature_zero_ignores_the_generator(prior, told):
    prompt = told["prompt_ids"], told["prompt_mask"]
    plan = prior.sample(*prompt, 2, temperature=0, generator=generator(1))
    assert torch.equal(plan.codes, prior.sample(*prompt, 2, temperature=0, generator=generator(2)).codes)
    out = prior(plan.codes, *prompt, torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(out.logits.argmax(-1), plan.codes)


def test_same_seed_same_plan_and_global_randomness_plays_no_part(prior, told):
    prompt, state = (told["prompt_ids"], told["prompt_mask"]), torch.random.get_rng_state()
    plans = [prior.sample(*prompt, 3, generator=generator(seed)).codes for seed in (1, 1, 2)]
    assert torch.equal(plans[0], plans[1]) and not torch.equal(plans[0], plans[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_probabilities_of_all_stories_sum_to_one():
    torch.manual_seed(0)
    toy = Prior(
        PriorConfig(dim=16, num_layers=2, num_heads=2, dropout=0.0), vocab_size=5, codebook_size=3, num_slots=2
    ).eval()
    for parameter in toy.parameters():
        parameter.data.mul_(10 if parameter.ndim == 2 else 1)
    codes = torch.tensor(list(product(range(3), repeat=4))).view(81, 2, 2)
    prompt = torch.tensor([[3, 4]]).expand(81, 2)
    nll = toy(codes, prompt, torch.ones(81, 2, dtype=torch.bool), torch.ones(81, 2, dtype=torch.bool)).nll.sum((1, 2))
    assert nll.std() > 0.1 and abs((-nll).exp().sum().item() - 1) < 1e-4


def test_sampling_follows_the_model():
    torch.manual_seed(0)
    toy = Prior(
        PriorConfig(dim=16, num_layers=1, num_heads=2, dropout=0.0), vocab_size=5, codebook_size=3, num_slots=1
    ).eval()
    for parameter in toy.parameters():
        parameter.data.mul_(10 if parameter.ndim == 2 else 1)
    prompt = torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool)
    drawn = toy.sample(*prompt, 2, generator=generator(), num_samples=4000).codes[:, :, 0]
    codes = torch.tensor(list(product(range(3), repeat=2)))
    expected = (
        -toy(codes[..., None], *(part.expand(9, -1) for part in prompt), torch.ones(9, 2, dtype=torch.bool)).nll.sum(
            (1, 2)
        )
    ).exp()
    shares = (drawn[:, None] == codes).all(-1).float().mean(0)
    torch.testing.assert_close(shares, expected.detach(), atol=0.04, rtol=0)
