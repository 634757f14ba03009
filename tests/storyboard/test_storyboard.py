"""q(z | s, x): the storyboard on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.storyboard.image_encoders import LatentPatchEncoder
from tests.support.tensors import CLOSE, differ, generator


@pytest.fixture
def storyboard(tiny_model):
    return tiny_model.storyboard


@pytest.fixture
def steps(story_batch) -> dict[str, Tensor]:
    """The six steps of the batch, flat: three have both modalities, one each lacks text, picture and both."""
    flat = {name: story_batch[name].flatten(0, 1) for name in ("latents", "input_ids", "text_mask")}
    return {**flat, "image_mask": story_batch.image_mask.flatten()}


def test_storyboard_shapes(storyboard, steps, tiny_config):
    out = storyboard(**steps)
    board = tiny_config.storyboard
    assert out.slots.shape == out.code_embeds.shape == (6, board.num_slots, board.codebook_dim)
    assert out.codes.shape == out.commitment_loss.shape == (6, board.num_slots)
    torch.testing.assert_close(storyboard.embed(out.codes).code_embeds, out.code_embeds)
    assert out.codes[:5].unique().numel() > 8


def test_storyboard_never_looks_under_a_mask(storyboard, steps):
    garbage = 100 * torch.randn(6, 4, 4, 4, generator=generator())
    latents = torch.where(steps["image_mask"][:, None, None, None], steps["latents"], garbage)
    input_ids = torch.where(steps["text_mask"], steps["input_ids"], 7)
    assert torch.equal(
        storyboard.encode(**{**steps, "latents": latents, "input_ids": input_ids}), storyboard.encode(**steps)
    )


def test_storyboard_does_not_see_how_long_the_padding_is(storyboard, steps):
    short = {name: steps[name][3:] for name in steps}  # Without the text that fills its row.
    cropped = {**short, "input_ids": short["input_ids"][:, :12], "text_mask": short["text_mask"][:, :12]}
    torch.testing.assert_close(storyboard.encode(**cropped), storyboard.encode(**short), **CLOSE)


def test_storyboard_reads_every_token_and_every_patch(storyboard, steps):
    tokens = []
    handle = storyboard.text_encoder.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    latents = steps["latents"].clone().requires_grad_()
    slots = storyboard.encode(**{**steps, "latents": latents})
    handle.remove()
    to_latents, to_tokens = torch.autograd.grad(slots.square().sum(), [latents, tokens[0]])
    assert torch.equal(to_tokens.abs().amax(-1) > 0, steps["text_mask"])
    assert torch.equal(to_latents.abs().amax((1, 2, 3)) > 0, steps["image_mask"]) and (to_latents[0] != 0).all()


def test_each_modality_alone_gives_other_slots(storyboard, steps):
    both = storyboard.encode(**steps)
    text_only = storyboard.encode(**{**steps, "image_mask": torch.zeros(6, dtype=torch.bool)})
    image_only = storyboard.encode(**{**steps, "text_mask": torch.zeros_like(steps["text_mask"])})
    assert differ(both[0], text_only[0]) and differ(both[0], image_only[0]) and differ(text_only[0], image_only[0])
    assert torch.equal(text_only[3], both[3]) and torch.equal(
        image_only[1], both[1]
    )  # What was absent cannot be dropped.


def test_a_step_is_encoded_for_itself(storyboard, steps):
    together = storyboard.encode(**steps)
    alone = torch.cat(
        [storyboard.encode(**{name: value[row : row + 1] for name, value in steps.items()}) for row in range(6)]
    )
    torch.testing.assert_close(alone, together, **CLOSE)


def test_patch_size_must_divide_the_latent(tiny_config):
    with pytest.raises(ValueError, match="patch_size 3 .* 4x4"):
        LatentPatchEncoder((4, 4, 4), 3, 8)
