"""Contrastive loss that matches the image and the text of a step within a batch: SigLIP's (arXiv 2303.15343)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers.utils import ModelOutput

from modules.common.outputs import REQUIRED

HASH_BASE = 0x9E3779B97F4A7C15 - 2**64  # Odd and large, as a signed number.


@dataclass
class ContrastiveOutput(ModelOutput):
    """`loss` (), whose mean over processes is that of the joined batch; `logits` (N,M) of this process's images against
    the texts of all processes.
    """

    loss: Tensor
    logits: Tensor = REQUIRED


class ContrastiveLoss(nn.Module):
    """The loss with its learned temperature and bias, initialised as in the paper."""

    def __init__(self, scale: float = 10.0, bias: float = -10.0) -> None:
        super().__init__()
        # One entry each, not none: FSDP shards no scalars.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(
        self, image_embeds: Tensor, text_embeds: Tensor, mask: Tensor | None = None, group_ids: Tensor | None = None
    ) -> ContrastiveOutput:
        """Return the loss of image_embeds and text_embeds (N,D) of the same steps, in float32, a mean over steps.

        Rows where `mask` (N,) is False are left out. Rows with equal `group_ids` (N,) are not negatives of each other:
        of steps that share their text, each is a right answer (see `text_ids`). Every process must call this at the
        same time, with the same N.
        """
        rows = torch.arange(len(image_embeds), device=image_embeds.device)
        mask = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask
        first = len(rows) * dist.get_rank() if _is_shared() else 0
        keys = torch.stack([rows + first, rows + first if group_ids is None else group_ids, mask.long()], dim=1)
        all_rows, all_groups, all_mask = _Gather.apply(keys).unbind(1)
        with torch.autocast(image_embeds.device.type, enabled=False):
            images, texts = (F.normalize(embeds.float(), dim=-1) for embeds in (image_embeds, text_embeds))
            logits = self.log_scale.float().exp() * (images @ _Gather.apply(texts).t()) + self.bias.float()
            is_pair = keys[:, :1] == all_rows
            counts = (mask[:, None] & all_mask.bool()) & (is_pair | (keys[:, 1:2] != all_groups))
            num_processes = len(all_rows) // len(rows)
            share = num_processes / all_mask.sum().clamp(min=1)  # Processes are averaged, so their sum is scaled up.
            return ContrastiveOutput(loss=share * sigmoid_contrastive_loss(logits, is_pair, counts), logits=logits)


def pool_slots(slots: Tensor) -> Tensor:
    """Flatten normalised slots (N,S,d) -> (N,S*d): the cosine of two steps is then the mean cosine of their slots."""
    return F.normalize(slots.float(), dim=-1).flatten(1)


def text_ids(input_ids: Tensor, text_mask: Tensor) -> Tensor:
    """Return a hash (N,) of each text of tokens and mask (N,L): equal for equal texts, on every process, with any
    padding.
    """
    powers = torch.full_like(input_ids[0], HASH_BASE).cumprod(0)  # A polynomial modulo 2^64: integers wrap around.
    return ((input_ids + 1) * text_mask * powers).sum(1)


class _Gather(torch.autograd.Function):
    """Gather the rows (N,...) of all processes, in rank order: (M,...). A row's gradients are summed at its owner."""

    @staticmethod
    def forward(_ctx: FunctionCtx, rows: Tensor) -> Tensor:
        if not _is_shared():
            return rows.view_as(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        if not _is_shared():
            return gradient
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sigmoid_contrastive_loss(logits: Tensor, is_pair: Tensor, counts: Tensor) -> Tensor:
    """Return the sum (), in float32, of the binary losses of logits (N,M), positive where `is_pair`, over the entries
    that `counts` (SigLIP, arXiv 2303.15343). Entries are independent, so parts of the rows may be computed and added.
    """
    signed = torch.where(is_pair, logits, -logits).float()
    return -F.logsigmoid(signed).masked_fill(~counts, 0).sum()
