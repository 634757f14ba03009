"""Settings of the image decoder and of the autoencoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modules.common.errors import UserError
from modules.common.limits import NOT_NEGATIVE, SIZE, check_limits


@dataclass(frozen=True)
class AutoencoderConfig:
    image_size: int = 96
    latent_channels: int = 12
    # Pixels are folded into channels first: on a CPU, convolutions at full resolution would cost most.
    unshuffle: int = 4
    block_out_channels: tuple[int, ...] = (96, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 16
    kl_weight: float = 1e-5
    latent_noise: float = 0.15  # The posterior's deviation: the decoder learns to tolerate errors of the UNet.
    edge_weight: float = 0.2
    squared_weight: float = 0.0  # Of the squared error, which is large where something rare is blurred.
    # A Stable Diffusion folder or Hub id, for `PretrainedAutoencoder`, with unshuffle 1 and the shape given here.
    source: str = ""

    def __post_init__(self) -> None:
        sizes = "image_size latent_channels unshuffle block_out_channels layers_per_block norm_num_groups"
        check_limits(
            "autoencoder", self, {SIZE: sizes, NOT_NEGATIVE: "kl_weight latent_noise edge_weight squared_weight"}
        )

    @property
    def architecture(self) -> tuple[Any, ...]:
        """The settings that decide which weights fit: all but those of the loss."""
        names = "image_size latent_channels unshuffle block_out_channels layers_per_block norm_num_groups source"
        return tuple(getattr(self, name) for name in names.split())

    @property
    def downsampling(self) -> int:
        """Pixels a side of the patch of one latent cell."""
        return self.unshuffle * 2 ** (len(self.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """c, h, w of an image's latents."""
        size = self.image_size // self.downsampling
        return self.latent_channels, size, size


SchedulerName = Literal["ddim", "dpmsolver++", "unipc", "euler"]
CONDITIONS = ("codes", "codes_and_text")
TUNINGS = ("full", "lora", "frozen")


@dataclass(frozen=True)
class ImageDecoderConfig:
    block_out_channels: tuple[int, ...] = (128, 128, 144)
    # Levels with cross-attention to the codes; at full size it would double the cost.
    attention_levels: tuple[bool, ...] = (False, True, True)
    layers_per_block: int = 1
    num_heads: int = 4
    cross_attention_dim: int = 256
    norm_num_groups: int = 16
    num_train_timesteps: int = 1000
    plan_dim: int = 256  # Of the layer that reads the whole plan, if the model's context is "plan".
    # A Stable Diffusion folder or Hub id; the shape above is that of a UNet from scratch.
    source: str = ""
    condition: str = "codes"  # Codes in the text's place or, with a source, beside the text ("codes_and_text").
    tuning: str = "full"  # Of a source's UNet; the layers that read the codes always train.
    lora_rank: int = 16

    def __post_init__(self) -> None:
        for name, value, known in (("condition", self.condition, CONDITIONS), ("tuning", self.tuning, TUNINGS)):
            if value not in known:
                raise UserError(f"image_decoder.{name} must be one of {', '.join(known)}, got {value!r}")
            if not self.source and value != known[0]:
                raise UserError(
                    f"image_decoder.{name} {value!r} needs image_decoder.source, a Stable Diffusion folder or Hub id"
                )
        sizes = "block_out_channels layers_per_block num_heads cross_attention_dim norm_num_groups num_train_timesteps"
        check_limits("image_decoder", self, {SIZE: f"{sizes} plan_dim lora_rank"})
