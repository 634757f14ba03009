"""Texts as sequences of vectors: pretrained text encoders (BERT, ...) with their tokenizers, and embedded tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.common.errors import UserError
from modules.layers.row_groups import rows_of_like_length
from modules.pretrained.freezing import prepare_training, set_modes
from modules.pretrained.part import PretrainedPart
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import TextEncoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PART = "storyboard.text_encoder"
BATCH = 64  # Texts that `sentences` reads at a time.


class PretrainedTextEncoder(PretrainedPart):
    """Contextual token vectors from a pretrained text encoder; frozen layers never leave eval mode."""

    def __init__(self, config: TextEncoderConfig, source: PretrainedSource | None = None) -> None:
        """`source` is by default the one that the config names. Raises UserError where it cannot be loaded."""
        super().__init__()
        self.config, self.source = config, source or PretrainedSource(config.source, f"{PART}.source")
        from transformers import AutoModelForTextEncoding

        self.model = cast("PreTrainedModel", self.source.load(AutoModelForTextEncoding, add_pooling_layer=False))
        self.trained = prepare_training(self.model, config.trainable_layers, config.gradient_checkpointing, PART)

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of all parameters."""
        return (name for name, _ in self.named_parameters(remove_duplicate=False))

    @property
    def width(self) -> int:
        """D', the width of the vectors that `forward` returns."""
        return self.model.config.hidden_size

    def words(self, input_ids: Tensor) -> Tensor:
        """Return the vectors of the tokens (N,L) without their context: (N,L,D'')."""
        return self.model.get_input_embeddings()(input_ids)

    @property
    def vocab_size(self) -> int:
        """The number of tokens that it has vectors of."""
        return self.model.config.vocab_size

    @property
    def word_width(self) -> int:
        """D'', the width of the vectors that `words` returns."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).embedding_dim

    @cached_property
    def tokenizer(self) -> EncoderTokenizer:
        """The tokenizer of the same source. Raises UserError where it cannot be loaded."""
        return EncoderTokenizer(self.config, self.source)

    def forward(self, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Encode ids of `EncoderTokenizer` (N,L) with their mask (N,L) bool -> (N,L,D'); masked rows mean nothing."""
        # A row without text attends to its first token: attention over nothing is NaN, which no mask removes from a
        # gradient.
        seen = text_mask.clone()
        seen[:, 0] |= ~text_mask.any(1)
        groups = list(rows_of_like_length(seen))
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained)):
            encoded = [
                self.model(input_ids=input_ids[rows, :length], attention_mask=seen[rows, :length].long())
                for rows, length in groups
            ]
            vectors = encoded[0].last_hidden_state.new_zeros(*input_ids.shape, self.width)
            for (rows, length), output in zip(groups, encoded, strict=True):
                vectors[rows, :length] = output.last_hidden_state
        return vectors

    @torch.no_grad()
    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Return the meaning of N texts, on the CPU: unit vectors (N,D'), the direction of the mean of the tokens'."""
        device, vectors = self.model.device, list[Tensor]()
        for ids, mask in zip(
            *(part.to(device).split(BATCH) for part in self.tokenizer.encode_batch(texts)), strict=True
        ):
            vectors.append(sentence_vectors(self(ids, mask), mask).cpu())
        return torch.cat(vectors)

    def train(self, mode: bool = True) -> PretrainedTextEncoder:
        super().train(mode)
        set_modes(self.model, self.trained, mode)
        return self


def sentence_vectors(features: Tensor, mask: Tensor) -> Tensor:
    """Return the direction of the mean of each text's vectors (N,L,D), of those in `mask` (N,L): unit vectors (N,D), or
    zeros for a text without any.
    """
    weights = mask[..., None].to(features.dtype)
    mean = (features * weights).sum(1) / weights.sum(1).clamp(min=1)
    return F.normalize(mean.float(), dim=-1).to(mean.dtype)


class EncoderTokenizer:
    """The tokenizer that belongs to a pretrained text encoder."""

    def __init__(self, config: TextEncoderConfig, source: PretrainedSource | None = None) -> None:
        """`source` is by default the one that the config names. Raises UserError where the tokenizer does not fit."""
        from transformers import AutoModelForTextEncoding

        self.config, source = config, source or PretrainedSource(config.source, f"{PART}.source")
        self.tokenizer, model = source.tokenizer, source.config_for(AutoModelForTextEncoding)
        longest = min(getattr(model, "max_position_embeddings", config.max_length), self.tokenizer.model_max_length)
        if config.max_length > longest:
            raise UserError(
                f"{PART}: max_length {config.max_length} is more than the {longest} tokens that {config.source} reads:"
                " lower it"
            )
        if len(self.tokenizer) > model.vocab_size:
            raise UserError(
                f"{source.what}: {config.source} has a tokenizer of {len(self.tokenizer)} tokens and weights for"
                f" {model.vocab_size}: they do not belong together; copy or fetch it anew"
            )
        if self.tokenizer.pad_token is None:
            raise UserError(
                f"{source.what}: the tokenizer in {config.source} has no padding token: choose an encoder whose"
                " tokenizer has one"
            )

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, none of which is cut."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids)

    def encode_batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise N texts: ids (N,L) int64 and their mask (N,L) bool, padded and cut to L = max_length."""
        encoded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.config.max_length, return_tensors="pt"
        )
        return encoded.input_ids, encoded.attention_mask.bool()


class TokenEncoder(nn.Module):
    """Embeds token ids (N,L) with learned positions: (N,L,D). The fusion transformer contextualises them."""

    def __init__(self, vocab_size: int, max_length: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.position = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids) + self.position[: input_ids.shape[1]]
