"""Low-rank updates of pretrained weights (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

from typing import Any


def add_lora(model: Any, rank: int, **options: Any) -> None:
    """Freeze a model of transformers or diffusers and add low-rank updates; `options` are those of peft's LoraConfig."""
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=rank, **options))


def is_lora(name: str) -> bool:
    """Return whether a parameter of this name is part of a low-rank update."""
    return ".lora_" in name
