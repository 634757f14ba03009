"""Low-rank updates of pretrained weights (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

from typing import Any

from modules.common.versions import check_version


def add_lora(model: Any, rank: int, **options: Any) -> None:
    """Freeze a transformers or diffusers model and add low-rank updates; `options` are those of peft's LoraConfig.

    Raises UserError where the installed peft is too old for the installed transformers.
    """
    from transformers.integrations import peft as integration

    check_version("peft", f">={getattr(integration, 'MIN_PEFT_VERSION', '0')}", needed_by="transformers")
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=rank, **options))


def is_lora(name: str) -> bool:
    """Return whether a parameter of this name is part of a low-rank update."""
    return ".lora_" in name
