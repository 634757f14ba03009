"""Interventions: the effects of replaced codes, which change nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from modules.encoded.stories import EncodedStories
from modules.evaluation.codebook.interventions import (
    Swaps,
    code_removal,
    marginal_draws,
    removal_report,
    remove_codes,
    swap_report,
    swap_slots,
    swap_variants,
)
from modules.generation.pipeline import StoryPipeline
from modules.storyworld import StoryWorld

STEPS = 450


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def stories(tiny_pipeline: StoryPipeline) -> EncodedStories:
    return EncodedStories(StoryWorld(6, split="val", image_size=32), tiny_pipeline.model, tiny_pipeline.tokenizer)


@pytest.fixture(scope="module")
def codes(stories: EncodedStories) -> np.ndarray:
    return rng().integers(0, 32, size=(len(stories.texts), 8))


def test_draws_are_other_codes_of_the_same_slot():
    codes = np.stack([rng().integers(0, 4, STEPS), rng().integers(10, 12, STEPS), np.full(STEPS, 20)], axis=1)
    rows = np.arange(0, STEPS, 3)
    drawn = marginal_draws(codes, rows, rng())
    assert (drawn[:, :2] != codes[rows][:, :2]).all()
    assert set(drawn[:, 0]) == {0, 1, 2, 3} and set(drawn[:, 1]) == {10, 11}
    assert (drawn[:, 2] == 20).all()  # There is no other.


def test_variants_replace_one_slot_at_a_time_and_then_all():
    variants = swap_variants(np.zeros((3, 4), int), np.ones((3, 4), int))
    assert variants.shape == (6, 3, 4)
    assert variants[:, 0].tolist() == [[0] * 4, *np.eye(4, dtype=int).tolist(), [1] * 4]


def test_removing_codes_costs_nothing_where_nobody_reads_them(tiny_pipeline, stories, codes):
    deaf = StoryPipeline(copy.deepcopy(tiny_pipeline.model), tiny_pipeline.tokenizer)
    for layer in (deaf.model.text_decoder.to_prefix, deaf.model.text_decoder.plan_reader.from_codes):
        torch.nn.init.zeros_(layer.weight)
    removal = remove_codes(deaf, stories, codes, 20)
    assert removal.text_nats.shape == removal.diffusion_loss.shape == (20, 9)
    assert np.abs(removal.text_nats).max() < 1e-4
    assert np.abs(removal.diffusion_loss).min(axis=1).max() > 0  # Pictures are still made from them.
    assert np.abs(remove_codes(tiny_pipeline, stories, codes, 20).text_nats).max() > 0.01


def test_removal_is_told_by_slot_and_by_code(tiny_pipeline, stories, codes):
    story = np.repeat(np.arange(6), stories.lengths)
    removal = remove_codes(tiny_pipeline, stories, codes, len(codes))
    report = removal_report(removal, story)
    assert report["num_steps"] == len(codes)
    assert [figure["value"] for figure in report["text_nats"]] == pytest.approx(removal.text_nats.mean(0).tolist())
    assert report["text_nats"][0]["ceiling"] == pytest.approx(removal.text_nats[:, -1].mean())
    effect = code_removal(removal, codes, int(codes[0, 0]))
    places = codes == codes[0, 0]
    assert effect["places"] == places.sum()
    assert effect["diffusion_loss"] == pytest.approx(removal.diffusion_loss[:, :-1][places].mean())
    assert code_removal(removal, codes, 99) is None


def test_a_swap_that_changes_no_code_changes_no_page(tiny_pipeline):
    """Slots 1 to 7 have the same code on every step, and each variant is drawn from the same noise."""
    codes = np.zeros((12, 8), dtype=np.int64)
    codes[:, 0] = np.arange(12)
    swaps = swap_slots(tiny_pipeline, codes, [3, 4, 5], 3, draw=True)
    story = np.repeat(np.arange(3), [3, 4, 5])
    assert sorted(story[swaps.rows]) == [0, 1, 2] and (story[swaps.donors] != story[swaps.rows]).all()
    assert swaps.replaced.tolist() == [[True] * 3, *[[False] * 3] * 7, [True] * 3]
    own = [np.asarray(image) for image in swaps.images[0]]
    for variant in range(2, 9):
        assert swaps.texts[variant] == swaps.texts[0]
        assert all(
            np.array_equal(image, before)
            for image, before in zip(map(np.asarray, swaps.images[variant]), own, strict=True)
        )
    assert any(
        not np.array_equal(np.asarray(image), before) for image, before in zip(swaps.images[1], own, strict=True)
    )
    again = swap_slots(tiny_pipeline, codes, [3, 4, 5], 3, draw=True)
    assert again.texts == swaps.texts and [image.tobytes() for image in again.images[1]] == [
        image.tobytes() for image in swaps.images[1]
    ]


def test_swaps_are_told_by_what_they_change():
    own = ["The fox is on the beach.", "The pig is on the moon."]
    other_place = ["The fox is in the city.", "The pig is in the forest."]
    replaced = np.array([[True, True], [True, False], [True, True]])
    white, black = (Image.new("RGB", (4, 4), color) for color in ("white", "black"))
    swaps = Swaps(
        np.array([0, 3]),
        np.array([3, 0]),
        replaced,
        [own, other_place, own, other_place],
        [[white, white], [black, white], [white, white], [black, black]],
    )

    def read(images: list[Image.Image]) -> list[dict]:
        return [{"colors": {"fox": "red" if image.getpixel((0, 0))[0] else "blue"}, "object": None} for image in images]

    report = swap_report(swaps, swaps, np.array([0, 0, 0, 1]), True, read)
    place = report["text"]["attributes"]["place"]
    assert [figure["value"] for figure in place] == [1, 0, 1]
    assert [figure["value"] for figure in report["text"]["attributes"]["character"]] == [0, 0, 0]
    assert [figure["value"] for figure in report["text"]["attributes"]["object"]] == [None] * 3  # None was named.
    assert report["text"]["words"][0]["value"] == pytest.approx(4 / 7)
    assert [figure["value"] for figure in report["pictures"]["pixels"]] == [0.5, 0, 1]
    assert [figure["value"] for figure in report["pictures"]["attributes"]["colour"]] == [0.5, 0, 1]
    assert [figure["value"] for figure in report["pictures"]["attributes"]["object"]] == [None] * 3
    assert swap_report(swaps, None, np.array([0, 0, 0, 1]), False)["text"]["attributes"] == {}
