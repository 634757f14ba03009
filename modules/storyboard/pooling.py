"""Other ways from a step's vectors to S slots: a Q-Former that reads them, and their mean."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.layers.prefix import at_least_one
from modules.layers.qformer import QFormer
from modules.storyboard.config import StoryboardConfig
from modules.storyboard.storyboard import Storyboard, StoryboardOutput


class QFormerStoryboard(Storyboard):
    """The vectors of a step see each other first; then learned queries, one a slot, read them by cross-attention alone."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None  # The Q-Former has its own.
        self.qformer = QFormer(
            config.dim,
            config.dim,
            config.num_slots,
            config.qformer_layers,
            config.num_heads,
            num_groups=config.qformer_groups,
        )

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What `sequence` takes -> slots (N,S,d)."""
        vectors, mask = self.sequence(*inputs, **more)
        return self.to_slots(self.qformer(self.fusion(vectors, at_least_one(mask)[:, None, None, :]), mask))


class MeanStoryboard(Storyboard):
    """Every slot is a linear view of one vector, the mean of the step's vectors: the baseline of learned queries."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None
        self.to_slots = nn.Linear(config.dim, config.num_slots * config.codebook_dim)

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """What `sequence` takes -> slots (N,S,d)."""
        vectors, mask = self.sequence(*inputs, **more)
        mask = at_least_one(mask)
        weights = mask[..., None].to(vectors.dtype)
        mean = (self.fusion(vectors, mask[:, None, None, :]) * weights).sum(1) / weights.sum(1)
        return self.to_slots(mean).unflatten(-1, (self.config.num_slots, -1))


class MajorityVoteStoryboard(Storyboard):
    """The tokens that a step has, its text's and then its patches, are cut into S equal chunks; a chunk's code is its
    tokens' mode.

    An index has no gradient. As with one vector, the code's stands in on the way forward; on the way back the gradient
    goes to the tokens that voted for it. Before there are codes, the mean of the chunk is its slot.
    """

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None  # Every token speaks for itself.

    def read(self, *inputs: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        """As `encode`, but -> one vector for each of V tokens and patches (N,V,d), and which of them are there (N,V),
        at least one.
        """
        vectors, mask = self.sequence(*inputs, **more)
        mask = at_least_one(mask)
        return self.to_slots(self.fusion(vectors, mask[:, None, None, :])), mask

    def encode(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """As `forward`, but -> slots (N,S,d) alone."""
        return self(*inputs, **more).slots

    def forward(self, *inputs: Tensor, **more: Tensor) -> StoryboardOutput:
        """Read N steps and count their votes."""
        vectors, mask = self.read(*inputs, **more)
        with torch.autocast(
            vectors.device.type, enabled=False
        ):  # In bf16 a code's vector would not be that of `embed`.
            members, tokens = chunks(mask, self.config.num_slots), self.quantizer(vectors)
            if tokens.codes is None:
                slots = mean_over(members, tokens.embeds)
                return StoryboardOutput(
                    code_embeds=self.quantizer.normalise(slots), slots=slots, vectors=vectors, vector_mask=mask
                )
            codes, voters = elect(tokens.codes, tokens.commitment_loss, members, self.config.codebook_size)
            slots = mean_over(voters, self.quantizer.normalise(vectors))
            return StoryboardOutput(
                code_embeds=slots + (self.quantizer.embed(codes) - slots).detach(),
                slots=slots,
                codes=codes,
                commitment_loss=mean_over(members, tokens.commitment_loss[..., None])[..., 0],
                vectors=vectors,
                vector_mask=mask,
            )


def chunks(mask: Tensor, num_chunks: int) -> Tensor:
    """mask (N,V) -> which of the tokens that are there belong to which of S chunks (N,S,V), whose sizes differ by one
    at most.

    Where there are fewer tokens than chunks, neighbouring chunks share one; none is empty.
    """
    place, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
    edges = torch.arange(num_chunks + 1, device=mask.device) * count // num_chunks  # (N,S+1)
    start, end = edges[:, :-1], torch.maximum(edges[:, 1:], edges[:, :-1] + 1)
    return mask[:, None] & (place[:, None] >= start[..., None]) & (place[:, None] < end[..., None])


def elect(codes: Tensor, distances: Tensor, members: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Votes (N,V), how far each is from its code (from 0 to 4), chunks (N,S,V) -> the winners (N,S) and who voted for
    them (N,S,V).

    Most chunks end in a tie when the codebook is large: it goes to the code whose voters are nearer to it. The smallest
    index decides between equal distances only; had it decided between all, small indices would have most of the slots.
    """
    weights = 1 - distances.detach() / (8 * codes.shape[1])  # All that can be taken off a chunk is less than one vote.
    ballots = F.one_hot(codes, codebook_size).to(weights.dtype) * weights[..., None]
    winners = (members.to(weights.dtype) @ ballots).argmax(-1)
    return winners, members & (codes[:, None] == winners[..., None])


def mean_over(members: Tensor, values: Tensor) -> Tensor:
    """The mean over the members (N,S,V) of each chunk of values (N,V,d): (N,S,d)."""
    weights = members.to(values.dtype)
    return weights @ values / weights.sum(-1, keepdim=True)
