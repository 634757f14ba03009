"""Scores equal the terms of the bound; searches rank, obey and differ; alternatives show one code's doing."""

from __future__ import annotations

import math

import pytest
import torch

from modules.common.errors import UserError
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import plan_nats as bound_plan_nats
from modules.generation.scoring import other_orders, text_nats
from modules.generation.settings import GenerationSettings
from modules.steering.alternatives import alternatives, code_probabilities, distinct_codes
from modules.steering.beam import draw_beam
from modules.steering.drafts import read_drafts
from modules.steering.plan import Plan
from modules.steering.planned_story import open_story, replay
from modules.steering.score import score
from modules.steering.search import Constraints, search
from modules.story import StoryStep
from modules.storyworld import StoryWorld

PROMPT = "Rusty the fox wants a kite"
SETTINGS = GenerationSettings(seed=1, num_inference_steps=2, temperature=1.0)


def test_bits_and_nats_are_the_terms_of_the_bound(tiny_pipeline):
    world = StoryWorld(1, image_size=32)
    own = open_story(tiny_pipeline, world[0])
    scores = score(tiny_pipeline, own)
    stories, codes = EncodedStories(world, tiny_pipeline.model, tiny_pipeline.tokenizer), torch.tensor(own.plan.codes)
    nats = bound_plan_nats(tiny_pipeline, stories, 0, codes[None])[0]
    assert [page.bits for page in scores.pages] == pytest.approx((nats / math.log(2)).tolist(), rel=1e-4)
    embeds = tiny_pipeline.embed(codes)
    output = tiny_pipeline.model.text_decoder(
        embeds, stories.input_ids, stories.text_mask, window=tiny_pipeline.model.window(embeds, [len(codes)])
    )
    assert [page.text_nats for page in scores.pages] == pytest.approx(output.nll.sum(1).tolist(), rel=1e-4)
    assert text_nats(tiny_pipeline, own.to_output())[1].tolist() == output.mask.sum(1).tolist()


def test_a_score_adds_up(tiny_pipeline, story):
    scores = score(tiny_pipeline, story)
    assert sum(page.surprise for page in scores.pages) == pytest.approx(0, abs=1e-6)
    for page, bits in zip(scores.pages, story.to_output().bits, strict=True):
        assert page.bits == pytest.approx(sum(page.code_bits)) == pytest.approx(bits, rel=1e-3)
        assert 0 <= page.agreement <= 1 and 0 <= page.from_text <= 1
    assert scores.num_orders == 20 and 0 <= scores.order <= 1
    assert scores.totals()["bits"] == pytest.approx(sum(page.bits for page in scores.pages))


def test_other_orders_are_different_and_not_the_own():
    assert len(other_orders(3, 0)) == 5 and len(set(other_orders(9, 0))) == 20
    assert tuple(range(9)) not in other_orders(9, 0) and other_orders(1, 0) == []


def test_a_draft_that_shows_the_text_ranks_first(tiny_pipeline):
    codes = tiny_pipeline.plan(PROMPT, 2, 3, num_plans=3).codes
    texts = [tiny_pipeline.render(plan, settings=SETTINGS)[0] for plan in codes]
    read = read_drafts(tiny_pipeline, codes, texts, SETTINGS)
    assert read.scores.tolist() == (read.fit - read.text_nats / 50).tolist() and len(read.scores) == 3
    assert (read.fit.abs() <= 1).all() and (read.text_nats > 0).all()
    short = read_drafts(tiny_pipeline, codes, [["A kite."] * 2] * 3, SETTINGS)
    assert torch.equal(short.fit, read.fit) and (short.scores > read.scores).all()  # The pictures leave less unsaid.
    alone = read_drafts(tiny_pipeline, codes[1:2], texts[1:2], SETTINGS)
    assert alone.scores.tolist() == pytest.approx(read.scores[1:2].tolist(), abs=1e-2)  # Its own noise, in any batch.


def test_plans_are_ranked_and_can_be_replayed(tiny_pipeline):
    plans = search(tiny_pipeline, PROMPT, 3, num_plans=24, keep=4, settings=SETTINGS)
    scores = [ranked.score for ranked in plans]
    assert len(plans) == 4 and scores == sorted(scores, reverse=True)
    assert len({ranked.plan.codes for ranked in plans}) == 4
    assert search(tiny_pipeline, PROMPT, 3, num_plans=24, keep=4, settings=SETTINGS) == plans
    assert replay(tiny_pipeline, plans[1].plan).texts == plans[1].texts
    assert plans[0].bits == pytest.approx(sum(replay(tiny_pipeline, plans[0].plan).to_output().bits), rel=1e-3)


