"""Evaluation of the presets: Stable Diffusion gets the texts everywhere, and models without codes are supported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import story_generative_model
from modules.batch import draw_noise
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.ablation import GridCell, draw_pages, predict_next_pages
from modules.evaluation.bound import measure_bound, plan_nats
from modules.evaluation.codebook.interventions import remove_codes
from modules.generation.pipeline import StoryPipeline
from modules.presentation.visualize.denoising import denoise
from modules.saving.model_folder import save_model
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import make_vocabulary
from modules.training.reliance import code_reliance
from tests.support.tiny_presets import IMAGE_SIZE, tiny_preset

PICTURES = ("noise_mse", "latent_bits_per_dim")
QUICK = {"num_timesteps": 8, "max_vlb_steps": 2}


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(2, split="val", image_size=IMAGE_SIZE)


@pytest.fixture(scope="module")
def build(hub: Path, world: StoryWorld) -> Callable[..., StoryPipeline]:
    """A preset's pipeline, untrained except for a codebook of the stories: its texts are nonsense, but not empty."""

    def pipeline(name: str, **changes: str) -> StoryPipeline:
        config = replace(tiny_preset(name, hub), **changes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = StoryModel(config, offline=True).eval()
            model.image_decoder.null_codes.data.normal_()
        if config.text_decoder.source:
            model.text_decoder.language_model.get_input_embeddings().weight.data[0].neg_()  # The end of a text.
        tokenizer = make_vocabulary(config.text_decoder, config.vocab_size, world.texts())
        if model.has_codes:
            batch = EncodedStories(world, model, tokenizer).batch([0, 1])
            with torch.no_grad():
                slots = model.encode(batch).slots[batch.step_mask.flatten()]
            model.storyboard.quantizer.fit(slots.flatten(0, 1), seed=0)
        return StoryPipeline(model, tokenizer)

    return pipeline


@pytest.fixture(scope="module")
def deaf(build) -> StoryPipeline:
    """Its gates are closed, as at the start of a training: Stable Diffusion reads the text alone."""
    return build("gpt2-sd15")


@pytest.fixture(scope="module")
def pipeline(deaf: StoryPipeline) -> StoryPipeline:
    model = copy.deepcopy(deaf.model)
    for name, parameter in model.image_decoder.unet.named_parameters():
        if name.endswith(".gate"):
            parameter.data.fill_(1)
    return StoryPipeline(model, deaf.tokenizer)


@pytest.fixture(scope="module")
def stories(pipeline: StoryPipeline, world: StoryWorld) -> EncodedStories:
    return EncodedStories(world, pipeline.model, pipeline.tokenizer)


@pytest.fixture(scope="module")
def mistold(stories: EncodedStories) -> EncodedStories:
    """The same stories, but Stable Diffusion is given the texts of other pages."""
    changed = copy.copy(stories)
    changed.tokens = stories.tokens | {"caption_ids": stories.tokens["caption_ids"].roll(1, 0)}
    return changed


@pytest.fixture(scope="module")
def codes(pipeline: StoryPipeline, stories: EncodedStories) -> torch.Tensor:
    """Of different pages: codes that are the same on all pages could not be missed."""
    with torch.no_grad():
        codes = cache_codes(pipeline.model, stories, visible=False)[0]
    assert len(codes.unique(dim=0)) > len(codes) / 2
    return codes


def reliance(pipeline: StoryPipeline, stories: EncodedStories) -> dict[str, torch.Tensor]:
    batch, shape = stories.batch([0, 1]), pipeline.config.autoencoder.latent_shape
    return code_reliance(
        pipeline.model, batch, draw_noise(batch.step_mask.numel(), shape, 1000, torch.Generator().manual_seed(0))
    )


# Scores


def test_pictures_are_scored_given_their_true_texts(pipeline, stories, mistold, codes):
    with torch.no_grad():
        count, decoder = len(codes), pipeline.model.image_decoder
        noise = draw_noise(count, stories.latents.shape[1:], 1000, torch.Generator().manual_seed(0))
        texts = decoder.encode_text(decoder.tokenize(stories.texts))
        embeds = pipeline.embed(codes)
        window = pipeline.model.window(embeds, stories.lengths)
        shown = stories.latents.float(), noise.timesteps, noise.noise
        losses = decoder(embeds, *shown, encoder_hidden_states=texts, window=window).loss
    bound, wrong = (measure_bound(pipeline, each, codes, **QUICK) for each in (stories, mistold))
    assert bound["noise_mse_own"]["value"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert not any(name.startswith("velocity") for name in bound)
    for term in PICTURES:
        assert all(
            bound[f"{term}_{name}"]["value"] != wrong[f"{term}_{name}"]["value"] for name in ("own", "swapped", "null")
        )
    assert bound["text_nats_per_token_own"] == wrong["text_nats_per_token_own"]
    right, swapped = (reliance(pipeline, each) for each in (stories, mistold))
    assert all(not torch.equal(right[name], swapped[name]) for name in right if name.startswith("diffusion"))
    removed = [remove_codes(pipeline, each, codes.numpy(), 3).diffusion_loss for each in (stories, mistold)]
    assert np.abs(removed[0]).max() > 0 and not np.array_equal(*removed)


def test_what_the_texts_say_is_not_credited_to_the_codes(deaf, stories, codes):
    bound, sums = measure_bound(deaf, stories, codes, **QUICK), reliance(deaf, stories)
    for term in PICTURES:
        assert bound[f"{term}_swap_gap"]["value"] == bound[f"{term}_null_gap"]["value"] == 0
    assert torch.equal(sums["diffusion_loss_own"], sums["diffusion_loss_null"])


def test_text_ceiling_is_a_uniform_guess_over_the_vocabulary(pipeline, stories, codes):
    ceiling = measure_bound(pipeline, stories, codes, num_timesteps=8, max_vlb_steps=0)["text_nats_per_token_own"][
        "ceiling"
    ]
    assert ceiling == pytest.approx(math.log(pipeline.model.text_decoder.language_model.config.vocab_size))
    assert ceiling != pytest.approx(math.log(pipeline.config.vocab_size))


def test_experts_take_a_plan_cut_short_for_what_it_is(build, world):
    captioner = build("captioner")
    stories = EncodedStories(world, captioner.model, captioner.tokenizer)
    plan = torch.randint(32, (1, stories.lengths[0], 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            plan_nats(captioner, stories, 0, plan[:, :2]), plan_nats(captioner, stories, 0, plan)[:, :2]
        )


# Pages


def test_next_pages_are_drawn_to_the_texts_predicted_for_them(pipeline):
    pages = predict_next_pages(pipeline, StoryWorld(4, split="val", image_size=IMAGE_SIZE), 2)
    assert all(pages.predicted_texts)
    own = draw_pages(pipeline, pages, GridCell(2, 1.0, 2.0), 0)
    other = draw_pages(
        pipeline, replace(pages, predicted_texts=[pages.predicted_texts[0], "A kite."]), GridCell(2, 1.0, 2.0), 0
    )
    assert [one.tobytes() == another.tobytes() for one, another in zip(own, other, strict=True)] == [True, False]


def test_a_trail_ends_at_the_page_that_the_pipeline_draws(pipeline, codes):
    def mean_difference(picture) -> float:
        return float(np.abs(np.asarray(trail.guesses[-1], int) - np.asarray(picture, int)).mean())

    trail = denoise(pipeline, None, codes[:3], 1, seed=3, num_inference_steps=4)
    (text,), (drawn,) = pipeline.render(codes[:3], seed=3, pages=[1], num_inference_steps=4)
    _, (other,) = pipeline.render(codes[:3], seed=3, pages=[1], num_inference_steps=4, texts=["A kite."])
    assert text and trail.signal[0] == 0 and trail.signal == sorted(trail.signal)
    assert mean_difference(drawn) < 0.5 < mean_difference(other)


def test_a_step_aims_at_what_the_predicted_noise_leaves(pipeline, codes):
    decoder, embeds = pipeline.model.image_decoder, pipeline.embed(codes[:1])
    latents = torch.randn(1, *decoder.latent_shape, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    decoder.sample(embeds, 3, 1.0, noise=latents, on_step=lambda after, clean: seen.append((after, clean)))
    for timestep, (after, clean) in zip(decoder.schedule("ddim", 3)[1], seen, strict=True):
        with torch.no_grad():
            noise = decoder.predict(latents, timestep, decoder.context(embeds))
        signal = decoder.alphas_cumprod[timestep].item()
        expected = (latents - math.sqrt(1 - signal) * noise) / math.sqrt(signal)
        torch.testing.assert_close(clean, expected, atol=1e-3, rtol=1e-3)
        latents = after


# Commands


@pytest.mark.parametrize(("name", "plan"), [("next-step", "predicted"), ("gpt2-sd15", "prompt")])
def test_models_without_codes_are_shown_and_say_what_they_lack(build, tiny_judge, tmp_path, capsys, name, plan):
    shown = build(name, plan=plan)
    save_model(tmp_path / "model", shown.config, shown.model.own_state(), shown.tokenizer)
    tiny_judge.save(tmp_path / "judge")
    flags = ["--ckpt", str(tmp_path / "model"), "--offline", "--num_stories", "1"]
    assert (
        story_generative_model.main(
            ["analyze", *flags, "--judge", str(tmp_path / "judge"), "--output", str(tmp_path / "report")]
        )
        == 2
    )
    message = (
        f'error: this model has no storyboard (its plan is "{plan}"): only `generate` and `continue` are supported'
    )
    assert capsys.readouterr().err.splitlines()[-1] == message
    out = tmp_path / "out"
    assert story_generative_model.main(["visualize", *flags, "--num_inference_steps", "2", "--output", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["denoising.png", "predictions.png", "visualize.html"]
    document = (out / "visualize.html").read_text()
    assert ("Predicted after 2 pages" in document) == (plan == "predicted") and "From the prompt alone" in document
    assert (
        "Codes over time" not in document
        and 'class="codes"' not in document
        and "drawn from the prompt alone" in document
    )


def test_the_commands_score_a_plan_with_experts(build, tiny_judge, tmp_path):
    scored = build("captioner")
    save_model(tmp_path / "model", scored.config, scored.model.own_state(), scored.tokenizer)
    tiny_judge.save(tmp_path / "judge")
    flags = ["--ckpt", str(tmp_path / "model"), "--offline", "--judge", str(tmp_path / "judge")]
    assert story_generative_model.main(["evaluate", *flags, "--num_stories", "2", "--num_drawn", "0"]) == 0
    grid = [
        "--steps",
        "1",
        "--strength",
        "1",
        "--cfg",
        "1,2",
        "--num_examples",
        "1",
        "--output",
        str(tmp_path / "grid"),
    ]
    assert story_generative_model.main(["ablate", *flags, *grid]) == 0
    assert len((tmp_path / "grid/ablation.csv").read_text().splitlines()) == 3
