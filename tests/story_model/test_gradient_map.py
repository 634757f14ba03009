"""Which term trains what, and that a training pass does nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import modules
from modules.config import PLANS
from modules.story_model.story_model import StoryModel
from tests.support.losses import (
    AIDS,
    ENCODER_ONLY,
    FACTORS,
    PICTURES,
    TERMS,
    TEXTS,
    TRAINS,
    changed,
    reached,
    rows,
    with_noise,
)


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
