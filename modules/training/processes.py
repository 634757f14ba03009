"""The process or processes of a training, by accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env

from modules.common.errors import UserError
from modules.training.settings import TrainSettings


@contextmanager
def forgotten_precision() -> Iterator[None]:
    """Let accelerate forget the precision of a training at its end: the next one in this process may have another."""
    is_callers = is_initialized()  # Who may go on with it.
    try:
        yield
    finally:
        if not is_callers:
            AcceleratorState._reset_state()  # There is no public way. The process group stays, for the next training.


def make_accelerator(args: TrainSettings) -> Accelerator:
    """An accelerator on the GPUs, or on the CPU where there are none; what launched this process says how many there
    are of it.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "training does not run under DeepSpeed: cut the model by FSDP2, with configs/accelerate/fsdp2.yaml"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if args.mixed_precision == "fp16":
            raise UserError(
                "--mixed_precision fp16 does not go with FSDP: use bf16 or no, or DDP (configs/accelerate/multi_gpu.yaml)"
            )
        if parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
            raise UserError(
                "fsdp_offload_params is not supported: set it to false in the configuration of accelerate launch"
            )
    if args.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU use auto, bf16 or no")
    if args.mixed_precision == "bf16" and not has_fast_bf16():
        warnings.warn("this machine emulates bfloat16, slowly: --mixed_precision auto takes float32 here", stacklevel=2)
    # The prior is not used while slots are continuous. Each process updates its codebook alike (see
    # VectorQuantizer.update);
    # DDP's broadcast of buffers before an update takes care of last bits, in which sums on two GPUs may differ.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Where there are no GPUs, accelerate takes each of several processes for a run of its own unless it is told to use
    # the CPU.
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=args.mixed_precision, kwargs_handlers=[ddp])
    if accelerator.num_processes == 1 and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        # Both are set by accelerate launch where it was to start several processes, and found neither GPUs nor a host
        # file for mpirun.
        warnings.warn(
            "accelerate launch started one process only; for several on CPUs give it --multi_gpu, without --cpu",
            stacklevel=2,
        )
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the model is to be cut over the processes: on CPUs accelerate is told so too, but does not say so."""
    several = accelerator.num_processes > 1
    return accelerator.distributed_type == DistributedType.FSDP or (
        several and parse_flag_from_env("ACCELERATE_USE_FSDP")
    )


def has_fast_bf16() -> bool:
    """Whether bfloat16 pays here: by the accelerator's cores, or by those of a CPU with AVX-512 or AMX."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # There is no public way.
    return accelerator.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_precision(name: str) -> str:
    """ "auto" -> "bf16" where that is fast, "no" where it is not; other names stay as they are."""
    if name != "auto":
        return name
    return "bf16" if has_fast_bf16() else "no"
