"""Processes and precision of a training, by accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env
from torch.nn.attention import SDPBackend, sdpa_kernel

from modules.common.errors import UserError
from modules.common.precision import has_fast_bf16
from modules.training.settings import TrainSettings


@contextmanager
def forgotten_precision() -> Iterator[None]:
    """Reset accelerate's precision at the end: the next training in this process may use another."""
    is_callers = is_initialized()  # The caller goes on using it.
    try:
        yield
    finally:
        if not is_callers:
            AcceleratorState._reset_state()  # There is no public way. The process group stays for the next training.


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Return an accelerator on the GPUs, or on the CPU if there are none, for the processes that were launched.

    Raises UserError on a launch configuration that is not supported.
    """
    _check_launch(settings.mixed_precision)
    if settings.mixed_precision == "bf16" and not has_fast_bf16():
        warnings.warn("this machine emulates bfloat16, slowly: --mixed_precision auto takes float32 here", stacklevel=2)
    # The prior is unused while slots are continuous. Every process updates its codebook in the same way (see
    # VectorQuantizer.update); DDP's broadcast of buffers before an update removes differences in the last bits, which
    # sums on two GPUs may have.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Without GPUs, accelerate would take each of several processes for a separate run, unless it is to use the CPU.
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=settings.mixed_precision, kwargs_handlers=[ddp])
    if accelerator.num_processes == 1 and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        # accelerate launch sets both if it should start several processes and found neither GPUs nor a host file.
        warnings.warn(
            "accelerate launch started one process only; for several on CPUs give it --multi_gpu, without --cpu",
            stacklevel=2,
        )
    return accelerator


def attention(device: torch.device) -> AbstractContextManager:
    """Return a context for forward and backward passes with the attention that is fastest in training.

    On a CPU, the backward pass of flash attention is slow for the short sequences of this model: an update of the UNet
    takes a sixth less time with plain matrix products.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _check_launch(mixed_precision: str) -> None:
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "training does not run under DeepSpeed: shard the model by FSDP2, with configs/accelerate/fsdp2.yaml"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if mixed_precision == "fp16":
            raise UserError(
                "--mixed_precision fp16 does not work with FSDP: use bf16 or no, "
                "or DDP (configs/accelerate/multi_gpu.yaml)"
            )
        if parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
            raise UserError(
                "fsdp_offload_params is not supported: set it to false in the configuration of accelerate launch"
            )
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU use auto, bf16 or no")


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether the model is sharded over the processes; on CPUs accelerate does not report it."""
    several = accelerator.num_processes > 1
    return accelerator.distributed_type == DistributedType.FSDP or (
        several and parse_flag_from_env("ACCELERATE_USE_FSDP")
    )
