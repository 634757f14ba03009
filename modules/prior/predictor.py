"""The baselines of the prior: the decoders' input for a step, predicted from the prompt and the steps before it.

Given past steps, this is a next-step predictor on continuous slots; without them, the prompt alone conditions the
decoders. Nothing is quantised or drawn, so there is no likelihood: text and image losses train it through the decoders.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.layers.prefix import padding_left, prefix_attention
from modules.layers.transformer import Transformer
from modules.prior.config import PredictorConfig, check_heads


class Predictor(nn.Module):
    """One sequence: [prompt tokens | S positions for every step]. A step's positions contain the slots of the step
    before it and see the prompt, each other and earlier positions; the decoders read their outputs. The step itself is
    not an input.
    """

    def __init__(
        self, config: PredictorConfig, vocab_size: int, num_slots: int, code_dim: int, reads_steps: bool
    ) -> None:
        super().__init__()
        check_heads(config.dim, config.num_heads)
        self.config, self.num_slots = config, num_slots
        self.prompt_embed = nn.Embedding(vocab_size, config.dim)
        self.slot_embed = nn.Embedding(num_slots, config.dim)
        self.steps_left_embed = nn.Embedding(config.max_steps, config.dim)
        self.from_slots = nn.Linear(code_dim, config.dim, bias=False) if reads_steps else None
        self.transformer = Transformer(config.dim, config.num_layers, config.num_heads, config.dropout)
        self.to_slots = nn.Linear(config.dim, code_dim)
        self.norm = nn.LayerNorm(code_dim)  # Entries of unit variance, like those of codes' vectors.
        for module in self.children():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self, prompt_ids: Tensor, prompt_mask: Tensor, step_mask: Tensor, slots: Tensor | None = None
    ) -> Tensor:
        """Predict code_embeds (B,T,S,d) of every step from prompt (B,Lp), step_mask (B,T) and the slots (B,T,S,d) of
        the steps before it; `slots` is None in a model that reads no steps.

        A step's slots change nothing before it.
        """
        ids, prompt_mask = padding_left(prompt_ids, prompt_mask)
        inputs = self._step_inputs(step_mask, slots)
        x = torch.cat([self.prompt_embed(ids), inputs.flatten(1, 2)], dim=1)
        mask, positions = prefix_attention(prompt_mask, x.shape[1], block=self.num_slots)
        hidden = self.transformer(x, mask, positions)[:, ids.shape[1] :]
        return self.norm(self.to_slots(hidden)).view(*inputs.shape[:3], -1)

    def _step_inputs(self, step_mask: Tensor, slots: Tensor | None) -> Tensor:
        """Embed the slot number, the steps left and, after the first step, the slots of the step before: (B,T,S,D)."""
        index = torch.arange(step_mask.shape[1], device=step_mask.device)
        steps_left = (step_mask.sum(1, keepdim=True) - 1 - index).clamp(0, self.config.max_steps - 1)
        inputs = self.steps_left_embed(steps_left)[:, :, None] + self.slot_embed.weight
        if self.from_slots is None or slots is None:
            return inputs
        before = self.from_slots(slots[:, :-1])
        return inputs + torch.cat([torch.zeros_like(inputs[:, :1]), before.to(inputs.dtype)], dim=1)
