"""Mixture of experts: many SwiGLU experts, of which each token uses a few (arXiv 2101.03961, 2401.06066)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.common.outputs import REQUIRED
from modules.layers.feed_forward import FeedForward


@dataclass
class MixtureOutput(ModelOutput):
    """`hidden` (..., D); `load_balancing_loss` and `router_z_loss`, each () and unweighted; `load` (E,) tokens sent to
    each expert.

    Padding counts in neither losses nor load. The loads of parts of a batch add up.
    """

    hidden: Tensor
    load_balancing_loss: Tensor = REQUIRED
    router_z_loss: Tensor = REQUIRED
    load: Tensor = REQUIRED


@dataclass
class Routing(ModelOutput):
    """For M tokens: router `logits` and `probabilities` (M,E), the chosen `experts` and their `weights` (M,top_k)."""

    logits: Tensor
    probabilities: Tensor = REQUIRED
    experts: Tensor = REQUIRED
    weights: Tensor = REQUIRED


class Experts(nn.Module):
    """E feed-forward layers; expert e is a `FeedForward` with the weights `to_hidden[e]` and `to_out[e]`."""

    def __init__(self, dim: int, hidden: int, num_experts: int) -> None:
        """Raises ValueError where a width is no multiple of 8."""
        super().__init__()
        if dim % 8 or hidden % 8:
            raise ValueError(
                "experts need widths that are multiples of 8 (grouped matrix products),"
                f" got dim {dim} and hidden {hidden}"
            )
        self.to_hidden = nn.Parameter(torch.empty(num_experts, 2 * hidden, dim).uniform_(-1, 1) * dim**-0.5)
        self.to_out = nn.Parameter(torch.empty(num_experts, dim, hidden).uniform_(-1, 1) * hidden**-0.5)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Apply the experts to tokens x (M,D) sorted by expert, `counts` (E,) for each: (M,D)."""
        device = x.device.type  # Autocast does not cover grouped products.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.to_out.dtype
        to_hidden, to_out = (weight.to(dtype).transpose(1, 2) for weight in (self.to_hidden, self.to_out))
        ends = counts.cumsum(0).to(torch.int32)
        value, gate = F.grouped_mm(x.to(dtype), to_hidden, offs=ends).chunk(2, dim=-1)
        return F.grouped_mm(value * F.silu(gate), to_out, offs=ends)


class MixtureOfExperts(nn.Module):
    """`top_k` of `num_experts` experts of width `mult * dim` for each token, and `num_shared_experts` for all tokens.

    Experts have no capacity: no token is dropped, and the rest of a batch never changes a token's result. Two means
    balance the experts: the load-balancing loss (arXiv 2101.03961), weighted by the caller, and with `bias_rate` above
    0 a bias on the choice that follows the load (arXiv 2408.15664). `forward` never changes the bias, `update` does, so
    a training update can be refused, repeated or shared by several processes.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int = 2,
        num_shared_experts: int = 0,
        mult: float = 1.0,
        bias_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be from 1 to num_experts, which is {num_experts}; got {top_k}")
        self.num_experts, self.top_k, self.bias_rate = num_experts, top_k, bias_rate
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.experts = Experts(dim, int(mult * dim), num_experts)
        # The experts that all tokens use are one expert of their total width.
        self.shared = FeedForward(dim, num_shared_experts * mult) if num_shared_experts else None
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(num_experts))

    def forward(self, x: Tensor, token_mask: Tensor | None = None) -> MixtureOutput:
        """Apply each token's experts: (..., D) -> (..., D). Where `token_mask` (...) is False a token is padding."""
        tokens = x.flatten(0, -2)
        routing = self.route(tokens)
        assigned = torch.zeros_like(routing.logits).scatter(1, routing.experts, 1.0)
        hidden = self._mix(tokens, routing, assigned.sum(0))
        if self.shared is not None:
            hidden = hidden + self.shared(tokens)
        if token_mask is None:
            counted = tokens.new_ones(len(tokens), dtype=torch.float32)
        else:
            counted = token_mask.flatten().float()
        load, total = counted @ assigned, counted.sum().clamp(min=1)
        mean_probabilities = counted @ routing.probabilities / total
        return MixtureOutput(
            hidden=hidden.view(x.shape),
            # 1 where all experts are equally busy.
            load_balancing_loss=self.num_experts / self.top_k * (load / total) @ mean_probabilities,
            router_z_loss=counted @ routing.logits.logsumexp(-1).square() / total,  # arXiv 2202.08906
            load=load,
        )

    def route(self, tokens: Tensor) -> Routing:
        """Choose experts and their weights for tokens (M,D), in float32: small differences decide."""
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(tokens.float(), self.router.weight.float())
            probabilities = logits.softmax(-1)
            experts = (probabilities.detach() + self.bias.float()).topk(self.top_k, sorted=False).indices
            weights = probabilities.gather(1, experts)
            if self.top_k > 1:  # A single weight stays below 1: a constant would give the router no gradient.
                weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits=logits, probabilities=probabilities, experts=experts, weights=weights)

    def _mix(self, tokens: Tensor, routing: Routing, counts: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts (M,D); pairs of token and expert are sorted by expert."""
        order = routing.experts.flatten().argsort(stable=True)
        out = self.experts(tokens[order // self.top_k], counts)
        pairs = out[order.argsort()].unflatten(0, (-1, self.top_k))
        return (pairs * routing.weights[..., None]).sum(1).to(out.dtype)

    @torch.no_grad()
    def update(self, load: Tensor) -> None:
        """Raise the bias of experts with less than their share of `load` (E,), summed over parts and processes."""
        load = load.to(self.bias)
        self.bias += self.bias_rate * (load.mean() - load).sign()
