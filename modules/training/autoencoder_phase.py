"""The first phase: the autoencoder of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modules.common.errors import UserError
from modules.data.order import BatchOrder, rows_of_part
from modules.data.pixels import to_pixels
from modules.data.read_ahead import ReadAhead, iterate_pages
from modules.image_decoder.autoencoder import AutoencoderOutput, PictureAutoencoder
from modules.layers.seeding import derive_seed
from modules.story import StoryDataset
from modules.story_model.story_model import StoryModel
from modules.training.phase import Phase

STATISTICS_STORIES = 64


class AutoencoderPhase(Phase):
    """Trains the autoencoder on the pictures of all stories."""

    name = "autoencoder"

    def __init__(self, model: StoryModel, dataset: StoryDataset, workers: int = 0, **options: Any) -> None:
        super().__init__(model, **options)
        assert isinstance(model.autoencoder, PictureAutoencoder)  # A pretrained one has no phase.
        self.autoencoder = self.module = model.autoencoder
        self.lengths = dataset.lengths
        self.dataset = ReadAhead(dataset, model.config.autoencoder.image_size, workers)
        self.order = BatchOrder(self.lengths, self.global_batch, derive_seed(self.seed, "order", self.name))

    def expect(self, step: int, parts: Sequence[int], num_parts: int) -> None:
        self.dataset.expect(self.order.stories(range(step, min(step + 2, self.num_steps)), parts, num_parts))

    def set_modes(self) -> None:
        self.model.requires_grad_(False).eval()
        self.autoencoder.requires_grad_(True).train()
        if self.keeps_latents:
            self.autoencoder.train_decoder_only()

    def loss(self, module: Callable[..., Any], step: int, part: int, num_parts: int) -> AutoencoderOutput:
        """Return the loss of one part, weighted by its share of the global batch's pages; without pictures it is 0.

        The noise is drawn for the global batch: where every page has a picture, the result does not depend on how the
        batch is cut.
        """
        config, order = self.model.config.autoencoder, self.order[step]
        stories = rows_of_part(order, part, num_parts)
        images = list(iterate_pages(self.dataset, stories))
        self.images_seen += len(images)
        start, count, total = map(self._num_steps, (order[: part * len(stories)], stories, order))
        generator = self.generator("noise", step, self.device)
        noise = torch.randn(total, *config.latent_shape, generator=generator, device=self.device)
        pixels = to_pixels(images or [Image.new("RGB", (config.image_size, config.image_size))], config.image_size)
        output = module(pixels.to(self.device), noise[start : start + len(pixels)])
        share = num_parts * count / total if images else 0.0
        return AutoencoderOutput(
            loss=share * output.loss, losses={name: share * value for name, value in output.losses.items()}
        )

    @property
    def keeps_latents(self) -> bool:
        """Whether the decoder alone trains."""
        return self.training.autoencoder_trains == "decoder"

    def begin(self) -> None:
        if not self.keeps_latents:
            self.autoencoder.fit_shortcut(self._sample())

    def finish(self) -> None:
        self.autoencoder.requires_grad_(False).eval()
        if not self.keeps_latents:
            self.autoencoder.fit_statistics(self._sample())

    def _num_steps(self, stories: Sequence[int]) -> int:
        return sum(self.lengths[index] for index in stories)

    def _sample(self) -> Tensor:
        """Return the pictures (N,3,H,W) of the first stories, for statistics."""
        count = min(len(self.dataset), STATISTICS_STORIES)
        images = list(iterate_pages(self.dataset, range(count)))
        if not images:
            raise UserError(
                f"the first {count} stories contain no picture to train the autoencoder on: "
                "give a trained one with --autoencoder"
            )
        return to_pixels(images, self.model.config.autoencoder.image_size).to(self.device)
