"""A cosine codebook (arXiv 2110.04627) with explicit EMA updates (VQ-VAE, arXiv 1711.00937)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from modules.layers.seeding import seeded

KMEANS_ROWS = 8192  # Vectors compared with all codes at once.
TRAINING_STATE = ("cluster_size", "embed_avg")  # Buffers that only `update` reads.
_OLD_PREFIX = "library._codebook."  # Of the keys in checkpoints from before the buffers were the quantiser's own.


@dataclass
class QuantizerOutput(ModelOutput):
    """`embeds` (..., d) straight-through vectors; `codes` (...) and `commitment_loss` (...), a value a vector, or None
    while the quantiser is inactive.
    """

    embeds: Tensor
    codes: Tensor | None = None
    commitment_loss: Tensor | None = None


class VectorQuantizer(nn.Module):
    """K unit vectors of d dimensions; outputs are scaled by sqrt(d), so that their entries have unit variance.

    `forward` never changes the codebook, `update` does, so that an update can be refused, repeated or shared by several
    processes. The quantiser starts inactive (continuous unit vectors pass) until `fit` has placed the codes by k-means
    on many vectors: quantising from step 0 left the codes without content.

    The buffers are this module's; vector-quantize-pytorch's `Codebook` computes on them: initial codes, k-means,
    smoothed averages and revived codes. Its `VectorQuantize.forward` would not do here: it synchronises with the device
    in every pass (it asks whether the codebook is initialised), returns one commitment loss for the whole batch, and
    updates inside the pass, by counts that depend on the batch size.
    """

    codebook: Tensor  # (K, d) unit vectors
    cluster_size: Tensor  # (K,) averaged counts, 1 on the mean
    embed_avg: Tensor  # (K, d) averaged sums
    active: Tensor  # () bool

    def __init__(self, dim: int, codebook_size: int, decay: float, dead_code_threshold: float) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.decay = dim, codebook_size, decay
        book = Codebook(
            dim,
            codebook_size,
            decay=decay,
            use_cosine_sim=True,
            threshold_ema_dead_code=dead_code_threshold,
            reset_cluster_size=1.0,  # A revived code gets the mean usage: with less it would die again at once.
        )
        self.register_buffer("codebook", book.embed[0].clone())
        self.register_buffer("cluster_size", book.cluster_size[0].clone())
        self.register_buffer("embed_avg", book.embed_avg[0].clone())
        self.register_buffer("active", torch.tensor(False))
        self._library = (book,)  # In a tuple, so that its buffers are no part of this module's state.
        self.active_flag = [False]  # A list, which a copy that shares the buffers can share, too.

    def _on_buffers(self) -> Codebook:
        """Return the library's codebook, computing in place on this module's buffers."""
        (book,) = self._library
        book.embed, book.cluster_size = self.codebook[None], self.cluster_size[None]
        book.embed_avg = self.embed_avg[None]
        return book

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorQuantizer:
        """Move as any module does, but stay in float32: a cast of the whole model (DeepSpeed's bf16) would stop the
        averages.
        """

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the buffers, also under the names that older checkpoints have."""
        rename_old_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.active_flag[0] = bool(self.active)

    @property
    def is_active(self) -> bool:
        """Whether vectors are quantised: a plain flag beside the buffer, so that `forward` need not ask the device."""
        return self.active_flag[0]

    @is_active.setter
    def is_active(self, value: bool) -> None:
        self.active_flag[0] = value
        self.active.fill_(value)

    def normalise(self, z: Tensor) -> Tensor:
        """Return (..., d) as unit vectors times sqrt(d), in float32."""
        return F.normalize(z.float(), dim=-1) * self.dim**0.5

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantise (..., d). Autocast is off: in bf16 one code in a hundred would change."""
        with torch.autocast(z.device.type, enabled=False):
            z = self.normalise(z)
            if not self.is_active:
                return QuantizerOutput(embeds=z)
            codes = (z @ self.codebook.t()).argmax(-1)
            quantized = self.embed(codes)
            commitment_loss = (z - quantized.detach()).square().mean(-1)
            return QuantizerOutput(embeds=z + (quantized - z).detach(), codes=codes, commitment_loss=commitment_loss)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., d) of codes (...), equal to what `forward` returned with these codes."""
        return F.embedding(codes, self.codebook) * self.dim**0.5

    @torch.no_grad()
    def fit(self, z: Tensor, seed: int, num_iters: int = 20) -> None:
        """Place the codes by spherical k-means on (M, d) vectors, M >= K, and activate the quantiser."""
        if len(z) < self.codebook_size:
            raise ValueError(f"{self.codebook_size} codes need at least as many vectors, got {len(z)}")
        with seeded(seed):
            means, counts = spherical_kmeans(F.normalize(z.float(), dim=-1), self.codebook_size, num_iters)
        cluster_size = counts / counts.sum() * self.codebook_size
        self.codebook.copy_(means)
        self.cluster_size.copy_(cluster_size)
        self.embed_avg.copy_(means * cluster_size[:, None])
        self.is_active = True

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Start the averages anew from the codebook, each code with the mean usage: a model folder contains none."""
        self.cluster_size.fill_(1.0)
        self.embed_avg.copy_(self.codebook)

    @torch.no_grad()
    def update(self, z: Tensor, seed: int, revive: bool) -> None:
        """Take one EMA step of the codebook on (M, d) vectors; the same vectors and seed give the same codebook on
        every process.

        Cluster sizes are counted per M = K vectors, whatever M is, so that the dead-code threshold (a fraction of the
        mean usage) means the same at every batch size: the library's plain count would replace most codes at 8 codes a
        step.
        """
        book = self._on_buffers()
        z = F.normalize(z.float(), dim=-1)
        one_hot = F.one_hot((z @ self.codebook.t()).argmax(-1), self.codebook_size).float()
        scale = self.codebook_size / len(z)
        self.cluster_size.lerp_(one_hot.sum(0) * scale, 1 - self.decay)
        self.embed_avg.lerp_(torch.einsum("nd,nc->cd", z, one_hot) * scale, 1 - self.decay)
        book.update_ema()
        if revive:
            with seeded(seed):
                book.train().expire_codes_(z[None])


def spherical_kmeans(z: Tensor, num_clusters: int, num_iters: int) -> tuple[Tensor, Tensor]:
    """Return unit means (K,d) of unit vectors (M,d), M >= K, and how many there are in each cluster (K,).

    The means begin as random ones of the vectors; one without vectors stays. The library's k-means would hold the
    cosines of all vectors with all means, 5 GB for 4,096 codes.
    """
    means = z[torch.randperm(len(z), device=z.device)[:num_clusters]]
    for _ in range(num_iters):
        nearest = torch.cat([(rows @ means.t()).argmax(-1) for rows in z.split(KMEANS_ROWS)])
        counts = nearest.bincount(minlength=num_clusters).float()
        sums = torch.zeros_like(means).index_add_(0, nearest, z)
        means = torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), means)
    return means, counts


def rename_old_keys(state: dict[str, Any], prefix: str) -> None:
    """Rename, in place, the quantiser's keys of older state dicts: the library's names and its axis of one codebook."""
    old = f"{prefix}{_OLD_PREFIX}"
    state.pop(f"{old}initted", None)
    for name, new in (("embed", "codebook"), *zip(TRAINING_STATE, TRAINING_STATE, strict=True)):
        if f"{old}{name}" in state:
            state[f"{prefix}{new}"] = state.pop(f"{old}{name}")[0]
