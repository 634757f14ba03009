"""Sharding a model over several processes by FSDP2, or replicating it by DDP."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers.utils import ModelOutput

from modules.layers.transformer import TransformerBlock
from modules.story_model.story_model import StoryModel
from modules.storyboard.quantizer import VectorQuantizer


def block_classes(model: nn.Module) -> list[str]:
    """Return the class names of blocks in `model` that are gathered one at a time: ours and the libraries' own."""
    named = {TransformerBlock.__name__}.union(
        *(getattr(module, "_no_split_modules", None) or () for module in model.modules())
    )
    return sorted(named & {type(module).__name__ for module in model.modules()})


def shard_model(model: nn.Module, **options) -> None:
    """Shard the parameters of `model` in place over all processes, block by block.

    Parameters in no block are gathered for the whole pass. `options` are those of `fully_shard`. Buffers stay whole, in
    their precision, and each process changes its own; see `broadcast_buffers`. Afterwards only `model.forward` may be
    called.
    """
    for block in _blocks(model):
        fully_shard(block, **options)
    fully_shard(model, **options)


def gathered_sizes(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters in no block of `model`, and in its largest block without blocks within it."""
    counted: set[nn.Parameter] = set()
    sizes = [0]
    for module in (*_blocks(model), model):
        own = set(module.parameters()) - counted
        counted |= own
        sizes.append(sum(parameter.numel() for parameter in own))
    return sizes[-1], max(sizes[:-1])


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are gathered one at a time, inner ones before outer ones."""
    classes = block_classes(model)
    return [module for module in reversed(list(model.modules())) if type(module).__name__ in classes]


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the first process's buffers to all processes, as DDP does and FSDP2 does not.

    Sums on two GPUs may differ in their last bits.
    """
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def full(value: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded; every process must call this."""
    return cast("DTensor", value.detach()).full_tensor() if isinstance(value, DTensor) else value


def cut_like(value: Tensor, piece: Tensor) -> Tensor:
    """Return this process's piece of `value`, sharded like `piece`; a tensor of another shape stays whole."""
    if not isinstance(piece, DTensor) or value.shape != piece.shape:
        return value
    return distribute_tensor(value.to(piece.device), piece.device_mesh, piece.placements, src_data_rank=None)


def cut_moments(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """Return gathered tensors of `flatten_optimizer`, sharded like the parameters of `optimizer`."""
    pieces = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    owners = {name: int(name.split(".")[1]) for name in tensors if name.startswith("state.")}
    return {name: cut_like(value, pieces[owners[name]]) if name in owners else value for name, value in tensors.items()}


class Replicated:
    """Every process trains the whole module: a single process, or several by DDP."""

    def __init__(self, model: StoryModel, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator

    def start(self, module: nn.Module) -> nn.Module:
        """Start to train `module`, the model or a part of it; return the module whose parameters are updated."""
        self.module = module
        return module

    def prepare(self, optimizer: Optimizer) -> tuple[Callable[..., ModelOutput], Optimizer]:
        """Return the callable that computes the loss, and the optimizer, for the loop."""
        self.module, optimizer = self.accelerator.prepare(self.module, optimizer)
        return self.module, optimizer

    def no_sync(self) -> AbstractContextManager:
        """Inside, gradients are not summed over the processes."""
        return self.accelerator.no_sync(self.module)

    def whole(self) -> AbstractContextManager:
        """Inside, the model has its whole weights; all processes must enter together."""
        return nullcontext()

    def own_state(self) -> dict[str, Tensor]:
        """Return the model's `own_state`, on the first process; every process must call this."""
        return self.model.own_state()

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `tensors` whole, on the first process; every process must call this."""
        return dict(tensors)

    def finish(self) -> None:
        """Restore the module as it was before `start`, with its trained weights."""
        module = self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        # accelerate would return a module with this mark unwrapped: the next phase would compute in float32.
        vars(module).pop("_is_accelerate_prepared", None)
        self.accelerator.free_memory()


class Sharded(Replicated):
    """Every process has a piece of each parameter, of its averages and of its moments (FSDP2).

    A copy of the module, which shares its buffers, is trained, and the module itself has no weights meanwhile: methods
    other than `forward` (sampling, k-means) need `whole`. Each process must have memory for the whole model before a
    phase, after it, and within `whole`.
    """

    def start(self, module: nn.Module) -> nn.Module:
        flags = [part.active_flag for part in module.modules() if isinstance(part, VectorQuantizer)]
        shared = {id(value): value for value in (*module.parameters(), *module.buffers(), *flags)}
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
            # Nothing is written into the model's output.
            warnings.filterwarnings("ignore", message=".*returned a view tensor")
            output = self.module(*inputs)
        return convert_to_fp32(output)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        module = cast("FSDPModule", self.module)
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

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
            gathered = full(value)  # One after another: a GPU may have no memory for them all.
            if self.accelerator.is_main_process:
                whole[name] = gathered.cpu()
        return whole

    def finish(self) -> None:
        self._fill()
        del self.module
        self.pieces = []
        self.accelerator.free_memory()

    def _fill(self) -> None:
        for weight, piece in self.pieces:
            weight.data = full(piece)

    def _empty(self) -> None:
        for weight, _ in self.pieces:
            weight.data = weight.data.new_empty(0)
