"""Scheduled teacher forcing: it is plain at probability 0, its schedule moves, and it neither leaks nor changes a
target.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from modules.batch import StoryBatch
from modules.prior.prior import Prior
from modules.prior.teacher_forcing import draw_mixing, mix_history, two_pass_nll
from modules.story_model.story_model import StoryModel
from modules.training.optimizer import linear_ramp

NUM_CODES, SLOTS = 32, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def prior(tiny_model: StoryModel) -> Prior:
    return tiny_model.prior


@pytest.fixture
def codes() -> Tensor:
    return torch.randint(NUM_CODES, (2, 3, SLOTS), generator=generator(5))


@pytest.fixture
def predict(prior: Prior, story_batch: StoryBatch):
    """Logits from a history, and in `predict.seen` the histories that were asked about."""

    def call(history: Tensor) -> Tensor:
        call.seen.append(history)
        return prior(history, story_batch.prompt_ids, story_batch.prompt_mask, story_batch.step_mask).logits

    call.seen = []
    return call


def test_probability_0_is_plain_teacher_forcing(prior, predict, codes, story_batch):
    plain = prior(codes, story_batch.prompt_ids, story_batch.prompt_mask, story_batch.step_mask)
    output = two_pass_nll(predict, codes, 0.0, draw_mixing(codes.shape, generator()))
    assert (
        torch.equal(output.nll, plain.nll)
        and torch.equal(output.logits, plain.logits)
        and torch.equal(output.history, codes)
    )
    assert len(predict.seen) == 1  # It costs one pass, too.


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_targets_are_the_true_codes(predict, codes, probability):
    before = codes.clone()
    output = two_pass_nll(predict, codes, probability, draw_mixing(codes.shape, generator()))
    assert torch.equal(codes, before)
    expected = -output.logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(output.nll, expected)
    assert torch.equal(predict.seen[-1], output.history)


def test_probability_1_shows_no_true_code(codes):
    """A model that gives the true code no chance: whatever it is shown in the second pass is of its own making."""
    seen = []

    def predict(history: Tensor) -> Tensor:
        seen.append(history)
        return torch.zeros(*codes.shape, NUM_CODES).scatter(-1, codes[..., None], -torch.inf)

    for seed in range(20):
        two_pass_nll(predict, codes, 1.0, draw_mixing(codes.shape, generator(seed)))
        assert (seen[-1] != codes).all()


def test_replaced_codes_follow_the_models_own_distribution():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1, 500, SLOTS, 4)
    drawn = mix_history(logits, torch.full((1, 500, SLOTS), -1), 1.0, draw_mixing((1, 500, SLOTS), generator()))
    torch.testing.assert_close(
        torch.bincount(drawn.flatten()) / 4000, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_as_many_codes_are_replaced_as_asked(probability):
    codes = torch.full((4, 250, SLOTS), -1)
    mixed = mix_history(torch.zeros(*codes.shape, 3), codes, probability, draw_mixing(codes.shape, generator()))
    assert (mixed >= 0).float().mean().item() == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_nothing_leaks_from_the_future(predict, codes, probability):
    """A true code that changes is neither in what came before it nor in what is thought of itself, in either pass."""
    draws = draw_mixing(codes.shape, generator(3))
    before = two_pass_nll(predict, codes, probability, draws)
    for position in (0, 5, 11, 16, 22):
        changed = codes.flatten(1).clone()
        changed[:, position:] = (changed[:, position:] + 7) % NUM_CODES
        after = two_pass_nll(predict, changed.view_as(codes), probability, draws)
        assert torch.equal(before.history.flatten(1)[:, :position], after.history.flatten(1)[:, :position])
        torch.testing.assert_close(
            before.logits.flatten(1, 2)[:, : position + 1], after.logits.flatten(1, 2)[:, : position + 1]
        )


def test_a_code_of_its_own_depends_on_the_true_past(predict, codes):
    """Otherwise the last test would be empty: the past does reach what comes after it, by both passes."""
    draws = draw_mixing(codes.shape, generator(3))
    before = two_pass_nll(predict, codes, 1.0, draws)
    changed = codes.clone()
    changed[:, 0] = (changed[:, 0] + 7) % NUM_CODES
    after = two_pass_nll(predict, changed, 1.0, draws)
    assert not torch.equal(before.history[:, 1:], after.history[:, 1:])


def test_draws_come_from_the_generator(predict, codes):
    first, again, other = (
        two_pass_nll(predict, codes, 0.5, draw_mixing(codes.shape, generator(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(first.nll, again.nll) and torch.equal(first.history, again.history)
    assert not torch.equal(first.history, other.history)


def test_a_batch_may_be_cut_into_stories(prior, codes, story_batch):
    """The draws are made for the whole: each part sees what the whole would have shown it."""
    draws = draw_mixing(codes.shape, generator(4))

    def predict(rows: slice):
        story = (story_batch.prompt_ids[rows], story_batch.prompt_mask[rows], story_batch.step_mask[rows])
        return lambda history: prior(history, *story).logits

    whole = two_pass_nll(predict(slice(None)), codes, 0.5, draws).nll
    parts = [two_pass_nll(predict(rows), codes[rows], 0.5, draws[:, rows]).nll for rows in (slice(0, 1), slice(1, 2))]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_weight_learns_from_the_second_pass(prior, predict, codes, precision):
    """Under autocast too: the casts of the weights that the first pass made have no gradient."""
    prior.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = two_pass_nll(predict, codes, 0.5, draw_mixing(codes.shape, generator()))
    output.nll.mean().backward()
    assert [
        name for name, parameter in prior.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == ["given_pages"]  # No pages are given here.


def test_no_gradient_comes_from_the_first_pass(predict, codes):
    shown = []

    def watched(history: Tensor) -> Tensor:
        shown.append(predict(history))
        return shown[-1]

    two_pass_nll(watched, codes, 0.5, draw_mixing(codes.shape, generator()))
    assert [logits.requires_grad for logits in shown] == [False, True]


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(predict, codes, probability):
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        two_pass_nll(predict, codes, probability, draw_mixing(codes.shape, generator()))


# The schedule, whose like never moved in the captioner that this one follows


def test_schedule_goes_all_the_way_and_never_back():
    values = [linear_ramp(step, 400) for step in range(400)]
    assert values[0] == 0 and values[-1] == pytest.approx(1)
    assert all(first < second for first, second in itertools.pairwise(values))
    assert sum(values) / 400 == pytest.approx(0.5)
    assert linear_ramp(1000, 400) == pytest.approx(1) and linear_ramp(0, 1) == 0
    assert linear_ramp(100, 401) == 0.25 and linear_ramp(300, 401) == 0.75


def test_what_is_shown_moves_with_the_schedule():
    """From the codes of the truth alone to those of the model alone, counted in what the second pass sees."""
    codes, logits = torch.full((1, 100, SLOTS), -1), torch.zeros(1, 100, SLOTS, 3)
    shares = []
    for step in (0, 10, 20, 30, 40):
        mixed = mix_history(logits, codes, linear_ramp(step, 41), draw_mixing(codes.shape, generator(step)))
        shares.append((mixed >= 0).float().mean().item())
    assert shares[0] == 0 and shares[-1] == 1
    assert shares == pytest.approx([linear_ramp(step, 41) for step in (0, 10, 20, 30, 40)], abs=0.06)
