"""q(z | s, x): a step's text and image, fused and quantised into S storyboard codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.batch import StepInputs
from modules.layers.row_groups import pool_present
from modules.layers.transformer import Transformer
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import StoryboardConfig
from modules.storyboard.image_encoders import LatentPatchEncoder, PretrainedImageEncoder, ScratchImageEncoder
from modules.storyboard.quantizer import VectorQuantizer
from modules.storyboard.text_encoders import PretrainedTextEncoder, TokenEncoder, sentence_vectors

SENTENCE_SCALE = 1.5  # At first a slot tells the sentence; what `to_slots` adds is 0.6 in size.


@dataclass
class StoryboardOutput(ModelOutput):
    """The decoders' input `code_embeds` (N,S,d), straight-through, and where it comes from.

    `slots` (N,S,d) before quantising; `codes` and `commitment_loss` (N,S), None while the quantiser is inactive. The
    codebook is fitted to, and follows, `vectors` (N,V,d) where `vector_mask` (N,V) is True.
    """

    code_embeds: Tensor
    slots: Tensor | None = None
    codes: Tensor | None = None
    commitment_loss: Tensor | None = None
    vectors: Tensor | None = None
    vector_mask: Tensor | None = None


class Storyboard(nn.Module):
    """Learned queries read image and text in one bidirectional transformer; each query's output is one slot.

    Pooling comes before quantising, so the quantiser needs no mask and every code has seen both modalities.
    """

    def __init__(
        self,
        config: StoryboardConfig,
        vocab_size: int,
        max_text_length: int,
        latent_shape: tuple[int, int, int],
        sources: Mapping[str, PretrainedSource] | None = None,
    ) -> None:
        """`sources` are those of pretrained encoders, by their name in a config; by default those that it names."""
        super().__init__()
        self.config, sources = config, sources or {}
        self.image_encoder: LatentPatchEncoder | PretrainedImageEncoder | ScratchImageEncoder
        self.text_encoder: TokenEncoder | PretrainedTextEncoder
        self.from_image: nn.Module = nn.Identity()
        self.from_text: nn.Module = nn.Identity()
        self.from_sentence: nn.Linear | None = None
        if config.pictures == "latents":
            self.image_encoder = LatentPatchEncoder(latent_shape, config.patch_size, config.dim)
        else:
            pretrained = config.pictures == "pretrained"
            self.image_encoder = (
                PretrainedImageEncoder(config.image_encoder, sources.get("storyboard.image_encoder"))
                if pretrained
                else ScratchImageEncoder(config.pixel_encoder)
            )
            self.from_image = nn.Linear(self.image_encoder.width, config.dim)
        if config.text_encoder.source:
            self.text_encoder = PretrainedTextEncoder(config.text_encoder, sources.get("storyboard.text_encoder"))
            width, word_width = self.text_encoder.width, 0
            if config.text_encoder.shortcuts:
                word_width = self.text_encoder.word_width
                self.from_sentence = nn.Linear(width, config.num_slots * config.codebook_dim, bias=False)
                nn.init.orthogonal_(self.from_sentence.weight, SENTENCE_SCALE)
            self.from_text = nn.Linear(width + word_width, config.dim)
        else:
            self.text_encoder = TokenEncoder(vocab_size, max_text_length, config.dim)
        # Small queries: a large one drowns what its slot reads, and all steps look alike to the codebook.
        self.queries: nn.Parameter | None = nn.Parameter(torch.randn(config.num_slots, config.dim) * 0.02)
        self.fusion = Transformer(config.dim, config.num_layers, config.num_heads)
        self.to_slots = nn.Linear(config.dim, config.codebook_dim)
        self.quantizer = VectorQuantizer(
            config.codebook_dim, config.codebook_size, config.codebook_decay, config.dead_code_threshold
        )

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the fields of `StepInputs` that this encoder reads of N texts beside the text decoder's tokens."""
        if not isinstance(self.text_encoder, PretrainedTextEncoder):
            return {}
        ids, mask = self.text_encoder.tokenizer.encode_batch(texts)
        return {"encoder_ids": ids, "encoder_mask": mask}

    def frozen_encoders(self) -> dict[str, PretrainedImageEncoder | PretrainedTextEncoder]:
        """Return the pretrained encoders none of whose layers train, by the name of their config."""
        encoders = {"image_encoder": self.image_encoder, "text_encoder": self.text_encoder}
        return {
            name: encoder
            for name, encoder in encoders.items()
            if isinstance(encoder, PretrainedImageEncoder | PretrainedTextEncoder)
            and not encoder.config.trainable_layers
        }

    def sequence(self, steps: StepInputs) -> tuple[Tensor, Tensor]:
        """Return each step's text followed by its image as V vectors (N,V,D), and which of them are present (N,V)."""
        tokens, text_mask = self._tokens(steps)
        patches = self._patches(steps)
        mask = torch.cat([text_mask, steps.image_mask[:, None].expand(patches.shape[:2])], dim=1)
        dtype = self.to_slots.weight.dtype
        return torch.cat([tokens.to(dtype), patches.to(dtype)], dim=1), mask

    def _tokens(self, steps: StepInputs) -> tuple[Tensor, Tensor]:
        """Return the text's vectors (N,L,D) and their mask; a frozen encoder's output may have been computed before."""
        if not isinstance(self.text_encoder, PretrainedTextEncoder):
            return self.text_encoder(steps.input_ids), steps.text_mask
        features = self.with_text_features(steps).text_features
        assert features is not None and steps.encoder_mask is not None
        if self.from_sentence is not None:  # A sentence encoder's last states describe sentences better than words.
            assert steps.encoder_ids is not None
            both = (features, self.text_encoder.words(steps.encoder_ids))
            features = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in both], dim=-1)
        return self.from_text(features), steps.encoder_mask & steps.text_mask.any(1, keepdim=True)

    def _patches(self, steps: StepInputs) -> Tensor:
        """Return the image's vectors (N,P,D); a frozen encoder's output may have been computed before."""
        if steps.image_features is not None:
            return self.from_image(steps.image_features)
        pictures = steps.latents if self.config.pictures == "latents" else steps.pixels
        return self.from_image(self.image_encoder(pictures))

    def encode(self, steps: StepInputs) -> Tensor:
        """Return the slots (N,S,d) of N steps. A masked modality is never looked at."""
        steps = self.with_text_features(steps)
        slots = pool_present(self.pool, *self.sequence(steps))
        return slots if self.from_sentence is None else slots + self._of_sentence(steps).view_as(slots)

    def encode_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the slots (N,S,d) of texts (N,L), by the tokens that this encoder reads, without pictures."""
        if isinstance(self.text_encoder, TokenEncoder):
            longest = len(self.text_encoder.position)
            ids, mask = ids[:, :longest], mask[:, :longest]
        width = self.config.dim if isinstance(self.image_encoder, LatentPatchEncoder) else self.image_encoder.width
        blank = self.to_slots.weight.new_zeros(len(ids), 1, width)
        absent = torch.zeros_like(mask[:, 0])
        steps = StepInputs(latents=blank, image_features=blank, image_mask=absent, input_ids=ids, text_mask=mask)
        return self.encode(replace(steps, encoder_ids=ids, encoder_mask=mask))

    def with_text_features(self, steps: StepInputs) -> StepInputs:
        """Return the steps with the output of the pretrained text encoder, if there is one."""
        if not isinstance(self.text_encoder, PretrainedTextEncoder) or steps.text_features is not None:
            return steps
        return replace(steps, text_features=self.text_encoder(steps.encoder_ids, steps.encoder_mask))

    def _of_sentence(self, steps: StepInputs) -> Tensor:
        """Return a linear view of each text's meaning (N,S*d), the mean of its vectors; zeros without a text.

        Slots begin as views of it: what a sentence encoder knows to be alike begins alike in the plan.
        """
        features, words = steps.text_features, steps.encoder_mask
        assert self.from_sentence is not None and features is not None and words is not None
        sentences = sentence_vectors(features, words & steps.text_mask.any(1, keepdim=True))
        return self.from_sentence(sentences * sentences.shape[-1] ** 0.5)

    def pool(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the slots (N,S,d) of vectors (N,V,D) that are present where `mask` (N,V) is True."""
        assert self.queries is not None
        queries = self.queries.expand(len(vectors), -1, -1)
        mask = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
        fused = self.fusion(torch.cat([queries, vectors], dim=1), mask[:, None, None, :])
        return self.to_slots(fused[:, : self.config.num_slots])

    def forward(self, steps: StepInputs) -> StoryboardOutput:
        """Encode N steps and quantise them. The codebook is not changed here: see `VectorQuantizer.update`."""
        slots = self.encode(steps)
        quantized = self.quantizer(slots)
        return StoryboardOutput(
            code_embeds=quantized.embeds,
            slots=slots,
            codes=quantized.codes,
            commitment_loss=quantized.commitment_loss,
            vectors=slots,
            vector_mask=torch.ones_like(slots[..., 0], dtype=torch.bool),
        )

    def embed(self, codes: Tensor) -> StoryboardOutput:
        """Return the decoders' input for given codes (N,S)."""
        return StoryboardOutput(code_embeds=self.quantizer.embed(codes), codes=codes)
