"""The cache of what never changes while training: the same batches, no picture opened, stale ones refused; and reading
ahead.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modules.batch import draw_noise
from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.data.pixels import to_pictures
from modules.data.read_ahead import ReadAhead
from modules.encoded import cache as encoded_cache
from modules.encoded.cache import EncodedCache, cache_key, write_cache
from modules.encoded.rows import ShardedRows
from modules.encoded.stories import EncodedStories, batch_of_latents, batch_of_steps
from modules.presets import TINY
from modules.story import Story, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyboard.config import ImageEncoderConfig, TextEncoderConfig
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import StoryTokenizer
from tests.support.hub_folders import write_bert, write_clip, write_vit
from tests.support.tiny_presets import tiny_preset

NUM_STORIES = 30  # Over two calls' pictures.


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(NUM_STORIES, image_size=32)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoryConfig]:
    """Latents alone; pixels that train; both encoders frozen; an image encoder whose last layer trains."""
    hub, board = tmp_path_factory.mktemp("hub"), TINY.storyboard
    clip, bert, vit = write_clip(hub / "clip"), write_bert(hub / "bert"), write_vit(hub / "vit")
    pixels = tiny_preset("captioner", hub).storyboard.pixel_encoder
    text = TextEncoderConfig(source=str(bert), max_length=40)
    image, last = ImageEncoderConfig(source=str(clip)), ImageEncoderConfig(source=str(vit), trainable_layers=1)
    boards = {
        "latents": board,
        "pixels": replace(board, pictures="pixels", pixel_encoder=pixels),
        "frozen": replace(board, pictures="pretrained", image_encoder=image, text_encoder=text),
        "last layer": replace(board, pictures="pretrained", image_encoder=last),
    }
    return {name: replace(TINY, storyboard=board) for name, board in boards.items()}


def make_model(config: StoryConfig) -> StoryModel:
    torch.manual_seed(0)
    model = StoryModel(config).eval()
    torch.nn.init.normal_(
        model.autoencoder.vae.quant_conv.weight, std=0.1
    )  # So that latents depend on the whole encoder.
    return model


class Unopened(StoryWorld):
    """A story world none of whose pictures may be drawn."""

    def __getitem__(self, index: int) -> Story:
        raise AssertionError("a picture was asked for")


@pytest.mark.parametrize("name", ["latents", "pixels", "frozen", "last layer"])
def test_cached_batches_are_those_from_pictures(configs, world, tmp_path, monkeypatch, name):
    monkeypatch.setattr(encoded_cache, "SHARD_BYTES", 1)
    model, tokenizer = make_model(configs[name]), StoryTokenizer.train(world.texts(), TINY.vocab_size)
    told = []
    total = write_cache(tmp_path, model, world, 2, told.append)
    assert (
        total == sum(world.lengths)
        and told[-1] == NUM_STORIES
        and len(list(tmp_path.glob("*.safetensors"))) == -(-total // 64) > 1
    )
    cached = EncodedCache(tmp_path, model, world).rows
    features = {"pixels": {"pixels"}, "last layer": {"pixels"}, "frozen": {"image_features", "text_features"}}.get(
        name, set()
    )
    assert cached.keys() == {"latents", "image_mask"} | features
    unopened = Unopened(NUM_STORIES, image_size=32)
    monkeypatch.setattr(unopened, "fingerprint", world.fingerprint, raising=False)
    with_cache, without = (
        EncodedStories(unopened, model, tokenizer, cached=cached),
        EncodedStories(world, model, tokenizer),
    )
    assert (
        with_cache.steps(slice(0, 70)).latents.stride() == without.steps(slice(0, 70)).latents.stride()
    )  # Kernels round by it.
    indices = [29, 0, 17]
    one, other = with_cache.batch(indices), without.batch(indices)
    for field, value in other.items():
        if field == "latents":
            torch.testing.assert_close(one[field], value, atol=5e-3, rtol=5e-3)
        elif field != "pixels" or "pixels" in cached:
            assert torch.equal(one[field], value), field
    torch.testing.assert_close(model.encode(one).slots, model.encode(other).slots, atol=8e-3, rtol=8e-3)
    torch.testing.assert_close(
        with_cache.steps(slice(50, 99)).latents, without.steps(slice(50, 99)).latents, atol=5e-3, rtol=5e-3
    )


def test_other_data_settings_or_weights_are_refused(configs, world, tmp_path):
    model = make_model(configs["latents"])
    with pytest.raises(UserError, match="holds no cache: make one with precompute"):
        EncodedCache(tmp_path, model, world)
    write_cache(tmp_path, model, world)
    other = make_model(configs["latents"])
    assert cache_key(other, world) == cache_key(model, world)
    other.autoencoder.latent_std *= 1.01
    pixels = make_model(configs["pixels"])
    pixels.autoencoder.load_state_dict(model.autoencoder.state_dict())
    for changed, source, what in (
        (model, StoryWorld(NUM_STORIES, seed=1, image_size=32), "data"),
        (pixels, world, "settings"),
        (other, world, "weights"),
        (other, StoryWorld(3, image_size=32), "data and weights"),
    ):
        with pytest.raises(UserError, match=f"was made from other {what}: run precompute again, or leave --cache out"):
            EncodedCache(tmp_path, changed, source)
        with pytest.raises(UserError, match=f"was made from other {what}: choose another --output"):
            write_cache(tmp_path, changed, source)


def test_a_stopped_run_is_refused_and_goes_on(configs, world, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded_cache, "SHARD_BYTES", 1)
    model, encode, calls = make_model(configs["latents"]), encoded_cache._encode, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*args)

    write_cache(tmp_path / "whole", model, world)
    monkeypatch.setattr(encoded_cache, "_encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "cut", model, world)
    with pytest.raises(UserError, match="not finished: run precompute again"):
        EncodedCache(tmp_path / "cut", model, world)
    write_cache(tmp_path / "cut", model, world)
    whole, cut = (
        [load_file(path) for path in sorted((tmp_path / name).glob("*.safetensors"))] for name in ("whole", "cut")
    )
    assert [part["image_mask"].tolist() for part in cut] == [part["image_mask"].tolist() for part in whole]
    assert all(torch.equal(one["latents"], other["latents"]) for one, other in zip(cut, whole, strict=True))
    broken = next((tmp_path / "cut").glob("0*"))
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        EncodedCache(tmp_path / "cut", model, world)
    with pytest.raises(UserError, match="damaged .*: delete it and those after it"):
        write_cache(tmp_path / "cut", model, world)


def test_rows_in_several_files_are_one_tensor():
    whole = torch.randn(11, 3, 2)
    rows = ShardedRows(whole.split([4, 1, 6]))
    assert len(rows) == 11
    for index in (torch.tensor([[10, 0], [4, 3]]), torch.tensor([5, 5]), slice(3, 9), slice(None)):
        assert torch.equal(rows[index], whole[index])


# Reading ahead


class Slow:
    """Stories that say which thread read them, and fail where they are told to."""

    def __init__(self) -> None:
        self.read: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Story:
        self.read.append((index, threading.current_thread().name))
        if index == 13:
            raise UserError("story 13 is broken")
        return Story(str(index), "", (StoryStep("a", Image.new("RGB", (20, 10), (index, 0, 0))), StoryStep("b")))


@pytest.mark.parametrize("workers", [0, 3])
def test_what_is_read_ahead_is_what_is_read(workers):
    source = Slow()
    stories = ReadAhead(source, 8, workers)
    stories.expect([4, 2, 4, 9])
    stories.expect([9, 2, 13])
    for index in (9, 1, 2, 9):
        story = stories[index]
        assert (story.id, story.steps[0].image.size, story.steps[1].image) == (str(index), (8, 8), None)
        assert story.steps[0].image.getpixel((4, 4)) == (index, 0, 0)
    with pytest.raises(UserError, match="story 13"):
        stories[13]
    ahead = [index for index, thread in source.read if thread.startswith("read_ahead")]
    assert (len(ahead) == len(set(ahead)) and {9, 2, 13} <= set(ahead)) if workers else ahead == []


@pytest.mark.parametrize("name", ["latents", "pixels", "frozen"])
def test_pictures_that_are_latents_are_read_as_drawn(configs, world, name):
    model = make_model(configs[name])
    tokenizer = StoryTokenizer.train(world.texts(), TINY.vocab_size)
    latents = torch.randn(3, *model.config.autoencoder.latent_shape, generator=torch.Generator().manual_seed(0))
    batch = batch_of_latents(latents, model, tokenizer)
    drawn = [StoryStep(None, image) for image in to_pictures(model.autoencoder.decode(latents))]
    wanted = batch_of_steps(drawn, model, tokenizer)
    assert torch.equal(batch.latents[0], latents) and batch.image_mask.all() and not batch.text_mask.any()
    assert torch.equal(batch.input_ids, wanted.input_ids) and (batch.pixels is None) == (name == "latents")
    if batch.pixels is not None:
        assert torch.allclose(batch.pixels, wanted.pixels, atol=1 / 255 + 1e-6)
        assert torch.allclose(model.encode(batch).slots, model.encode(wanted).slots, atol=0.1)


@pytest.mark.parametrize(("name", "num_reads"), [("frozen", [1, 1]), ("last layer", [2])])
def test_frozen_encoders_read_once_an_update(configs, world, monkeypatch, name, num_reads):
    model = make_model(configs[name])
    batch = EncodedStories(world, model, StoryTokenizer.train(world.texts(), TINY.vocab_size)).batch([3, 5])
    noise = draw_noise(batch.step_mask.numel(), TINY.autoencoder.latent_shape, 1000, torch.Generator())
    encoders = [model.storyboard.image_encoder, model.storyboard.text_encoder][: len(num_reads)]
    reads = [0] * len(encoders)
    for index, encoder in enumerate(encoders):
        encoder.register_forward_hook(lambda *_, index=index: reads.__setitem__(index, reads[index] + 1))
    loss = model(batch, noise).loss
    assert reads == num_reads
    monkeypatch.setattr(model, "with_features", lambda batch: batch)
    assert torch.equal(model(batch, noise).loss, loss) and reads == [count + 2 for count in num_reads]
