"""Majority vote in the place of queries: who votes, who wins, where the gradient goes, and a run of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.batch import StepInputs
from modules.common.errors import UserError
from modules.config import StoryConfig, load_config
from modules.generation.pipeline import StoryPipeline
from modules.presets import PRESETS
from modules.storyboard.pooling import chunks, elect, mean_over
from modules.storyworld import StoryWorld
from tests.support.losses import AIDS, CLOSE, ENCODER_ONLY, FACTORS, TERMS, TRAINS, changed, reached, where
from tests.support.runs import JOINT_END, JOINT_START, all_finite, moved, tensors_at, trace, train, write_config
from tests.support.tensors import select_steps

VOTING = {"pooling": "majority_vote"}


@pytest.fixture(scope="session")
def tiny_config() -> StoryConfig:
    """What conftest's batch and model are made from, here."""
    return replace(PRESETS["tiny"], storyboard=replace(PRESETS["tiny"].storyboard, **VOTING))


@pytest.fixture
def steps(story_batch) -> StepInputs:
    """The six steps of the batch: three have both modalities, one each lacks text, image and both."""
    return story_batch.steps()


# --- chunks


def places(members: Tensor) -> list[list[int]]:
    return [chunk.nonzero()[:, 0].tolist() for chunk in members]


def test_chunks_share_the_tokens_that_are_there_equally():
    mask = torch.tensor(
        [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    ).bool()
    members = chunks(mask, 3)
    assert places(members[0]) == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert places(members[1]) == [[0], [1, 4], [5, 6]]
    assert places(members[2]) == [[3], [3], [4]]  # Fewer tokens than chunks.
    assert places(members[3]) == [[2], [2], [2]]


@pytest.mark.parametrize("count", range(1, 40))
def test_chunks_are_never_empty_and_leave_no_token_out(count):
    members = chunks(torch.arange(40)[None] < count, 8)[0]
    sizes = members.sum(1)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    if count >= 8:
        assert torch.equal(members.sum(0), (torch.arange(40) < count).long())


# --- the election


def test_the_mode_wins_however_far_its_voters_are():
    codes = torch.tensor([[5, 2, 5, 7]])
    winners, voters = elect(codes, torch.tensor([[4.0, 0.0, 4.0, 0.0]]), torch.ones(1, 1, 4, dtype=torch.bool), 8)
    assert winners.tolist() == [[5]] and voters[0, 0].tolist() == [True, False, True, False]


def test_a_tie_goes_to_the_nearer_and_then_to_the_smaller():
    codes, everyone = torch.tensor([[6, 3, 6, 3]]), torch.ones(1, 1, 4, dtype=torch.bool)
    assert elect(codes, torch.tensor([[0.1, 0.3, 0.1, 0.2]]), everyone, 8)[0].item() == 6
    assert elect(codes, torch.tensor([[0.2, 0.3, 0.2, 0.0]]), everyone, 8)[0].item() == 3
    assert elect(codes, torch.full((1, 4), 0.5), everyone, 8)[0].item() == 3


def test_each_chunk_elects_its_own():
    codes = torch.tensor([[1, 1, 4, 4, 1]])
    members = torch.tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]]).bool()
    winners, voters = elect(codes, torch.rand(1, 5), members, 8)
    assert winners.tolist() == [[1, 4]] and places(voters[0]) == [[0, 1], [2, 3]]


# --- q(z | s, x)


def test_codes_are_the_modes_of_the_tokens_codes(tiny_model, steps):
    board = tiny_model.storyboard
    vectors, mask = board.read(steps)
    tokens, out = board.quantizer(vectors), board(steps)
    for row, members in enumerate(chunks(mask, 8)):
        for slot, chunk in enumerate(places(members)):
            votes = torch.bincount(tokens.codes[row, chunk], minlength=32)
            assert votes[out.codes[row, slot]] == votes.max()
    assert out.codes.unique().numel() > 8
    assert torch.equal(out.vectors, vectors) and torch.equal(out.vector_mask, mask)
    assert torch.equal(mask[:5, :40], steps.text_mask[:5]) and torch.equal(mask[:5, 40:].all(1), steps.image_mask[:5])
    torch.testing.assert_close(out.code_embeds, board.embed(out.codes).code_embeds, atol=1e-6, rtol=0)
    assert out.slots.shape == out.code_embeds.shape == (6, 8, 8) and out.codes.shape == out.commitment_loss.shape == (
        6,
        8,
    )


def test_gradient_goes_to_the_voters_in_equal_shares(tiny_model, steps):
    board = tiny_model.storyboard
    read = []
    board.to_slots.register_forward_hook(lambda _module, _inputs, output: read.append(output))
    out = board(steps)
    tokens = board.quantizer(read[0])
    winners, voters = elect(tokens.codes, tokens.commitment_loss, chunks(out.vector_mask, 8), 32)
    assert torch.equal(winners, out.codes)
    (gradient,) = torch.autograd.grad(out.code_embeds.sum(), read[0], retain_graph=True)
    assert torch.equal(gradient.abs().amax(-1) > 0, voters.any(1))
    straight = mean_over(voters, tokens.embeds)  # The straight-through vectors of all who voted for the winner.
    torch.testing.assert_close(straight, out.code_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(straight.sum(), read[0])[0], gradient, **CLOSE)


