"""The whole model: which term trains what, what a loss counts, and whether the decoders need the codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import modules
from modules.batch import PlanBatch, StepNoise, StoryBatch, draw_noise
from modules.config import PLANS, LossWeights
from modules.layers.losses import cosine_distance
from modules.story_model.story_model import StoryModel
from modules.training.reliance import code_reliance, reliance_summary, swap_rows

OPTIONAL = (
    "contrastive_loss",
    "load_balancing_loss",
    "router_z_loss",
)  # Of what only some models have: test_mechanisms.py.
TERMS = tuple(name for name in asdict(LossWeights()) if name not in OPTIONAL)
ENCODER_ONLY = {"commitment_loss", "agreement_loss"}  # The terms that train nothing else.
TEXTS = {"text_nll", "bag_of_words_loss"}
PICTURES = {"diffusion_loss", "bag_of_visual_words_loss", "draft_loss"}
OTHERS = {"other_words_loss", "other_visual_words_loss"}
AIDS = {
    "bag_of_words_loss",
    "bag_of_visual_words_loss",
    "draft_loss",
    "agreement_loss",
} | OTHERS  # What cached codes leave no use for.
FACTORS = ("storyboard", "prior", "text_decoder", "image_decoder", "aids")
TRAINS = {  # What each term trains, and nothing else.
    "text_nll": {"storyboard", "text_decoder"},
    "bag_of_words_loss": {"storyboard", "aids"},
    "bag_of_visual_words_loss": {"storyboard", "aids"},
    "diffusion_loss": {"storyboard", "image_decoder"},
    "draft_loss": {"storyboard", "aids"},
    "other_words_loss": {"storyboard", "aids"},
    "other_visual_words_loss": {"storyboard", "aids"},
    "commitment_loss": {"storyboard"},
    "agreement_loss": {"storyboard"},
    "prior_nll": {"prior"},
}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def changed(batch: StoryBatch, /, **fields: Tensor) -> StoryBatch:
    return StoryBatch(**{**batch, **fields})


def with_noise(noise: StepNoise, /, **fields: Tensor) -> StepNoise:
    return StepNoise(**{**noise, **fields})


def where(mask: Tensor, kept: Tensor, other: Tensor | int) -> Tensor:
    return torch.where(mask.view(*mask.shape, *[1] * (kept.ndim - mask.ndim)), kept, other)


def rows(*values: bool) -> Tensor:
    return torch.tensor(values)


@pytest.fixture
def dropping_noise(story_noise) -> StepNoise:
    """Step 0 of story 0 loses its text, step 2 its picture; what the others would lose, they have alone."""
    return with_noise(
        story_noise,
        keep_text=rows(False, True, True, False, True, True),
        keep_image=rows(True, False, False, True, True, True),
    )


# --- the gradient map


def reached(model: StoryModel, loss: Tensor) -> set[str]:
    """The parts of the model that a loss gives a gradient other than zero."""
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {
        name
        for name, part in model.named_children()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    }


@pytest.mark.parametrize("factor", [*FACTORS, "autoencoder"])
@pytest.mark.parametrize("term", TERMS)
def test_gradient_map(tiny_model, story_batch, dropping_noise, term, factor):
    losses = tiny_model.train()(story_batch, dropping_noise).losses
    assert losses[term] > 0
    assert (factor in reached(tiny_model, losses[term])) == (factor in TRAINS[term])


@pytest.mark.parametrize("term", [term for term in TERMS if term not in ENCODER_ONLY | AIDS])
def test_gradient_map_with_cached_codes(tiny_model, story_batch, story_noise, term):
    codes = tiny_model.encode(story_batch).codes.unflatten(0, (2, 3))
    losses = tiny_model.train()(changed(story_batch, codes=codes), story_noise).losses
    assert reached(tiny_model, losses[term]) == TRAINS[term] - {"storyboard"}


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(
    ("parts", "terms"),
    [
        (("storyboard", "text_decoder", "aids"), {"text_nll", "commitment_loss"} | AIDS),
        (("prior", "text_decoder", "image_decoder"), {"text_nll", "diffusion_loss", "prior_nll"}),
        (("image_decoder",), {"diffusion_loss"}),
        ((), set()),
    ],
)
def test_only_the_asked_parts_have_terms(tiny_model, story_batch, story_noise, parts, terms, active):
    tiny_model.storyboard.quantizer.is_active = active
    out = tiny_model.train()(story_batch, story_noise, parts)
    assert set(out.losses) == terms - (set() if active else {"prior_nll", "commitment_loss"})


OURS = (f"{Path(modules.__file__).parent}/", "/vector_quantize_pytorch/")  # transformers reads masks for itself.


@pytest.fixture
def no_device_sync(monkeypatch):
    """Reading a tensor's value, for which the program waits for the device, raises."""

    def guard(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any) -> Any:
            caller = sys._getframe(1).f_code.co_filename
            assert not any(folder in caller for folder in OURS), f"{caller} reads a tensor's value: {name}"
            return original(tensor, *args)

        return read

    for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu", "nonzero"):
        monkeypatch.setattr(Tensor, name, guard(name))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("no_device_sync")
