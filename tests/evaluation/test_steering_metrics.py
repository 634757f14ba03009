"""The section "steering" of `evaluate`, at tiny size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modules.encoded.stories import EncodedStories
from modules.evaluation.labels import LABELS
from modules.evaluation.steering import measure_infill_bits, measure_steering
from modules.generation.scoring import plan_nats
from modules.storyworld import StoryWorld

PROMPTS = ["Rusty the fox wants a kite", "a bear on the beach"]
JUDGED = {"search_agree", "text_edit_obeyed", "text_edit_kept", "image_edit_told", "infill_cast"}


def test_steering_is_measured_with_floors_and_ceilings(tiny_pipeline, tiny_judge):
    pictures = [story.steps[0].image for story in StoryWorld(2, image_size=32)]
    metrics = measure_steering(tiny_pipeline, PROMPTS, 2, tiny_judge, pictures)
    assert metrics["other_pages_same"].value == 1 and metrics["replay_exact"].value == 1
    assert 0 <= metrics["branches_differ"].value <= 1 and metrics["search_agree"].ceiling == 1
    assert metrics["edit_near"].value >= metrics["edit_fidelity"].value
    assert 0 <= metrics["image_edit_told"].value <= 1
    assert set(metrics) <= set(LABELS) and all(metric.floor is not None for metric in metrics.values())
    again = measure_steering(tiny_pipeline, PROMPTS, 2)
    assert again == {name: metric for name, metric in metrics.items() if name not in JUDGED}


def test_bits_of_pages_between_others(tiny_pipeline, monkeypatch):
    stories = EncodedStories(StoryWorld(3, seed=1, image_size=32), tiny_pipeline.model, tiny_pipeline.tokenizer)
    codes = torch.randint(0, 32, (len(stories.texts), 8), generator=torch.Generator().manual_seed(0))
    found = measure_infill_bits(tiny_pipeline, stories, codes, 3)["infill_bits_saved"]
    costs = []
    for index in (index for index in range(3) if stories.lengths[index] >= 3):
        nats = plan_nats(tiny_pipeline, stories.prompts[index], codes[None, list(stories.rows(index))])[0]
        costs += (nats.sum(-1)[:-1] / math.log(2)).tolist()
    assert found.ceiling == pytest.approx(np.mean(costs), rel=1e-3) and math.isfinite(found.value)
    monkeypatch.setitem(tiny_pipeline.model.prior._parameters, "given_pages", None)
    assert measure_infill_bits(tiny_pipeline, stories, codes, 3) == {} and "infill_bits_saved" in LABELS
