"""The loss of the whole model: what it counts, and what dropped modalities change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.batch import PlanBatch, StoryBatch
from modules.layers.losses import cosine_distance
from tests.support.losses import AIDS, CLOSE, ENCODER_ONLY, OTHERS, TERMS, changed, rows, where, with_noise

# --- the loss


@pytest.mark.parametrize("term", TERMS)
def test_loss_is_the_weighted_sum_of_its_terms(tiny_model, story_batch, dropping_noise, term):
    before = tiny_model(story_batch, dropping_noise)
    assert set(before.losses) == set(TERMS)
    weights = tiny_model.config.loss_weights
    torch.testing.assert_close(before.loss, sum(getattr(weights, name) * before.losses[name] for name in TERMS))
    tiny_model.config = replace(tiny_model.config, loss_weights=replace(weights, **{term: getattr(weights, term) + 2}))
    after = tiny_model(story_batch, dropping_noise)
    torch.testing.assert_close(after.loss - before.loss, 2 * before.losses[term], atol=1e-4, rtol=1e-4)


def test_losses_are_means_over_what_is_there(tiny_model, story_batch, dropping_noise):
    out = tiny_model(story_batch, dropping_noise)
    flat = {name: story_batch[name].flatten(0, 1) for name in ("input_ids", "text_mask", "latents")}
    board, whole = tiny_model.encode(story_batch, dropping_noise), tiny_model.encode(story_batch)
    window = tiny_model.batch_window(board, story_batch, dropping_noise)
    text = tiny_model.text_decoder(board.code_embeds, flat["input_ids"], flat["text_mask"], window=window)
    shown = flat["latents"], dropping_noise.timesteps, dropping_noise.noise
    image = tiny_model.image_decoder(board.code_embeds, *shown, window=window)
    aids = tiny_model.aids(board.code_embeds, story_batch)
    prior = tiny_model.prior(out.codes, story_batch.prompt_ids, story_batch.prompt_mask, story_batch.step_mask)
    seen, steps = story_batch.image_mask.flatten(), story_batch.step_mask
    expected = {
        "text_nll": text.nll[text.mask].mean(),
        "diffusion_loss": image.loss[seen].mean(),
        "draft_loss": aids.draft_loss[seen].mean(),
        "commitment_loss": board.commitment_loss[steps.flatten()].mean(),
        "prior_nll": prior.nll[steps].mean(),
        "agreement_loss": cosine_distance(board.slots, whole.slots)[steps.flatten()].mean(),
        "bag_of_words_loss": aids.bag_of_words_loss[steps.flatten()].mean(),
        "bag_of_visual_words_loss": aids.bag_of_visual_words_loss[seen].mean(),
        **{name: aids[name][steps.flatten()].mean() for name in OTHERS},
    }
    assert text.mask.sum() == story_batch.num_tokens == 9 + 40 + 5 + 12 - 4
    torch.testing.assert_close(out.losses, expected)
    assert torch.equal(out.codes.flatten(0, 1), board.codes) and torch.equal(out.step_mask, steps.flatten())


@pytest.mark.parametrize("what", ["padded step", "padded tokens", "prompt padding", "absent pictures", "absent texts"])
def test_what_is_masked_changes_no_loss(tiny_model, story_batch, story_noise, what):
    batch, noise = story_batch, story_noise
    if what == "padded step":
        steps, images = batch.step_mask, torch.full_like(batch.latents, 9.0)
        batch = changed(batch, input_ids=where(steps, batch.input_ids, 9), latents=where(steps, batch.latents, images))
        still, early = (
            where(steps.flatten(), noise.noise, torch.zeros_like(noise.noise)),
            where(steps.flatten(), noise.timesteps, 5),
        )
        noise = with_noise(noise, noise=still, timesteps=early)
    elif what == "padded tokens":
        batch = changed(batch, input_ids=where(batch.text_mask, batch.input_ids, 7))
    elif what == "prompt padding":
        batch = changed(batch, prompt_ids=where(batch.prompt_mask, batch.prompt_ids, 7))
    elif what == "absent pictures":
        batch = changed(batch, latents=where(batch.image_mask, batch.latents, -batch.latents))
    else:
        batch = changed(batch, input_ids=where(batch.text_mask.any(-1), batch.input_ids, 5))
    assert any(not torch.equal(batch[name], value) for name, value in story_batch.items())
    before, after = tiny_model(story_batch, story_noise), tiny_model(batch, noise)
    torch.testing.assert_close(after.losses, before.losses, **CLOSE)


def test_cropped_is_padded(tiny_model, story_batch, story_noise):
    """Story 1 alone, without its padded step and with shorter texts, has the losses that it has within the batch."""
    counts = {
        name: torch.tensor(value) for name, value in (("num_steps", 2.0), ("num_tokens", 15.0), ("num_images", 1.0))
    }
    fields = {name: value[1:] for name, value in story_batch.items() if name not in counts}
    padded = StoryBatch(**fields, **counts)
    short = {name: fields[name][:, :2] for name in ("latents", "image_mask", "step_mask")}
    short |= {name: fields[name][:, :2, :12] for name in ("input_ids", "text_mask")}
    cropped = changed(
        padded, **short, prompt_ids=fields["prompt_ids"][:, :11], prompt_mask=fields["prompt_mask"][:, :11]
    )
    within, alone = tiny_model(padded, story_noise.rows(3, 6)), tiny_model(cropped, story_noise.rows(3, 5))
    torch.testing.assert_close(alone.losses, within.losses, **CLOSE)
    assert torch.equal(alone.codes[0], within.codes[0, :2])


def test_cached_codes_give_the_losses_of_the_live_encoder(tiny_model, story_batch, story_noise):
    live = tiny_model(story_batch, story_noise)
    cached = tiny_model(changed(story_batch, codes=live.codes), story_noise)
    assert cached.slots is None and torch.equal(cached.codes, live.codes)
    assert set(cached.losses) == set(TERMS) - ENCODER_ONLY - AIDS
    torch.testing.assert_close(cached.losses, {name: live.losses[name] for name in cached.losses}, **CLOSE)
    others = tiny_model(changed(story_batch, codes=(live.codes + 1) % 32), story_noise)
    assert all(abs(others.losses[name] - cached.losses[name]) > 1e-5 for name in others.losses)


def test_prior_learns_the_plan_and_the_decoders_read_the_codes(tiny_model, story_batch, story_noise):
    codes = tiny_model(story_batch, story_noise).codes
    story = {name: story_batch[name] for name in ("prompt_ids", "prompt_mask", "step_mask", "num_steps")}
    cached = tiny_model(changed(story_batch, codes=codes, plans=PlanBatch(codes=codes, **story)), story_noise).losses
    torch.testing.assert_close(cached, tiny_model(changed(story_batch, codes=codes), story_noise).losses)
    planned = tiny_model(
        changed(story_batch, codes=codes, plans=PlanBatch(codes=(codes + 1) % 32, **story)), story_noise
    ).losses
    assert {name for name in cached if not torch.equal(cached[name], planned[name])} == {"prior_nll"}


@pytest.mark.parametrize("cached", [False, True])
def test_parts_of_a_global_batch_average_to_it(tiny_model, story_batch, story_noise, cached):
    if cached:
        story_batch = changed(story_batch, codes=tiny_model(story_batch, story_noise).codes)
    whole = tiny_model(story_batch, story_noise).losses
    shared = {name: story_batch[name] / 2 for name in ("num_steps", "num_tokens", "num_images")}
    parts = []
    for story in range(2):
        fields = {name: value if name in shared else value[story : story + 1] for name, value in story_batch.items()}
        parts.append(
            tiny_model(changed(StoryBatch(**fields), **shared), story_noise.rows(3 * story, 3 * story + 3)).losses
        )
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in whole}
    torch.testing.assert_close(mean, whole, **CLOSE)
    assert abs(parts[0]["text_nll"] - parts[1]["text_nll"]) > 0.1


def test_a_batch_without_pictures_or_texts_has_a_loss(tiny_model, story_batch, story_noise):
    none = changed(story_batch, image_mask=torch.zeros_like(story_batch.image_mask), num_images=torch.tensor(0.0))
    losses = tiny_model(none, story_noise).losses
    assert losses["diffusion_loss"] == losses["draft_loss"] == 0 and losses["text_nll"] > 0
    mute = changed(story_batch, text_mask=torch.zeros_like(story_batch.text_mask), num_tokens=torch.tensor(0.0))
    losses = tiny_model(mute, story_noise).losses
    assert losses["text_nll"] == losses["bag_of_words_loss"] == 0 and losses["diffusion_loss"] > 0
    assert tiny_model(mute, story_noise).loss.isfinite()


def test_null_codes_take_effect_row_by_row(tiny_model, story_batch, story_noise):
    plain = tiny_model(story_batch, story_noise).losses
    text = tiny_model(story_batch, with_noise(story_noise, null_text=rows(1, 0, 0, 0, 0, 0).bool())).losses
    image = tiny_model(story_batch, with_noise(story_noise, null_image=rows(1, 0, 0, 0, 0, 0).bool())).losses
    assert {name for name in TERMS if text[name] != plain[name]} == {"text_nll"}
    assert {name for name in TERMS if image[name] != plain[name]} == {"diffusion_loss"}


# --- modality dropout


def test_a_dropped_modality_is_an_absent_one(tiny_model, story_batch, story_noise):
    everywhere, nowhere = rows(*[True] * 6), rows(*[False] * 6)
    full = changed(
        story_batch,
        text_mask=story_batch.text_mask[:, :1].expand(-1, 3, -1),
        image_mask=torch.ones(2, 3, dtype=torch.bool),
    )
    both = tiny_model.encode(full, story_noise).slots
    no_text = tiny_model.encode(full, with_noise(story_noise, keep_text=nowhere)).slots
    no_image = tiny_model.encode(full, with_noise(story_noise, keep_image=nowhere)).slots
    assert torch.equal(no_text, tiny_model.encode(changed(full, text_mask=torch.zeros_like(full.text_mask))).slots)
    assert torch.equal(no_image, tiny_model.encode(changed(full, image_mask=torch.zeros_like(full.image_mask))).slots)
    mixed = with_noise(story_noise, keep_text=rows(0, 1, 1, 1, 1, 1).bool(), keep_image=rows(1, 0, 1, 1, 1, 1).bool())
    expected = torch.cat([no_text[:1], no_image[1:2], both[2:]])
    torch.testing.assert_close(tiny_model.encode(full, mixed).slots, expected, **CLOSE)
    assert (both - no_text).abs().max() > 0.1 and (both - no_image).abs().max() > 0.1
    assert torch.equal(tiny_model.encode(full, with_noise(story_noise, keep_text=everywhere)).slots, both)


def test_a_modality_is_never_dropped_where_the_other_is_absent(tiny_model, story_batch, story_noise):
    plain = tiny_model.encode(story_batch).slots
    no_text = tiny_model.encode(story_batch, with_noise(story_noise, keep_text=rows(*[False] * 6))).slots
    no_image = tiny_model.encode(story_batch, with_noise(story_noise, keep_image=rows(*[False] * 6))).slots
    torch.testing.assert_close(no_text[3], plain[3], **CLOSE)  # It has no picture.
    torch.testing.assert_close(no_image[1], plain[1], **CLOSE)  # It has no text.
    assert (no_text[0] - plain[0]).abs().max() > 0.1 and (no_image[0] - plain[0]).abs().max() > 0.1


def test_a_dropped_modality_is_still_to_be_told(tiny_model, story_batch, story_noise):
    """The encoder does not see it, but the decoders are asked for it: that is what makes captions and illustrations."""
    dropped = tiny_model(story_batch, with_noise(story_noise, keep_text=rows(*[False] * 6))).losses
    kept = tiny_model(story_batch, story_noise).losses
    assert dropped["text_nll"] > 1 and dropped["text_nll"] != kept["text_nll"]


# --- agreement


def test_slots_agree_where_nothing_is_dropped(tiny_model, story_batch, story_noise, dropping_noise):
    assert tiny_model(story_batch, story_noise).losses["agreement_loss"].abs() < 1e-6
    distances = cosine_distance(
        tiny_model.encode(story_batch, dropping_noise).slots, tiny_model.encode(story_batch).slots
    ).mean(1)
    assert torch.equal(distances > 1e-3, rows(True, False, True, False, False, False))


def test_agreement_pulls_to_a_target_that_stands_still(tiny_model, story_batch, dropping_noise):
    """The gradient is the one towards slots that were stored, and not the one that would move the target, too."""

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, tiny_model.storyboard.queries)[0]

    def by_hand(target: Tensor) -> Tensor:
        distance = cosine_distance(tiny_model.encode(story_batch, dropping_noise).slots, target).mean(1)
        return gradient(distance[story_batch.step_mask.flatten()].mean())

    target = tiny_model.encode(story_batch).slots
    actual = gradient(tiny_model(story_batch, dropping_noise).losses["agreement_loss"])
    torch.testing.assert_close(actual, by_hand(target.detach().clone()), **CLOSE)
    assert (actual - by_hand(target)).abs().max() > 1e-3
