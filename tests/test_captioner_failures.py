"""What the captioner from scratch was known to fail in, by its own account: each failure has a test here that would
catch it.
"""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import story_generative_model
from modules.config import StoryConfig
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.generation.pipeline import StoryPipeline
from modules.layers.moe import MixtureOfExperts
from modules.story import Story
from modules.story_model.story_model import StoryModel
from modules.storyboard.contrastive import pool_slots
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import StoryTokenizer
from modules.training.phases import JointPhase, OpeningPhase, PlanningPhase
from tests.support.tiny_presets import tiny_preset

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StoryConfig:
    """The captioner, tiny; nothing of it comes from the Hub."""
    return tiny_preset("captioner", tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def stories(config) -> tuple[EncodedStories, StoryModel, StoryTokenizer]:
    torch.manual_seed(0)
    source = StoryWorld(6, image_size=32)
    model, tokenizer = StoryModel(config), StoryTokenizer.train(source.texts(), config.vocab_size)
    return EncodedStories(source, model, tokenizer), model, tokenizer


def updates(phase_class: type, model: StoryModel, stories: EncodedStories, count: int, rate: float = 3e-3) -> Any:
    """Train as a phase does, for some updates of 2 stories; yields after each."""
    phase = phase_class(model, lambda: stories, num_steps=count, learning_rate=rate, global_batch=2, seed=0)
    phase.start()
    phase.set_modes()
    phase.begin()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=rate)
    for step in range(count):
        phase.before_update(step)
        output = phase.loss(model, step, 0, 1)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        phase.after_update(step, [output], lambda value: value)
        yield {name: value.item() for name, value in output.losses.items()}


# 1. Gibberish.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_it_tells_what_it_was_taught(config, tmp_path):
    """A few pages, learnt by the train command and captioned from their pictures alone: word for word."""
    world = StoryWorld(2, image_size=32)
    taught = [Story(world[index].id, world[index].prompt, world[index].steps[:2]) for index in range(2)]
    write_stories(tmp_path / "data" / "train", taught)
    training = replace(
        config.training,
        max_steps=160,
        batch_size=2,
        learning_rate=3e-3,
        consolidation_learning_rate=3e-3,
        modality_dropout=0.4,
    )
    (tmp_path / "config.json").write_text(replace(config, training=training).to_json())
    words = ["--config", tmp_path / "config.json", "--data", tmp_path / "data", "--output_dir", tmp_path / "run"]
    phases = ["--phases", "autoencoder,opening,joint,consolidation"]
    assert story_generative_model.main(["train", *map(str, words), *phases]) == 0
    pipeline = StoryPipeline.from_pretrained(tmp_path / "run")
    pages = [step for story in StoryFolder(tmp_path / "data" / "train") for step in story.steps]
    ids = [pipeline.tokenizer.encode(page.text, config.text_decoder.max_length) for page in pages]
    true = [
        pipeline.tokenizer.decode(torch.tensor(row)) for row in ids
    ]  # Long texts are cut, in training as in telling.
    assert len(set(true)) == 4 and [pipeline.caption(page.image)[0] for page in pages] == true


# 2. Experts in a loop, and 3. as much work for many as for few.


