"""Stories as tensors: batches hold what the stories hold, and their order is a function of the step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modules.data.order import BatchOrder
from modules.data.pixels import to_pictures, to_pixels
from modules.data.read_ahead import Head, iterate_pages
from modules.encoded import stories as encoded
from modules.encoded.stories import EncodedStories
from modules.story import Story
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import StoryTokenizer

WITHOUT_PICTURE, WITHOUT_TEXT = (1, 2), (3, 0)  # (story, step)


def with_gaps(stories: list[Story]) -> list[Story]:
    """The same stories, one step of which has no picture, and another no text."""
    told = list(stories)
    for (story, step), gap in ((WITHOUT_PICTURE, {"image": None}), (WITHOUT_TEXT, {"text": None})):
        steps = list(told[story].steps)
        steps[step] = replace(steps[step], **gap)
        told[story] = replace(told[story], steps=tuple(steps))
    return told


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    world = StoryWorld(6, image_size=32)
    return with_gaps([world[index] for index in range(6)])


@pytest.fixture(scope="module")
def parts(tiny_config, stories) -> tuple[StoryModel, StoryTokenizer]:
    torch.manual_seed(0)
    texts = [text for story in stories for text in (story.prompt, *(step.text or "" for step in story.steps))]
    return StoryModel(tiny_config).eval(), StoryTokenizer.train(texts, tiny_config.vocab_size)


@pytest.fixture(scope="module")
def tensors(tiny_config, stories, parts) -> EncodedStories:
    return EncodedStories(stories, *parts)


def test_batches_have_the_shapes_of_the_legend(tensors, tiny_config, stories):
    batch = tensors.batch(range(6))
    steps = max(len(story.steps) for story in stories)
    length, prompt = tiny_config.text_decoder.max_length, tiny_config.max_prompt_length
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "prompt_ids": (6, prompt),
        "prompt_mask": (6, prompt),
        "input_ids": (6, steps, length),
        "text_mask": (6, steps, length),
        "latents": (6, steps, *tiny_config.autoencoder.latent_shape),
        "image_mask": (6, steps),
        "step_mask": (6, steps),
        "num_steps": (),
        "num_tokens": (),
        "num_images": (),
    }
    assert batch.latents.dtype == torch.float32 and batch.codes is None and len(tensors) == 6


def test_batches_hold_the_stories(tensors, stories, parts):
    tokenizer, autoencoder = parts[1], parts[0].autoencoder
    batch = tensors.batch([4, 1])
    for row, story in enumerate((stories[4], stories[1])):
        assert tokenizer.decode(batch.prompt_ids[row][batch.prompt_mask[row]]) == story.prompt
        for number, step in enumerate(story.steps):
            ids, mask = batch.input_ids[row, number], batch.text_mask[row, number]
            assert ids[mask][0] == 1 and ids[mask][-1] == 2 and (ids[~mask] == 0).all()
            assert step.text.startswith(tokenizer.decode(ids[mask]))  # A long text loses its end.
            if step.image is not None:
                expected = autoencoder.encode(to_pixels([step.image], 32))[0]
                torch.testing.assert_close(batch.latents[row, number], expected, atol=5e-3, rtol=5e-3)


def test_padding_and_gaps_are_masked_and_counted(tensors, stories):
    batch = tensors.batch(range(6))
    for row, story in enumerate(stories):
        assert batch.step_mask[row].sum() == len(story.steps) and batch.step_mask[row, : len(story.steps)].all()
        has_image = [step.image is not None for step in story.steps]
        has_text = [step.text is not None for step in story.steps]
        assert batch.image_mask[row, : len(story.steps)].tolist() == has_image
        assert batch.text_mask[row, : len(story.steps)].any(-1).tolist() == has_text
    assert not batch.image_mask[~batch.step_mask].any() and not batch.text_mask[~batch.step_mask].any()
    assert (~batch.step_mask).any()  # Stories of several lengths, or this test would show little.
    assert batch.num_steps == sum(len(story.steps) for story in stories) and batch.num_images == batch.num_steps - 1
    assert batch.num_tokens == batch.text_mask.sum() - (batch.num_steps - 1)  # No <bos>.


def test_an_absent_picture_is_zeros_and_masked(tensors):
    batch = tensors.batch([WITHOUT_PICTURE[0]])
    step = WITHOUT_PICTURE[1]
    assert not batch.image_mask[0, step] and (batch.latents[0, step] == 0).all() and batch.text_mask[0, step].any()
    assert batch.image_mask[0].sum() == batch.num_steps - 1 and (batch.latents[0, 0] != 0).any()
    batch = tensors.batch([WITHOUT_TEXT[0]])
    assert not batch.text_mask[0, WITHOUT_TEXT[1]].any() and batch.image_mask[0, WITHOUT_TEXT[1]]


def test_more_steps_than_needed_are_padding(tensors):
    short, long = tensors.batch([0, 1]), tensors.batch([0, 1], num_steps=11)
    steps = short.step_mask.shape[1]
    assert long.step_mask.shape == (2, 11) and not long.step_mask[:, steps:].any()
    for name in ("num_steps", "num_tokens", "num_images"):
        assert short[name] == long[name]
    for name in ("input_ids", "latents"):
        assert torch.equal(long[name][:, :steps][short.step_mask], short[name][short.step_mask])


def test_size_of_the_encoding_batch_does_not_matter(tiny_config, stories, parts, tensors, monkeypatch):
    monkeypatch.setattr(encoded, "ENCODE_BATCH", 5)
    seen = []
    small = EncodedStories(stories, *parts, progress=seen.append)
    torch.testing.assert_close(small.latents, tensors.latents, atol=5e-3, rtol=5e-3)
    assert torch.equal(small.image_mask, tensors.image_mask) and seen == [1, 2, 3, 4, 5, 6]


def test_cached_codes_come_with_their_rows(tiny_config, stories, parts):
    tensors = EncodedStories(stories, *parts)
    count = sum(tensors.lengths)
    tensors.codes = torch.arange(3 * count)[:, None].expand(-1, 8).reshape(3, count, 8)
    batch = tensors.batch([2, 0])
    rows = batch.codes[..., 0]
    assert batch.codes.shape == (*batch.step_mask.shape, 8)
    assert rows[0][batch.step_mask[0]].tolist() == list(tensors.rows(2)) and rows[1][
        batch.step_mask[1]
    ].tolist() == list(tensors.rows(0))
    variant = torch.zeros_like(rows)
    variant[0, 1] = 2
    assert (tensors.batch([2, 0], variant=variant).codes[..., 0] - rows == 2 * count * (variant == 2)).all()


def test_rows_cut_the_steps_into_stories(tensors, stories):
    assert [row for index in range(6) for row in tensors.rows(index)] == list(
        range(sum(len(story.steps) for story in stories))
    )
    assert tensors.lengths == [len(story.steps) for story in stories]
    assert [len(attributes) for attributes in tensors.attributes] == tensors.lengths


def test_pictures_survive_the_trip_through_pixels(stories):
    images = [step.image for step in stories[0].steps]
    pixels = to_pixels(images, 32)
    assert pixels.shape == (len(images), 3, 32, 32) and pixels.min() >= -1 and pixels.max() <= 1
    assert [image.tobytes() for image in to_pictures(pixels)] == [image.tobytes() for image in images]
    grey = to_pixels([Image.new("L", (50, 20), 255), images[0]], 32)
    assert grey.shape == (2, 3, 32, 32) and torch.equal(grey[1], pixels[0])
    assert np.asarray(to_pictures(pixels * 100)[0]).max() == 255


def test_head_and_pages_of_a_source(stories):
    world = StoryWorld(5, image_size=32)
    first = Head(world, 3)
    assert len(first) == 3 and first[1].id == world[1].id
    assert list(first.texts()) == list(world.first(3).texts()) and first.lengths == world.lengths[:3]
    assert len(Head(world, 9)) == 5 and first.fingerprint() != Head(world, 2).fingerprint()
    pages = list(iterate_pages(stories, [1, 0]))
    assert len(pages) == len(stories[1].steps) - 1 + len(stories[0].steps) and pages[0] is stories[1].steps[0].image


def test_order_is_a_function_of_seed_and_step():
    lengths = [4, 5, 4, 6, 5, 4, 4, 8, 5, 4]
    order, other = BatchOrder(lengths, 2, seed=1), BatchOrder(lengths, 2, seed=1)
    forward = [order[step] for step in range(20)]
    assert [other[step] for step in reversed(range(20))] == forward[::-1] and order[3] == forward[3]
    assert forward != [BatchOrder(lengths, 2, seed=2)[step] for step in range(20)]
    epoch = order.batches_per_epoch
    assert {index for batch in forward[:epoch] for index in batch} == set(range(10))
    assert forward[:epoch] != forward[epoch : 2 * epoch]


def test_texts_that_lose_their_end_are_counted(stories, parts, tiny_config):
    def counted(text: str) -> tuple[int, int]:
        steps = tuple(replace(step, text=text) for step in stories[0].steps)
        return EncodedStories([replace(stories[0], prompt=text, steps=steps)], *parts).count_cut(parts[1])

    limit, count = tiny_config.text_decoder.max_length, len(stories[0].steps)
    lengths = {number: len(parts[1].encode("a " * number, 999)) for number in range(1, 200)}
    assert counted("a " * max(number for number in lengths if lengths[number] <= limit)) == (0, 0)
    assert counted("a " * min(number for number in lengths if lengths[number] > limit)) == (count, 0)
    assert counted("a " * 199) == (count, 1)
