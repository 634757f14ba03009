"""Every preset trains, tells, continues and captions: the real classes, read from folders in the Hub's layout as the
Hub is read.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import story_generative_model
from modules.config import StoryConfig
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.image_decoder.stable_diffusion import load_unet
from modules.presets import PRESETS
from modules.pretrained.source import PretrainedSource
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint
from modules.steering.alternatives import alternatives
from modules.steering.edit import redraw, set_text
from modules.steering.plan import Plan
from modules.steering.planned_story import replay, tell
from modules.steering.score import score
from modules.steering.search import search
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from tests.support.commands import fails, files
from tests.support.tiny_presets import IMAGE_SIZE, PRETRAINED, tiny_preset

NAMES = (*PRETRAINED, "captioner")
TUNED = {  # The factors of which a source's weights train.
    "gpt2-sd15": set(),
    "storydiffusion": set(),
    "next-step": {"storyboard", "text_decoder"},
    "seed-story": {"storyboard"},
    "multimodal-gpt2": set(),
    "picturebooks": set(),
}
PROMPT = "Rusty the fox wants a kite"


@pytest.fixture(scope="module")
def hub(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the presets name, that may be moved."""
    return shutil.copytree(hub, tmp_path_factory.mktemp("presets") / "hub")


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished training of a preset, by its name; trained once, by the command line."""
    done: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            (folder / "config.json").write_text(tiny_preset(name, hub).to_json())
            words = ["train", "--config", str(folder / "config.json"), "--output_dir", str(folder / "run"), "--offline"]
            assert story_generative_model.main(words) == 0
            done[name] = folder / "run"
        return done[name]

    return train


def test_the_presets_are_those_of_the_seeds_and_ours():
    assert set(PRESETS) == {"tiny", "storyworld", *NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_tells(run, hub, name, tmp_path):
    losses = [json.loads(line) for line in (run(name) / "losses.jsonl").read_text().splitlines()]
    assert losses and all(math.isfinite(line["loss"]) for line in losses)
    out = tmp_path / "out"
    words = [
        "generate",
        "--ckpt",
        str(run(name)),
        "--prompt",
        PROMPT,
        "--num_steps",
        "3",
        "--num_inference_steps",
        "2",
        "--offline",
    ]
    assert story_generative_model.main([*words, "--output", str(out)]) == 0
    story = json.loads((out / "story.json").read_text())
    assert len(story["steps"]) == 3 and (out / "book.html").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_it_continues_captions_and_illustrates(run, name):
    pipeline, story = (
        StoryPipeline.from_pretrained(run(name), offline=True),
        StoryWorld(1, split="val", image_size=IMAGE_SIZE)[0],
    )
    told = pipeline.continue_story(story.prompt, story.steps[:3], 1, seed=1, num_inference_steps=2)
    again = pipeline.continue_story(story.prompt, story.steps[:3], 1, seed=1, num_inference_steps=2)
    assert (
        told.texts == again.texts
        and told.images[0].tobytes() == again.images[0].tobytes()
        and torch.equal(told.codes, again.codes)
    )
    assert told.codes.shape == (1, 8) and told.images[0].size == (IMAGE_SIZE, IMAGE_SIZE)
    text, codes = pipeline.caption(story.steps[0].image)
    assert isinstance(text, str) and codes.shape == (8,)
    drawn = pipeline.illustrate([step.text for step in story.steps[:2]], num_inference_steps=2)
    assert drawn.texts == [step.text for step in story.steps[:2]] and len(drawn.images) == 2


@pytest.mark.parametrize("name", NAMES)
def test_its_plans_are_edited_scored_and_replayed(run, name):
    pipeline = StoryPipeline.from_pretrained(run(name), offline=True)
    story = tell(pipeline, PROMPT, 2, GenerationSettings(seed=1, num_inference_steps=2))
    edited = redraw(pipeline, set_text(pipeline, story, 1, "The bear has a kite."), 1, seed=5)
    assert edited.images[0] is story.images[0] and edited.texts[1] == "The bear has a kite."
    again = replay(pipeline, Plan.from_string(edited.plan.to_string()))
    assert again.texts == edited.texts
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in edited.images]
    assert score(pipeline, story).totals()["bits"] > 0
    assert search(pipeline, PROMPT, 2, num_plans=4, keep=2)
    assert len(alternatives(pipeline, story, 1, 2, count=2)) == 3


@pytest.mark.parametrize("name", PRETRAINED)
def test_only_what_should_train_moves(run, hub, name):
    """What is frozen is in no checkpoint and comes from its source; of what a source gave to be trained, nearly
    everything moved.
    """
    fresh = StoryModel(tiny_preset(name, hub), offline=True)
    before = dict(fresh.named_parameters())
    state = load_checkpoint(latest_checkpoint(run(name)))[0]["model"]
    assert fresh.frozen and not fresh.frozen & set(state)
    loaded = dict(StoryPipeline.from_pretrained(run(name), offline=True).model.named_parameters())
    assert all(torch.equal(loaded[key], before[key]) for key in fresh.frozen if key in loaded)
    tuned = [key for key in fresh.pretrained - fresh.frozen if key in before]
    moved = [key for key in tuned if not torch.equal(state[key], before[key])]
    assert len(moved) >= 0.9 * len(tuned)
    assert {key.split(".")[0] for key in tuned} == TUNED[name]


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_source_that_went_away_is_named(run, hub, name, tmp_path, capsys):
    """When a story is asked for; the checkpoint is untouched."""
    before, words = files(run(name)), ["generate", "--ckpt", run(name), "--prompt", PROMPT, "--offline"]
    capsys.readouterr()
    aside = hub.rename(tmp_path / "aside")
    try:
        line = fails(capsys, *words, "--output", tmp_path / "out")
    finally:
        aside.rename(hub)
    assert str(hub) in line and ".source" in line and not (tmp_path / "out" / "story.json").exists()
    assert files(run(name)) == before


@pytest.mark.parametrize("name", PRETRAINED)
def test_at_step_0_it_is_the_pretrained_language_model(hub, name, story_batch):
    config: StoryConfig = tiny_preset(name, hub)
    model = StoryModel(config, offline=True).eval()
    plain = PretrainedSource(config.text_decoder.source, "it").load(AutoModelForCausalLM)
    ids, codes = torch.randint(3, 200, (4, 9), generator=torch.Generator().manual_seed(0)), torch.randn(4, 8, 8)
    with torch.no_grad():
        logits = model.text_decoder.logits(codes, ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(logits, plain(ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2-sd15", "storydiffusion", "seed-story"])
def test_at_step_0_it_is_stable_diffusion(hub, name):
    config = tiny_preset(name, hub)
    decoder = StoryModel(config, offline=True).eval().image_decoder
    plain, generator = load_unet(PretrainedSource(config.image_decoder.source, "it")), torch.Generator().manual_seed(0)
    noisy, codes = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 8, 8, generator=generator)
    text, timesteps = decoder.encode_text(decoder.tokenize(["A fox.", "A kite."])), torch.tensor([10, 900])
    with torch.no_grad():
        predicted = decoder.predict(noisy, timesteps, decoder.context(codes, encoder_hidden_states=text))
        torch.testing.assert_close(predicted, plain(noisy, timesteps, text).sample, atol=1e-5, rtol=1e-4)
