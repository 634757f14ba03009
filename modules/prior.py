"""p(z_t | z_<t, c): a causal transformer over the flattened codes, with the prompt as its prefix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.layers.kv_cache import KVCache
from modules.layers.prefix import padding_left, prefix_attention
from modules.layers.transformer import Transformer
from modules.sampling import sample_logits


@dataclass(frozen=True)
class PriorConfig:
    dim: int = 256
    code_dim: int = 64  # Of the vector by which a code is read and written.
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    max_steps: int = 32  # Counts of steps left beyond this share one embedding.


@dataclass
class PriorOutput(ModelOutput):
    """`nll` (B, T, S) in nats a code; `logits` (B, T, S, K)."""

    nll: Tensor = None
    logits: Tensor = None


@dataclass
class PriorSample(ModelOutput):
    """`codes` (B, T, S) and their log-probabilities under the model, `log_probs` (B, T, S), in nats, at temperature 1."""

    codes: Tensor = None
    log_probs: Tensor = None


class Prior(nn.Module):
    """One sequence: [prompt tokens | BOS, z_1 ... z_T]. Prompt tokens see each other; a code sees the prompt and what came before it.

    Every position also knows which slot it predicts and how many steps are left, so that a story of any asked length
    comes to its end. The prompt stands left of position 0 (padding leftmost), so padding moves nothing. A code is read and
    written by one vector (arXiv 1608.05859), narrower than the transformer (arXiv 1909.11942): thousands of codes stay a small
    part of the weights.
    """

    def __init__(self, config: PriorConfig, vocab_size: int, codebook_size: int, num_slots: int) -> None:
        super().__init__()
        if config.dim % (2 * config.num_heads):
            raise ValueError(f"rotary positions need heads of an even width: dim {config.dim} is not a multiple of 2 x {config.num_heads}")
        self.config, self.num_slots = config, num_slots
        self.prompt_embed = nn.Embedding(vocab_size, config.dim)
        self.code_embed = nn.Embedding(codebook_size + 1, config.code_dim)  # The last one is BOS.
        self.from_code = nn.Linear(config.code_dim, config.dim, bias=False)
        self.to_code = nn.Linear(config.dim, config.code_dim, bias=False)
        self.slot_embed = nn.Embedding(num_slots, config.dim)
        self.steps_left_embed = nn.Embedding(config.max_steps, config.dim)
        self.transformer = Transformer(config.dim, config.num_layers, config.num_heads, config.dropout)
        for embedding in (self.prompt_embed, self.slot_embed, self.steps_left_embed):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.code_embed.weight, std=0.05)

    def forward(self, codes: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, step_mask: Tensor) -> PriorOutput:
        """codes (B,T,S), prompt (B,Lp), step_mask (B,T) -> nll of every code, p(z_1) included. Padded steps' values mean nothing."""
        steps, slots = codes.shape[1:]
        prefix, prefix_mask = self._prefix(prompt_ids, prompt_mask)
        x = torch.cat([prefix, self._code_inputs(codes.flatten(1), step_mask.sum(1))[:, :-1]], dim=1)
        mask, positions = prefix_attention(prefix_mask, x.shape[1])
        logits = self._to_logits(self.transformer(x, mask, positions)[:, prefix.shape[1] :])
        nll = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none")
        return PriorOutput(nll=nll.view(-1, steps, slots), logits=rearrange(logits, "b (t s) k -> b t s k", s=slots))

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        num_steps: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        codes: Tensor | None = None,
        num_samples: int = 1,
    ) -> PriorSample:
        """Plan `num_steps` steps after the given ones: prompt (B,Lp), codes (B,T0,S) or None -> new codes (B,num_steps,S).

        With `num_samples` > 1 the batch must be one story: its prompt is read once and that many plans come back.
        """
        slots, given = self.num_slots, 0 if codes is None else codes.shape[1]
        history = prompt_ids.new_zeros(len(prompt_ids), 0) if codes is None else codes.flatten(1)
        total = prompt_ids.new_full((len(prompt_ids),), given + num_steps)
        prefix, prefix_mask = self._prefix(prompt_ids, prompt_mask)
        x = torch.cat([prefix, self._code_inputs(history, total)], dim=1)
        cache = KVCache(self.config.num_layers, prefix.shape[1] + (given + num_steps) * slots)
        mask, positions = prefix_attention(prefix_mask, x.shape[1])
        hidden = self.transformer(x, mask, positions, cache)[:, -1:]
        if num_samples > 1:
            cache.expand(num_samples)
            hidden, prefix_mask, total = hidden.expand(num_samples, -1, -1), prefix_mask.expand(num_samples, -1), total.expand(num_samples)
        new_codes, log_probs = [], []
        for index in range(given * slots, (given + num_steps) * slots):
            if new_codes:
                x = self._code_input(new_codes[-1][:, None], torch.tensor([index], device=x.device), total)
                mask, positions = prefix_attention(prefix_mask, cache.length + 1, queries=1)
                hidden = self.transformer(x, mask, positions, cache)
            logits = self._to_logits(hidden[:, 0]).float()
            new_codes.append(sample_logits(logits, temperature, top_p, generator))
            log_probs.append(logits.log_softmax(-1).gather(-1, new_codes[-1][:, None])[:, 0])
        new_codes, log_probs = (torch.stack(columns, dim=1).unflatten(1, (num_steps, slots)) for columns in (new_codes, log_probs))
        return PriorSample(codes=new_codes, log_probs=log_probs)

    def _prefix(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed the prompt with its padding moved to the left: (B, Lp, D) and its mask (B, Lp)."""
        ids, mask = padding_left(prompt_ids, prompt_mask)
        return self.prompt_embed(ids), mask

    def _to_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return F.linear(self.to_code(hidden), self.code_embed.weight[:-1])

    def _code_inputs(self, flat: Tensor, num_steps: Tensor) -> Tensor:
        """Inputs at BOS and after each of M flattened codes (B, M): (B, M + 1, D). `num_steps` (B,) is each story's length."""
        bos = flat.new_full((len(flat), 1), self.code_embed.num_embeddings - 1)
        index = torch.arange(flat.shape[1] + 1, device=flat.device)
        return self._code_input(torch.cat([bos, flat], dim=1), index, num_steps)

    def _code_input(self, previous: Tensor, index: Tensor, num_steps: Tensor) -> Tensor:
        """previous (B, M): the code before each flat position `index` (M,) that is to be predicted."""
        steps_left = (num_steps[:, None] - 1 - index // self.num_slots).clamp(0, self.config.max_steps - 1)
        return self.from_code(self.code_embed(previous)) + self.slot_embed(index % self.num_slots) + self.steps_left_embed(steps_left)
