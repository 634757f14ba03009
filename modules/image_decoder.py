"""p(x | z): latent diffusion, a UNet that cross-attends to the storyboard's codes."""

from __future__ import annotations

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
    draft_dim: int = 384
    num_train_timesteps: int = 1000


@dataclass
class ImageDecoderOutput(ModelOutput):
    """`loss` (N,): mean squared error of the predicted velocity; `draft_loss` (N,): that of latents regressed from the codes."""

    loss: Tensor = None
    draft_loss: Tensor = None


class ImageDecoder(nn.Module):
    """UNet2DConditionModel on the autoencoder's latents: v-prediction (arXiv 2202.00512), zero terminal SNR (arXiv 2305.08891).

    The codes enter by cross-attention and, flattened, with the time embedding. A small regression of the latents from
    the codes (the draft) gives the encoder a gradient free of diffusion noise; it is not used to generate.
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
        self.draft = nn.Sequential(
            nn.Linear(num_slots * code_dim, config.draft_dim), nn.SiLU(), nn.Linear(config.draft_dim, channels * size * size)
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
        draft = self.draft(code_embeds.flatten(1)).view_as(latents)
        return ImageDecoderOutput(
            loss=(velocity.float() - (alpha * noise - sigma * latents)).square().mean((1, 2, 3)),
            draft_loss=(draft.float() - latents).square().mean((1, 2, 3)),
        )  # fmt: skip

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
    ) -> Tensor:
        """Denoise the pictures of N steps in one batch: code_embeds (N,S,d) -> latents (N,c,h,w)."""
        noise_schedule = self.make_scheduler(scheduler)
        noise_schedule.set_timesteps(num_inference_steps)
        count, guided = len(code_embeds), guidance_scale != 1.0
        latents = torch.randn(count, *self.latent_shape, generator=generator).to(code_embeds.device) * noise_schedule.init_noise_sigma
        if guided:
            code_embeds = torch.cat([code_embeds, code_embeds])
            null = torch.arange(2 * count, device=code_embeds.device) >= count
        for timestep in noise_schedule.timesteps:
            scaled = noise_schedule.scale_model_input(latents, timestep)
            if guided:
                with_codes, without = self.predict_velocity(scaled.repeat(2, 1, 1, 1), timestep, code_embeds, null).chunk(2)
                velocity = without + guidance_scale * (with_codes - without)
            else:
                velocity = self.predict_velocity(scaled, timestep, code_embeds)
            latents = noise_schedule.step(velocity.float(), timestep, latents, return_dict=False)[0]
        return latents
