"""Cutting a model over several processes (FSDP2): what is gathered as one, and what every process keeps whole."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from modules.layers.transformer import TransformerBlock


def block_classes(model: nn.Module) -> list[str]:
    """Names of the classes of blocks in `model` that are gathered one at a time: ours, and those that its libraries name themselves."""
    named = {TransformerBlock.__name__}.union(*(getattr(module, "_no_split_modules", None) or () for module in model.modules()))
    return sorted(named & {type(module).__name__ for module in model.modules()})


def shard_model(model: nn.Module, **options) -> None:
    """Cut the parameters of `model`, in place, over all processes, block by block; the rest is gathered for the whole pass.

    `options` are those of `fully_shard`. Buffers stay whole, in their precision, and each process changes its own: where those
    of all processes may come to differ, see `broadcast_buffers`. Only `model.forward` may be called from then on.
    """
    for block in _blocks(model):
        fully_shard(block, **options)
    fully_shard(model, **options)


def gathered_sizes(model: nn.Module) -> tuple[int, int]:
    """How many parameters of `model` lie in none of its blocks, and how many in the largest one, without those of blocks within it."""
    counted, sizes = set(), [0]
    for module in (*_blocks(model), model):
        own = set(module.parameters()) - counted
        counted |= own
        sizes.append(sum(parameter.numel() for parameter in own))
    return sizes[-1], max(sizes[:-1])


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one at a time; what lies within another comes before it."""
    classes = block_classes(model)
    return [module for module in reversed(list(model.modules())) if type(module).__name__ in classes]


def broadcast_buffers(module: nn.Module) -> None:
    """Give the buffers of the first process to all, as DDP does and FSDP2 does not: sums on two GPUs may differ in their last bits."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model that is cut, put together on the CPU of the first process; every process must call this."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
