"""Noise schedules and the schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.image_decoder.config import SchedulerName
from modules.pretrained.libraries import DDIMScheduler

NOISE_SCHEDULE = {  # Of a UNet from scratch.
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def scheduler_class(name: SchedulerName) -> Any:
    """Return a scheduler class of diffusers; those other than DDIM also import scipy."""
    if name == "ddim":
        return DDIMScheduler
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

    classes: dict[SchedulerName, Any] = {
        "dpmsolver++": DPMSolverMultistepScheduler,
        "unipc": UniPCMultistepScheduler,
        "euler": EulerDiscreteScheduler,
    }
    return classes[name]


def make_scheduler(name: SchedulerName, schedule: Mapping[str, Any], from_source: bool) -> Any:
    """Return a scheduler with a noise schedule; one from a source may have settings of another scheduler."""
    # Latents are not bounded as pixels are.
    options: dict[str, Any] = {"clip_sample": False} if name == "ddim" else {}
    if from_source:
        return scheduler_class(name).from_config(schedule, **options)
    return scheduler_class(name)(**schedule, **options)  # `from_config` imports every scheduler.
