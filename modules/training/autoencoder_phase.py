"""The first phase: the autoencoder of the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.common.errors import UserError
from modules.data.order import BatchOrder, rows_of_part
from modules.data.pixels import to_pixels
from modules.data.read_ahead import ReadAhead, iterate_pages
from modules.image_decoder.autoencoder import AutoencoderOutput
from modules.layers.seeding import derive_seed
from modules.story import StoryDataset
from modules.story_model import StoryModel
from modules.training.phases import Phase

STATISTICS_STORIES = 64


class AutoencoderPhase(Phase):
    """Trains the autoencoder on the stories' pictures."""

    name = "autoencoder"

    def __init__(
        self, model: StoryModel, source: StoryDataset, lengths: list[int], workers: int = 0, **options
    ) -> None:
        super().__init__(model, **options)
        self.module, self.lengths = model.autoencoder, lengths
        self.source = ReadAhead(source, model.config.autoencoder.image_size, workers)
        self.order = BatchOrder(lengths, self.global_batch, derive_seed(self.seed, "order", self.name))

    def expect(self, step: int, parts: Sequence[int], num_parts: int) -> None:
        self.source.expect(self.order.stories(range(step, min(step + 2, self.num_steps)), parts, num_parts))

    def set_modes(self) -> None:
        self.model.requires_grad_(False).eval()
        self.module.requires_grad_(True).train()

    def loss(self, module: nn.Module, step: int, part: int, num_parts: int) -> ModelOutput:
        config, order = self.model.config.autoencoder, self.order[step]
        mine = rows_of_part(order, part, num_parts)
        images = list(iterate_pages(self.source, mine))
        self.images_seen += len(images)
        # However the global batch is cut, its steps get the same noise and count the same; a part without pictures, not
        # at all.
        start, count = (sum(self.lengths[index] for index in stories) for stories in (order[: part * len(mine)], mine))
        total = sum(self.lengths[index] for index in order)
        share = num_parts * count / total if images else 0.0
        pixels = to_pixels(images or [Image.new("RGB", (config.image_size, config.image_size))], config.image_size)
        noise = torch.randn(total, *config.latent_shape, generator=self.generator("noise", step))[
            start : start + len(pixels)
        ]
        output = module(pixels.to(self.device), noise.to(self.device))
        return AutoencoderOutput(
            loss=share * output.loss, losses={name: share * value for name, value in output.losses.items()}
        )

    def begin(self) -> None:
        self.module.fit_shortcut(self._sample())

    def finish(self) -> None:
        self.module.requires_grad_(False).eval()
        self.module.fit_statistics(self._sample())

    def _sample(self) -> Tensor:
        """Pictures (N,3,H,W) of the first stories, for statistics."""
        count = min(len(self.source), STATISTICS_STORIES)
        images = list(iterate_pages(self.source, range(count)))
        if not images:
            raise UserError(
                f"the first {count} stories hold no picture to train the autoencoder on: give a trained one with --autoencoder"
            )
        return to_pixels(images, self.model.config.autoencoder.image_size).to(self.device)
