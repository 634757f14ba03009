"""Modules with pretrained weights report which of their parameters are pretrained and which are gates."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


class PretrainedPart(nn.Module):
    """A module whose weights may come from a source."""

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of the parameters whose first values came from the source, tied ones under every name."""
        raise NotImplementedError

    def gate_names(self) -> Iterator[str]:
        """Yield the names of the gates through which codes enter pretrained weights; gates start at zero."""
        yield from ()


def pretrained_names(model: nn.Module) -> frozenset[str]:
    """Return the names, within `model`, of all parameters whose first values came from a source."""
    return frozenset(f"{path}.{name}" for path, part in _parts(model) for name in part.pretrained_names())


def gate_names(model: nn.Module) -> frozenset[str]:
    """Return the names, within `model`, of all gates through which codes enter pretrained weights."""
    return frozenset(f"{path}.{name}" for path, part in _parts(model) for name in part.gate_names())


def _parts(model: nn.Module) -> Iterator[tuple[str, PretrainedPart]]:
    return ((path, module) for path, module in model.named_modules() if isinstance(module, PretrainedPart))
