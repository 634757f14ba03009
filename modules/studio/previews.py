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
    """Shows a job's pictures while they are drawn. With DDIM a preview is the picture that the model expects."""

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
        before: list[Tensor] = []
        due, count = [0.0], [0]
        job.seconds_left = self._pace.begin(job.total - job.done)

        def on_step(latents: Tensor) -> None:
            rows, step = len(latents), count[0] % steps
            count[0] += 1
            job.done = min(job.total, job.done + rows)
            job.seconds_left = self._pace.step(job.total - job.done, rows, step == 0)
            now = time.monotonic()
            previous = before[0] if before and before[0].shape == latents.shape and step else None
            if show and previous is not None and now > due[0] and step + 1 < steps:
                self._show(job, pages, previous, latents, step, settings)
                due[0] = time.monotonic() + max(SECONDS_BETWEEN, SHARE * (time.monotonic() - now))
                self._pace.begin()
            before[:] = [latents]
            self.worker.changed(job)

        with watch_denoising(on_step):
            yield

    @torch.no_grad()
    def _show(
        self, job: Job, pages: Sequence[int], before: Tensor, latents: Tensor, step: int, settings: GenerationSettings
    ) -> None:
        clean = calm(self._expected(before, latents, step, settings))
        with inference_autocast(settings.precision, self.pipeline.device):
            pixels = self.pipeline.model.autoencoder.decode(clean)
        for page, image in zip(pages, to_pictures(pixels.float()), strict=False):
            job.previews[page] = as_jpeg(image, SIZE)
        job.preview_version += 1

    def _expected(self, before: Tensor, after: Tensor, step: int, settings: GenerationSettings) -> Tensor:
        """Return the clean latents that a DDIM step from `before` to `after` was taken towards.

        Both are the same clean latents and the same noise, mixed in two known ways (arXiv 2010.02502, eq. 12).
        """
        if settings.scheduler != "ddim" or settings.strength < 1:
            return after
        schedule = self.pipeline.model.image_decoder.make_scheduler("ddim")
        schedule.set_timesteps(settings.num_inference_steps)
        times, alphas = schedule.timesteps.tolist(), schedule.alphas_cumprod
        later = times[step] - schedule.config.num_train_timesteps // settings.num_inference_steps
        alpha = float(alphas[times[step]]) ** 0.5, float(alphas[max(0, later)]) ** 0.5
        sigma = (1 - alpha[0] ** 2) ** 0.5, (1 - alpha[1] ** 2) ** 0.5
        return (sigma[0] * after - sigma[1] * before) / (sigma[0] * alpha[1] - sigma[1] * alpha[0])


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