def test_a_beam_goes_on_from_the_likeliest_beginnings(tiny_pipeline):
    fixed = torch.full((3, 8), -1)
    fixed[1, 4] = 30
    codes, log_probs = draw_beam(tiny_pipeline, PROMPT, fixed, 12, 3, SETTINGS)
    assert 3 < len(codes) == len(codes.flatten(1).unique(dim=0)) <= 12 and (codes[:, 1, 4] == 30).all()
    assert len(codes[:, :2].flatten(1).unique(dim=0)) <= 3
    first = tiny_pipeline.plan(
        PROMPT, 3, num_plans=12, fixed=fixed, settings=SETTINGS
    )  # Its pages 2 and 3 are dropped.
    likeliest = first.log_probs[:, 0].sum(1).topk(3).indices
    kept = {tuple(row) for row in first.codes[likeliest, 0].tolist()}
    assert {tuple(row) for row in codes[:, 0].tolist()} <= kept
    again = tiny_pipeline.model.prior.score(
        codes,
        *(row.expand(len(codes), -1) for row in tiny_pipeline.prompt_tokens(PROMPT)),
        torch.ones(len(codes), 3) > 0,
    )
    assert torch.allclose(log_probs, -again.nll, atol=1e-3)
    plans = search(tiny_pipeline, PROMPT, 3, num_plans=12, keep=2, settings=SETTINGS, beam=3)
    assert replay(tiny_pipeline, plans[0].plan).texts == plans[0].texts


def test_constraints_are_met(tiny_pipeline):
    codes = {(0, 2): 5, (2, 7): 9}
    plans = search(tiny_pipeline, PROMPT, 3, 12, 3, Constraints(codes=codes), SETTINGS)
    assert all(ranked.plan.codes[page][slot] == code for ranked in plans for (page, slot), code in codes.items())
    word = plans[0].texts[0].split()[0].strip(".,!")
    having = search(tiny_pipeline, PROMPT, 3, 12, 3, Constraints(must=(word,), codes=codes), SETTINGS)
    assert all(word.lower() in " ".join(ranked.texts).lower() for ranked in having)
    with pytest.raises(UserError, match="none of 12 plans satisfies the wishes"):
        search(tiny_pipeline, PROMPT, 3, 12, 3, Constraints(must=("zebra",)), SETTINGS)


def test_pages_told_in_words_keep_them_and_are_planned_around(tiny_pipeline):
    told = {0: "A fox has a kite.", 2: "The fox sleeps."}
    plans = search(tiny_pipeline, PROMPT, 3, 12, 2, Constraints(pages=told), SETTINGS)
    read = tiny_pipeline.encode([StoryStep(text) for text in told.values()]).tolist()
    for ranked in plans:
        assert [list(ranked.plan.codes[page]) for page in told] == read
        assert (ranked.texts[0], ranked.texts[2]) == tuple(told.values())
        assert ranked.plan.origins == ("encoded", "drawn", "encoded") and ranked.plan.text_from == (None, 0, None)
        story = replay(tiny_pipeline, Plan.from_string(ranked.plan.to_string()))
        assert story.texts == ranked.texts
    having = search(tiny_pipeline, PROMPT, 3, 12, 1, Constraints(must=("sleeps",), pages=told), SETTINGS)
    assert having[0].texts[2] == told[2]
    for pages, message in (
        ({1: " "}, "text of page 2 is empty"),
        ({0: "A fox."}, "page 1 has both a text and a fixed code"),
    ):
        with pytest.raises(UserError, match=message):
            Constraints(codes={(0, 1): 3}, pages=pages)


def test_fixed_codes_change_no_draw_before_them(tiny_pipeline):
    fixed = torch.full((3, 8), -1)
    free = tiny_pipeline.plan(PROMPT, 3, 4, num_plans=5)
    assert torch.equal(tiny_pipeline.plan(PROMPT, 3, 4, num_plans=5, fixed=fixed).codes, free.codes)
    fixed[1, 4] = 30
    some = tiny_pipeline.plan(PROMPT, 3, 4, num_plans=5, fixed=fixed).codes
    assert torch.equal(some[:, 0], free.codes[:, 0]) and (some[:, 1, 4] == 30).all()


def test_twins_of_a_code_are_no_alternatives(tiny_pipeline):
    probabilities = torch.linspace(0, 1, 32).softmax(0)
    assert distinct_codes(tiny_pipeline, probabilities, 4, 2) == [4, 31, 30]
    book = tiny_pipeline.model.storyboard.quantizer.codebook
    kept = book.clone()
    try:
        book[31], book[29] = book[4], 2 * book[30]
        assert distinct_codes(tiny_pipeline, probabilities, 4, 2) == [4, 30, 28]
        book[:] = book[:1]
        assert distinct_codes(tiny_pipeline, probabilities, 4, 2) == [4]
    finally:
        book.copy_(kept)


def test_alternatives_are_the_priors_likeliest(tiny_pipeline, story):
    found = alternatives(tiny_pipeline, story, 2, 5, count=3)
    probabilities = code_probabilities(tiny_pipeline, story.plan, 2, 5)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert found[0].code == story.plan.codes[2][5] and found[0].text == story.texts[2]
    others = [other.probability for other in found[1:]]
    assert others == sorted(others, reverse=True) and len({other.code for other in found}) == len(found) == 4
    assert found[1].probability >= float(probabilities.sort(descending=True).values[1])
    own = story.images[2].tobytes()
    assert max(abs(a - b) for a, b in zip(found[0].image.tobytes(), own, strict=True)) <= 1  # Another batch.
    assert any(other.image.tobytes() != found[0].image.tobytes() for other in found[1:])
    with pytest.raises(UserError, match="slot 9 does not exist"):
        alternatives(tiny_pipeline, story, 2, 8)
