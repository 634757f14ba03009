"""q(z | s, x): the storyboard on its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.batch import StepInputs
from modules.storyboard.image_encoders import LatentPatchEncoder
from tests.support.tensors import CLOSE, differ, generator, select_steps


@pytest.fixture
def storyboard(tiny_model):
    return tiny_model.storyboard


@pytest.fixture
def steps(story_batch) -> StepInputs:
    """The six steps of the batch: three have both modalities, one each lacks text, image and both."""
    return story_batch.steps()


def test_storyboard_shapes(storyboard, steps, tiny_config):
    out = storyboard(steps)
    board = tiny_config.storyboard
    assert out.slots.shape == out.code_embeds.shape == (6, board.num_slots, board.codebook_dim)
    assert out.codes.shape == out.commitment_loss.shape == (6, board.num_slots)
    torch.testing.assert_close(storyboard.embed(out.codes).code_embeds, out.code_embeds)
    assert out.codes[:5].unique().numel() > 8


def test_storyboard_never_looks_under_a_mask(storyboard, steps):
    garbage = 100 * torch.randn(6, 4, 4, 4, generator=generator())
    latents = torch.where(steps.image_mask[:, None, None, None], steps.latents, garbage)
    input_ids = torch.where(steps.text_mask, steps.input_ids, 7)
    assert torch.equal(
        storyboard.encode(replace(steps, latents=latents, input_ids=input_ids)), storyboard.encode(steps)
    )


def test_storyboard_does_not_see_how_long_the_padding_is(storyboard, steps):
    short = select_steps(steps, slice(3, None))  # Without the text that fills its row.
    cropped = replace(short, input_ids=short.input_ids[:, :12], text_mask=short.text_mask[:, :12])
    torch.testing.assert_close(storyboard.encode(cropped), storyboard.encode(short), **CLOSE)


def test_storyboard_reads_every_token_and_every_patch(storyboard, steps):
    tokens = []
    handle = storyboard.text_encoder.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    latents = steps.latents.clone().requires_grad_()
    slots = storyboard.encode(replace(steps, latents=latents))
    handle.remove()
    to_latents, to_tokens = torch.autograd.grad(slots.square().sum(), [latents, tokens[0]])
    assert torch.equal(to_tokens.abs().amax(-1) > 0, steps.text_mask)
    assert torch.equal(to_latents.abs().amax((1, 2, 3)) > 0, steps.image_mask) and (to_latents[0] != 0).all()


def test_each_modality_alone_gives_other_slots(storyboard, steps):
    both = storyboard.encode(steps)
    text_only = storyboard.encode(steps.without_image())
    image_only = storyboard.encode(steps.without_text())
    assert differ(both[0], text_only[0]) and differ(both[0], image_only[0]) and differ(text_only[0], image_only[0])
    assert torch.equal(text_only[3], both[3]) and torch.equal(
        image_only[1], both[1]
    )  # What was absent cannot be dropped.


def test_a_step_is_encoded_for_itself(storyboard, steps):
    together = storyboard.encode(steps)
    alone = torch.cat([storyboard.encode(select_steps(steps, slice(row, row + 1))) for row in range(6)])
    torch.testing.assert_close(alone, together, **CLOSE)


def test_patch_size_must_divide_the_latent(tiny_config):
    with pytest.raises(ValueError, match="patch_size 3 .* 4x4"):
        LatentPatchEncoder((4, 4, 4), 3, 8)


def test_dropped_modality_is_kept_where_the_other_is_absent(steps):
    nothing_kept = steps.keep(text=False, image=False)
    has_text, has_image = steps.text_mask.any(1), steps.image_mask
    assert torch.equal(nothing_kept.text_mask, steps.text_mask & ~has_image[:, None])
    assert torch.equal(nothing_kept.image_mask, has_image & ~has_text)
    everything_kept = steps.keep(text=torch.ones(6, dtype=torch.bool), image=True)
    assert torch.equal(everything_kept.text_mask, steps.text_mask) and torch.equal(
        everything_kept.image_mask, has_image
    )


def test_step_inputs_without_one_modality_keep_the_other(steps):
    text_only, image_only = steps.without_image(), steps.without_text()
    assert not text_only.image_mask.any() and torch.equal(text_only.text_mask, steps.text_mask)
    assert not image_only.text_mask.any() and torch.equal(image_only.image_mask, steps.image_mask)
    assert set(steps.tensors()) == {"latents", "image_mask", "input_ids", "text_mask"}
    assert all(value.device.type == "meta" for value in steps.to(torch.device("meta")).tensors().values())
