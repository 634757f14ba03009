"""Pictures as sequences of vectors: pretrained ResNet, ViT, CLIP and SigLIP encoders, and one that is trained from
scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.common.errors import UserError
from modules.layers.transformer import Transformer
from modules.pretrained.files import read_object
from modules.pretrained.freezing import prepare_training, set_modes
from modules.pretrained.part import PretrainedPart
from modules.pretrained.source import PretrainedSource
from modules.storyboard.config import ImageEncoderConfig, ScratchImageEncoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PART = "storyboard.image_encoder"
PREPROCESSOR = "preprocessor_config.json"
RESNET_SIZE = 224
RESNET_STEM_STRIDE = 4


class _Kind(NamedTuple):
    """Preprocessing and layers of a family of encoders.

    Pixels in [0, 1] are normalised by `mean` and `std` where the folder contains no preprocessor config.
    """

    model: type[PreTrainedModel]
    mean: Sequence[float]
    std: Sequence[float]
    has_class_token: bool = False
    beside_tokens: str = ""  # A module that the token sequence does not pass through.
    options: Mapping[str, Any] = {}


def _kinds() -> dict[str, _Kind]:
    """Return the families by the model type in their config."""
    from transformers import CLIPVisionModel, ResNetModel, SiglipVisionModel, ViTModel, image_utils

    half = image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD
    imagenet = image_utils.IMAGENET_DEFAULT_MEAN, image_utils.IMAGENET_DEFAULT_STD
    openai = image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD
    clip = _Kind(CLIPVisionModel, *openai, has_class_token=True, beside_tokens="post_layernorm")
    siglip = _Kind(SiglipVisionModel, *half, beside_tokens="head")
    return {
        "resnet": _Kind(ResNetModel, *imagenet),
        "vit": _Kind(ViTModel, *half, has_class_token=True, options={"add_pooling_layer": False}),
        "clip": clip,
        "clip_vision_model": clip,
        "siglip": siglip,
        "siglip_vision_model": siglip,
    }


class PretrainedImageEncoder(PretrainedPart):
    """An image's tokens from a pretrained encoder, with resizing and normalisation; frozen layers never leave eval
    mode.
    """

    scale: Tensor  # (3, 1, 1)
    shift: Tensor  # (3, 1, 1)

    def __init__(self, config: ImageEncoderConfig, source: PretrainedSource | None = None) -> None:
        """`source` is by default the one that the config names. Raises UserError where it cannot be loaded."""
        super().__init__()
        self.config, source = config, source or PretrainedSource(config.source, f"{PART}.source")
        kinds, found = _kinds(), source.config.model_type
        if found not in kinds:
            raise UserError(
                f"{source.what}: {source.id} contains {found}, expected a ResNet, ViT, CLIP or SigLIP:"
                " give a folder or id of that kind"
            )
        kind = kinds[found]
        self.has_class_token = kind.has_class_token
        self.model = cast("PreTrainedModel", source.load(kind.model, **kind.options))
        self.trained = prepare_training(self.model, config.trainable_layers, config.gradient_checkpointing, PART)
        for name, parameter in self.model.named_parameters():
            if kind.beside_tokens in name.split("."):  # These never receive gradients.
                parameter.requires_grad_(False)
        self._read_preprocessing(kind, source)

    def pretrained_names(self) -> Iterator[str]:
        """Yield the names of all parameters."""
        return (name for name, _ in self.named_parameters(remove_duplicate=False))

    def _read_preprocessing(self, kind: _Kind, source: PretrainedSource) -> None:
        path = replace(source, offline=source.offline or source.random).find_optional(PREPROCESSOR)
        preprocessor = read_object(path, source.what) if path is not None else {}
        self.image_size = getattr(self.model.config, "image_size", None) or _input_size(preprocessor)
        mean, std = preprocessor.get("image_mean", kind.mean), preprocessor.get("image_std", kind.std)
        if not (_are_channels(mean) and _are_channels(std) and min(std) > 0):
            raise UserError(
                f"{source.what}: {path} has no image_mean and image_std of three channels: copy or fetch it anew"
            )
        mean, std = torch.tensor(mean), torch.tensor(std)
        # From [-1, 1] to [0, 1], then to zero mean and unit deviation.
        self.register_buffer("scale", (0.5 / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((0.5 - mean) / std)[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """D', the width of the vectors that `forward` returns."""
        config = self.model.config
        return config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size

    @property
    def num_tokens(self) -> int:
        """P, class token included."""
        config = self.model.config
        if hasattr(config, "hidden_sizes"):  # A ResNet: its last map.
            halvings = len(config.depths) - 1 + config.downsample_in_first_stage
            return (-(-self.image_size // (RESNET_STEM_STRIDE * 2**halvings))) ** 2
        return (self.image_size // config.patch_size) ** 2 + self.has_class_token

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (N,3,H,W) in [-1,1], of any size, into the whole token sequence (N,P,D'); of a ResNet, the last
        feature map's cells by rows.
        """
        pixels = resize(pixels.float(), self.image_size) * self.scale + self.shift
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained)):
            hidden = self.model(pixel_values=pixels.to(self.model.dtype)).last_hidden_state
        return rearrange(hidden, "n d h w -> n (h w) d") if hidden.ndim == 4 else hidden

    def train(self, mode: bool = True) -> PretrainedImageEncoder:
        super().train(mode)
        set_modes(self.model, self.trained, mode)
        return self


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resize (N,3,H,W) in [-1,1] to (N,3,size,size) by antialiased bicubic interpolation, as encoders were trained."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)


def _input_size(preprocessor: dict[str, Any]) -> int:
    """Return the pixels a side, from any of the three forms in a preprocessor_config.json."""
    size = preprocessor.get("crop_size", preprocessor.get("size", RESNET_SIZE))
    return size if isinstance(size, int) else size.get("shortest_edge", size.get("height", RESNET_SIZE))


def _are_channels(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(value, int | float) for value in values)
    )


class ResidualStage(nn.Module):
    """Two convolutions with a projection shortcut, halving height and width (ResNet, arXiv 1512.03385).

    GroupNorm, because batch statistics would mix stories and include blank images.
    """

    def __init__(self, in_channels: int, channels: int, norm_num_groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)
        self.norm1, self.norm2, self.shortcut_norm = (nn.GroupNorm(norm_num_groups, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) -> (N,channels,H/2,W/2)."""
        hidden = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(hidden + self.shortcut_norm(self.shortcut(x)))


class ScratchImageEncoder(nn.Module):
    """A small ResNet's last map, cut into tokens that attend to each other (the hybrid ViT, arXiv 2010.11929)."""

    def __init__(self, config: ScratchImageEncoderConfig) -> None:
        super().__init__()
        if config.image_size % config.token_size:
            raise ValueError(
                f"image_size {config.image_size} is not a multiple of {config.token_size}, the pixels a"
                " side of one token"
            )
        self.config = config
        channels, groups, patch = config.stem_channels, config.norm_num_groups, config.patch_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(groups, channels[0]),
            nn.ReLU(),
            *(
                ResidualStage(before, after, groups)
                for before, after in zip((channels[0], *channels), channels, strict=False)
            ),
        )
        self.to_tokens = nn.Conv2d(channels[-1], config.dim, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(self.num_tokens, config.dim) * 0.02)
        self.transformer = Transformer(config.dim, config.num_layers, config.num_heads, config.dropout)
        self.transformer.gradient_checkpointing = config.gradient_checkpointing

    @property
    def width(self) -> int:
        """D, the width of the vectors that `forward` returns."""
        return self.config.dim

    @property
    def num_tokens(self) -> int:
        """P, the tokens of an image."""
        return (self.config.image_size // self.config.token_size) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (N,3,H,W) in [-1,1], of any size -> (N,P,D)."""
        pixels = resize(pixels, self.config.image_size)
        keeps_all = not (self.config.gradient_checkpointing and self.training)
        return self.transformer(
            self._tokens(pixels) if keeps_all else checkpoint(self._tokens, pixels, use_reentrant=False)
        )

    def _tokens(self, pixels: Tensor) -> Tensor:
        return rearrange(self.to_tokens(self.stem(pixels)), "n d h w -> n (h w) d") + self.position


class LatentPatchEncoder(nn.Module):
    """Cuts latents (N,c,h,w) into patches and embeds them: (N,P,D), P = (h/patch) * (w/patch)."""

    def __init__(self, latent_shape: tuple[int, int, int], patch_size: int, dim: int) -> None:
        super().__init__()
        channels, height, width = latent_shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the latent's {height}x{width}")
        self.patch_size = patch_size
        self.embed = nn.Linear(channels * patch_size**2, dim)
        self.position = nn.Parameter(torch.randn(height * width // patch_size**2, dim) * 0.02)

    def forward(self, latents: Tensor) -> Tensor:
        patches = rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        return self.embed(patches) + self.position
