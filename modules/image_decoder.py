"""p(x | z): latent diffusion, a UNet that cross-attends to the storyboard's codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn
from transformers.utils import ModelOutput

SchedulerName = Literal["ddim", "dpmsolver++", "unipc", "euler"]
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


@dataclass(frozen=True)
class ImageDecoderConfig:
    block_out_channels: tuple[int, ...] = (128, 128, 144)
    attention_levels: tuple[bool, ...] = (False, True, True)  # Cross-attention to the codes; at full size it would double the cost.
    layers_per_block: int = 1
    num_heads: int = 4
    cross_attention_dim: int = 256
    norm_num_groups: int = 16
    num_train_timesteps: int = 1000


@dataclass
class ImageDecoderOutput(ModelOutput):
    """`loss` (N,): mean squared error of the predicted velocity."""

    loss: Tensor = None


class ImageDecoder(nn.Module):
    """UNet2DConditionModel on the autoencoder's latents: v-prediction (arXiv 2202.00512), zero terminal SNR (arXiv 2305.08891).

    The codes enter by cross-attention and, flattened, with the time embedding.
    """

    def __init__(self, config: ImageDecoderConfig, latent_shape: tuple[int, int, int], num_slots: int, code_dim: int) -> None:
        super().__init__()
        self.config, self.latent_shape = config, latent_shape
        channels, size, _ = latent_shape
        self.to_context = nn.Linear(code_dim, config.cross_attention_dim)
        self.slot_position = nn.Parameter(torch.randn(num_slots, config.cross_attention_dim) * 0.02)
        self.null_codes = nn.Parameter(torch.zeros(num_slots, code_dim))
        self.unet = UNet2DConditionModel(
            sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block, attention_head_dim=config.num_heads, norm_num_groups=config.norm_num_groups,
            down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in config.attention_levels),
            up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(config.attention_levels)),
            cross_attention_dim=config.cross_attention_dim, class_embed_type="projection",
            projection_class_embeddings_input_dim=num_slots * code_dim,
        )  # fmt: skip
        self.register_buffer("alphas_cumprod", self.make_scheduler("ddim").alphas_cumprod.clone(), persistent=False)

    def make_scheduler(self, name: SchedulerName) -> SchedulerMixin:
        """A diffusers scheduler with this model's noise schedule."""
        return SCHEDULERS[name](
            num_train_timesteps=self.config.num_train_timesteps, beta_schedule="scaled_linear", prediction_type="v_prediction",
            rescale_betas_zero_snr=True, timestep_spacing="trailing", **({"clip_sample": False} if name == "ddim" else {}),
        )  # fmt: skip

    def forward(
        self, code_embeds: Tensor, latents: Tensor, timesteps: Tensor, noise: Tensor, null: Tensor | None = None
    ) -> ImageDecoderOutput:
        """code_embeds (N,S,d), latents and noise (N,c,h,w), timesteps (N,), null (N,) bool -> losses (N,)."""
        alpha = self.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - self.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        velocity = self.predict_velocity(alpha * latents + sigma * noise, timesteps, code_embeds, null)
        return ImageDecoderOutput(loss=(velocity.float() - (alpha * noise - sigma * latents)).square().mean((1, 2, 3)))

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, code_embeds: Tensor, null: Tensor | None = None) -> Tensor:
        """noisy (N,c,h,w), code_embeds (N,S,d) -> v (N,c,h,w); rows where `null` (N,) is True get the learned null codes."""
        if null is not None:
            code_embeds = torch.where(null[:, None, None], self.null_codes.to(code_embeds.dtype), code_embeds)
        context = self.to_context(code_embeds) + self.slot_position
        return self.unet(noisy, timesteps, context, class_labels=code_embeds.flatten(1)).sample

    @torch.no_grad()
    def sample(
        self,
        code_embeds: Tensor,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        scheduler: SchedulerName = "ddim",
        generator: torch.Generator | None = None,
        init_latents: Tensor | None = None,
        strength: float = 1.0,
        on_step: Callable[[Tensor], None] = lambda latents: None,
    ) -> Tensor:
        """Denoise the pictures of N steps in one batch: code_embeds (N,S,d) -> latents (N,c,h,w).

        With `init_latents` (N,c,h,w) only the last `strength` of the steps are taken, at least one, from those latents with
        that much noise (SDEdit, arXiv 2108.01073). `on_step` is given the latents after every step.
        """
        noise_schedule = self.make_scheduler(scheduler)
        noise_schedule.set_timesteps(num_inference_steps)
        timesteps = noise_schedule.timesteps
        noise = torch.randn(len(code_embeds), *self.latent_shape, generator=generator).to(code_embeds.device)
        if init_latents is None:
            latents = noise * noise_schedule.init_noise_sigma
        else:
            skipped = num_inference_steps - max(1, int(num_inference_steps * strength))
            timesteps = timesteps[skipped * noise_schedule.order :]
            if hasattr(noise_schedule, "set_begin_index"):  # Schedulers that count steps, which DDIM does not.
                noise_schedule.set_begin_index(skipped * noise_schedule.order)
            latents = noise_schedule.add_noise(init_latents, noise, timesteps[:1])
        for timestep in timesteps:
            velocity = self._guided_velocity(noise_schedule.scale_model_input(latents, timestep), timestep, code_embeds, guidance_scale)
            latents = noise_schedule.step(velocity.float(), timestep, latents, return_dict=False)[0]
            on_step(latents)
        return latents

    def _guided_velocity(self, noisy: Tensor, timestep: Tensor, code_embeds: Tensor, guidance_scale: float) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598) against the null codes; a scale of 1 is none."""
        if guidance_scale == 1.0:
            return self.predict_velocity(noisy, timestep, code_embeds)
        null = torch.arange(2 * len(noisy), device=noisy.device) >= len(noisy)
        both = self.predict_velocity(noisy.repeat(2, 1, 1, 1), timestep, code_embeds.repeat(2, 1, 1), null)
        with_codes, without = both.chunk(2)
        return without + guidance_scale * (with_codes - without)
