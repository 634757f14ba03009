"""The baselines without a storyboard: nothing sees its own step, and everything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.config import load_config
from modules.presets import PRESETS
from modules.prior.config import PredictorConfig
from modules.prior.predictor import Predictor
from modules.story_model.story_model import StoryModel
from modules.training.reliance import code_reliance
from tests.support.losses import CLOSE, changed, reached, where
from tests.support.runs import write_config

PLANS = ("predicted", "prompt")
TERMS = {
    "text_nll",
    "diffusion_loss",
    "bag_of_words_loss",
    "bag_of_visual_words_loss",
    "draft_loss",
    "other_words_loss",
    "other_visual_words_loss",
}
TRAINS = {  # Besides the predictor and, where there is one, the encoder.
    "text_nll": {"text_decoder"},
    "diffusion_loss": {"image_decoder"},
    "draft_loss": {"aids"},
    "bag_of_words_loss": {"aids"},
    "bag_of_visual_words_loss": {"aids"},
    "other_words_loss": {"aids"},
    "other_visual_words_loss": {"aids"},
}


# --- the predictor alone


@pytest.fixture
def predictor() -> Predictor:
    """With weights larger than at the start of training, so that whatever leaks is seen."""
    torch.manual_seed(0)
    module = Predictor(
        PredictorConfig(dim=32, num_layers=2, num_heads=2, dropout=0.0), 400, 8, 6, reads_steps=True
    ).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return module


@pytest.fixture
def told(story_batch) -> dict[str, Tensor]:
    """What the predictor is given; the last step of story 1 is padding."""
    slots = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(4))
    return {"slots": slots, **{name: story_batch[name] for name in ("prompt_ids", "prompt_mask", "step_mask")}}


def test_a_step_is_predicted_from_all_earlier_slots_only(predictor, told):
    slots = told["slots"].requires_grad_()
    embeds = predictor(**told)
    assert embeds.shape == (2, 3, 8, 6)
    for step in range(3):
        (gradient,) = torch.autograd.grad(
            embeds[:, step].square().mul(torch.rand(8, 6)).sum(), slots, retain_graph=True
        )
        assert torch.equal(gradient.abs().amax(-1) > 0, (torch.arange(3) < step)[None, :, None].expand(2, 3, 8))


def test_embeds_have_the_scale_of_codes(predictor, told):
    embeds = predictor(**told)
    assert embeds.mean(-1).abs().max() < 1e-5 and (embeds.square().mean(-1) - 1).abs().max() < 1e-2


def test_padding_changes_nothing(predictor, told):
    expected, there = predictor(**told), told["step_mask"]
    garbage = torch.where(there[..., None, None], told["slots"], torch.full_like(told["slots"], 9.0))
    assert torch.equal(predictor(**{**told, "slots": garbage})[there], expected[there])
    prompt = torch.where(told["prompt_mask"], told["prompt_ids"], 7)
    assert torch.equal(predictor(**{**told, "prompt_ids": prompt}), expected)
    short = {name: value[1:, :2] if name in ("slots", "step_mask") else value[1:, :11] for name, value in told.items()}
    torch.testing.assert_close(predictor(**short)[0], expected[1, :2], **CLOSE)


def test_prompt_steps_left_and_slot_matter(predictor, told):
    first = predictor(**told)[0, 0]
    assert (first[0] - first[1]).abs().max() > 1e-2
    other = told["prompt_ids"].clone()
    other[0, 2] += 1
    assert (predictor(**{**told, "prompt_ids": other})[0, 0] - first).abs().max() > 1e-2
    longer = torch.ones(2, 4, dtype=torch.bool)
    slots = torch.cat([told["slots"], told["slots"][:, :1]], dim=1)
    assert (predictor(**{**told, "step_mask": longer, "slots": slots})[0, 0] - first).abs().max() > 1e-2


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="heads of an even width"):
        Predictor(PredictorConfig(dim=6, num_heads=2), 400, 8, 6, reads_steps=False)


# --- the whole model


@pytest.fixture(params=PLANS)
def model(request) -> StoryModel:
    torch.manual_seed(0)
    model = StoryModel(replace(PRESETS["tiny"], plan=request.param)).eval()
    with torch.no_grad():
        for name, factor in model.factors.items():
            for parameter in factor.parameters():
                parameter.mul_(4 if parameter.ndim == 2 and name != "image_decoder" else 1)
        for module in (model.text_decoder, model.image_decoder):
            module.null_codes.normal_()
    return model


def reads_steps(model: StoryModel) -> bool:
    return model.config.plan == "predicted"


def test_only_what_is_used_is_built(model, tiny_model):
    parts = {name.split(".")[0] for name in model.state_dict()}
    common = {"predictor", "text_decoder", "image_decoder"}
    assert parts == common | {"aids", "autoencoder"} | ({"storyboard"} if reads_steps(model) else set())
    assert set(model.factors) == parts - {"aids", "autoencoder"}
    assert ("predictor.from_slots.weight" in model.state_dict()) == reads_steps(model)
    assert not any(name.startswith("predictor") for name in tiny_model.state_dict())


def test_no_step_sees_itself_or_what_follows(model, story_batch):
    before = model.condition(story_batch).code_embeds.unflatten(0, (2, 3))
    for step in range(3):
        from_here = (torch.arange(3) >= step).expand(2, 3)
        later = changed(
            story_batch,
            input_ids=where(from_here, torch.full_like(story_batch.input_ids, 9), story_batch.input_ids),
            latents=where(from_here, torch.full_like(story_batch.latents, 2.0), story_batch.latents),
            text_mask=where(from_here, torch.ones_like(story_batch.text_mask), story_batch.text_mask),
            image_mask=story_batch.image_mask | from_here,
        )
        after = model.condition(later).code_embeds.unflatten(0, (2, 3))
        torch.testing.assert_close(after[:, : step + 1], before[:, : step + 1], atol=1e-6, rtol=0)
        if step < 2:
            assert ((after[0, step + 1] - before[0, step + 1]).abs().max() > 1e-2) == reads_steps(model)


def test_terms_and_gradient_map(model, story_batch, story_noise):
    story_noise.keep_text[0], story_noise.keep_image[2] = False, False  # Or slots would agree from the start.
    out = model.train()(story_batch, story_noise)
    encoder = {"storyboard"} if reads_steps(model) else set()
    assert out.codes is None and set(out.losses) == TERMS | ({"agreement_loss"} if encoder else set())
    for term in TERMS:
        assert out.losses[term] > 0 and reached(model, out.losses[term]) == {"predictor"} | encoder | TRAINS[term]
    if encoder:
        assert reached(model, out.losses["agreement_loss"]) == encoder
    torch.testing.assert_close(
        out.loss, sum(getattr(model.config.loss_weights, name) * value for name, value in out.losses.items())
    )


def test_nothing_trainable_is_left_out(model, story_batch, story_noise):
    story_noise.null_text[0] = story_noise.null_image[1] = True
    model.train()(story_batch, story_noise).loss.backward()
    assert [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ] == []


def test_padding_and_parts_leave_the_losses_alone(model, story_batch, story_noise):
    whole = model(story_batch, story_noise).losses
    there = story_batch.step_mask
    other = changed(
        story_batch,
        input_ids=where(there, story_batch.input_ids, 9),
        latents=where(there, story_batch.latents, torch.full_like(story_batch.latents, 9.0)),
        prompt_ids=where(story_batch.prompt_mask, story_batch.prompt_ids, 7),
    )
    torch.testing.assert_close(model(other, story_noise).losses, whole, **CLOSE)
    shared = {name: story_batch[name] / 2 for name in ("num_steps", "num_tokens", "num_images")}
    parts = []
    for story in range(2):
        fields = {name: value[story : story + 1] for name, value in story_batch.items() if name not in shared}
        parts.append(model(type(story_batch)(**fields, **shared), story_noise.rows(3 * story, 3 * story + 3)).losses)
    torch.testing.assert_close({name: (parts[0][name] + parts[1][name]) / 2 for name in whole}, whole, **CLOSE)


def test_reliance_is_on_what_is_predicted(model, story_batch, story_noise):
    sums = code_reliance(model, story_batch, story_noise)
    embeds = model.condition(story_batch).code_embeds
    own = model.text_decoder(embeds, story_batch.input_ids.flatten(0, 1), story_batch.text_mask.flatten(0, 1)).nll.sum(
        1
    )
    torch.testing.assert_close(sums["text_nll_own"], own)
    assert (sums["text_nll_swapped"][:5] - own[:5]).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "value"), [("plan", "plans"), ("plan", "")])
def test_an_unknown_plan_is_told(tmp_path, name, value):
    with pytest.raises(UserError, match=f"plan must be one of codes, predicted, prompt, got '{value}'"):
        load_config(write_config(tmp_path / "config.json", **{name: value}))
