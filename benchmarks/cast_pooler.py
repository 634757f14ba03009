"""The pooler of `cast_probe.py`: a few vectors for a whole story, quantised by a codebook of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cast_slots import ABSENT, ATTRIBUTES, StorySlots
from torch import Tensor, nn

from modules.common.progress import progress_line
from modules.layers.transformer import Transformer
from modules.storyboard.quantizer import VectorQuantizer
from modules.training.optimizer import cosine_with_warmup

LEARNING_RATE, BATCH, COMMITMENT = 2e-3, 64, 0.25
CONTINUOUS_SHARE = 1 / 3  # Of the updates, before the codebook is placed.
REVIVE_SHARE = 0.8  # Of the updates, after which no code is revived.
NUM_LAYERS, NUM_HEADS, DIM = 2, 4, 128
MAX_PAGES = 8  # Of a story of the story world.


class CastPooler(nn.Module):
    """Learned queries read the slots (B,T,S,d) of all pages of a story; linear heads read the resulting vectors.

    With 0 codes the vectors (B,C,d) are only normalised.
    """

    def __init__(self, slots: Tensor, num_cast: int, codebook_size: int) -> None:
        super().__init__()
        num_slots, slot_dim = slots.shape[2:]
        self.queries = nn.Parameter(0.02 * torch.randn(num_cast, DIM))
        self.from_slots = nn.Linear(slot_dim, DIM)
        self.slot_position = nn.Parameter(0.02 * torch.randn(num_slots, DIM))
        self.page_position = nn.Parameter(0.02 * torch.randn(MAX_PAGES, 1, DIM))
        self.transformer = Transformer(DIM, NUM_LAYERS, NUM_HEADS)
        self.to_cast = nn.Linear(DIM, slot_dim)
        self.quantizer = VectorQuantizer(slot_dim, max(1, codebook_size), decay=0.99, dead_code_threshold=0.1)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(num_cast * slot_dim, len(words)) for name, words in ATTRIBUTES.items()}
        )

    def forward(self, slots: Tensor, page_mask: Tensor) -> Tensor:
        """Return the cast's vectors (B,C,d) before quantising; pages where `page_mask` (B,T) is False are not read."""
        num_pages, num_slots = slots.shape[1:3]
        read = self.from_slots(slots) + self.slot_position + self.page_position[:num_pages]
        queries = self.queries.expand(len(slots), -1, -1)
        mask = page_mask.repeat_interleave(num_slots, dim=1)
        mask = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
        fused = self.transformer(torch.cat([queries, read.flatten(1, 2)], dim=1), mask[:, None, None, :])
        return self.to_cast(fused[:, : queries.shape[1]])

    def loss(self, features: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Return the cross-entropy () of the heads on features (B,C*d), in nats a story, summed over attributes."""
        total = features.new_zeros(())
        for name, head in self.heads.items():
            total = total + F.cross_entropy(head(features), labels[name], ignore_index=ABSENT, reduction="sum")
        return total / len(features)

    @torch.no_grad()
    def read(self, slots: Tensor, page_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors (B,C,d) of whole stories, quantised if there is a codebook, and their codes (B,C)."""
        vectors = [self(*part) for part in zip(slots.split(BATCH), page_mask.split(BATCH), strict=True)]
        quantized = self.quantizer(torch.cat(vectors))
        return quantized.embeds, quantized.codes


def train_pooler(
    slots: Tensor, stories: StorySlots, num_cast: int, codebook_size: int, updates: int, seed: int, title: str
) -> CastPooler:
    """Train a pooler of slots (B,T,S,d) to predict the stories' attributes; with 0 codes without quantising."""
    torch.manual_seed(seed)
    pooler = CastPooler(slots, num_cast, codebook_size)
    optimizer = torch.optim.AdamW(pooler.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    with progress_line(title, updates) as progress:
        for step in range(updates):
            if codebook_size and step == int(CONTINUOUS_SHARE * updates):
                vectors, _ = pooler.read(slots, stories.page_mask)
                pooler.quantizer.fit(vectors.flatten(0, 1), seed)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine_with_warmup(step, updates, 20, 0.02)
            rows = torch.randint(len(slots), (BATCH,))
            vectors = pooler(slots[rows], drop_pages(stories.page_mask[rows]))
            quantized = pooler.quantizer(vectors)
            loss = pooler.loss(quantized.embeds.flatten(1), {name: stories.labels[name][rows] for name in ATTRIBUTES})
            if quantized.commitment_loss is not None:
                loss = loss + COMMITMENT * quantized.commitment_loss.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if quantized.codes is not None:
                is_early = step < REVIVE_SHARE * updates
                pooler.quantizer.update(vectors.detach().flatten(0, 1), step, revive=is_early)
            progress.update(step + 1, f"loss {loss.item():.2f}")
    return pooler.eval().requires_grad_(False)


def drop_pages(page_mask: Tensor) -> Tensor:
    """Hide a random part of the pages (B,T) of each story, never all: more varied vectors for the codebook."""
    kept = page_mask & (torch.rand(page_mask.shape) < 0.5 + 0.5 * torch.rand(len(page_mask), 1))
    return torch.where(kept.any(1, keepdim=True), kept, page_mask)
