"""A batch is learnt by heart, and the decoders rely on the codes."""

from __future__ import annotations

import pytest
import torch

from modules.batch import StepNoise, StoryBatch, draw_noise
from modules.story_model.story_model import StoryModel
from modules.training.reliance import code_reliance, reliance_summary, swap_rows
from tests.support.losses import ENCODER_ONLY, TERMS


@pytest.fixture(scope="module")
def learnt(tiny_config) -> tuple[StoryModel, StoryBatch, StepNoise, list[dict[str, float]]]:
    """A quantising model that saw one batch of 3 stories x 2 steps again and again, and its losses."""
    torch.manual_seed(0)
    model = StoryModel(tiny_config)
    generator = torch.Generator().manual_seed(5)
    shape, length = tiny_config.autoencoder.latent_shape, tiny_config.text_decoder.max_length
    mask = torch.arange(length) < torch.tensor([[5, 7], [4, 6], [6, 5]])[..., None]
    whole = torch.ones(3, 2, dtype=torch.bool)
    batch = StoryBatch(
        prompt_ids=torch.randint(3, 400, (3, 5), generator=generator),
        prompt_mask=torch.ones(3, 5, dtype=torch.bool),
        input_ids=torch.randint(3, 9, mask.shape, generator=generator),
        text_mask=mask,
        image_mask=whole,
        step_mask=whole,
        latents=torch.randn(3, 2, *shape, generator=generator).mean((-1, -2), keepdim=True).expand(3, 2, *shape) * 6,
        num_steps=whole.sum().float(),
        num_images=whole.sum().float(),
        num_tokens=mask[..., 1:].sum().float(),
    )
    quantizer, optimizer, history = model.storyboard.quantizer, torch.optim.AdamW(model.parameters(), lr=4e-3), []
    quantizer.fit(model.encode(batch).slots.detach().flatten(0, 1), seed=0)
    for step in range(100):
        noise = draw_noise(6, shape, 1000, torch.Generator().manual_seed(step))
        out = model(batch, noise)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        quantizer.update(out.slots.detach().flatten(0, 1), seed=step, revive=True)
        history.append({name: value.item() for name, value in (("loss", out.loss), *out.losses.items())})
    return model.eval(), batch, noise, history


@pytest.mark.training
def test_overfits_one_batch(learnt):
    history = learnt[-1]
    ratios = {
        name: min(line[name] for line in history) / history[0][name] for name in TERMS if name not in ENCODER_ONLY
    }
    assert history[30]["loss"] < 0.7 * history[0]["loss"]
    assert (
        ratios["text_nll"] < 0.5
        and ratios["prior_nll"] < 0.5
        and ratios["draft_loss"] < 0.5
        and ratios["diffusion_loss"] < 0.8
    )


@pytest.mark.training
def test_decoders_rely_on_the_codes(learnt):
    model, batch, noise, _ = learnt
    sums = code_reliance(model, batch, noise)
    summary = reliance_summary(sums, batch.image_mask.flatten())
    for term in ("text_nll", "diffusion_loss"):
        assert summary[f"{term}_swapped"] > 1.3 * summary[f"{term}_own"]
        assert summary[f"{term}_null"] > 1.05 * summary[f"{term}_own"]
        assert summary[f"{term}_swap_gap"] == pytest.approx(summary[f"{term}_swapped"] - summary[f"{term}_own"])
    expected = model(batch, noise).losses
    assert summary["text_nll_own"] == pytest.approx(expected["text_nll"].item(), rel=1e-4)
    assert summary["diffusion_loss_own"] == pytest.approx(expected["diffusion_loss"].item(), rel=1e-4)


def test_reliance_leaves_padding_out(tiny_model, story_batch, story_noise):
    sums = code_reliance(tiny_model, story_batch, story_noise)
    assert sums["num_tokens"].tolist() == [8, 0, 39, 4, 11, 0]
    for name, value in sums.items():
        mask = (
            story_batch.image_mask.flatten()
            if name.startswith("diffusion")
            else story_batch.text_mask.any(-1).flatten()
        )
        assert torch.equal(value > 0, mask), name


def test_swapped_codes_are_those_of_another_real_step(tiny_model, story_batch, story_noise):
    """With the plan around that step."""
    swapped = code_reliance(tiny_model, story_batch, story_noise)["text_nll_swapped"]
    board = tiny_model.encode(story_batch)
    codes, window = board.code_embeds, tiny_model.batch_window(board, story_batch)
    for row in (0, 2, 3, 4):  # Those with a text; the last row is padding.
        others = torch.tensor([other for other in range(5) if other != row])
        ids, mask = (story_batch[name].flatten(0, 1)[row].expand(4, -1) for name in ("input_ids", "text_mask"))
        candidates = tiny_model.text_decoder(codes[others], ids, mask, window=window[others]).nll.sum(1)
        assert (candidates - swapped[row]).abs().min() < 1e-3


@pytest.mark.parametrize("count", [2, 3, 4, 5, 24, 97])
def test_swapping_leaves_no_row_its_own(count):
    permutation = swap_rows(count)
    assert sorted(permutation.tolist()) == list(range(count))
    assert (permutation != torch.arange(count)).all()


def test_swapping_one_row_or_none_is_possible():
    assert swap_rows(1).tolist() == [0] and swap_rows(0).tolist() == []
