"""p(s | z): a causal language model with the storyboard's codes as a projected prefix (prefix-tuning, arXiv
2101.00190).

A GPT-2 from scratch reads the prefix as words that come first. A pretrained model reads it through gates that start at
zero, and through a side reader whose output starts at zero, so it starts as the model it was; keys and values for every
layer pass these gates in any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from modules.common.errors import UserError
from modules.common.outputs import REQUIRED
from modules.layers.losses import token_nats
from modules.layers.plan_window import PlanReader, PlanWindow
from modules.layers.row_groups import rows_of_like_length
from modules.layers.seeding import seeded
from modules.pretrained.freezing import enable_checkpointing
from modules.pretrained.libraries import GPT2Config, GPT2LMHeadModel
from modules.pretrained.lora import is_lora
from modules.pretrained.part import PretrainedPart
from modules.pretrained.source import PretrainedSource
from modules.text_decoder.config import Decoding, TextDecoderConfig
from modules.text_decoder.decoding import logits_processors, watched
from modules.text_decoder.gated_prefix import GatedPrefix, GatedPrefixCache, Prefix, admit_gated_prefix
from modules.text_decoder.kept_states import KeptStates
from modules.text_decoder.language_model import (
    SpecialIds,
    add_attention_lora,
    load_language_model,
    scratch_config,
    special_ids_of,
    without_words,
)
from modules.text_decoder.side_reader import SideReader


@dataclass
class TextDecoderOutput(ModelOutput):
    """`nll` (N, L-1) in nats a token, 0 where masked; `mask` (N, L-1) bool: the tokens that count, <eos> included."""

    nll: Tensor
    mask: Tensor = REQUIRED


class TextDecoder(PretrainedPart):
    """A causal language model over [plan around the page | S own codes | <bos> text <eos>]."""

    def __init__(
        self,
        config: TextDecoderConfig,
        vocab_size: int,
        num_slots: int,
        code_dim: int,
        special_ids: SpecialIds | None = None,
        source: PretrainedSource | None = None,
        reads_plan: bool = False,
    ) -> None:
        """`special_ids` are <pad>, <bos> and <eos>, by default those of the pretrained model's tokenizer; `source` is
        where that model is read from, by default the source that the config names. With `reads_plan` the prefix also
        contains the codes of the other pages.
        """
        super().__init__()
        self.config, self.num_slots = config, num_slots
        if not config.source:
            source = None
        elif source is None:
            source = PretrainedSource(config.source, "text_decoder.source")
        if special_ids is None:
            assert source is not None, "a language model from scratch needs special_ids"
            special_ids = special_ids_of(source.tokenizer)
        self.special_ids = special_ids
        self.pad_id, self.bos_id, self.eos_id = special_ids
        pretrained = None if source is None else load_language_model(source, vocab_size, config.max_length, special_ids)
        architecture = (
            scratch_config(config, vocab_size, num_slots, special_ids) if pretrained is None else pretrained.config
        )
        width = self._prepare_prefix(architecture, code_dim)
        self.to_prefix = nn.Linear(code_dim, width)
        self.null_codes = nn.Parameter(torch.zeros(num_slots, code_dim))
        read_dim = code_dim if config.prefix == "key_values" else width
        self.plan_reader = PlanReader(num_slots, code_dim, read_dim, config.plan_dim) if reads_plan else None
        self.language_model: Any = GPT2LMHeadModel(cast(GPT2Config, architecture)) if pretrained is None else pretrained
        self.kept_states = KeptStates(self.language_model)
        if config.is_gated:
            self._add_gates(architecture, code_dim)
        if config.tuning == "frozen":
            self.language_model.requires_grad_(False)
        elif config.tuning == "lora":
            add_attention_lora(self.language_model, config, config.source or "the model")
        if config.gradient_checkpointing:
            enable_checkpointing(self.language_model)
        self.train()

    def _prepare_prefix(self, architecture: PreTrainedConfig, code_dim: int) -> int:
        """Return the width of a prefix vector; prepare the shape of a prefix for every layer's keys and values."""
        width = architecture.hidden_size
        if self.config.prefix != "key_values":
            return width
        heads = architecture.num_attention_heads
        head_dim = getattr(architecture, "head_dim", None) or width // heads
        key_value_heads = getattr(architecture, "num_key_value_heads", None) or heads
        self.keys_values_shape = (architecture.num_hidden_layers, 2, key_value_heads, head_dim)
        # Keys and values have no positions, which would tell the slots apart.
        self.slot_embeds = nn.Parameter(0.02 * torch.randn(self.num_slots, code_dim))
        return torch.Size(self.keys_values_shape).numel()

    def _add_gates(self, architecture: PreTrainedConfig, code_dim: int) -> None:
        """Let the language model read the plan through gates, and beside its last hidden states."""
        shape = architecture.num_hidden_layers, architecture.num_attention_heads
        self.prefix_gate = nn.Parameter(torch.zeros(shape))
        self.side_reader = SideReader(architecture.hidden_size, code_dim, self.num_slots, self.config.plan_dim)
        admit_gated_prefix(self.language_model)

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of the language model's pretrained parameters."""
        if self.config.source:
            for name, _ in self.language_model.named_parameters(prefix="language_model", remove_duplicate=False):
                if not is_lora(name):
                    yield name

    def gate_names(self) -> Iterator[str]:
        """Yield the name of the gates through which the prefix enters, where there are any."""
        if self.config.is_gated:
            yield "prefix_gate"

    def forward(
        self,
        code_embeds: Tensor,
        input_ids: Tensor,
        text_mask: Tensor,
        null: Tensor | None = None,
        window: PlanWindow | None = None,
        hidden: Tensor | None = None,
    ) -> TextDecoderOutput:
        """Return the negative log-likelihood of every token after <bos>.

        code_embeds (N,S,d), input_ids and text_mask (N,L), null (N,) bool, the windows of the N steps; where `hidden`
        (N,L) is True, a token is predicted but not read (word dropout, arXiv 1511.06349).
        """
        read = input_ids if hidden is None else without_words(input_ids, hidden, self.pad_id)
        mask, may_keep = text_mask[:, 1:], self.training and self.config.is_gated and hidden is None
        nll = torch.zeros(mask.shape, device=mask.device)
        for rows, length in rows_of_like_length(text_mask):
            is_null, around = None if null is None else null[rows], None if window is None else window[rows]
            ids, seen, targets = read[rows, : length - 1], text_mask[rows, : length - 1], input_ids[rows, 1:length]
            kept = self.kept_states.in_place_of_layers(ids, seen, self.prefix_gate) if may_keep else nullcontext()
            with kept as nats:
                logits = self.logits(code_embeds[rows], ids, seen, is_null, around)
            nll[rows, : length - 1] = (nats or token_nats)(logits, targets)
        return TextDecoderOutput(nll=nll * mask, mask=mask)

    def logits(
        self,
        code_embeds: Tensor,
        input_ids: Tensor,
        text_mask: Tensor,
        null: Tensor | None = None,
        window: PlanWindow | None = None,
    ) -> Tensor:
        """Return the logits (N,L,V) of the token that follows each of the tokens (N,L) after the prefix."""
        inputs = self.inputs(self.prefix(code_embeds, null, window), input_ids, text_mask)
        return self.language_model(**inputs, use_cache=False, logits_to_keep=input_ids.shape[1]).logits

    def inputs(self, prefix: Prefix, input_ids: Tensor, text_mask: Tensor) -> dict[str, Any]:
        """Return the language model's keyword arguments for the prefix and for tokens and mask (N,L)."""
        vectors, prefix_mask, positions, codes = prefix
        tokens = self.language_model.get_input_embeddings()(input_ids)
        is_gated, text_positions = self.config.is_gated, torch.arange(input_ids.shape[1], device=input_ids.device)
        if is_gated:  # <bos> always counts: attention over nothing would be NaN.
            text_mask = text_mask | (text_positions == 0)
        if self.config.prefix == "key_values":
            # Not an index for each layer: the gradient of each would be as large as all of them.
            keys_values = vectors.unflatten(-1, self.keys_values_shape).unbind(2)
            outside = GatedPrefix(self.prefix_gate, 0, keys_values, prefix_mask, codes, self.side_reader)
            return {"inputs_embeds": tokens, "attention_mask": text_mask.long(), "gated_prefix": outside}
        # To a pretrained model the prefix is padding on the left: the positions of the text start at 0.
        text_positions = text_positions + (0 if is_gated else self.num_slots)
        seen = torch.zeros_like(prefix_mask) if is_gated else prefix_mask
        inputs = {
            "inputs_embeds": torch.cat([vectors.to(tokens.dtype), tokens], dim=1),
            "attention_mask": torch.cat([seen, text_mask], dim=1).long(),
            "position_ids": torch.cat([positions, text_positions]).expand(len(vectors), -1),
        }
        if not is_gated:
            return inputs
        gated = GatedPrefix(self.prefix_gate, vectors.shape[1], mask=prefix_mask, codes=codes, reader=self.side_reader)
        return {**inputs, "gated_prefix": gated}

    def prefix(self, code_embeds: Tensor, null: Tensor | None = None, window: PlanWindow | None = None) -> Prefix:
        """Project the plan around N steps and their own codes (N,S,d) to vectors, or to keys and values of all layers.

        Without a window each step is a story of one page. Rows where `null` (N,) is True get the learned null codes,
        and no plan.
        """
        null_codes = self.null_codes.to(code_embeds.dtype)
        own = code_embeds if null is None else torch.where(null[:, None, None], null_codes, code_embeds)
        codes = own if self.config.is_gated else None
        of_all_layers = self.config.prefix == "key_values"
        plan = own + self.slot_embeds.to(own.dtype) if of_all_layers else self.to_prefix(own)
        mask = torch.ones_like(own[..., 0], dtype=torch.bool)
        if self.plan_reader is not None:
            read, read_mask = self.plan_reader.read(code_embeds, window, null)
            plan, mask = torch.cat([read.to(plan.dtype), plan], dim=1), torch.cat([read_mask, mask], dim=1)
        vectors = self.to_prefix(plan) if of_all_layers else plan
        if self.config.is_gated and not self.prefix_gate.requires_grad:
            vectors = vectors.detach()  # Gates that stay as they are: see train_side_reader.
        # A code has the position of its slot, on whatever page: the text starts at the same position with any plan.
        slots = torch.arange(self.num_slots, device=own.device)
        return Prefix(vectors, mask, slots.repeat(plan.shape[1] // self.num_slots), codes)

    @torch.no_grad()
    def generate(
        self,
        code_embeds: Tensor,
        decoding: Decoding = "greedy",
        temperature: float = 1.0,
        top_p: float = 0.9,
        num_beams: int = 4,
        seed: int = 0,
        guidance_scale: float = 1.0,
        penalty_alpha: float = 0.0,
        top_k: int = 4,
        window: PlanWindow | None = None,
        on_token: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Decode the texts of N steps in one batch: code_embeds (N,S,d) -> ids (N, up to max_length - 1), padded after
        <eos>. Without a window each step is a story of one page.

        A `guidance_scale` above 1 leads away from the null codes' text (arXiv 2306.17806); a `penalty_alpha` above 0
        makes greedy search contrastive over `top_k` tokens (arXiv 2202.06417). Each reads the text anew at every token.
        `on_token` is called with the ids so far after every token, but for beams.
        Raises UserError where `penalty_alpha` is combined with another `decoding`.
        """
        if penalty_alpha and decoding != "greedy":
            raise UserError(f"penalty_alpha changes greedy decoding only, not {decoding}: leave one of the two out")
        bos = torch.full((len(code_embeds), 1), self.bos_id, device=code_embeds.device)
        prefix = self.prefix(code_embeds, None, window)
        inputs = self.inputs(prefix, bos, torch.ones_like(bos, dtype=torch.bool))
        choices: dict[Decoding, dict[str, Any]] = {
            "greedy": {"do_sample": False, "num_beams": 1},
            "beam": {"do_sample": False, "num_beams": num_beams},
            "top_p": {"do_sample": True, "top_p": top_p, "top_k": 0, "temperature": temperature},
        }
        if self.config.is_gated:
            gated, beams = inputs.pop("gated_prefix"), choices[decoding].get("num_beams", 1)
            inputs["past_key_values"] = GatedPrefixCache(self.language_model.config, gated, beams)
        with seeded(seed):  # `generate` of transformers takes no generator.
            ids = self.language_model.generate(
                **inputs,
                max_new_tokens=self.config.max_length - 1,
                pad_token_id=self.pad_id,
                eos_token_id=self.eos_id,
                logits_processor=logits_processors(self, code_embeds, window, guidance_scale, penalty_alpha, top_k),
                stopping_criteria=watched(on_token if decoding != "beam" else None),
                **choices[decoding],
            )
        is_eos = ids == self.eos_id
        # Beam search of transformers takes a padding id of 0 for none, and pads with <eos>.
        return ids.masked_fill(is_eos.cumsum(1) > is_eos, self.pad_id)

    def train(self, mode: bool = True) -> TextDecoder:
        """Set training mode; a frozen language model stays in evaluation mode."""
        super().train(mode)
        if self.config.tuning == "frozen":
            self.language_model.eval()
            for layer in self.language_model.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = mode  # Only layers in training mode are checkpointed; this adds no dropout.
        return self

    def train_side_reader(self) -> None:
        """Freeze all but the side reader and the null codes, where there is a side reader: no gradient crosses the
        language model, whose states of a text stay the same, and the encoder learns through a few layers.
        """
        if self.config.is_gated:
            self.language_model.eval()
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith(("side_reader.", "null_codes")))

    def save_lora(self, folder: str | Path) -> None:
        """Write the low-rank updates alone, as files that `peft.PeftModel.from_pretrained` reads.

        Raises UserError where there are none.
        """
        if self.config.tuning != "lora":
            raise UserError(f'there is no LoRA to save: text_decoder.tuning is {self.config.tuning!r}, not "lora"')
        self.language_model.save_pretrained(folder)
