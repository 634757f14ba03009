"""What every training phase has: its length, its order of stories, its seeds, and the work around an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modules.data.order import BatchOrder
from modules.layers.seeding import derive_seed
from modules.story_model.story_model import StoryModel


class Loss(Protocol):
    """The output of one part of a batch: the loss () and its named terms, each ()."""

    loss: Tensor
    losses: dict[str, Tensor]


class Phase:
    """One phase: `num_steps` updates of `module`. `loss` is called once for each part of a global batch."""

    name: str
    module: nn.Module
    order: BatchOrder

    def __init__(
        self,
        model: StoryModel,
        num_steps: int,
        learning_rate: float,
        global_batch: int,
        seed: int,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        visible: bool = True,
        whole: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        """Inside `whole`, which all processes enter together, `model` has its weights even if they are sharded."""
        self.model, self.training = model, model.config.training
        self.num_steps, self.learning_rate = num_steps, learning_rate
        self.global_batch, self.seed, self.autocast, self.visible = global_batch, seed, autocast, visible
        self.whole = whole
        self.images_seen = self.tokens_seen = 0  # In this process, since it started.

    def start(self) -> None:
        """Prepare the data; called when the phase begins and when a run resumes within it."""

    def begin(self) -> None:
        """Initialise weights from the data; called once, before the first update, and not when a run resumes."""

    def set_modes(self) -> None:
        """Select the trained parameters and set train and eval modes."""

    def expect(self, step: int, parts: Sequence[int], num_parts: int) -> None:
        """Start to read the data of update `step` and the next one, of which this process computes `parts`."""

    def relative_size(self, step: int) -> float:
        """Return the size of update `step`'s batch over the mean; its seconds are nearly proportional to it."""
        return self.order.relative_size(step)

    def before_update(self, step: int) -> None:
        """Prepare the model for update `step`."""

    def loss(self, module: Callable[..., Any], step: int, part: int, num_parts: int) -> Loss:
        """Return the loss and named losses of part `part` of the global batch of update `step`."""
        raise NotImplementedError

    def after_update(self, step: int, outputs: Sequence[Any], gather: Callable[[Tensor], Tensor]) -> None:
        """Update what is not trained by gradients, after an update that was applied; `outputs` are its parts'."""

    def finish(self) -> None:
        """Called once after the last update, when the module has its averaged weights."""

    def generator(self, purpose: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator that depends on seed, purpose, phase and step alone; its numbers differ between kinds of
        devices.
        """
        return torch.Generator(device).manual_seed(derive_seed(self.seed, purpose, self.name, step))

    @property
    def device(self) -> torch.device:
        return self.model.autoencoder.latent_mean.device
