"""Settings of the image decoder and of the autoencoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modules.common.errors import UserError
from modules.common.limits import LAYERS, SIZE, WEIGHT, Limit, check_settings, choice, limited


@dataclass(frozen=True)
class AutoencoderConfig:
    image_size: int = limited(96, SIZE)
    latent_channels: int = limited(12, SIZE)
    # Pixels are folded into channels first: on a CPU, convolutions at full resolution would cost most.
    unshuffle: int = limited(4, Limit(1, 256))
    block_out_channels: tuple[int, ...] = limited((96, 128), SIZE)
    layers_per_block: int = limited(1, LAYERS)
    norm_num_groups: int = limited(16, SIZE)
    kl_weight: float = limited(1e-5, WEIGHT)
    # The posterior's deviation: the decoder learns to tolerate errors of the UNet.
    latent_noise: float = limited(0.15, WEIGHT)
    edge_weight: float = limited(0.2, WEIGHT)
    # Of the squared error, which is large where something rare is blurred.
    squared_weight: float = limited(0.0, WEIGHT)
    # A Stable Diffusion folder or Hub id, for `PretrainedAutoencoder`, with unshuffle 1 and the shape given here.
    source: str = ""

    def __post_init__(self) -> None:
        check_settings(self, "autoencoder")

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
    block_out_channels: tuple[int, ...] = limited((128, 128, 144), SIZE)
    # Levels with cross-attention to the codes; at full size it would double the cost.
    attention_levels: tuple[bool, ...] = (False, True, True)
    layers_per_block: int = limited(1, LAYERS)
    num_heads: int = limited(4, SIZE)
    cross_attention_dim: int = limited(256, SIZE)
    norm_num_groups: int = limited(16, SIZE)
    num_train_timesteps: int = limited(1000, Limit(1, 100_000))
    plan_dim: int = limited(256, SIZE)  # Of the layer that reads the whole plan, if the model's context is "plan".
    # A Stable Diffusion folder or Hub id; the shape above is that of a UNet from scratch.
    source: str = ""
    # Codes in the text's place or, with a source, beside the text ("codes_and_text").
    condition: str = choice("codes", CONDITIONS)
    tuning: str = choice("full", TUNINGS)  # Of a source's UNet; the layers that read the codes always train.
    lora_rank: int = limited(16, SIZE)

    def __post_init__(self) -> None:
        check_settings(self, "image_decoder")
        for name, default in (("condition", CONDITIONS[0]), ("tuning", TUNINGS[0])):
            value = getattr(self, name)
            if not self.source and value != default:
                raise UserError(
                    f"image_decoder.{name} {value!r} needs image_decoder.source, a Stable Diffusion folder or Hub id"
                )
