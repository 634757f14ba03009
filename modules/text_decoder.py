"""p(s | z): a GPT-2 with the storyboard's codes as a projected prefix (prefix-tuning, arXiv 2101.00190)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import ModelOutput

from modules.layers.seeding import seeded

Decoding = Literal["greedy", "beam", "top_p"]


@dataclass(frozen=True)
class TextDecoderConfig:
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    max_length: int = 40  # Tokens of a step's text, <bos> and <eos> included.


@dataclass
class TextDecoderOutput(ModelOutput):
    """`nll` (N, L-1) in nats a token, 0 where masked; `mask` (N, L-1) bool: the tokens that count, <eos> among them."""

    nll: Tensor = None
    mask: Tensor = None


class TextDecoder(nn.Module):
    """GPT2LMHeadModel over [S prefix vectors | <bos> text <eos>]."""

    def __init__(
        self, config: TextDecoderConfig, vocab_size: int, num_slots: int, code_dim: int, special_ids: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.config, self.num_slots = config, num_slots
        self.pad_id, self.bos_id, self.eos_id = special_ids
        self.to_prefix = nn.Linear(code_dim, config.dim)
        self.null_codes = nn.Parameter(torch.zeros(num_slots, code_dim))
        # Without a pad token in its config: `generate` is told of it, and GPT-2 would warn of padding that is only after <eos>.
        self.language_model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size,
                n_positions=num_slots + config.max_length,
                n_embd=config.dim,
                n_layer=config.num_layers,
                n_head=config.num_heads,
                n_inner=3 * config.dim,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=self.bos_id,
                eos_token_id=self.eos_id,
            )  # fmt: skip
        )

    def forward(self, code_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, null: Tensor | None = None) -> TextDecoderOutput:
        """code_embeds (N,S,d), input_ids and text_mask (N,L), null (N,) bool -> negative log-likelihood of every token after <bos>."""
        prefix = self.prefix_embeds(code_embeds, null)
        tokens = self.language_model.transformer.wte(input_ids[:, :-1])
        attention_mask = torch.cat([text_mask.new_ones(prefix.shape[:2]), text_mask[:, :-1]], dim=1)
        embeds = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
        out = self.language_model.transformer(inputs_embeds=embeds, attention_mask=attention_mask.long(), use_cache=False)
        logits = self.language_model.lm_head(out.last_hidden_state[:, self.num_slots :])
        mask = text_mask[:, 1:]
        nll = F.cross_entropy(logits.flatten(0, 1).float(), input_ids[:, 1:].flatten(), reduction="none").view_as(mask)
        return TextDecoderOutput(nll=nll * mask, mask=mask)

    def prefix_embeds(self, code_embeds: Tensor, null: Tensor | None = None) -> Tensor:
        """(N,S,d) -> (N,S,D); rows where `null` (N,) is True get the learned null codes."""
        if null is not None:
            code_embeds = torch.where(null[:, None, None], self.null_codes.to(code_embeds.dtype), code_embeds)
        return self.to_prefix(code_embeds)

    @torch.no_grad()
    def generate(
        self, code_embeds: Tensor, decoding: Decoding = "greedy", temperature: float = 1.0, top_p: float = 0.9,
        num_beams: int = 4, seed: int = 0,
    ) -> Tensor:  # fmt: skip
        """Decode the texts of N steps in one batch: code_embeds (N,S,d) -> ids (N, up to max_length - 1), padded after <eos>."""
        prefix = self.prefix_embeds(code_embeds)
        bos = self.language_model.transformer.wte(torch.full((len(prefix), 1), self.bos_id, device=prefix.device))
        embeds = torch.cat([prefix.to(bos.dtype), bos], dim=1)
        options = {
            "greedy": {"do_sample": False, "num_beams": 1},
            "beam": {"do_sample": False, "num_beams": num_beams},
            "top_p": {"do_sample": True, "top_p": top_p, "top_k": 0, "temperature": temperature},
        }[decoding]
        with seeded(seed):  # Hugging Face's `generate` takes no generator.
            ids = self.language_model.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
                max_new_tokens=self.config.max_length - 1, pad_token_id=self.pad_id, eos_token_id=self.eos_id, **options,
            )  # fmt: skip
        is_eos = ids == self.eos_id
        # Hugging Face's beam search takes a padding id of 0 for none, and pads with <eos>.
        return ids.masked_fill(is_eos.cumsum(1) > is_eos, self.pad_id)
