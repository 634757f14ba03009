"""Pictures while they are denoised, and the end of a job between two denoising steps."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

from modules.common.precision import inference_autocast
from modules.data.pixels import to_pictures
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import watch_denoising
from modules.generation.settings import GenerationSettings
from modules.studio.jobs import Job, Pace, Worker

SECONDS_BETWEEN = 0.3  # The first preview comes with the second step.
SHARE = 6  # A preview is made once so many times the time that the last one took has passed.
SIZE = 256  # Pixels of a preview.
SPREAD = 1.2  # Standard deviation of finished latents; those of a guided first step have three times as much.


class Watcher:
    """Shows a job's pictures while they are drawn: a preview is the picture that the model expects."""

    def __init__(self, pipeline: StoryPipeline, worker: Worker) -> None:
        self.pipeline, self.worker, self._pace = pipeline, worker, Pace()

    @contextmanager
    def watching(
        self, job: Job, pages: Sequence[int], settings: GenerationSettings, rounds: int = 1, show: bool = True
    ) -> Iterator[None]:
        """Inside, report the steps of pictures of `pages`, drawn `rounds` times, and end the job if it is cancelled.

        With `show` there are previews of them.
        """
        steps = max(1, int(settings.num_inference_steps * settings.strength))
        job.total = max(job.total, steps * len(pages) * rounds)
        due, count = [0.0], [0]
        job.seconds_left = self._pace.begin(job.total - job.done)

        def on_step(latents: Tensor, clean: Tensor) -> None:
            rows, step = len(latents), count[0] % steps
            count[0] += 1
            job.done = min(job.total, job.done + rows)
            job.seconds_left = self._pace.step(job.total - job.done, rows, step == 0)
            now = time.monotonic()
            if show and step and now > due[0] and step + 1 < steps:
                self._show(job, pages, clean, settings)
                due[0] = time.monotonic() + max(SECONDS_BETWEEN, SHARE * (time.monotonic() - now))
                self._pace.begin()
            self.worker.changed(job)

        with watch_denoising(on_step):
            yield

    @torch.no_grad()
    def _show(self, job: Job, pages: Sequence[int], clean: Tensor, settings: GenerationSettings) -> None:
        with inference_autocast(settings.precision, self.pipeline.device):
            pixels = self.pipeline.model.autoencoder.decode(calm(clean))
        for page, image in zip(pages, to_pictures(pixels.float()), strict=False):
            job.previews[page] = as_jpeg(image, SIZE)
        job.preview_version += 1


def calm(latents: Tensor) -> Tensor:
    """Return latents (N,c,h,w) whose spread is that of finished ones at most: guidance overshoots early.

    The same rescaling as in arXiv 2305.08891, section 3.4, towards a known spread.
    """
    return latents * (SPREAD / latents.std(dim=(1, 2, 3), keepdim=True)).clamp(max=1.0)


def as_jpeg(image: Image.Image, size: int, quality: int = 90) -> bytes:
    """Return a picture, scaled to `size` pixels, as the bytes of a JPEG."""
    buffer = io.BytesIO()
    scale = size / max(image.size)
    shape = tuple(max(1, round(side * scale)) for side in image.size)
    image.convert("RGB").resize(shape, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)  # type: ignore[arg-type]
    return buffer.getvalue()
