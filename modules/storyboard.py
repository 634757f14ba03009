"""q(z | s, x): a step's text and picture, fused and quantised into S storyboard codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.encoders import LatentPatchEncoder, TokenEncoder
from modules.layers.transformer import Transformer
from modules.layers.vector_quantizer import VectorQuantizer


@dataclass(frozen=True)
class StoryboardConfig:
    dim: int = 256
    num_layers: int = 3
    num_heads: int = 4
    patch_size: int = 2
    num_slots: int = 8
    pooling: str = "queries"  # Or "majority_vote": see majority_vote.py.
    codebook_size: int = 4096
    codebook_dim: int = 32
    codebook_decay: float = 0.99
    dead_code_threshold: float = 0.1  # A code used less than this fraction of the mean is revived.


@dataclass
class StoryboardOutput(ModelOutput):
    """`code_embeds` (N,S,d) straight-through; `slots` (N,S,d) before quantising; `codes` and `commitment_loss` (N,S) once active.

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

    def __init__(self, config: StoryboardConfig, vocab_size: int, max_text_length: int, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = LatentPatchEncoder(latent_shape, config.patch_size, config.dim)
        self.text_encoder = TokenEncoder(vocab_size, max_text_length, config.dim)
        # Small queries: a large one drowns what its slot reads, and all steps look alike to the codebook.
        self.queries = nn.Parameter(torch.randn(config.num_slots, config.dim) * 0.02)
        self.fusion = Transformer(config.dim, config.num_layers, config.num_heads)
        self.to_slots = nn.Linear(config.dim, config.codebook_dim)
        self.quantizer = VectorQuantizer(config.codebook_dim, config.codebook_size, config.codebook_decay, config.dead_code_threshold)

    def encode(self, latents: Tensor, image_mask: Tensor, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Latents (N,c,h,w), image_mask (N,), input_ids and text_mask (N,L) -> slots (N,S,d).

        A masked modality is never looked at.
        """
        tokens = self.text_encoder(input_ids)
        queries = self.queries.expand(len(tokens), -1, -1)
        patches = self.image_encoder(latents).to(queries.dtype)
        keys = [text_mask.new_ones(queries.shape[:2]), text_mask, image_mask[:, None].expand(patches.shape[:2])]
        fused = self.fusion(torch.cat([queries, tokens, patches], dim=1), torch.cat(keys, dim=1)[:, None, None, :])
        return self.to_slots(fused[:, : self.config.num_slots])

    def forward(self, latents: Tensor, image_mask: Tensor, input_ids: Tensor, text_mask: Tensor) -> StoryboardOutput:
        """Encode and quantise N steps. The codebook is not changed here: see `VectorQuantizer.update`."""
        slots = self.encode(latents, image_mask, input_ids, text_mask)
        quantized = self.quantizer(slots)
        return StoryboardOutput(
            code_embeds=quantized.embeds, slots=slots, codes=quantized.codes, commitment_loss=quantized.commitment_loss,
            vectors=slots, vector_mask=torch.ones_like(slots[..., 0], dtype=torch.bool),
        )  # fmt: skip

    def embed(self, codes: Tensor) -> StoryboardOutput:
        """What the decoders get for given codes (N, S)."""
        return StoryboardOutput(code_embeds=self.quantizer.embed(codes), codes=codes)
