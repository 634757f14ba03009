"""Mixture of experts: against a loop over tokens and experts, and what balances it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.layers.feed_forward import FeedForward
from modules.layers.moe import MixtureOfExperts
from tests.support.tensors import CLOSE

DIM, EXPERTS = 16, 6


def mixture(seed: int = 0, **options) -> MixtureOfExperts:
    torch.manual_seed(seed)
    layer = MixtureOfExperts(DIM, **{"num_experts": EXPERTS, **options})
    with torch.no_grad():
        layer.router.weight.normal_()  # Decided tokens, of very different probabilities.
    return layer


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed))


def swiglu(x: Tensor, to_hidden: Tensor, to_out: Tensor) -> Tensor:
    value, gate = (to_hidden @ x).chunk(2)
    return to_out @ (value * F.silu(gate))


def looped(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """The definition: token by token, expert by expert."""
    rows = []
    for token in x.flatten(0, -2):
        probabilities = (layer.router.weight @ token).softmax(-1)
        chosen = sorted(range(EXPERTS), key=lambda expert: -(probabilities[expert] + layer.bias[expert]).item())[
            : layer.top_k
        ]
        total = sum(probabilities[expert] for expert in chosen) if layer.top_k > 1 else 1.0
        out = sum(
            probabilities[expert] / total * swiglu(token, layer.experts.to_hidden[expert], layer.experts.to_out[expert])
            for expert in chosen
        )
        if layer.shared is not None:
            out = out + swiglu(token, layer.shared.to_hidden.weight, layer.shared.to_out.weight)
        rows.append(out)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"top_k": 3, "num_shared_experts": 2}, {"top_k": EXPERTS, "mult": 0.5}]
)
@pytest.mark.parametrize("biased", [False, True])
def test_outputs_and_gradients_are_those_of_a_loop(options, biased):
    layer, x = mixture(**options), tokens(3, 7).requires_grad_()
    if biased:
        layer.bias.copy_(
            torch.tensor([5.0, -5.0, 0.3, 0.0, -0.3, 0.1])
        )  # One expert always, one (but for top_k = all) never.
    target = tokens(3, 7, seed=2)
    wanted = [x, *layer.parameters()]
    found, expected = layer(x).hidden, looped(layer, x)
    torch.testing.assert_close(found, expected, **CLOSE)
    gradients = [torch.autograd.grad((out - target).square().sum(), wanted) for out in (found, expected)]
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_one_expert_is_the_dense_layer():
    layer = mixture(num_experts=1, top_k=1, mult=2.0)
    dense = FeedForward(DIM)
    dense.load_state_dict(
        {"to_hidden.weight": layer.experts.to_hidden[0].detach(), "to_out.weight": layer.experts.to_out[0].detach()}
    )
    torch.testing.assert_close(layer(tokens(2, 5)).hidden, dense(tokens(2, 5)), **CLOSE)


def test_several_shared_experts_are_one_that_is_as_wide():
    layer, x = mixture(num_shared_experts=3), tokens(4)
    to_hidden = layer.shared.to_hidden.weight.view(2, 3, DIM, DIM)  # Value and gate, experts, width, D.
    to_out = layer.shared.to_out.weight.view(DIM, 3, DIM)
    apart = [[swiglu(token, to_hidden[:, index].flatten(0, 1), to_out[:, index]) for token in x] for index in range(3)]
    alone = mixture(num_shared_experts=0)
    alone.load_state_dict({name: value for name, value in layer.state_dict().items() if not name.startswith("shared")})
    torch.testing.assert_close(layer(x).hidden - alone(x).hidden, sum(torch.stack(rows) for rows in apart), **CLOSE)


def test_losses_and_load_are_those_of_their_papers():
    layer, x = mixture(), tokens(40)
    logits = x @ layer.router.weight.T
    probabilities = logits.softmax(-1)
    counts = torch.zeros(EXPERTS)
    for expert in probabilities.topk(2).indices.flatten():
        counts[expert] += 1
    out = layer(x)
    assert torch.equal(out.load, counts) and out.load.sum() == 80
    torch.testing.assert_close(out.load_balancing_loss, EXPERTS * (counts / 80 * probabilities.mean(0)).sum())
    torch.testing.assert_close(out.router_z_loss, logits.exp().sum(-1).log().square().mean())
    (gradient,) = torch.autograd.grad(out.load_balancing_loss, layer.router.weight)
    assert gradient.abs().max() > 0


def test_the_balancing_loss_is_one_for_equal_loads_else_more():
    layer = mixture(top_k=1)
    with torch.no_grad():
        layer.router.weight.copy_(10 * torch.eye(EXPERTS, DIM))
    equal = torch.eye(DIM)[:EXPERTS]
    assert layer(equal).load_balancing_loss.item() == pytest.approx(1, abs=1e-5)
    assert layer(equal[:1].expand(9, -1)).load_balancing_loss.item() == pytest.approx(EXPERTS, rel=1e-2)


def test_padding_counts_nowhere():
    layer, x = mixture(num_shared_experts=1), tokens(2, 9)
    there = torch.arange(9) < torch.tensor([[9], [4]])
    alone = layer(x[there])
    for padding in (x, torch.full_like(x, 7.0), -x):
        out = layer(torch.where(there[..., None], x, padding), there)
        torch.testing.assert_close(out.hidden[there], alone.hidden, **CLOSE)
        assert torch.equal(out.load, alone.load) and out.load.sum() == 2 * 13
        for name in ("load_balancing_loss", "router_z_loss"):
            torch.testing.assert_close(out[name], alone[name])
    nothing = layer(x, torch.zeros_like(there))
    assert nothing.load.sum() == 0 and nothing.router_z_loss == 0 and nothing.load_balancing_loss == 0


def test_an_expert_that_no_token_chose_gets_a_gradient_of_zero():
    layer = mixture(top_k=1)
    layer.bias[2] = 9
    layer(tokens(5)).hidden.square().sum().backward()
    reached = layer.experts.to_out.grad.abs().amax((1, 2)) > 0
    assert reached.tolist() == [expert == 2 for expert in range(EXPERTS)]


def test_only_update_moves_the_bias_which_affects_the_choice():
    layer, x = mixture(bias_rate=0.1), tokens(30)
    before = layer(x)
    assert not layer.bias.any()
    layer.update(torch.tensor([20.0, 0.0, 10.0, 10.0, 15.0, 5.0]))
    torch.testing.assert_close(layer.bias, torch.tensor([-0.1, 0.1, 0.0, 0.0, -0.1, 0.1]))
    assert layer(x).load[1] > before.load[1]
    assert torch.equal(layer.route(x).probabilities, layer.route(x).logits.softmax(-1))


@pytest.mark.parametrize("bias_rate", [0.0, 0.005])
def test_loss_free_balancing_evens_out_a_skewed_load(bias_rate):
    layer, x = mixture(bias_rate=bias_rate), tokens(200) + tokens(1, seed=5)  # All tokens lean to one side.
    with torch.no_grad():
        layer.router.weight.mul_(0.2)  # Probabilities that a bias can compete with.
    first = layer(x).load
    for _ in range(100):
        layer.update(layer(x).load)
    spread = (layer(x).load.max() / layer(x).load.mean()).item()
    assert first.max() / first.mean() > 1.6
    assert spread < 1.25 if bias_rate else spread > 1.6


def test_routing_stays_in_float32_under_autocast():
    layer, x = mixture(top_k=1), tokens(64)
    with torch.autocast("cpu", torch.bfloat16):
        out, routing = layer(x), layer.route(x)
    assert out.hidden.dtype == torch.bfloat16 and routing.logits.dtype == torch.float32
    assert torch.equal(out.load, layer(x).load) and torch.equal(routing.weights, layer.route(x).weights)
    torch.testing.assert_close(out.hidden.float(), layer(x).hidden, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"), [({"top_k": 7}, "from 1 to num_experts, which is 6; got 7"), ({"mult": 0.3}, "of 8")]
)
def test_what_cannot_be_built_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(**options)
