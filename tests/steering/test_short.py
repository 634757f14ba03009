"""Short texts of plans: the same plan comes back, and whatever else is reported in one line."""

from __future__ import annotations

import pytest
import torch

from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings
from modules.steering.arithmetic import TOTAL, Decoder, Encoder, frequencies
from modules.steering.edit import redraw
from modules.steering.plan import Plan, drawn_plan
from modules.steering.planned_story import codebook_size, codes_of
from modules.steering.short import LETTERS, SHORT_PREFIX, ShortTexts, is_short

PROMPT = "Rusty the fox wants a kite"


def drawn(pipeline, prompt: str = PROMPT, pages: int = 6, seed: int = 3, **options) -> Plan:
    settings = GenerationSettings(seed=seed, **options)
    codes = codes_of(pipeline.plan(prompt, pages, settings=settings).codes[0])
    return drawn_plan(prompt, codes, codebook_size(pipeline), pipeline.fingerprint(), settings)


@pytest.fixture(scope="module")
def short(tiny_pipeline) -> ShortTexts:
    return ShortTexts(tiny_pipeline)


def test_symbols_come_back_from_few_digits():
    probabilities = torch.tensor([0.9, 0.06, 0.03, 0.01, 0.0], dtype=torch.float64)
    counts, symbols = frequencies(probabilities), [0, 0, 4, 1, 0, 3, 0, 0, 0, 0, 2, 0]
    assert min(counts) == 1 and TOTAL - len(counts) <= sum(counts) <= TOTAL
    coder = Encoder()
    for symbol in symbols:
        assert coder.symbol(symbol, counts) == symbol and coder.number(symbol + 7, 1000) == symbol + 7
    digits = coder.digits(64)
    bits = sum(-float(torch.log2(torch.tensor(counts[symbol] / sum(counts)))) for symbol in symbols) + 12 * 9.97
    assert bits / 6 <= len(digits) + 1 <= bits / 6 + 2
    reader = Decoder(digits, 64)
    for symbol in symbols:
        assert reader.symbol(0, counts) == symbol and reader.number(0, 1000) == symbol + 7


@pytest.mark.parametrize(("prompt", "pages", "seed"), [(PROMPT, 6, 3), ("Ünï  <codes> 狐", 1, 0), ("a", 3, 2**63 - 1)])
def test_a_plan_survives_its_short_text(tiny_pipeline, short, prompt, pages, seed):
    plan = drawn(tiny_pipeline, prompt, pages, seed)
    text = short.write(plan)
    assert text is not None and is_short(text) and len(text) < len(plan.to_string()) and set(text[6:]) <= set(LETTERS)
    assert short.read(f" {text}\n") == plan and ShortTexts(tiny_pipeline).read(text) == plan


def test_likely_codes_take_fewer_characters(tiny_pipeline, short):
    codes = drawn(tiny_pipeline, temperature=0.0).codes
    mirrored = tuple(tuple(31 - code for code in row) for row in codes)
    usual = drawn(tiny_pipeline)
    likely, unlikely = (
        drawn_plan(PROMPT, rows, usual.codebook_size, usual.fingerprint, usual.settings) for rows in (codes, mirrored)
    )
    assert len(short.write(likely)) <= len(short.write(unlikely))


def test_only_a_story_as_it_was_drawn_has_a_short_text(tiny_pipeline, short, story):
    edited = redraw(tiny_pipeline, story, 1, seed=4).plan
    long = drawn(tiny_pipeline, "the fox and " * 20)
    for plan in (edited, long, drawn(tiny_pipeline, num_inference_steps=2), drawn(tiny_pipeline, temperature=0.9)):
        assert short.write(plan) is None


def test_any_damage_is_reported_in_one_line(tiny_pipeline, short):
    text = short.write(drawn(tiny_pipeline, pages=2))
    damaged = [text[:-1], text[:9] + text[10:], text + "ä", text + "A" * 2000, SHORT_PREFIX]
    for place in range(len(SHORT_PREFIX), len(text)):
        damaged.append(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    for one in damaged:
        with pytest.raises(UserError) as error:
            short.read(one)
        assert "copy the whole text again" in str(error.value) or "in story.json" in str(error.value)
        assert "\n" not in str(error.value)


def test_other_weights_are_named(tiny_pipeline, short, monkeypatch):
    text = short.write(drawn(tiny_pipeline, pages=1))
    monkeypatch.setattr(short, "fingerprint", "fedcba9876543210")
    with pytest.raises(UserError, match=f"begins with {tiny_pipeline.fingerprint()[:5]}, and --ckpt has fedcba98"):
        short.read(text)
