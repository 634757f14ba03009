"""p(s | z) with the whole plan: our own GPT-2, and pretrained language models behind gates."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from modules.layers.plan_window import PlanWindow
from modules.text_decoder.text_decoder import TextDecoder
from tests.support.language_models import CODE_DIM, LENGTH, SLOTS, build_decoder, rows_of, text_batch
from tests.support.tensors import CLOSE, differ, generator

PRETRAINED = list(product(("gpt2", "llama"), ("embeds", "key_values")))
KINDS = [("scratch", "embeds"), ("scratch", "key_values"), *PRETRAINED]
LENGTHS = [1, 3]  # Of the stories of four pages: the window of the first has two places of padding.


def build(folders: dict[str, str], family: str, prefix: str, gate: float = 1.5) -> TextDecoder:
    return build_decoder(folders, family, prefix, gate, reads_plan=True)


def window_of(code_embeds: Tensor) -> PlanWindow:
    """The windows of the four pages, with noise where there is padding."""
    window = PlanWindow.of_stories(code_embeds, LENGTHS)
    noise = torch.randn(window.code_embeds.shape, generator=generator(5), dtype=code_embeds.dtype)
    shown = torch.where(window.mask[..., None, None], window.code_embeds, 3 * noise)
    return PlanWindow(shown, window.distances, window.mask)


def large_codes() -> Tensor:
    return 4 * text_batch()["code_embeds"].double()


# --- what it is at first


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
@pytest.mark.parametrize(("family", "prefix"), PRETRAINED)
def test_it_begins_as_the_plain_language_model(folders, family, prefix, tuning):
    decoder = build_decoder(folders, family, prefix, reads_plan=True, tuning=tuning)
    text = text_batch()
    plain, window = AutoModelForCausalLM.from_pretrained(folders[family]), window_of(text["code_embeds"])
    expected = plain(input_ids=text["input_ids"], attention_mask=text["text_mask"].long()).logits
    for null in (None, torch.tensor([True, False, True, False])):
        logits = decoder.logits(**text, null=null, window=window)
        torch.testing.assert_close(logits[text["text_mask"]], expected[text["text_mask"]], **CLOSE)
    options = {"max_new_tokens": LENGTH - 1, "do_sample": False, "eos_token_id": decoder.eos_id}
    told = plain.generate(torch.full((1, 1), decoder.bos_id), **options)
    ours = decoder.generate(text["code_embeds"], window=window)
    assert (ours == told[:, 1:]).all() and ours.shape[1] == told.shape[1] - 1


@pytest.mark.parametrize(("family", "prefix"), PRETRAINED)
def test_the_gates_learn_first_and_then_the_reader(folders, family, prefix):
    decoder, text = build_decoder(folders, family, prefix, reads_plan=True, tuning="frozen").train(), text_batch()
    window = window_of(text["code_embeds"])
    optimizer = torch.optim.SGD([decoder.prefix_gate], lr=0.1)
    for is_open in (False, True):
        decoder.zero_grad()
        decoder(**text, window=window).nll.sum().backward()
        reached = [parameter.grad.abs().sum() > 0 for parameter in decoder.plan_reader.parameters()]
        assert all(reached) if is_open else not any(reached)
        assert (decoder.prefix_gate.grad != 0).all()
        optimizer.step()


# --- what it reads


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_every_code_of_the_plan_matters(folders, family, prefix):
    decoder, text = build(folders, family, prefix), text_batch()
    codes = text["code_embeds"].requires_grad_()
    nll = decoder(**{**text, "code_embeds": codes.detach()}, window=PlanWindow.of_stories(codes, LENGTHS)).nll
    (gradient,) = torch.autograd.grad(nll[3, 0], codes)
    assert (gradient.abs().amax(-1) > 0).tolist() == [[False] * SLOTS, *[[True] * SLOTS] * 3]


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_padding_and_hidden_pages_change_nothing(folders, family, prefix):
    decoder, text = build(folders, family, prefix), text_batch()
    window, noisy = PlanWindow.of_stories(text["code_embeds"], LENGTHS), window_of(text["code_embeds"])
    expected = decoder(**text, window=window).nll
    torch.testing.assert_close(decoder(**text, window=noisy).nll, expected, **CLOSE)
    alone = {name: value[:1] for name, value in text.items()}
    torch.testing.assert_close(decoder(**alone).nll, expected[:1], **CLOSE)
    hidden = decoder(**text, window=noisy.hide_others()).nll
    torch.testing.assert_close(hidden, decoder(**text).nll, **CLOSE)
    assert differ(hidden[1], expected[1]) and differ(hidden[3], expected[3])


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_without_a_window_each_page_is_a_story(folders, family, prefix):
    decoder, text = build(folders, family, prefix), text_batch()
    alone = PlanWindow.alone(text["code_embeds"])
    assert torch.equal(decoder(**text).nll, decoder(**text, window=alone).nll)
    codes = text["code_embeds"]
    assert torch.equal(decoder.generate(codes), decoder.generate(codes, window=alone))


@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_null_rows_read_no_plan(folders, family, prefix):
    decoder, text = build(folders, family, prefix), text_batch()
    null = torch.tensor([False, True, False, False])
    codes = text["code_embeds"].requires_grad_()
    nll = decoder(**text, null=null, window=PlanWindow.of_stories(codes, LENGTHS)).nll
    (gradient,) = torch.autograd.grad(nll[1].sum(), codes, allow_unused=True, retain_graph=True)
    assert gradient is None or not gradient.any()
    nothing = window_of(codes.detach()).hide(torch.ones(4, 1, dtype=torch.bool))
    null_codes = decoder.null_codes.detach().expand(4, -1, -1)
    expected = decoder(**{**text, "code_embeds": null_codes}, window=nothing).nll
    torch.testing.assert_close(nll[1], expected[1], **CLOSE)
    assert nll.isfinite().all()


def test_the_text_has_the_same_positions_after_any_plan(folders):
    """The codes of all pages share the positions of their slots, so a long plan needs no more positions."""
    decoder = build(folders, "scratch", "embeds")
    codes = torch.randn(40, SLOTS, CODE_DIM, generator=generator())
    window = PlanWindow.of_stories(codes, [40])
    bos = torch.ones(40, 1, dtype=torch.long)
    inputs = decoder.inputs(decoder.prefix(codes, None, window), bos, bos.bool())
    positions = inputs["position_ids"][0].tolist()
    assert positions == [*range(SLOTS)] * (window.mask.shape[1] + 1) + [SLOTS]
    assert decoder.language_model.config.n_positions == SLOTS + LENGTH
    assert decoder.generate(codes[:4], window=window[:4]).shape == (4, LENGTH - 1)


# --- generation


def greedy_by_hand(
    decoder: TextDecoder, codes: Tensor, window: PlanWindow, row: int, guidance_scale: float
) -> list[int]:
    """One text by reading everything anew for each of its tokens, twice."""
    ids = [decoder.bos_id]
    while len(ids) < LENGTH and (len(ids) == 1 or ids[-1] != decoder.eos_id):
        text = (codes[[row]], torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
        given, free = (
            decoder.logits(*text, null=torch.tensor([null]), window=window[[row]])[0, -1].log_softmax(-1)
            for null in (False, True)
        )
        ids.append((free + guidance_scale * (given - free)).argmax().item())
    return ids[1:]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_generate_says_what_the_logits_say(folders, family, prefix, guidance_scale):
    decoder, codes = build(folders, family, prefix).double(), large_codes()
    window = window_of(codes)
    told = rows_of(decoder.generate(codes, guidance_scale=guidance_scale, window=window), decoder.eos_id)
    assert told == [greedy_by_hand(decoder, codes, window, row, guidance_scale) for row in range(4)]
    assert len(set(map(tuple, told))) > 1


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_every_beam_reads_its_own_window(folders, family, prefix, guidance_scale):
    decoder, codes = build(folders, family, prefix).double(), large_codes()
    options = {"decoding": "beam", "num_beams": 3, "guidance_scale": guidance_scale}
    window = window_of(codes)
    told = rows_of(decoder.generate(codes, **options, window=window), decoder.eos_id)
    alone = [decoder.generate(codes[[row]], **options, window=window[[row]]) for row in range(4)]
    assert told == [rows_of(ids, decoder.eos_id)[0] for ids in alone]
    assert len(set(map(tuple, told))) > 1


@pytest.mark.parametrize("options", [{"penalty_alpha": 0.6}, {"decoding": "top_p", "top_p": 0.01}])
@pytest.mark.parametrize(("family", "prefix"), KINDS)
def test_other_decodings_read_the_window(folders, family, prefix, options):
    decoder, codes = build(folders, family, prefix).double(), large_codes()
    window = window_of(codes)
    told = rows_of(decoder.generate(codes, **options, window=window), decoder.eos_id)
    alone = [decoder.generate(codes[[row]], **options, window=window[[row]]) for row in range(4)]
    assert told == [rows_of(ids, decoder.eos_id)[0] for ids in alone]
    assert "penalty_alpha" in options or told == rows_of(decoder.generate(codes, window=window), decoder.eos_id)
