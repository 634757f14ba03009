"""Alternative poolings of a step's vectors into S slots: a Q-Former, their mean, and a majority vote of codes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.batch import StepInputs
from modules.layers.prefix import at_least_one
from modules.layers.qformer import QFormer
from modules.storyboard.config import StoryboardConfig
from modules.storyboard.storyboard import Storyboard, StoryboardOutput


class QFormerStoryboard(Storyboard):
    """A step's vectors attend to each other; then learned queries, one a slot, read them by cross-attention alone."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None  # The Q-Former has queries of its own.
        self.qformer = QFormer(
            config.dim,
            config.dim,
            config.num_slots,
            config.qformer_layers,
            config.num_heads,
            num_groups=config.qformer_groups,
        )

    def pool(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the slots (N,S,d) of vectors (N,V,D) that are present where `mask` (N,V) is True."""
        return self.to_slots(self.qformer(self.fusion(vectors, at_least_one(mask)[:, None, None, :]), mask))


class MeanStoryboard(Storyboard):
    """Every slot is a linear view of the mean of the step's vectors: the baseline of the learned queries."""

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None
        self.to_slots = nn.Linear(config.dim, config.num_slots * config.codebook_dim)

    def pool(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the slots (N,S,d) of vectors (N,V,D) that are present where `mask` (N,V) is True."""
        mask = at_least_one(mask)
        weights = mask[..., None].to(vectors.dtype)
        mean = (self.fusion(vectors, mask[:, None, None, :]) * weights).sum(1) / weights.sum(1)
        return self.to_slots(mean).unflatten(-1, (self.config.num_slots, -1))


class MajorityVoteStoryboard(Storyboard):
    """A step's tokens, text before patches, are cut into S equal chunks; a chunk's code is the mode of its tokens'.

    An index has no gradient: the forward pass uses the winning code's vector, the backward pass sends the gradient to
    the tokens that voted for it. While the quantiser is inactive, a chunk's slot is its mean.
    """

    def __init__(self, config: StoryboardConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queries = None  # Tokens are quantised one by one.

    def read(self, steps: StepInputs) -> tuple[Tensor, Tensor]:
        """Return one vector for each of V tokens and patches (N,V,d), and which of them are present (N,V): at least
        one.
        """
        vectors, mask = self.sequence(steps)
        mask = at_least_one(mask)
        return self.to_slots(self.fusion(vectors, mask[:, None, None, :])), mask

    def encode(self, steps: StepInputs) -> Tensor:
        """Return the slots (N,S,d) of N steps."""
        return self(steps).slots

    def forward(self, steps: StepInputs) -> StoryboardOutput:
        """Encode N steps and elect one code a chunk."""
        vectors, mask = self.read(steps)
        with torch.autocast(vectors.device.type, enabled=False):  # In bf16 a code's vector would differ from `embed`'s.
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
    """Assign the present tokens of mask (N,V) to S chunks (N,S,V) whose sizes differ by one at most.

    With fewer tokens than chunks, neighbouring chunks share one; no chunk is empty.
    """
    place, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
    edges = torch.arange(num_chunks + 1, device=mask.device) * count // num_chunks  # (N,S+1)
    start, end = edges[:, :-1], torch.maximum(edges[:, 1:], edges[:, :-1] + 1)
    return mask[:, None] & (place[:, None] >= start[..., None]) & (place[:, None] < end[..., None])


def elect(codes: Tensor, distances: Tensor, members: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Elect each chunk's code: tokens' codes (N,V), their distances from those codes (N,V), in 0..4, and members
    (N,S,V) -> the winners (N,S) and the tokens that voted for them (N,S,V).

    With a large codebook most chunks end in a tie: the code whose voters are nearer wins. The smallest index decides
    between equal distances only; deciding every tie by it would give small indices most of the slots.
    """
    weights = 1 - distances.detach() / (8 * codes.shape[1])  # A chunk loses less than one vote in all.
    ballots = F.one_hot(codes, codebook_size).to(weights.dtype) * weights[..., None]
    winners = (members.to(weights.dtype) @ ballots).argmax(-1)
    return winners, members & (codes[:, None] == winners[..., None])


def mean_over(members: Tensor, values: Tensor) -> Tensor:
    """Return the mean of values (N,V,d) over each chunk's members (N,S,V): (N,S,d)."""
    weights = members.to(values.dtype)
    return weights @ values / weights.sum(-1, keepdim=True)
