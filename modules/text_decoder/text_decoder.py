"""p(s | z): a causal language model with the storyboard's codes as a projected prefix (prefix-tuning, arXiv
2101.00190).

A GPT-2 from scratch reads the prefix as words that come first. A pretrained model reads it through gates that start at
zero, and so begins as the model it was; keys and values for every layer go through these gates in any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput

from modules.common.errors import UserError
from modules.layers.seeding import seeded
from modules.pretrained.freezing import enable_checkpointing
from modules.pretrained.loading import load_config, load_pretrained, load_tokenizer
from modules.text_decoder.config import Decoding, TextDecoderConfig
from modules.text_decoder.decoding import ContrastiveLogitsProcessor, GuidanceLogitsProcessor
from modules.text_decoder.gated_prefix import GatedPrefix, GatedPrefixCache, admit_gated_prefix

WHAT = "text_decoder.source"  # What errors call the language model.


@dataclass
class TextDecoderOutput(ModelOutput):
    """`nll` (N, L-1) in nats a token, 0 where masked; `mask` (N, L-1) bool: the tokens that count, <eos> among them."""

    nll: Tensor = None
    mask: Tensor = None


class TextDecoder(nn.Module):
    """A causal language model over [S prefix vectors | <bos> text <eos>]."""

    def __init__(
        self,
        config: TextDecoderConfig,
        vocab_size: int,
        num_slots: int,
        code_dim: int,
        special_ids: tuple[int, int, int] | None = None,
        *,
        offline: bool = False,
        random: bool = False,
    ) -> None:
        """`special_ids` are <pad>, <bos> and <eos>, by default those of the pretrained model's tokenizer; `random`
        loads no weights.
        """
        super().__init__()
        self.config, self.num_slots = config, num_slots
        if special_ids is None:
            special_ids = special_ids_of(load_tokenizer(config.source, WHAT, offline=offline))
        self.pad_id, self.bos_id, self.eos_id = self.special_ids = special_ids
        pretrained = load_language_model(config, vocab_size, special_ids, offline, random) if config.source else None
        architecture = self._from_scratch(vocab_size) if pretrained is None else pretrained.config
        layers, heads = architecture.num_hidden_layers, architecture.num_attention_heads
        width = architecture.hidden_size
        if config.prefix == "key_values":
            head_dim = getattr(architecture, "head_dim", None) or width // heads
            self.keys_values_shape = (layers, 2, getattr(architecture, "num_key_value_heads", None) or heads, head_dim)
            width = torch.Size(self.keys_values_shape).numel()
            self.slot_embeds = nn.Parameter(
                0.02 * torch.randn(num_slots, code_dim)
            )  # They have no positions to be told apart by.
        self.to_prefix = nn.Linear(code_dim, width)
        self.null_codes = nn.Parameter(torch.zeros(num_slots, code_dim))
        self.language_model = GPT2LMHeadModel(architecture) if pretrained is None else pretrained
        if config.is_gated:
            self.prefix_gate = nn.Parameter(torch.zeros(layers, heads))
            admit_gated_prefix(self.language_model)
        if config.tuning == "frozen":
            self.language_model.requires_grad_(False)
        elif config.tuning == "lora":
            add_lora(self.language_model, config)
        if config.gradient_checkpointing:
            enable_checkpointing(self.language_model)
        self.train()

    def _from_scratch(self, vocab_size: int) -> GPT2Config:
        """Without a pad token: `generate` is told of it, and GPT-2 would warn of padding that is only after <eos>."""
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=self.num_slots + self.config.max_length,
            n_embd=self.config.dim,
            n_layer=self.config.num_layers,
            n_head=self.config.num_heads,
            n_inner=3 * self.config.dim,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=self.bos_id,
            eos_token_id=self.eos_id,
        )

    def forward(
        self, code_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, null: Tensor | None = None
    ) -> TextDecoderOutput:
        """code_embeds (N,S,d), input_ids and text_mask (N,L), null (N,) bool -> negative log-likelihood of every token
        after <bos>.
        """
        logits = self.logits(code_embeds, input_ids[:, :-1], text_mask[:, :-1], null)
        mask = text_mask[:, 1:]
        nll = F.cross_entropy(logits.flatten(0, 1).float(), input_ids[:, 1:].flatten(), reduction="none").view_as(mask)
        return TextDecoderOutput(nll=nll * mask, mask=mask)

    def logits(self, code_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, null: Tensor | None = None) -> Tensor:
        """Logits (N,L,V) of what follows each of the tokens (N,L) that come after the prefix."""
        inputs = self.inputs(code_embeds, input_ids, text_mask, null)
        return self.language_model(**inputs, use_cache=False, logits_to_keep=input_ids.shape[1]).logits

    def inputs(
        self, code_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, null: Tensor | None = None
    ) -> dict[str, Any]:
        """What the language model is called with, for the prefix and for tokens and mask (N,L)."""
        prefix, tokens = self.prefix_embeds(code_embeds, null), self.language_model.get_input_embeddings()(input_ids)
        if self.config.is_gated:
            text_mask = text_mask | (
                torch.arange(text_mask.shape[1], device=text_mask.device) == 0
            )  # Nothing to see would be NaN.
        if self.config.prefix == "key_values":
            keys_values = prefix.unflatten(-1, self.keys_values_shape).permute(0, 2, 3, 4, 1, 5)
            gated = GatedPrefix(self.prefix_gate, keys_values=keys_values)
            return {"inputs_embeds": tokens, "attention_mask": text_mask.long(), "gated_prefix": gated}
        is_seen = text_mask.new_full(prefix.shape[:2], not self.config.is_gated)
        inputs = {
            "inputs_embeds": torch.cat([prefix.to(tokens.dtype), tokens], dim=1),
            "attention_mask": torch.cat([is_seen, text_mask], dim=1).long(),
        }
        if (
            self.config.is_gated
        ):  # To the model itself the prefix is padding on the left: the text's positions start at 0.
            positions = [torch.arange(part.shape[1], device=input_ids.device) for part in (prefix, tokens)]
            inputs["position_ids"] = torch.cat(positions).expand(len(prefix), -1)
            inputs["gated_prefix"] = GatedPrefix(self.prefix_gate, length=self.num_slots)
        return inputs

    def prefix_embeds(self, code_embeds: Tensor, null: Tensor | None = None) -> Tensor:
        """(N,S,d) -> (N,S,D), or all layers' keys and values; rows where `null` (N,) is True get the learned null
        codes.
        """
        if null is not None:
            code_embeds = torch.where(null[:, None, None], self.null_codes.to(code_embeds.dtype), code_embeds)
        if self.config.prefix == "key_values":
            code_embeds = code_embeds + self.slot_embeds.to(code_embeds.dtype)
        return self.to_prefix(code_embeds)

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
    ) -> Tensor:
        """Decode the texts of N steps in one batch: code_embeds (N,S,d) -> ids (N, up to max_length - 1), padded after
        <eos>.

        A `guidance_scale` above 1 leads away from the null codes' text (arXiv 2306.17806); a `penalty_alpha` above 0
        makes greedy search contrastive over `top_k` tokens (arXiv 2202.06417). Each reads the text anew at every token.
        """
        if penalty_alpha and decoding != "greedy":
            raise UserError(f"penalty_alpha changes greedy decoding only, not {decoding}: leave one of the two out")
        bos = torch.full((len(code_embeds), 1), self.bos_id, device=code_embeds.device)
        inputs = self.inputs(code_embeds, bos, torch.ones_like(bos, dtype=torch.bool))
        options = {
            "greedy": {"do_sample": False, "num_beams": 1},
            "beam": {"do_sample": False, "num_beams": num_beams},
            "top_p": {"do_sample": True, "top_p": top_p, "top_k": 0, "temperature": temperature},
        }[decoding]
        if self.config.is_gated:
            prefix = inputs.pop("gated_prefix")
            inputs["past_key_values"] = GatedPrefixCache(
                self.language_model.config, prefix, options.get("num_beams", 1)
            )
        with seeded(seed):  # Hugging Face's `generate` takes no generator.
            ids = self.language_model.generate(
                **inputs,
                max_new_tokens=self.config.max_length - 1,
                pad_token_id=self.pad_id,
                eos_token_id=self.eos_id,
                logits_processor=self._processors(code_embeds, guidance_scale, penalty_alpha, top_k),
                **options,
            )
        is_eos = ids == self.eos_id
        # Hugging Face's beam search takes a padding id of 0 for none, and pads with <eos>.
        return ids.masked_fill(is_eos.cumsum(1) > is_eos, self.pad_id)

    def _processors(
        self, code_embeds: Tensor, guidance_scale: float, penalty_alpha: float, top_k: int
    ) -> LogitsProcessorList:
        def text(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Codes, tokens and mask of R rows of tokens (R,t) without <bos>; R is N times the number of beams or
            candidates.
            """
            tokens = F.pad(ids, (1, 0), value=self.bos_id)
            return (
                code_embeds.repeat_interleave(len(ids) // len(code_embeds), dim=0),
                tokens,
                torch.ones_like(tokens, dtype=torch.bool),
            )

        def unconditional(ids: Tensor) -> Tensor:
            return self.logits(*text(ids), null=ids.new_ones(len(ids), dtype=torch.bool))[:, -1]

        def hidden_states(ids: Tensor) -> Tensor:
            states = self.language_model.base_model(**self.inputs(*text(ids)), use_cache=False).last_hidden_state
            return states[:, -ids.shape[1] - 1 :]

        processors = LogitsProcessorList()
        if guidance_scale != 1:
            processors.append(GuidanceLogitsProcessor(unconditional, guidance_scale))
        if penalty_alpha:
            processors.append(ContrastiveLogitsProcessor(hidden_states, penalty_alpha, top_k))
        return processors

    @property
    def trained_names(self) -> list[str]:
        """The names of the parameters that train: the projection, the null codes, the gates, and what `tuning` says."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> TextDecoder:
        """As any module, but that a frozen language model stays in evaluation."""
        super().train(mode)
        if self.config.tuning == "frozen":
            self.language_model.eval()
            for layer in self.language_model.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = (
                        mode  # Transformers checkpoints layers that train; this flag alone wakes no dropout.
                    )
        return self

    def save_lora(self, folder: str | Path) -> None:
        """Write the low-rank updates alone, as files that `peft.PeftModel.from_pretrained` puts on the plain model."""
        if self.config.tuning != "lora":
            raise UserError(f'there is no LoRA to save: text_decoder.tuning is {self.config.tuning!r}, not "lora"')
        self.language_model.save_pretrained(folder)


def add_lora(language_model: PreTrainedModel, config: TextDecoderConfig) -> None:
    """Freeze the model and add low-rank updates (arXiv 2106.09685) to all that its attention projects with."""
    projections = {
        name: module for name, module in language_model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    paths = [name.split(".") for name in projections]
    targets = sorted(
        {".".join(path[-2:]) for path in paths if len(path) > 1 and ("attn" in path[-2] or "attention" in path[-2])}
    )
    if not targets:
        raise UserError(
            f"text_decoder.tuning: found no attention in {config.source or 'the model'} for LoRA: use full or frozen"
        )
    transposed = any(isinstance(module, Conv1D) for module in projections.values())
    language_model.add_adapter(
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            fan_in_fan_out=transposed,
        )
    )


def special_ids_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """<pad>, <bos> and <eos> of a pretrained tokenizer; where there is one for all, as in GPT-2, masks tell them apart."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no token for the end of a text: choose another language model"
        )
    return tuple(eos if index is None else index for index in (tokenizer.pad_token_id, tokenizer.bos_token_id, eos))


def vocabulary_of(config: TextDecoderConfig, *, offline: bool = False) -> int:
    """The number of token ids that the pretrained language model knows."""
    return load_config(AutoModelForCausalLM, config.source, WHAT, offline=offline).vocab_size


def load_language_model(
    config: TextDecoderConfig, vocab_size: int, special_ids: tuple[int, int, int], offline: bool, random: bool
) -> PreTrainedModel:
    """The pretrained language model, with no settings for generating but our own.

    Raises UserError where it does not fit.
    """
    model = load_pretrained(AutoModelForCausalLM, config.source, WHAT, offline=offline, random=random)
    for needed, name, limit in (
        (vocab_size, "vocabulary", model.get_input_embeddings().num_embeddings),
        (config.max_length, "longest text", getattr(model.config, "max_position_embeddings", config.max_length)),
    ):
        if needed > limit:
            raise UserError(f"{WHAT}: the {name} of {config.source} is {limit} tokens, {needed} are asked of it")
    pad, bos, eos = special_ids
    model.generation_config = GenerationConfig(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)
    return model
