"""p(x | z): latent diffusion, a UNet that cross-attends to the storyboard's codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.image_decoder.config import ImageDecoderConfig, SchedulerName
from modules.image_decoder.context import ImageContext
from modules.image_decoder.decoupled_attention import decouple_cross_attention, is_decoupled, is_gate
from modules.image_decoder.schedules import NOISE_SCHEDULE, make_scheduler, predicted_clean
from modules.image_decoder.stable_diffusion import add_attention_lora, check_unet, load_text_encoder, load_unet
from modules.layers.plan_window import PlanReader, PlanWindow
from modules.pretrained.libraries import UNet2DConditionModel
from modules.pretrained.lora import is_lora
from modules.pretrained.part import PretrainedPart
from modules.pretrained.source import PretrainedSource

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerBase


@dataclass
class ImageDecoderOutput(ModelOutput):
    """`loss` (N,): mean squared error of the predicted velocity or, for a UNet that predicts it, noise."""

    loss: Tensor


class ImageDecoder(PretrainedPart):
    """UNet2DConditionModel on the autoencoder's latents: from scratch, or Stable Diffusion's (arXiv 2112.10752).

    From scratch: v-prediction (arXiv 2202.00512), zero terminal SNR (arXiv 2305.08891); the codes enter by
    cross-attention and, flattened, with the time embedding. With `config.source`: the schedule of the folder; the codes
    enter by cross-attention in the text's place, or beside the text (`DecoupledAttention`), which leaves the first
    outputs unchanged.
    """

    def __init__(
        self,
        config: ImageDecoderConfig,
        latent_shape: tuple[int, int, int],
        num_slots: int,
        code_dim: int,
        source: PretrainedSource | None = None,
        reads_plan: bool = False,
    ) -> None:
        """`source` is where the UNet and the text encoder are read from, by default the source that the config names;
        a random one has no tokenizer. With `reads_plan` a page's context are also the codes of the other pages.
        """
        super().__init__()
        self.config, self.latent_shape = config, latent_shape
        self.noise_schedule: dict[str, Any] = {**NOISE_SCHEDULE, "num_train_timesteps": config.num_train_timesteps}
        self.text_encoder: CLIPTextModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        pretrained = None
        if not config.source:
            source = None
        else:
            source = source or PretrainedSource(config.source, "image_decoder.source")
            self.noise_schedule = check_unet(source, config, latent_shape[0])
            pretrained = load_unet(source)
        width = config.cross_attention_dim if pretrained is None else pretrained.config["cross_attention_dim"]
        self.to_context = nn.Linear(code_dim, width)
        self.slot_position = nn.Parameter(torch.randn(num_slots, width) * 0.02)
        self.null_codes = nn.Parameter(torch.zeros(num_slots, code_dim))
        self.plan_reader = PlanReader(num_slots, code_dim, width, config.plan_dim) if reads_plan else None
        # A pretrained UNet expects the text encoder's output, which ends in a norm.
        self.context_norm = nn.Identity() if pretrained is None else nn.LayerNorm(width)
        self.unet = self._small_unet(num_slots * code_dim) if pretrained is None else pretrained
        if source is not None:
            if config.condition == "codes_and_text":
                self._add_text(source)
            self._choose_trained()
        self.alphas_cumprod: Tensor
        self.register_buffer("alphas_cumprod", self.make_scheduler("ddim").alphas_cumprod.clone(), persistent=False)

    def _small_unet(self, embedding_dim: int) -> UNet2DConditionModel:
        config, (channels, size, _) = self.config, self.latent_shape
        return UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            attention_head_dim=config.num_heads,
            norm_num_groups=config.norm_num_groups,
            down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in config.attention_levels),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(config.attention_levels)
            ),
            cross_attention_dim=config.cross_attention_dim,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=embedding_dim,
        )

    def _add_text(self, source: PretrainedSource) -> None:
        """Load the source's text encoder, and let the codes enter beside its output."""
        encoder = load_text_encoder(source).requires_grad_(False)
        self.text_encoder = encoder
        decouple_cross_attention(self.unet, encoder.config.max_position_embeddings)
        if source.random:
            empty = torch.zeros(1, encoder.config.max_position_embeddings, dtype=torch.long)
        else:
            self.tokenizer = source.part("tokenizer").tokenizer
            empty = self.tokenize([""])
        self.null_text: Tensor
        self.register_buffer("null_text", self.encode_text(empty)[0], persistent=False)

    def _choose_trained(self) -> None:
        if self.config.tuning == "lora":
            add_attention_lora(self.unet, self.config.lora_rank)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(self.config.tuning == "full" or is_lora(name) or is_decoupled(name))

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of the pretrained parameters of the UNet and of the text encoder."""
        if self.config.source:
            for name, _ in self.named_parameters(remove_duplicate=False):
                if name.startswith(("unet.", "text_encoder.")) and not (is_lora(name) or is_decoupled(name)):
                    yield name

    def gate_names(self) -> Iterator[str]:
        """Yield the names of the gates through which the codes enter beside the text."""
        return (name for name, _ in self.named_parameters() if is_gate(name))

    @property
    def prediction_type(self) -> str:
        """The UNet's target: "v_prediction" or "epsilon"."""
        return self.noise_schedule.get("prediction_type", "epsilon")

    def make_scheduler(self, name: SchedulerName) -> Any:
        """Return a diffusers scheduler with this model's noise schedule."""
        return make_scheduler(name, self.noise_schedule, from_source=bool(self.config.source))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute parts of the UNet's forward pass in the backward pass, which saves memory."""
        self.unet.enable_gradient_checkpointing()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (N,L) for the source's text encoder, cut and padded to its length.

        Raises ValueError where there is no tokenizer.
        """
        if self.tokenizer is None or self.text_encoder is None:
            raise ValueError("this image decoder has no tokenizer: its condition is 'codes', or its weights are random")
        length = self.text_encoder.config.max_position_embeddings
        return self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    @torch.no_grad()
    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Return the frozen text encoder's states (N,L,D) of token ids (N,L), for `forward` and `sample`."""
        assert self.text_encoder is not None, "this image decoder reads no text"
        return self.text_encoder(input_ids.to(self.slot_position.device)).last_hidden_state

    def forward(
        self,
        code_embeds: Tensor,
        latents: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        null: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        window: PlanWindow | None = None,
    ) -> ImageDecoderOutput:
        """Return the losses (N,) of denoising latents.

        code_embeds (N,S,d), latents and noise (N,c,h,w), timesteps (N,), null (N,) bool, text states (N,L,D), the
        windows of the N steps.
        """
        context = self.context(code_embeds, null, encoder_hidden_states, window)
        return self.denoising_loss(context, latents, timesteps, noise)

    def denoising_loss(
        self, context: ImageContext, latents: Tensor, timesteps: Tensor, noise: Tensor
    ) -> ImageDecoderOutput:
        """Return the losses (N,) of denoising latents (N,c,h,w) in a given context."""
        alpha = self.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - self.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        predicted = self.predict(alpha * latents + sigma * noise, timesteps, context)
        target = noise if self.prediction_type == "epsilon" else alpha * noise - sigma * latents
        return ImageDecoderOutput(loss=(predicted.float() - target).square().mean((1, 2, 3)))

    def context(
        self,
        code_embeds: Tensor,
        null: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        window: PlanWindow | None = None,
    ) -> ImageContext:
        """Return what the UNet reads of N steps: their text if it reads texts, their codes, and the plan around them.

        code_embeds (N,S,d), text states (N,L,D) or None. Without a window each step is a story of one page. Rows where
        `null` (N,) is True get the learned null codes, the empty text and no plan. Raises ValueError for text states
        that the UNet does not read.
        """
        plan = None if self.plan_reader is None else self.plan_reader.read(code_embeds, window, null)
        if null is not None:
            code_embeds = torch.where(null[:, None, None], self.null_codes.to(code_embeds.dtype), code_embeds)
        vectors, mask = self.to_context(code_embeds) + self.slot_position, None
        if plan is not None:
            read, read_mask = plan
            mask = torch.cat([read_mask.new_ones(vectors.shape[:2]), read_mask], dim=1)
            vectors = torch.cat([vectors, read.to(vectors.dtype)], dim=1)
        vectors = self.context_norm(vectors)
        if self.text_encoder is not None:
            text = self._text(len(vectors), null, encoder_hidden_states)
            vectors = torch.cat([text, vectors], dim=1)
            mask = None if mask is None else torch.cat([mask.new_ones(text.shape[:2]), mask], dim=1)
        elif encoder_hidden_states is not None:
            raise ValueError("this image decoder reads no text: its condition is 'codes'")
        return ImageContext(vectors, mask, None if self.unet.class_embedding is None else code_embeds.flatten(1))

    def predict(self, noisy: Tensor, timesteps: Tensor, context: ImageContext) -> Tensor:
        """Return velocity or noise (N,c,h,w), by `prediction_type`, of noisy latents (N,c,h,w)."""
        vectors, mask, labels = context
        return self.unet(noisy, timesteps, vectors, class_labels=labels, encoder_attention_mask=mask).sample

    def _text(self, num_rows: int, null: Tensor | None, states: Tensor | None) -> Tensor:
        """Return the text states (N,L,D) of every row: those of the empty text where a row is null or has no text."""
        empty = self.null_text.expand(num_rows, -1, -1)
        if states is None or null is None:
            return empty if states is None else states
        return torch.where(null[:, None, None], empty.to(states.dtype), states)

    def schedule(
        self, name: SchedulerName, num_inference_steps: int, strength: float | None = None
    ) -> tuple[Any, Tensor]:
        """Return a scheduler and the timesteps of the denoising steps: all, or the last share of `strength`."""
        noise_schedule = self.make_scheduler(name)
        noise_schedule.set_timesteps(num_inference_steps)
        if strength is None:
            return noise_schedule, noise_schedule.timesteps
        skipped = num_inference_steps - max(1, int(num_inference_steps * strength))
        if hasattr(noise_schedule, "set_begin_index"):  # DDIM does not count steps.
            noise_schedule.set_begin_index(skipped * noise_schedule.order)
        return noise_schedule, noise_schedule.timesteps[skipped * noise_schedule.order :]

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
        on_step: Callable[[Tensor, Tensor], Tensor | None] | None = None,
        encoder_hidden_states: Tensor | None = None,
        window: PlanWindow | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        noise: Tensor | None = None,
    ) -> Tensor:
        """Denoise the images of N steps in one batch and return their latents (N,c,h,w).

        code_embeds (N,S,d), text states (N,L,D) or None; without a window each step is a story of one page.
        Classifier-free guidance (arXiv 2207.12598) against the null codes and the empty text applies where the
        timestep, as a share of all training timesteps, lies in `guidance_interval` (arXiv 2404.07724); a scale of 1 is
        no guidance. With `init_latents` (N,c,h,w) only the last `strength` of the denoising steps are taken, at least
        one, from those latents with that much noise (SDEdit, arXiv 2108.01073). `on_step` is called after every
        denoising step, with the latents and with the clean ones that the UNet predicted, and may return other latents
        to go on from. `noise` (N,c,h,w), by default drawn from `generator`, is what the images begin with.
        """
        share = None if init_latents is None else strength
        noise_schedule, timesteps = self.schedule(scheduler, num_inference_steps, share)
        if noise is None:
            noise = torch.randn(len(code_embeds), *self.latent_shape, generator=generator)
        noise = noise.to(code_embeds.device)
        if init_latents is None:
            latents = noise * noise_schedule.init_noise_sigma
        else:
            latents = noise_schedule.add_noise(init_latents, noise, timesteps[:1])
        context, low, high = self.context(code_embeds, None, encoder_hidden_states, window), *guidance_interval
        both = None if guidance_scale == 1.0 else context.with_null(self._null_context(code_embeds, window))
        for timestep in timesteps:
            scaled = noise_schedule.scale_model_input(latents, timestep)
            level = float(timestep) / self.config.num_train_timesteps
            if both is not None and low <= level <= high:
                conditioned, without = self.predict(scaled.repeat(2, 1, 1, 1), timestep, both).chunk(2)
                predicted = without + guidance_scale * (conditioned - without)
            else:
                predicted = self.predict(scaled, timestep, context)
            latents = noise_schedule.step(predicted.float(), timestep, latents, return_dict=False)[0]
            if on_step is not None:
                signal = self.alphas_cumprod[timestep.long()]
                changed = on_step(latents, predicted_clean(scaled, predicted, signal, self.prediction_type))
                latents = latents if changed is None else changed
        return latents

    def _null_context(self, code_embeds: Tensor, window: PlanWindow | None) -> ImageContext:
        """Return the context of guidance: null codes, the empty text and no plan."""
        return self.context(code_embeds, code_embeds.new_ones(len(code_embeds), dtype=torch.bool), None, window)
