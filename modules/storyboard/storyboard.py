"""q(z | s, x): a step's text and picture, fused and quantised into S storyboard codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.layers.transformer import Transformer
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import StoryboardConfig
from modules.storyboard.image_encoders import LatentPatchEncoder, PretrainedImageEncoder, ScratchImageEncoder
from modules.storyboard.quantizer import VectorQuantizer
from modules.storyboard.text_encoders import PretrainedTextEncoder, TokenEncoder


@dataclass
class StoryboardOutput(ModelOutput):
    """`code_embeds` (N,S,d) straight-through; `slots` (N,S,d) before quantising; `codes` and `commitment_loss` (N,S)
    once active.

    The codebook is placed on and follows `vectors` (N,V,d) where `vector_mask` (N,V) is True.
    """

    code_embeds: Tensor = None
    slots: Tensor | None = None
    codes: Tensor | None = None
    commitment_loss: Tensor | None = None
    vectors: Tensor | None = None
    vector_mask: Tensor | None = None


class Storyboard(nn.Module):
    """Learned queries read picture and text in one bidirectional transformer; each query's output is one slot.

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
        self.from_image = self.from_text = nn.Identity()
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
            self.from_text = nn.Linear(self.text_encoder.width, config.dim)
        else:
            self.text_encoder = TokenEncoder(vocab_size, max_text_length, config.dim)
        # Small queries: a large one drowns what its slot reads, and all steps look alike to the codebook.
        self.queries = nn.Parameter(torch.randn(config.num_slots, config.dim) * 0.02)
        self.fusion = Transformer(config.dim, config.num_layers, config.num_heads)
        self.to_slots = nn.Linear(config.dim, config.codebook_dim)
        self.quantizer = VectorQuantizer(
            config.codebook_dim, config.codebook_size, config.codebook_decay, config.dead_code_threshold
        )

    def sequence(
        self,
        latents: Tensor,
        image_mask: Tensor,
        input_ids: Tensor,
        text_mask: Tensor,
        pixels: Tensor | None = None,
        encoder_ids: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A step's text and then its picture as V vectors (N,V,D), and which of them are there (N,V).

        latents (N,c,h,w) or, where `pictures` are read otherwise, pixels (N,3,H,W), with image_mask (N,); input_ids and
        text_mask (N,L) and, for a pretrained text encoder, its own tokens encoder_ids and encoder_mask (N,Le). What
        frozen encoders say of both may be given in advance: image_features (N,P,D'), text_features (N,Le,D').
        """
        if self.config.text_encoder.source:
            features = self.text_encoder(encoder_ids, encoder_mask) if text_features is None else text_features
            tokens = self.from_text(features)
            text_mask = encoder_mask & text_mask.any(1, keepdim=True)
        else:
            tokens = self.text_encoder(input_ids)
        if image_features is None:
            image_features = self.image_encoder(latents if self.config.pictures == "latents" else pixels)
        patches = self.from_image(image_features)
        mask = torch.cat([text_mask, image_mask[:, None].expand(patches.shape[:2])], dim=1)
        dtype = self.to_slots.weight.dtype
        return torch.cat([tokens.to(dtype), patches.to(dtype)], dim=1), mask

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What `sequence` takes -> slots (N,S,d). A masked modality is never looked at."""
        vectors, mask = self.sequence(*inputs, **more)
        queries = self.queries.expand(len(vectors), -1, -1)
        mask = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
        fused = self.fusion(torch.cat([queries, vectors], dim=1), mask[:, None, None, :])
        return self.to_slots(fused[:, : self.config.num_slots])

    def forward(self, *inputs: Tensor, **more: Tensor) -> StoryboardOutput:
        """Encode N steps, as `sequence` takes them, and quantise.

        The codebook is not changed here: see `VectorQuantizer.update`.
        """
        slots = self.encode(*inputs, **more)
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
        """What the decoders get for given codes (N, S)."""
        return StoryboardOutput(code_embeds=self.quantizer.embed(codes), codes=codes)