class Operations(TorchDispatchMode):
    """Counts what is asked of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("num_experts", "num_tokens"), [(32, 16), (4, 512), (32, 512)])
def test_experts_take_no_loop(num_experts, num_tokens):
    """Neither over experts nor over tokens: the same few operations whatever their numbers."""

    def operations(num_experts: int, num_tokens: int) -> Counter[str]:
        layer = MixtureOfExperts(32, num_experts, top_k=2, num_shared_experts=1)
        with Operations() as counted:
            layer(torch.randn(1, num_tokens, 32)).hidden.sum().backward()
        return counted.counts

    assert operations(num_experts, num_tokens) == operations(4, 16)


@pytest.mark.parametrize("num_experts", [4, 64])
def test_experts_that_are_not_chosen_cost_nothing(num_experts):
    """Each token passes through as many experts as it chose; no token is padded or dropped."""
    layer, rows = MixtureOfExperts(32, num_experts, top_k=2), []
    layer.experts.register_forward_pre_hook(
        lambda module, args: rows.append((len(args[0]), int(args[1].sum()), len(args[1])))
    )
    layer(torch.randn(3, 50, 32))
    assert rows == [(2 * 150, 2 * 150, num_experts)]


# 4. Wrong masks: padding is not read, the future is not seen.


def test_padding_reaches_nothing(stories):
    """What stands behind a mask may be anything: texts, prompts, steps and pictures, in all losses."""
    encoded, model, _ = stories
    codes = EncodedStories.batch(encoded, [0, 1, 2])
    model.eval()
    model.storyboard.quantizer.fit(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)), seed=0)
    phase = JointPhase(model, lambda: encoded, num_steps=4, learning_rate=1e-3, global_batch=3, seed=0)
    phase.start()
    noise = phase._noise(0, codes.step_mask.numel())
    other = replace_padding(codes)
    with torch.no_grad():
        first, second = model(codes, noise), model(other, noise)
    assert first.losses.keys() >= {"text_nll", "prior_nll", "diffusion_loss", "contrastive_loss", "load_balancing_loss"}
    for name, value in first.losses.items():
        torch.testing.assert_close(second.losses[name], value, **CLOSE, msg=name)


def replace_padding(batch):
    """The same batch with other numbers wherever a mask is False."""
    step = batch.step_mask
    assert not batch.text_mask.all() and not batch.prompt_mask.all() and not step.all()
    image = batch.image_mask[..., None, None, None]
    return type(batch)(
        **{
            **batch,
            "input_ids": torch.where(batch.text_mask, batch.input_ids, 7),
            "prompt_ids": torch.where(batch.prompt_mask, batch.prompt_ids, 7),
            "latents": torch.where(image, batch.latents, 5.0),
            "pixels": torch.where(image, batch.pixels, 0.5),
        }
    )


def test_no_token_sees_a_later_one(stories):
    """Of a text, and of a plan."""
    _, model, _ = stories
    model.eval()
    ids, codes = torch.randint(3, 400, (1, 12)), torch.randint(0, 32, (1, 4, 8))
    prompt = torch.randint(3, 400, (1, 6))
    everything = torch.ones_like(prompt, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)

    def texts(ids):
        return model.text_decoder.logits(torch.ones(1, 8, 8), ids, torch.ones_like(ids, dtype=torch.bool))[0]

    def plans(codes):
        return model.prior(codes, prompt, *everything).logits[0].flatten(0, 1)

    later = ids.clone(), codes.clone()
    later[0][0, 7] += 1
    later[1][0, 2, 3] = (later[1][0, 2, 3] + 1) % 32
    with torch.no_grad():
        for before, after, place in ((texts(ids), texts(later[0]), 7), (plans(codes), plans(later[1]), 2 * 8 + 3 + 1)):
            moved = (after - before).abs().amax(-1) > 1e-6
            assert not moved[:place].any() and moved[place:].any()


# 5. Teacher forcing that never lets go.


def test_scheduled_sampling_sets_in_during_training(stories, monkeypatch):
    """The prior of the preset reads true codes at first and, more and more, its own; its losses are those of what it
    read.
    """
    encoded, model, _ = stories
    model.storyboard.quantizer.fit(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)), seed=0)
    encoded.codes = cache_codes(model.eval(), encoded, visible=False)
    read, shown = [], type(model.prior).forward

    def forward(self, codes, *rest):
        read.append(float(rest[3]))
        return shown(self, codes, *rest)

    monkeypatch.setattr(type(model.prior), "forward", forward)
    list(updates(PlanningPhase, model, encoded, 8))
    encoded.codes = None
    assert read[0] == 0 and read == sorted(read) and 0.2 < read[-1] <= model.config.training.own_codes == 0.25


# 6. Memory that grows.


def test_memory_is_level_from_update_to_update(config):
    """As many tensors are alive after each update, through quantising and under gradient checkpointing."""
    config = replace(config, training=replace(config.training, gradient_checkpointing=True, quantize_at=0.5))
    torch.manual_seed(0)
    source = StoryWorld(6, image_size=32)
    model, tokenizer = StoryModel(config), StoryTokenizer.train(source.texts(), config.vocab_size)
    encoded = EncodedStories(source, model, tokenizer)
    alive = [count_tensors() for _ in updates(JointPhase, model, encoded, 12)]
    assert model.is_ready and len(set(alive[-5:])) == 1, alive


def count_tensors() -> int:
    gc.collect()
    return sum(type(value) in (torch.Tensor, torch.nn.Parameter) for value in gc.get_objects())


# 7. A contrastive loss that nobody checked.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_contrastive_loss_lets_pictures_find_their_texts(config):
    """After some updates under the preset's own objective, and not before."""
    torch.manual_seed(0)
    source = StoryWorld(3, image_size=32)
    model, tokenizer = StoryModel(config), StoryTokenizer.train(source.texts(), config.vocab_size)
    encoded = EncodedStories(source, model, tokenizer)

    class Contrasting(OpeningPhase):
        trains = (*OpeningPhase.trains, "contrastive")

    def found() -> float:
        model.eval()
        steps = encoded.steps(slice(None))
        with torch.no_grad():
            images = model.storyboard.encode(steps.without_text())
            texts = model.storyboard.encode(steps.without_image())
        best = (pool_slots(images) @ pool_slots(texts).T).argmax(1).tolist()
        return sum(encoded.texts[one] == encoded.texts[other] for other, one in enumerate(best)) / len(best)

    before = found()
    losses = [line["contrastive_loss"] for line in updates(Contrasting, model, encoded, 240)]
    assert before < 0.3 and found() > 0.9, (before, found())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
