"""Number formats to compute in."""

from __future__ import annotations

import torch


def has_fast_bf16() -> bool:
    """Return whether this machine computes bfloat16 in hardware: a GPU, or a CPU with AVX-512 or AMX."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # There is no public way.
    return accelerator.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_precision(name: str) -> str:
    """Return "bf16" or "no" for "auto", by what this machine computes fast; other names stay as they are."""
    if name != "auto":
        return name
    return "bf16" if has_fast_bf16() else "no"


def inference_autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context that computes matrix products and convolutions in a precision of `GenerationSettings`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(precision) == "bf16")
