"""Noise schedules and the schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.image_decoder.config import SchedulerName
from modules.pretrained.libraries import DDIMScheduler, DPMSolverMultistepScheduler

NOISE_SCHEDULE = {  # Of a UNet from scratch.
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def scheduler_class(name: SchedulerName) -> Any:
    """Return a scheduler class of diffusers; the last two also import scipy."""
    if name == "ddim":
        return DDIMScheduler
    if name == "dpmsolver++":
        return DPMSolverMultistepScheduler
    from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

    return EulerDiscreteScheduler if name == "euler" else UniPCMultistepScheduler


def make_scheduler(name: SchedulerName, schedule: Mapping[str, Any], from_source: bool) -> Any:
    """Return a scheduler with a noise schedule; one from a source may have settings of another scheduler."""
    # Latents are not bounded as pixels are.
    options: dict[str, Any] = {"clip_sample": False} if name == "ddim" else {}
    if from_source:
        return scheduler_class(name).from_config(schedule, **options)
    return scheduler_class(name)(**schedule, **options)  # `from_config` imports every scheduler.


def predicted_clean(noisy: Tensor, predicted: Tensor, signal: Tensor, prediction_type: str) -> Tensor:
    """Return the clean latents (N,c,h,w) that a prediction of velocity or noise from `noisy` (N,c,h,w) amounts to.

    `signal` () is the share of the variance of `noisy` that is signal.
    """
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    if prediction_type == "epsilon":
        return (noisy - sigma * predicted) / alpha
    return alpha * noisy - sigma * predicted
