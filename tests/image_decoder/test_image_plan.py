"""p(x | z) with the whole plan: our own UNet, and Stable Diffusion's with the codes beside the text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from modules.image_decoder.config import CONDITIONS, ImageDecoderConfig
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.plan_window import PlanWindow
from modules.presets import TINY
from tests.support.tensors import CLOSE, generator
from tests.support.tiny_stable_diffusion import write_stable_diffusion

TEXTS = ["a cat", "a cat in a hat", "the hat", ""]
TIMES = torch.tensor([1, 400, 800, 999])
LENGTHS = [1, 3]  # Of the stories of four pages: the window of the first has two places of padding.
KINDS = ("scratch", *CONDITIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "stable-diffusion")


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(4, 8, 8, generator=generator(7))


def build(folder: Path, kind: str, is_open: bool = True) -> ImageDecoder:
    """A decoder that reads the plan; pretrained ones have their gates open, unless they are as at first."""
    torch.manual_seed(0)
    config = TINY.image_decoder
    if kind != "scratch":
        config = ImageDecoderConfig(source=str(folder), condition=kind, tuning="lora", lora_rank=2, plan_dim=16)
    decoder = ImageDecoder(config, (4, 8, 8), num_slots=8, code_dim=8, reads_plan=True).eval()
    with torch.no_grad():
        decoder.null_codes.normal_()
        for name in decoder.gate_names() if is_open else ():
            decoder.get_parameter(name).normal_(generator=generator(3))
    return decoder


def latents() -> Tensor:
    return torch.randn(4, 4, 8, 8, generator=generator())


def window_of(code_embeds: Tensor) -> PlanWindow:
    """The windows of the four pages, with noise where there is padding."""
    window = PlanWindow.of_stories(code_embeds, LENGTHS)
    noise = torch.randn(window.code_embeds.shape, generator=generator(5))
    shown = torch.where(window.mask[..., None, None], window.code_embeds, 3 * noise)
    return PlanWindow(shown, window.distances, window.mask)


def predict(
    decoder: ImageDecoder, codes: Tensor, window: PlanWindow | None, null: Tensor | None = None, **options: Tensor
) -> Tensor:
    """The UNet's prediction, given all texts if it reads texts."""
    if decoder.text_encoder is not None and "encoder_hidden_states" not in options:
        options["encoder_hidden_states"] = decoder.encode_text(decoder.tokenize(TEXTS))
    return decoder.predict(latents(), TIMES, decoder.context(codes, null, window=window, **options))


def largest(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().max().item()


def test_it_begins_as_stable_diffusion(folder, codes):
    plain = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    decoder = build(folder, "codes_and_text", is_open=False)
    text = decoder.encode_text(decoder.tokenize(TEXTS))
    with torch.no_grad():
        expected = plain(latents(), TIMES, text).sample
        for null in (None, torch.tensor([False, True, False, True])):
            read = text if null is None else torch.where(null[:, None, None], decoder.null_text, text)
            expected = plain(latents(), TIMES, read).sample
            predicted = predict(decoder, codes, window_of(codes), null)
            torch.testing.assert_close(predicted, expected, atol=1e-6, rtol=0)


def test_the_gates_learn_first_and_then_the_reader(folder, codes):
    decoder = build(folder, "codes_and_text", is_open=False)
    gates = [decoder.get_parameter(name) for name in decoder.gate_names()]
    optimizer = torch.optim.SGD(gates, lr=1.0)
    for is_open in (False, True):
        decoder.zero_grad()
        predict(decoder, codes, window_of(codes)).square().sum().backward()
        reached = [parameter.grad.abs().sum() > 0 for parameter in decoder.plan_reader.parameters()]
        assert all(reached) if is_open else not any(reached)
        assert all((gate.grad != 0).any() for gate in gates)
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_of_the_plan_matters(folder, codes, kind):
    decoder, codes = build(folder, kind), codes.requires_grad_()
    predicted = predict(decoder, codes.detach(), PlanWindow.of_stories(codes, LENGTHS))
    (gradient,) = torch.autograd.grad(predicted[3].square().sum(), codes)
    assert (gradient.abs().amax(-1) > 0).tolist() == [[False] * 8, *[[True] * 8] * 3]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_and_hidden_pages_change_nothing(folder, codes, kind):
    decoder = build(folder, kind)
    noisy = window_of(codes)
    expected = predict(decoder, codes, PlanWindow.of_stories(codes, LENGTHS))
    torch.testing.assert_close(predict(decoder, codes, noisy), expected, **CLOSE)
    alone = predict(decoder, codes, None)
    torch.testing.assert_close(alone[0], expected[0], **CLOSE)
    torch.testing.assert_close(predict(decoder, codes, noisy.hide_others()), alone, **CLOSE)
    assert largest(alone[1:], expected[1:]) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_null_rows_read_no_plan(folder, codes, kind):
    decoder, null = build(folder, kind), torch.tensor([False, True, False, True])
    codes = codes.requires_grad_()
    predicted = predict(decoder, codes, PlanWindow.of_stories(codes, LENGTHS), null)
    (gradient,) = torch.autograd.grad(predicted[null].square().sum(), codes)
    assert not gradient.any() and predicted.isfinite().all()
    nothing = window_of(codes.detach()).hide(torch.ones(4, 1, dtype=torch.bool))
    empty = {}
    if decoder.text_encoder is not None:
        empty = {"encoder_hidden_states": decoder.null_text.expand(4, -1, -1)}
    bare = predict(decoder, decoder.null_codes.expand(4, -1, -1), nothing, **empty)
    torch.testing.assert_close(predicted[null], bare[null], **CLOSE)


@torch.no_grad()
def test_the_context_is_own_codes_and_then_the_plan(folder, codes):
    decoder = build(folder, "scratch")
    window = window_of(codes)
    vectors, mask, labels = decoder.context(codes, window=window)
    assert vectors.shape == (4, 8 + 3 * 8, 16) and torch.equal(labels, codes.flatten(1))
    assert torch.equal(vectors[:, :8], decoder.to_context(codes) + decoder.slot_position)
    assert mask[:, :8].all() and torch.equal(mask[:, 8:], window.mask.repeat_interleave(8, dim=1))
    null = decoder.context(codes, torch.ones(4, dtype=torch.bool), window=window)
    both, repeated = decoder.context(codes, window=window).with_null(null), null.repeat(3)
    for name in ("vectors", "mask", "labels"):
        given, without = getattr(both, name).chunk(2)
        assert torch.equal(without, getattr(null, name)) and given.shape == without.shape
        assert torch.equal(getattr(repeated, name), getattr(null, name).repeat_interleave(3, dim=0))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_read_their_own_windows(folder, codes, kind):
    """A page drawn with its window alone is the page drawn among others."""
    decoder = build(folder, kind)
    window, noise = window_of(codes), torch.randn(4, 4, 8, 8, generator=generator(9))
    options = {"num_inference_steps": 3, "strength": 0.7}
    drawn = [
        decoder.sample(codes[rows], generator=generator(1), init_latents=noise[rows], window=around, **options)
        for rows, around in ((slice(0, 4), window), (slice(0, 2), window[:2]), (slice(0, 2), None))
    ]
    torch.testing.assert_close(drawn[1], drawn[0][:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(drawn[2][0], drawn[0][0], atol=1e-4, rtol=1e-4)
    assert largest(drawn[2][1], drawn[0][1]) > 1e-3
