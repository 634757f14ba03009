"""A cosine codebook (arXiv 2110.04627) with explicit EMA updates (VQ-VAE, arXiv 1711.00937), around vector-quantize-
pytorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from modules.layers.seeding import seeded


@dataclass
class QuantizerOutput(ModelOutput):
    """`embeds` (..., d) straight-through vectors, `codes` (...) or None while continuous, `commitment_loss` (...) a
    vector.
    """

    embeds: Tensor = None
    codes: Tensor | None = None
    commitment_loss: Tensor | None = None


class VectorQuantizer(nn.Module):
    """K unit vectors of d dimensions; what leaves is scaled by sqrt(d), so that its entries have unit variance.

    Two things differ from calling the library directly, both so that an update can be refused, repeated or shared by
    several processes: `forward` never changes the codebook, `update` does; and the quantiser starts switched off
    (continuous unit vectors pass) until `fit` has placed the codes by k-means on many vectors. Quantising from step 0
    left the codes without content (see README, "How it is trained").
    """

    def __init__(self, dim: int, codebook_size: int, decay: float, dead_code_threshold: float) -> None:
        super().__init__()
        self.dim, self.codebook_size = dim, codebook_size
        self.library = VectorQuantize(
            dim=dim,
            codebook_size=codebook_size,
            decay=decay,
            use_cosine_sim=True,
            rotation_trick=False,
            threshold_ema_dead_code=dead_code_threshold,
            sync_codebook=False,
        )
        self.library._codebook.reset_cluster_size = (
            1.0  # A revived code gets the mean usage, else it dies again at once.
        )
        self.register_buffer("active", torch.tensor(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorQuantizer:
        """Move as any module does, but stay in float32: a cast of the whole model (DeepSpeed's bf16) would stop the
        averages.
        """

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    @property
    def is_active(self) -> bool:
        return bool(self.active)

    @property
    def codebook(self) -> Tensor:
        """(K, d) unit vectors."""
        return self.library._codebook.embed[0]

    def normalise(self, z: Tensor) -> Tensor:
        """(..., d) -> unit vectors times sqrt(d), in float32."""
        return F.normalize(z.float(), dim=-1) * self.dim**0.5

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantise (..., d). Autocast is off: in bf16 one code in a hundred would change."""
        with torch.autocast(z.device.type, enabled=False):
            z = self.normalise(z)
            if not self.is_active:
                return QuantizerOutput(embeds=z, codes=None, commitment_loss=None)
            codes = (z @ self.codebook.t()).argmax(-1)
            quantized = self.embed(codes)
            commitment_loss = (z - quantized.detach()).square().mean(-1)
            return QuantizerOutput(embeds=z + (quantized - z).detach(), codes=codes, commitment_loss=commitment_loss)

    def embed(self, codes: Tensor) -> Tensor:
        """(...) codes -> (..., d) vectors; equal to what `forward` gave with these codes."""
        return F.embedding(codes, self.codebook) * self.dim**0.5

    @torch.no_grad()
    def fit(self, z: Tensor, seed: int, num_iters: int = 20) -> None:
        """Place the codes by spherical k-means on (M, d) vectors, M >= K, and switch quantisation on."""
        if len(z) < self.codebook_size:
            raise ValueError(f"{self.codebook_size} codes need at least as many vectors, got {len(z)}")
        with seeded(seed):
            means, counts = kmeans(
                F.normalize(z.float(), dim=-1)[None], self.codebook_size, num_iters, use_cosine_sim=True
            )
        book = self.library._codebook
        counts = counts.float() / counts.sum() * self.codebook_size
        book.embed.copy_(means)
        book.cluster_size.copy_(counts)
        book.embed_avg.copy_(means * counts[..., None])
        self.active.fill_(True)

    @torch.no_grad()
    def update(self, z: Tensor, seed: int, revive: bool) -> None:
        """One EMA step of the codebook on (M, d) vectors; the same vectors and seed give the same codebook on every
        process.

        Cluster sizes are counted per M = K vectors, whatever M is, so that the dead-code threshold (a fraction of the
        mean usage) means the same at every batch size: the library's plain count would replace most codes at 8 codes a
        step.
        """
        book = self.library._codebook
        z = F.normalize(z.float(), dim=-1)[None]
        one_hot = F.one_hot((z @ book.embed.transpose(1, 2)).argmax(-1), self.codebook_size).float()
        scale = self.codebook_size / z.shape[1]
        book.cluster_size.lerp_(one_hot.sum(1) * scale, 1 - book.decay)
        book.embed_avg.lerp_(torch.einsum("hnd,hnc->hcd", z, one_hot) * scale, 1 - book.decay)
        book.update_ema()
        if revive:
            with seeded(seed):
                book.train().expire_codes_(z)
