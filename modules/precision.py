"""Which precision this machine computes fast. Many CPUs emulate bfloat16, at a hundredth of the speed of float32."""

from __future__ import annotations

import torch


def has_fast_bf16() -> bool:
    """Whether bfloat16 pays here: by the accelerator's cores, or by those of a CPU with AVX-512 or AMX."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # There is no public way.
    return accelerator.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_precision(name: str) -> str:
    """"auto" -> "bf16" where that is fast, "no" where it is not; other names stay as they are."""
    if name != "auto":
        return name
    return "bf16" if has_fast_bf16() else "no"
