"""Texts while they are written, pictures while they are denoised, and the end of a job between two of these steps."""

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
from modules.generation.rendering import watch_denoising, watch_writing
from modules.generation.settings import GenerationSettings
from modules.studio.jobs import Job, Pace, Worker

SECONDS_BETWEEN = 0.3  # The first preview comes with the second step.
SECONDS_BETWEEN_TEXTS = 0.05
SHARE = 6  # A preview is made once so many times the time that the last one took has passed.
SIZE = 256  # Pixels of a preview.
SPREAD = 1.2  # Standard deviation of finished latents; those of a guided first step have three times as much.
COST_OF_A_STEP = 4.4  # In pictures that the UNet reads: fitted to steps of 1 to 12 of the shipped weights on a CPU.


class Watcher:
    """Shows a job's pages while they are made; a preview is the picture that the model expects."""

    def __init__(self, pipeline: StoryPipeline, worker: Worker) -> None:
        self.pipeline, self.worker, self._pace = pipeline, worker, Pace()

    @contextmanager
    def writing(self, job: Job) -> Iterator[None]:
        """Inside, show the texts of a new story word by word, and end the job if it is cancelled."""
        due = 0.0

        def on_token(texts: list[str]) -> None:
            nonlocal due
            now = time.monotonic()
            if now >= due:
                job.draft, due = {"texts": texts}, now + SECONDS_BETWEEN_TEXTS
                self.worker.changed(job)

        with watch_writing(on_token):
            yield

    @contextmanager
    def watching(
        self, job: Job, pages: Sequence[int], settings: GenerationSettings, rounds: int = 1, show: bool = True
    ) -> Iterator[None]:
        """Inside, report the steps of pictures of `pages`, drawn `rounds` times, and end the job if it is cancelled.

        With `show` there are previews of them.
        """
        reads = self._reads(settings)
        steps = len(reads)
        job.total = max(job.total, steps * len(pages) * rounds)
        due, count = [0.0], [0]
        self._pace.begin()
        job.seconds_left = self._seconds_left(job, reads, len(pages))

        def on_step(latents: Tensor, clean: Tensor) -> None:
            rows, step = len(latents), count[0] % steps
            count[0] += 1
            job.done = min(job.total, job.done + rows)
            self._pace.step(cost(reads[step], rows), step == 0)
            job.seconds_left = self._seconds_left(job, reads, rows)
            now = time.monotonic()
            if show and step and now > due[0] and step + 1 < steps:
                self._show(job, pages, clean, settings)
                due[0] = time.monotonic() + max(SECONDS_BETWEEN, SHARE * (time.monotonic() - now))
            self.worker.changed(job)

        with watch_denoising(on_step):
            yield

    def _reads(self, settings: GenerationSettings) -> list[int]:
        """Return for each denoising step of a picture how often the UNet reads it: twice where it is guided."""
        decoder, (low, high) = self.pipeline.model.image_decoder, settings.guidance_interval
        timesteps = decoder.schedule(settings.scheduler, settings.num_inference_steps, settings.strength)[1].tolist()
        levels = [timestep / decoder.config.num_train_timesteps for timestep in timesteps]
        return [2 if settings.guidance_scale != 1.0 and low <= level <= high else 1 for level in levels]

    def _seconds_left(self, job: Job, reads: list[int], rows: int) -> float | None:
        """Return how long a job will take on, in batches of so many pictures, if known: the steps that are left, and
        at the end of each batch the autoencoder, which costs about as much as a step.
        """
        costs = [cost(one, rows) for one in (*reads, 1)]
        whole, begun = divmod((job.total - job.done) / rows, len(reads))
        return self._pace.seconds(whole * sum(costs) + (sum(costs[len(reads) - round(begun) :]) if begun else 0.0))

    @torch.no_grad()
    def _show(self, job: Job, pages: Sequence[int], clean: Tensor, settings: GenerationSettings) -> None:
        with inference_autocast(settings.precision, self.pipeline.device):
            pixels = self.pipeline.model.autoencoder.decode(calm(clean))
        for page, image in zip(pages, to_pictures(pixels.float()), strict=False):
            job.previews[page] = as_jpeg(image, SIZE)
        job.preview_version += 1


def cost(reads: int, rows: int) -> float:
    """Return what a step of so many pictures costs in which the UNet reads each so often."""
    return COST_OF_A_STEP + reads * rows


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
