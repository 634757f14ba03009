"""The device to compute on."""

from __future__ import annotations

import torch

from modules.common.errors import UserError


def find_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, by default this machine's accelerator, or the CPU where there is none.

    Raises UserError if the device is not available.
    """
    accelerator = torch.accelerator.current_accelerator()
    try:
        device = torch.device(name) if name else accelerator or torch.device("cpu")
        torch.empty(1, device=device).item()
    except (AssertionError, NotImplementedError, RuntimeError):
        available = ", ".join(["cpu", *([accelerator.type] if accelerator else [])])
        raise UserError(f"device {name} is not available on this machine: choose one of {available}") from None
    return device
