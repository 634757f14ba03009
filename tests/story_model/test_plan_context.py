"""Decoders that read the whole plan: what it trains, what is hidden from them, and models that read one page alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.batch import StepNoise, StoryBatch
from modules.config import StoryConfig
from modules.generation.pipeline import StoryPipeline
from modules.layers.plan_window import MAX_SEEN, PlanWindow
from modules.story_model.story_model import StoryModel
from modules.training.phases import JointPhase
from tests.support.models import reading_pages_alone
from tests.support.tensors import CLOSE, differ, generator

DECODERS = ("text_decoder", "image_decoder")
PROMPT = "Rusty the fox wants a kite"
Costs = Callable[[Tensor, PlanWindow | None], Tensor]


def costs_of(model: StoryModel, batch: StoryBatch, noise: StepNoise, decoder: str) -> Costs:
    """The costs (N,) of all steps of a batch by one decoder, as a function of their codes (N,S,d) and windows."""
    ids, mask, latents = (batch[name].flatten(0, 1) for name in ("input_ids", "text_mask", "latents"))

    def costs(code_embeds: Tensor, window: PlanWindow | None) -> Tensor:
        if decoder == "text_decoder":
            return model.text_decoder(code_embeds, ids, mask, window=window).nll.sum(1)
        return model.image_decoder(code_embeds, latents, noise.timesteps, noise.noise, window=window).loss

    return costs


def changed(values: StoryBatch | StepNoise, /, **fields: Tensor) -> StoryBatch | StepNoise:
    return type(values)(**{**values, **fields})


@pytest.fixture
def page_config(tiny_config) -> StoryConfig:
    return dataclasses.replace(tiny_config, context="page")


# --- what trains what


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_page_trains_the_encoder_through_other_pages(tiny_model, story_batch, story_noise, decoder):
    """Straight through the quantiser; the prior and the other decoder are not reached."""
    board = tiny_model.encode(story_batch)
    own = board.code_embeds.detach()
    window = tiny_model.batch_window(board, story_batch).with_own(own)
    cost = costs_of(tiny_model, story_batch, story_noise, decoder)(own, window)[0]
    (gradient,) = torch.autograd.grad(cost, board.slots, retain_graph=True)
    assert (gradient.abs().amax((1, 2)) > 0).tolist() == [False, True, True, False, False, False]
    cost.backward()
    reached = {name.partition(".")[0] for name, p in tiny_model.named_parameters() if p.grad is not None}
    assert reached == {"storyboard", decoder}
    assert all(buffer.grad is None for buffer in tiny_model.storyboard.quantizer.buffers())


@pytest.mark.parametrize("decoder", DECODERS)
def test_padded_steps_neither_read_nor_are_read(tiny_model, story_batch, story_noise, decoder):
    """Story 1 has two steps and one of padding."""
    codes = tiny_model.encode(story_batch).code_embeds.detach().requires_grad_()
    window = PlanWindow.of_stories(codes, [3, 3], story_batch.step_mask.flatten())
    costs = costs_of(tiny_model, story_batch, story_noise, decoder)(codes, window)
    (gradient,) = torch.autograd.grad(costs[4], codes)
    assert (gradient.abs().amax((1, 2)) > 0).tolist() == [False, False, False, True, True, False]
    other = codes.detach().clone()
    other[5] = 9.0
    again = PlanWindow.of_stories(other, [3, 3], story_batch.step_mask.flatten())
    after = costs_of(tiny_model, story_batch, story_noise, decoder)(other, again)
    torch.testing.assert_close(after[:5], costs[:5], **CLOSE)


@pytest.mark.parametrize("decoder", DECODERS)
def test_order_of_the_other_pages_matters(tiny_model, story_batch, story_noise, decoder):
    codes = tiny_model.encode(story_batch).code_embeds.detach()
    codes[5] = codes[0]
    costs = costs_of(tiny_model, story_batch, story_noise, decoder)
    with torch.no_grad():  # Nearly equal at the start of training.
        getattr(tiny_model, decoder).plan_reader.distance.weight.normal_(generator=generator())
    turned = codes.clone()
    turned[[0, 2]], turned[[3, 5]] = codes[[2, 0]], codes[[5, 3]]
    window, other = PlanWindow.of_stories(codes, [3, 3]), PlanWindow.of_stories(turned, [3, 3])
    before, after = costs(codes, window), costs(codes, other)  # The page in the middle has the same codes in both.
    assert (before[4] - after[4]).abs() > 1e-5


# --- pages that are hidden


def test_hiding_all_others_makes_each_page_a_story(tiny_model, story_batch, story_noise):
    everything = torch.ones(6, MAX_SEEN, dtype=torch.bool)
    hidden = tiny_model(story_batch, changed(story_noise, hidden_pages=everything)).losses
    codes = tiny_model.encode(story_batch).code_embeds
    texts = costs_of(tiny_model, story_batch, story_noise, "text_decoder")(codes, PlanWindow.alone(codes))
    images = costs_of(tiny_model, story_batch, story_noise, "image_decoder")(codes, PlanWindow.alone(codes))
    seen = story_batch.image_mask.flatten()
    torch.testing.assert_close(hidden["text_nll"], texts.sum() / story_batch.num_tokens, **CLOSE)
    torch.testing.assert_close(hidden["diffusion_loss"], images[seen].mean(), **CLOSE)
    plain = tiny_model(story_batch, story_noise).losses
    assert {name for name in plain if plain[name] != hidden[name]} == {"text_nll", "diffusion_loss"}


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_hidden_page_changes_nothing(tiny_model, story_batch, story_noise, decoder):
    hidden = torch.zeros(6, MAX_SEEN, dtype=torch.bool)
    hidden[:, 2] = True
    noise = changed(story_noise, hidden_pages=hidden)
    board = tiny_model.encode(story_batch)
    codes = board.code_embeds.detach()
    other = codes.clone()
    other[2] += 3
    costs = costs_of(tiny_model, story_batch, noise, decoder)
    before, after = (
        costs(codes, tiny_model.batch_window(dataclasses.replace(board, code_embeds=values), story_batch, noise))
        for values in (codes, other)
    )
    others = [0, 1, 3, 4, 5]  # A page always reads its own codes.
    torch.testing.assert_close(after[others], before[others], **CLOSE)
    assert after[2] != before[2]


def test_pages_are_hidden_in_training_alone(tiny_model, page_config):
    """A model that reads pages alone draws the noise of the time before there was a plan to hide."""
    models = tiny_model, StoryModel(page_config)
    phases = [JointPhase(model, None, num_steps=1, learning_rate=0.0, global_batch=1, seed=0) for model in models]
    plan, page = (phase._noise(3, 60) for phase in phases)
    assert plan.hidden_pages.any() and not page.hidden_pages.any()
    assert all(torch.equal(plan[name], page[name]) for name in page if name != "hidden_pages")
    assert torch.equal(plan.hidden_pages, phases[0]._noise(3, 60).hidden_pages)
    assert not torch.equal(plan.hidden_pages, phases[0]._noise(4, 60).hidden_pages)


# --- decoders of a page alone


def test_a_model_that_reads_pages_alone_has_no_readers(tiny_model, page_config, story_batch):
    model = StoryModel(page_config)
    assert not model.reads_plan and not any("plan_reader" in name for name in model.state_dict())
    assert {name for name in tiny_model.state_dict() if ".plan_reader." not in name} == set(model.state_dict())
    assert model.batch_window(model.encode(story_batch), story_batch) is None


@pytest.mark.parametrize("plan", ["predicted", "prompt"])
def test_models_without_codes_have_no_plan_to_read(tiny_config, plan):
    model = StoryModel(dataclasses.replace(tiny_config, plan=plan))
    assert not model.reads_plan and not any("plan_reader" in name for name in model.state_dict())


@pytest.mark.parametrize("context", ["page", "plan"])
def test_other_pages_matter_to_the_plan_alone(tiny_pipeline, context):
    pipeline = tiny_pipeline if context == "plan" else reading_pages_alone(tiny_pipeline)
    codes = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(1))
    other = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(2))
    other[1] = codes[1]
    model, embeds = pipeline.model, [pipeline.embed(values) for values in (codes, other)]
    windows = [model.window(values, [4]) for values in embeds]
    rows = [None if window is None else window[[1]] for window in windows]
    prefixes = [model.text_decoder.prefix(embeds[0][[1]], None, row).vectors for row in rows]
    contexts = [model.image_decoder.context(embeds[0][[1]], None, None, row).vectors for row in rows]
    assert differ(*prefixes) == differ(*contexts) == (context == "plan")
    drawn = [pipeline.render(values, seed=1, pages=[1], num_inference_steps=2) for values in (codes, other)]
    assert (drawn[0][1][0].tobytes() == drawn[1][1][0].tobytes()) == (context == "page")
    assert context == "plan" or drawn[0][0] == drawn[1][0]


def test_a_model_folder_of_version_2_reads_pages_alone(tiny_pipeline, tmp_path):
    """Written before decoders could read the whole plan, and before folders had the sums of their files."""
    alone = reading_pages_alone(tiny_pipeline)
    folder = alone.save_pretrained(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["context"], config["training"]["page_dropout"]
    for decoder in DECODERS:
        del config[decoder]["plan_dim"]
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    (folder / "manifest.json").unlink()
    loaded = StoryPipeline.from_pretrained(folder)
    assert loaded.config.context == "page" and not loaded.model.reads_plan
    stories = [pipeline(PROMPT, num_steps=2, num_inference_steps=2) for pipeline in (alone, loaded)]
    assert stories[0].texts == stories[1].texts
    assert [image.tobytes() for image in stories[0].images] == [image.tobytes() for image in stories[1].images]
