"""Cutting a model over several processes (FSDP2): what is gathered as one, and what every process keeps whole."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers.utils import ModelOutput

from modules.layers.transformer import TransformerBlock
from modules.story_model import StoryModel


def block_classes(model: nn.Module) -> list[str]:
    """Names of the classes of blocks in `model` that are gathered one at a time: ours, and those that its libraries
    name themselves.
    """
    named = {TransformerBlock.__name__}.union(
        *(getattr(module, "_no_split_modules", None) or () for module in model.modules())
    )
    return sorted(named & {type(module).__name__ for module in model.modules()})


def shard_model(model: nn.Module, **options) -> None:
    """Cut the parameters of `model`, in place, over all processes, block by block; the rest is gathered for the whole
    pass.

    `options` are those of `fully_shard`. Buffers stay whole, in their precision, and each process changes its own:
    where those of all processes may come to differ, see `broadcast_buffers`. Only `model.forward` may be called from
    then on.
    """
    for block in _blocks(model):
        fully_shard(block, **options)
    fully_shard(model, **options)


def gathered_sizes(model: nn.Module) -> tuple[int, int]:
    """How many parameters of `model` lie in none of its blocks, and how many in the largest one, without those of
    blocks within it.
    """
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
    """Give the buffers of the first process to all, as DDP does and FSDP2 does not: sums on two GPUs may differ in
    their last bits.
    """
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def full(value: Tensor) -> Tensor:
    """The whole of a tensor that may be cut, on every process; all of them must ask for it."""
    return value.detach().full_tensor() if isinstance(value, DTensor) else value


def cut_like(value: Tensor, piece: Tensor) -> Tensor:
    """This process's piece of `value`, cut as `piece` is; a tensor of another shape, as a count of steps, stays whole."""
    if not isinstance(piece, DTensor) or value.shape != piece.shape:
        return value
    return distribute_tensor(value.to(piece.device), piece.device_mesh, piece.placements, src_data_rank=None)


def cut_moments(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """What `flatten_optimizer` told of an optimizer, gathered, cut as the parameters of `optimizer` are."""
    pieces = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    owners = {name: int(name.split(".")[1]) for name in tensors if name.startswith("state.")}
    return {name: cut_like(value, pieces[owners[name]]) if name in owners else value for name, value in tensors.items()}


class Replicated:
    """Every process trains the whole of a module: one process, or several by DDP, as accelerate prepares them."""

    def __init__(self, model: StoryModel, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator

    def start(self, module: nn.Module) -> nn.Module:
        """Begin to train `module`, the model or a part of it; returns the module whose parameters are to be updated."""
        self.module = module
        return module

    def prepare(self, optimizer: Optimizer) -> tuple[Callable[..., ModelOutput], Optimizer]:
        """What computes the loss, and the optimizer, for the loop."""
        self.module, optimizer = self.accelerator.prepare(self.module, optimizer)
        return self.module, optimizer

    def no_sync(self) -> AbstractContextManager:
        """Inside, gradients are not yet summed over the processes."""
        return self.accelerator.no_sync(self.module)

    def whole(self) -> AbstractContextManager:
        """Inside, which all processes enter together, the model holds its weights."""
        return nullcontext()

    def own_state(self) -> dict[str, Tensor]:
        """On the first process the model's `own_state`; all processes must ask for it."""
        return self.model.own_state()

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the first process the whole of each of `tensors`, which may be cut as the parameters are; all must ask for
        it.
        """
        return dict(tensors)

    def finish(self) -> None:
        """The module is as it was before `start`, with the weights that it has learned."""
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        self.accelerator.free_memory()


class Sharded(Replicated):
    """Every process holds a piece of each parameter, of its averages and of its moments (FSDP2).

    A module is trained in a double that shares its buffers, and holds no weights meanwhile: what calls other methods
    than `forward` (sampling, k-means) needs `whole`. Each process must have room for the whole model, where nothing
    else takes it: before a phase, after it, and within `whole`.
    """

    def start(self, module: nn.Module) -> nn.Module:
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        self.module = copy.deepcopy(module, shared)
        shard_model(self.module)
        self.pieces = list(zip(module.parameters(), self.module.parameters(), strict=True))
        self._empty()
        return self.module

    def prepare(self, optimizer: Optimizer) -> tuple[Callable[..., ModelOutput], Optimizer]:
        return self._forward, optimizer

    def _forward(self, *inputs: Any) -> ModelOutput:
        broadcast_buffers(self.module)
        with self.accelerator.autocast(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*returned a view tensor"
            )  # Nothing is written into what the model returns.
            output = self.module(*inputs)
        return convert_to_fp32(output)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    @contextmanager
    def whole(self) -> Iterator[None]:
        self._fill()
        try:
            yield
        finally:
            self._empty()

    def own_state(self) -> dict[str, Tensor]:
        state, pieces = self.model.own_state(), {id(weight): piece for weight, piece in self.pieces}
        names = self.model.named_parameters(remove_duplicate=False)
        cut = {name: pieces[id(weight)] for name, weight in names if id(weight) in pieces and name in state}
        whole = self.gather({id(piece): piece for piece in cut.values()})  # By piece: tied weights stay tied.
        return state | {name: whole[id(piece)] for name, piece in cut.items() if id(piece) in whole}

    def gather(self, tensors: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        whole = {}
        for name, value in tensors.items():
            value = full(value)  # One after another: a GPU may have no room for them all.
            if self.accelerator.is_main_process:
                whole[name] = value.cpu()
        return whole

    def finish(self) -> None:
        self._fill()
        self.module, self.pieces = None, []
        self.accelerator.free_memory()

    def _fill(self) -> None:
        for weight, piece in self.pieces:
            weight.data = full(piece)

    def _empty(self) -> None:
        for weight, _ in self.pieces:
            weight.data = weight.data.new_empty(0)
