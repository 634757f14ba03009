"""Guidance in an interval of noise levels: where it applies, and what it costs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from modules.image_decoder.config import SchedulerName
from modules.image_decoder.context import ImageContext
from modules.image_decoder.image_decoder import ImageDecoder
from modules.presets import TINY
from tests.support.tensors import generator

PAGES, SCALE, STEPS = 2, 3.0, 10
each_scheduler = pytest.mark.parametrize("scheduler", get_args(SchedulerName))


class Counting(ImageDecoder):
    """Remembers the timestep and the number of rows of each call of the UNet."""

    def predict(self, noisy: Tensor, timesteps: Tensor, context: ImageContext) -> Tensor:
        self.calls.append((float(timesteps), len(noisy)))
        return super().predict(noisy, timesteps, context)


@pytest.fixture(scope="module")
def decoder() -> Counting:
    torch.manual_seed(0)
    decoder = Counting(TINY.image_decoder, (4, 4, 4), num_slots=8, code_dim=8, reads_plan=True).eval()
    with torch.no_grad():
        decoder.null_codes.normal_()
    decoder.calls = []
    return decoder


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(PAGES, 8, 8, generator=generator(7))


def draw(decoder: Counting, codes: Tensor, scheduler: SchedulerName, scale: float = SCALE, **options) -> Tensor:
    decoder.calls.clear()
    return decoder.sample(codes, STEPS, scale, scheduler, generator(5), **options)


@torch.no_grad()
def guided_by_hand(
    decoder: Counting, codes: Tensor, scheduler: SchedulerName, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The denoising loop with the conditional and the unconditional prediction made apart."""
    schedule = decoder.make_scheduler(scheduler)
    schedule.set_timesteps(STEPS)
    latents = torch.randn(PAGES, 4, 4, 4, generator=generator(5)) * schedule.init_noise_sigma
    given, without = decoder.context(codes), decoder.context(codes, torch.ones(PAGES, dtype=torch.bool))
    for timestep in schedule.timesteps:
        scaled = schedule.scale_model_input(latents, timestep)
        predicted = decoder.predict(scaled, timestep, given)
        if low <= timestep.item() / 1000 <= high:
            free = decoder.predict(scaled, timestep, without)
            predicted = free + SCALE * (predicted - free)
        latents = schedule.step(predicted, timestep, latents, return_dict=False)[0]
    return latents


@each_scheduler
def test_the_whole_interval_is_guidance_everywhere(decoder, codes, scheduler):
    drawn = draw(decoder, codes, scheduler, guidance_interval=(0.0, 1.0))
    assert [rows for _, rows in decoder.calls] == [2 * PAGES] * STEPS
    torch.testing.assert_close(drawn, guided_by_hand(decoder, codes, scheduler), atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn, draw(decoder, codes, scheduler))


@each_scheduler
def test_an_interval_without_timesteps_is_no_guidance(decoder, codes, scheduler):
    plain = draw(decoder, codes, scheduler, scale=1.0)
    assert [rows for _, rows in decoder.calls] == [PAGES] * STEPS
    for interval in ((0.9995, 1.0), (0.0, 0.0)):
        assert torch.equal(draw(decoder, codes, scheduler, guidance_interval=interval), plain)
        assert [rows for _, rows in decoder.calls] == [PAGES] * STEPS
    assert not torch.equal(draw(decoder, codes, scheduler), plain)


@each_scheduler
@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (0.0, 0.5), (0.3, 0.95)])
def test_guidance_applies_within_the_interval_alone(decoder, codes, scheduler, low, high):
    drawn = draw(decoder, codes, scheduler, guidance_interval=(low, high))
    inside = [low <= timestep / 1000 <= high for timestep, _ in decoder.calls]
    assert len(inside) == STEPS and 0 < sum(inside) < STEPS
    assert [rows == 2 * PAGES for _, rows in decoder.calls] == inside
    by_hand = guided_by_hand(decoder, codes, scheduler, low, high)
    torch.testing.assert_close(drawn, by_hand, atol=1e-4, rtol=1e-4)


def test_guidance_at_high_noise_is_half_the_work(decoder, codes):
    draw(decoder, codes, "ddim", guidance_interval=(0.5, 1.0))
    assert sum(rows for _, rows in decoder.calls) == (STEPS // 2) * 2 * PAGES + (STEPS // 2) * PAGES


def test_a_scale_of_one_is_no_guidance_in_any_interval(decoder, codes):
    plain = draw(decoder, codes, "ddim", scale=1.0)
    assert torch.equal(draw(decoder, codes, "ddim", scale=1.0, guidance_interval=(0.2, 0.4)), plain)
    assert [rows for _, rows in decoder.calls] == [PAGES] * STEPS


def test_the_interval_counts_from_pure_noise_with_a_strength(decoder, codes):
    """Denoising from a given picture skips the noisiest steps, where the interval may lie."""
    start = torch.randn(PAGES, 4, 4, 4, generator=generator(9))
    options = {"init_latents": start, "strength": 0.4, "guidance_interval": (0.5, 1.0)}
    drawn = draw(decoder, codes, "ddim", **options)
    assert [rows for _, rows in decoder.calls] == [PAGES] * 4
    assert torch.equal(drawn, draw(decoder, codes, "ddim", scale=1.0, init_latents=start, strength=0.4))
