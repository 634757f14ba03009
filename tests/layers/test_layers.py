"""Networks that know nothing of stories: positions, attention, cache, transformer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.layers.attention import Attention, CrossAttention
from modules.layers.feed_forward import FeedForward
from modules.layers.kv_cache import KVCache, LayerCache
from modules.layers.rope import rotary_angles, rotate
from modules.layers.transformer import Transformer

DIM, HEADS, LENGTH = 16, 2, 9


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    layers = Transformer(DIM, num_layers=3, num_heads=HEADS).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    return layers


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, LENGTH, DIM, generator=torch.Generator().manual_seed(1))


def causal(length: int = LENGTH) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool).tril()


def scores(query: Tensor, key: Tensor, positions: Tensor) -> Tensor:
    angles = rotary_angles(positions, query.shape[-1])
    return rotate(query, angles) @ rotate(key, angles).transpose(-1, -2)


# --- rotary positions


@pytest.mark.parametrize("shift", [-100, -5, 3, 1000])
def test_rotary_scores_depend_on_distance_alone(shift):
    query, key = torch.randn(2, 1, 2, 6, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    positions = torch.arange(6) - 3
    here = scores(query, key, positions)
    torch.testing.assert_close(scores(query, key, positions + shift), here, atol=1e-3, rtol=0)
    assert (scores(query, key, positions * 2) - here).abs().max() > 0.1


def test_rotation_keeps_lengths_and_position_zero_and_turns_back():
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5)
    turned = rotate(x, rotary_angles(positions, 8))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0]) and not torch.allclose(turned[:, :, 1], x[:, :, 1])
    torch.testing.assert_close(rotate(turned, rotary_angles(-positions, 8)), x)


# --- attention


@pytest.mark.parametrize("with_positions", [True, False])
def test_a_causal_transformer_is_causal_by_gradient(transformer, x, with_positions):
    positions = torch.arange(LENGTH) - 4 if with_positions else None
    x.requires_grad_()
    out = transformer(x, causal(), positions)
    for index in range(LENGTH):
        (gradient,) = torch.autograd.grad(out[0, index].square().sum(), x, retain_graph=True)
        reached = gradient.abs().amax(-1)
        assert (reached[0, : index + 1] > 0).all()
        assert (reached[0, index + 1 :] == 0).all() and (reached[1] == 0).all()


def test_what_is_masked_is_as_if_it_were_not_there(transformer, x):
    keep = torch.tensor([True] * 6 + [False] * 3)
    mask = keep.expand(2, 1, 1, LENGTH)
    cropped = transformer(x[:, :6], None, torch.arange(6))
    garbage = torch.where(keep[:, None], x, 100 * torch.randn_like(x))
    for padded in (x, garbage):
        torch.testing.assert_close(
            transformer(padded, mask, torch.arange(LENGTH))[:, :6], cropped, atol=1e-5, rtol=1e-5
        )
    assert not torch.allclose(transformer(garbage, None, torch.arange(LENGTH))[:, :6], cropped, atol=1e-2)


def test_order_is_known_through_positions_alone(transformer, x):
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(transformer(x[:, order]), transformer(x)[:, order], atol=1e-5, rtol=1e-5)
    positions = torch.arange(LENGTH)
    assert not torch.allclose(
        transformer(x[:, order], None, positions), transformer(x, None, positions)[:, order], atol=1e-2
    )


def test_attention_is_softmax_of_normalised_queries_and_keys():
    torch.manual_seed(0)
    attention = Attention(8, num_heads=1)
    x = torch.randn(1, 4, 8)
    query, key, value = attention.to_qkv(x)[0].chunk(3, dim=-1)
    weights = (attention.query_norm(query) @ attention.key_norm(key).T / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention(x, None)[0], attention.to_out(weights @ value), atol=1e-6, rtol=1e-5)


def test_grouped_queries_equal_attention_with_repeated_keys(x):
    """Heads 0 and 1 read the first head of keys and values, heads 2 and 3 the second."""
    torch.manual_seed(0)
    grouped, full = Attention(DIM, num_heads=4, num_kv_heads=2), Attention(DIM, num_heads=4)
    query, key, value = grouped.to_qkv.weight.split((16, 8, 8))
    repeated = [part.view(2, 4, DIM).repeat_interleave(2, dim=0).flatten(0, 1) for part in (key, value)]
    full.load_state_dict({**grouped.state_dict(), "to_qkv.weight": torch.cat([query, *repeated])})
    assert list(grouped.state_dict()) == list(full.state_dict())
    arguments = (x, causal(), torch.arange(LENGTH))
    torch.testing.assert_close(grouped(*arguments), full(*arguments), atol=1e-6, rtol=1e-5)
    cache = LayerCache(LENGTH)
    torch.testing.assert_close(grouped(*arguments, cache), full(*arguments), atol=1e-6, rtol=1e-5)
    assert cache.keys.shape == cache.values.shape == (2, 2, LENGTH, 4)
    with pytest.raises(ValueError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        Attention(DIM, num_heads=4, num_kv_heads=3)


def test_cross_attention_normalises_queries_and_keys():
    torch.manual_seed(0)
    attention, x, context = CrossAttention(8, context_dim=6, num_heads=1), torch.randn(1, 4, 8), torch.randn(1, 5, 6)
    query, (key, value) = attention.to_query(x)[0], attention.to_key_value(context)[0].chunk(2, dim=-1)
    weights = (attention.query_norm(query) @ attention.key_norm(key).T / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention(x, context)[0], attention.to_out(weights @ value), atol=1e-6, rtol=1e-5)


def test_cross_attention_reads_nothing_that_is_masked():
    torch.manual_seed(0)
    attention, x = CrossAttention(8, context_dim=6, num_heads=2), torch.randn(3, 4, 8, requires_grad=True)
    context, mask = torch.randn(3, 5, 6), torch.arange(5) < torch.tensor([[5], [2], [0]])
    out = attention(x, context, mask)
    torch.testing.assert_close(out[0], attention(x[:1], context[:1])[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out[1], attention(x[1:2], context[1:2, :2])[0], atol=1e-6, rtol=1e-5)
    assert (out[2] == 0).all()
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters()) and x.grad.isfinite().all()


def test_feed_forward_is_swiglu():
    torch.manual_seed(0)
    layer = FeedForward(8, mult=3)
    x = torch.randn(5, 8)
    value, gate = x @ layer.to_hidden.weight[:24].T, x @ layer.to_hidden.weight[24:].T
    torch.testing.assert_close(layer(x), (value * gate * gate.sigmoid()) @ layer.to_out.weight.T)


def test_dropout_acts_in_training_only(x):
    layers = Transformer(DIM, 1, HEADS, dropout=0.5)
    assert not torch.equal(layers.train()(x), layers(x))
    assert torch.equal(layers.eval()(x), layers(x))


# --- key-value cache


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [5, 1, 1, 2], [8, 1]])
def test_cached_decoding_equals_the_full_forward(transformer, x, chunks):
    positions = torch.arange(LENGTH) - 3
    cache, out = KVCache(3, LENGTH), []
    for size in chunks:
        start, end = cache.length, cache.length + size
        out.append(transformer(x[:, start:end], causal()[:, :, start:end, :end], positions[:end], cache))
    assert cache.length == LENGTH
    torch.testing.assert_close(torch.cat(out, dim=1), transformer(x, causal(), positions), atol=1e-5, rtol=1e-5)


def test_an_expanded_cache_goes_on_for_many(transformer, x):
    cache = KVCache(3, LENGTH)
    transformer(x[:1, :6], causal(6), torch.arange(6), cache)
    cache.repeat_interleave(4)
    ends = torch.randn(4, 1, DIM, generator=torch.Generator().manual_seed(3))
    out = transformer(ends, None, torch.arange(7), cache)
    for row in range(4):
        alone = transformer(torch.cat([x[:1, :6], ends[row : row + 1]], dim=1), causal(7), torch.arange(7))[:, -1:]
        torch.testing.assert_close(out[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_full_cache_says_so():
    cache = LayerCache(4)
    cache.append(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    with pytest.raises(ValueError, match="has room for 4 tokens, got 5"):
        cache.append(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert cache.length == 3


# --- mixture of experts in the blocks


@pytest.fixture
def mixture() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        DIM, num_layers=2, num_heads=HEADS, experts={"num_experts": 4, "top_k": 2, "bias_rate": 0.1}
    ).eval()


def test_losses_and_loads_of_experts_leave_the_transformer(mixture, x):
    there = torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]])
    out = mixture.forward_with_losses(x, causal(), torch.arange(LENGTH), token_mask=there)
    assert torch.equal(out.hidden, mixture(x, causal(), torch.arange(LENGTH)))
    assert out.loads.shape == (2, 4) and (out.loads.sum(1) == 2 * there.sum()).all()
    routers = [block.feed_forward.router.weight for block in mixture.blocks]
    for loss in (out.load_balancing_loss, out.router_z_loss):
        assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(loss, routers, retain_graph=True))
    dense = Transformer(DIM, 2, HEADS).forward_with_losses(x)
    assert list(dense.keys()) == ["hidden"]


def test_loads_move_each_layers_own_bias(mixture):
    mixture.update(torch.tensor([[4.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 8.0]]))
    biases = torch.stack([block.feed_forward.bias for block in mixture.blocks])
    torch.testing.assert_close(biases, torch.tensor([[-0.1, 0.1, 0.0, 0.0], [0.1, 0.1, 0.1, -0.1]]))


def test_cached_decoding_with_experts_equals_the_full_forward(mixture, x):
    cache, positions = KVCache(2, LENGTH), torch.arange(LENGTH)
    rows = [mixture(x[:, i : i + 1], None, positions[: i + 1], cache) for i in range(LENGTH)]
    torch.testing.assert_close(torch.cat(rows, dim=1), mixture(x, causal(), positions), atol=1e-5, rtol=1e-5)
