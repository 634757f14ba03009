"""Attention sinks and a window: what is kept, what it costs, and plans far longer than the window."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.layers.kv_cache import KVCache
from modules.layers.sink_cache import SinkCache
from modules.layers.transformer import Transformer
from modules.prior.config import ExpertsConfig, PriorConfig
from modules.prior.prior import Prior
from tests.support.tensors import CLOSE, differ, generator

DIM, SLOTS, VOCAB, CODES, WINDOW = 16, 2, 5, 7, 6  # A window of three steps.


def transformer(num_layers: int) -> Transformer:
    torch.manual_seed(0)
    layers = Transformer(DIM, num_layers, num_heads=2).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    return layers


def toy(num_layers: int = 2, **options) -> Prior:
    """Plans of two codes a step, with the same weights whatever the options, larger than at the start of training."""
    torch.manual_seed(0)
    config = PriorConfig(dim=DIM, code_dim=8, num_layers=num_layers, num_heads=2, dropout=0.0, **options)
    prior = Prior(config, VOCAB, CODES, SLOTS).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(6 if parameter.ndim == 2 else 1)
    return prior


def told(num_steps: int) -> dict[str, Tensor]:
    return {
        "codes": torch.randint(0, CODES, (2, num_steps, SLOTS), generator=generator(1)),
        "prompt_ids": torch.randint(0, VOCAB, (2, 4), generator=generator(2)),
        "prompt_mask": torch.tensor([[True] * 4, [True] * 2 + [False] * 2]),
        "step_mask": torch.ones(2, num_steps, dtype=torch.bool),
    }


# --- the cache


def test_attention_with_sinks_reads_the_cache_only():
    """One layer: its keys depend on the tokens alone, so the definition is attention to [sinks | latest] at positions
    0, 1, 2...
    """
    layer, x = transformer(1), torch.randn(2, 40, DIM, generator=generator(3))
    cache = SinkCache(1, capacity=9, num_sinks=3)
    for index in range(40):
        cache.make_room(1)
        out = layer(x[:, index : index + 1], None, torch.arange(cache.length + 1), cache)
        kept = torch.tensor([*range(min(3, index + 1)), *range(max(3, index - 5), index + 1)])
        expected = layer(
            x[:, kept], torch.ones(1, 1, len(kept), len(kept), dtype=torch.bool).tril(), torch.arange(len(kept))
        )
        torch.testing.assert_close(out, expected[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_sinks", [0, 2, 20])
def test_while_nothing_is_dropped_it_is_the_plain_cache(num_sinks):
    layers, x = transformer(3), torch.randn(2, 9, DIM, generator=generator(3))
    plain, sinks = KVCache(3, 9), SinkCache(3, capacity=9, num_sinks=num_sinks)
    for index in range(9):
        sinks.make_room(1)
        outs = [layers(x[:, index : index + 1], None, torch.arange(index + 1), cache) for cache in (plain, sinks)]
        assert torch.equal(*outs)
    assert sinks.length == plain.length == 9


def test_a_thousand_steps_hold_as_much_as_a_few():
    layers, cache = transformer(2), SinkCache(2, capacity=9, num_sinks=3)
    sizes = []
    for step in torch.randn(1000, 2, 1, 2, DIM, generator=generator(3)).flatten(1, 2):
        cache.make_room(2)
        mask = torch.ones(1, 1, 2, cache.length + 2, dtype=torch.bool).tril(cache.length)
        out = layers(step, mask, torch.arange(cache.length + 2), cache)
        sizes.append(
            (cache.length, *((layer.keys.data_ptr(), layer.keys.shape, layer.values.shape) for layer in cache.layers))
        )
        assert out.isfinite().all()
    assert sizes[4][0] == 9 and set(sizes[4:]) == {sizes[4]}


def test_what_can_never_fit_says_so():
    cache = SinkCache(1, capacity=5, num_sinks=3)
    transformer(1)(torch.zeros(1, 4, DIM), None, torch.arange(4), cache)
    with pytest.raises(ValueError, match="3 tokens do not fit after 3 sinks in a cache of 5"):
        cache.make_room(3)


# --- plans


@pytest.mark.parametrize("options", [{}, {"attention_window": WINDOW}, {"attention_window": 40}])
def test_stories_that_fit_are_scored_as_forward_does(options):
    prior, story = toy(**options), told(4)
    torch.testing.assert_close(prior.score(**story).nll, toy()(**story).nll.detach(), **CLOSE)
    torch.testing.assert_close(prior.score(**story).logits, toy()(**story).logits.detach(), **CLOSE)


def test_a_longer_story_differs_from_where_the_window_ends():
    prior, story = toy(attention_window=WINDOW), told(9)
    whole, windowed = prior(**story).logits.detach(), prior.score(**story).logits
    torch.testing.assert_close(windowed[:, :4], whole[:, :4], **CLOSE)
    assert all(differ(windowed[:, step], whole[:, step]) for step in range(4, 9))
    torch.testing.assert_close(toy(attention_window=18).score(**story).logits, whole, **CLOSE)


@pytest.mark.parametrize(("given", "num_samples"), [(0, 1), (2, 1), (4, 1), (5, 3), (9, 1)])
@pytest.mark.parametrize("sinks", [0, 1, 2])
def test_plans_are_drawn_from_what_is_scored(given, num_samples, sinks):
    prior, story = toy(attention_window=WINDOW, num_sink_steps=sinks), told(given)
    rows = 1 if num_samples > 1 else 2
    ids, mask, history = (story[name][:rows] for name in ("prompt_ids", "prompt_mask", "codes"))
    plan = prior.sample(ids, mask, 8, generator=generator(), codes=history if given else None, num_samples=num_samples)
    assert plan.codes.shape == (max(rows, num_samples), 8, SLOTS)
    codes = torch.cat([history.expand(len(plan.codes), -1, -1), plan.codes], dim=1)
    prompt = (part.expand(len(codes), -1) for part in (ids, mask))
    nll = prior.score(codes, *prompt, torch.ones(codes.shape[:2], dtype=torch.bool)).nll
    torch.testing.assert_close(plan.log_probs, -nll[:, given:], atol=1e-4, rtol=1e-4)


def test_only_prompt_first_step_and_window_are_seen():
    """One layer, so that what left the window cannot come back through what is in it."""
    prior, story = toy(num_layers=1, attention_window=WINDOW), told(12)
    last = prior.score(**story).logits[0, -1, -1]
    for step in range(12):
        other = {**story, "codes": story["codes"].clone()}
        other["codes"][0, step] = (other["codes"][0, step] + 3) % CODES
        changed = not torch.equal(prior.score(**other).logits[0, -1, -1], last)
        assert changed == (step == 0 or step >= 8), (
            step
        )  # Of step 8, the last code, and of step 11, all but that which is asked for.
    other = {**story, "prompt_ids": (story["prompt_ids"] + 1) % VOCAB}
    assert differ(prior.score(**other).logits[0, -1, -1], last)


def test_scores_need_neither_a_whole_prompt_nor_whole_stories():
    prior, story = toy(attention_window=WINDOW), told(9)
    story["step_mask"][1, 6:] = False
    alone = {name: value[1:] for name, value in story.items()}
    alone |= {"codes": alone["codes"][:, :6], "step_mask": alone["step_mask"][:, :6]}
    alone |= {name: alone[name][:, :2] for name in ("prompt_ids", "prompt_mask")}
    torch.testing.assert_close(prior.score(**story).nll[1, :6], prior.score(**alone).nll[0], **CLOSE)


def test_long_plans_cost_the_same_at_every_step():
    prior, seen = toy(num_layers=1, attention_window=WINDOW), []
    prior.transformer.register_forward_pre_hook(
        lambda module, args: seen.append((args[3].length, int(args[2].max()), args[1].shape))
    )
    story = told(1)
    codes = prior.sample(story["prompt_ids"], story["prompt_mask"], 300, generator=generator()).codes
    assert codes.shape == (2, 300, SLOTS) and len(codes.flatten(0, 1).unique(dim=0)) > 10
    steps = [seen[index : index + SLOTS] for index in range(0, len(seen), SLOTS)]
    assert len(steps) == 300 and all(step == steps[4] for step in steps[4:])
    assert (
        max(length for length, _, _ in seen) < 4 + 1 + SLOTS + WINDOW
        and max(position for _, position, _ in seen) <= SLOTS + WINDOW
    )


# --- the prior's other settings


@pytest.mark.parametrize(
    "options", [{"num_kv_heads": 1}, {"experts": ExpertsConfig(num_experts=4, num_shared_experts=1)}]
)
def test_grouped_queries_and_experts_plan_and_score_alike(options):
    prior, story = toy(**options), told(5)
    torch.testing.assert_close(prior.score(**story).nll, prior(**story).nll.detach(), **CLOSE)
    plan = prior.sample(
        story["prompt_ids"], story["prompt_mask"], 2, generator=generator(), codes=story["codes"][:, :3]
    )
    codes = torch.cat([story["codes"][:, :3], plan.codes], dim=1)
    torch.testing.assert_close(
        plan.log_probs, -prior(**{**story, "codes": codes}).nll[:, 3:].detach(), atol=1e-4, rtol=1e-4
    )


def test_expert_losses_and_loads_ignore_padding():
    prior, story = toy(experts=ExpertsConfig(num_experts=4, bias_rate=0.1)), told(5)
    story["step_mask"][1, 3:] = False
    out = prior(**story)
    assert (
        out.loads.sum(1) == 2 * (4 + 2 + 10 + 6)
    ).all()  # Two experts a token: prompts of 4 and 2, codes of 5 and 3 steps.
    other = {**story, "codes": torch.where(story["step_mask"][..., None], story["codes"], 3)}
    for name in ("load_balancing_loss", "router_z_loss", "loads"):
        torch.testing.assert_close(prior(**other)[name], out[name])
    prior.update(out.loads)
    expected = 0.1 * (out.loads.mean(1, keepdim=True) - out.loads).sign()
    torch.testing.assert_close(torch.stack([block.feed_forward.bias for block in prior.transformer.blocks]), expected)


def test_a_window_of_part_of_a_step_is_refused():
    with pytest.raises(ValueError, match="attention_window must be a multiple of the 2 codes of a step, got 3"):
        toy(attention_window=3)


@pytest.mark.parametrize("options", [{"attention_window": -2}, {"num_sink_steps": -1}])
def test_negative_window_and_sinks_are_refused(options):
    with pytest.raises(UserError, match=r"prior.(attention_window|num_sink_steps) must be from 0 to 65536, got -[12]"):
        toy(**options)