def test_before_there_are_codes_the_mean_stands_in(tiny_model, steps):
    board = tiny_model.storyboard
    board.quantizer.is_active = False
    out = board(steps)
    vectors, mask = board.read(steps)
    for row, members in enumerate(chunks(mask, 8)):
        for slot, chunk in enumerate(places(members)):
            mean = board.quantizer.normalise(vectors[row, chunk]).mean(0)
            torch.testing.assert_close(out.code_embeds[row, slot], board.quantizer.normalise(mean), **CLOSE)
    assert out.codes is None and out.commitment_loss is None


@pytest.mark.parametrize("active", [False, True])
def test_padding_never_votes(tiny_model, steps, active):
    board = tiny_model.storyboard
    board.quantizer.is_active = active
    real, before = torch.arange(6) < 5, board(steps)
    garbage = {
        "latents": torch.where(
            steps.image_mask[:, None, None, None], steps.latents, torch.full_like(steps.latents, 50.0)
        ),
        "input_ids": torch.where(steps.text_mask, steps.input_ids, 7),
    }
    torch.testing.assert_close(board(replace(steps, **garbage)).code_embeds[real], before.code_embeds[real], **CLOSE)
    short = select_steps(steps, slice(3, 5))
    cropped = replace(short, input_ids=short.input_ids[:, :12], text_mask=short.text_mask[:, :12])
    torch.testing.assert_close(board(cropped).code_embeds, before.code_embeds[3:5], **CLOSE)


def test_a_step_that_holds_nothing_is_a_number(tiny_model, steps):
    out = tiny_model.storyboard(steps.without_text().without_image())
    out.code_embeds.sum().backward()
    assert out.code_embeds.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tiny_model.storyboard.parameters())


# --- the whole model


@pytest.mark.parametrize("term", TERMS)
def test_gradient_map(tiny_model, story_batch, story_noise, term):
    noise = story_noise
    noise.keep_text[0], noise.keep_image[2] = False, False  # Or slots would agree from the start.
    losses = tiny_model.train()(story_batch, noise).losses
    assert set(losses) == set(TERMS) and losses[term] > 0
    assert reached(tiny_model, losses[term]) == TRAINS[term]


def test_nothing_trainable_is_left_out(tiny_model, story_batch, story_noise):
    story_noise.null_text[0] = story_noise.null_image[1] = True
    tiny_model.train()(story_batch, story_noise).loss.backward()
    assert [
        name
        for name, p in tiny_model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ] == ["prior.given_pages"]
    assert {*tiny_model.factors, "aids"} == set(FACTORS) and not any(
        "queries" in name for name in tiny_model.state_dict()
    )


def test_cached_codes_give_the_losses_of_the_live_encoder(tiny_model, story_batch, story_noise):
    live = tiny_model(story_batch, story_noise)
    cached = tiny_model(changed(story_batch, codes=live.codes), story_noise)
    assert set(cached.losses) == set(TERMS) - ENCODER_ONLY - AIDS
    torch.testing.assert_close(cached.losses, {name: live.losses[name] for name in cached.losses}, **CLOSE)


def test_a_padded_step_changes_no_loss(tiny_model, story_batch, story_noise):
    there = story_batch.step_mask
    other = changed(
        story_batch,
        input_ids=where(there, story_batch.input_ids, 9),
        latents=where(there, story_batch.latents, torch.full_like(story_batch.latents, 9.0)),
    )
    torch.testing.assert_close(
        tiny_model(other, story_noise).losses, tiny_model(story_batch, story_noise).losses, **CLOSE
    )


# --- training and telling


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voting")
    config = write_config(folder / "config.json", storyboard=VOTING)
    assert train(folder / "run", "--config", config, "--keep_last", 0, "--sample_every", 9) == 0
    return folder / "run"


@pytest.mark.training
def test_it_trains_by_the_same_command(run):
    lines = trace(run)
    assert (
        all_finite(run) and "commitment_loss" not in lines[JOINT_START] and lines[JOINT_END - 1]["commitment_loss"] > 0
    )
    assert lines[JOINT_END]["phase"] == "consolidation" and lines[JOINT_END]["prior_nll"] > 0
    changed_late = moved(tensors_at(run, JOINT_END - 3), tensors_at(run, JOINT_END))
    assert {"storyboard.quantizer.codebook", "storyboard.to_slots.weight", "prior.code_embed.weight"} <= changed_late


@pytest.mark.training
def test_it_tells_by_the_same_verbs(run):
    pipeline = StoryPipeline.from_pretrained(run)
    story = pipeline("Rusty the fox wants a kite", num_steps=2, num_inference_steps=2)
    assert story.codes.shape == story.log_probs.shape == (2, 8)
    steps = StoryWorld(1, image_size=32)[0].steps[:2]
    assert pipeline.encode(steps).shape == (2, 8)
    text, codes = pipeline.caption(steps[0].image)
    assert isinstance(text, str) and codes.shape == (8,)


def test_an_unknown_pooling_is_told(tmp_path):
    with pytest.raises(
        UserError, match="storyboard.pooling must be one of queries, majority_vote, qformer, mean, got 'median'"
    ):
        load_config(write_config(tmp_path / "config.json", storyboard={"pooling": "median"}))