def test_forward_pass_reads_no_tensor_value(tiny_config, story_batch, story_noise, plan, training):
    weights = replace(tiny_config.loss_weights, contrastive_loss=0.1)
    model = StoryModel(replace(tiny_config, plan=plan, loss_weights=weights)).train(training)
    model.assume_ready()
    assert model(story_batch, story_noise).losses.keys() >= {"text_nll", "diffusion_loss", "bag_of_words_loss"}


def test_prior_on_its_own_codes_reads_no_tensor_value(tiny_model, story_batch, story_noise, request):
    codes = tiny_model.encode(story_batch).codes.unflatten(0, (2, 3))
    plans = story_batch.own_plans(codes)
    plans.own_share, plans.own_draws = 0.5, torch.rand(2, *codes.shape)
    batch = changed(story_batch, codes=codes, plans=plans)
    request.getfixturevalue("no_device_sync")
    assert "prior_nll" in tiny_model(batch, story_noise, ("prior",)).losses


def test_training_pass_leaves_every_buffer_alone(tiny_model, story_batch, story_noise):
    before = {name: value.clone() for name, value in tiny_model.named_buffers()}
    assert any("quantizer.codebook" in name for name in before)
    for training in (True, False):
        tiny_model.train(training)(story_batch, story_noise).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.named_buffers())


def test_decoders_train_the_encoder_through_every_slot(tiny_model, story_batch, story_noise):
    """The decoders read the slots of all steps of their story, the encoder's aids those of their own step."""
    for term in (*TEXTS, *PICTURES):
        out = tiny_model(story_batch, story_noise)
        (gradient,) = torch.autograd.grad(out.losses[term], out.slots)
        counted = (story_batch.text_mask.any(-1) if term in TEXTS else story_batch.image_mask).flatten()
        if term in ("text_nll", "diffusion_loss"):
            counted = story_batch.step_mask.flatten()
        assert torch.equal(gradient.abs().amax(-1) > 0, counted[:, None].expand(-1, 8)), term


def test_nothing_trainable_is_left_out(tiny_model, story_batch, story_noise):
    noise = with_noise(story_noise, null_text=rows(1, 0, 0, 0, 0, 0).bool(), null_image=rows(0, 1, 0, 0, 0, 0).bool())
    tiny_model.train()(story_batch, noise).loss.backward()
    without = [
        name
        for name, p in tiny_model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ]
    assert without == ["prior.given_pages"]  # Plans with given pages are those of later phases.
    assert {*tiny_model.factors, "aids"} == set(FACTORS)
    assert all(p.grad is None and not p.requires_grad for p in tiny_model.autoencoder.parameters())


def test_continuous_model_trains_without_codes(tiny_model, story_batch, story_noise):
    tiny_model.storyboard.quantizer.is_active = False
    out = tiny_model(story_batch, story_noise)
    assert out.codes is None and set(out.losses) == TEXTS | PICTURES | AIDS
    assert reached(tiny_model, out.loss) == {"storyboard", "text_decoder", "image_decoder", "aids"}


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


# --- learning


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
    for step in range(200):
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
