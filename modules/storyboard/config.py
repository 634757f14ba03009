"""Settings of the storyboard encoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.common.errors import UserError
from modules.common.limits import (
    COUNT,
    DECAY,
    LAST_LAYERS,
    LAYERS,
    OPEN_ENTRIES,
    SIZE,
    TOKENS,
    WEIGHT,
    check_settings,
    choice,
    limited,
)

PICTURES = ("latents", "pixels", "pretrained")
POOLINGS = ("queries", "majority_vote", "qformer", "mean")


@dataclass(frozen=True)
class AidsConfig:
    """Settings of the encoder's auxiliary losses."""

    num_visual_words: int = limited(1024, SIZE)
    draft_dim: int = limited(384, SIZE)

    def __post_init__(self) -> None:
        check_settings(self, "aids")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Settings of a pretrained image encoder."""

    source: str = ""  # A Hub id or a folder: ResNet, ViT, CLIP or SigLIP.
    trainable_layers: int = limited(0, LAST_LAYERS)  # The last n train, of a ResNet the last n stages; -1: all of them.
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "storyboard.image_encoder")


@dataclass(frozen=True)
class ScratchImageEncoderConfig:
    """Settings of the image encoder that is trained from scratch."""

    dim: int = limited(256, SIZE)
    num_layers: int = limited(4, LAYERS)
    num_heads: int = limited(4, SIZE)
    image_size: int = limited(96, SIZE)
    # Of the stem's stages, each of which halves height and width.
    stem_channels: tuple[int, ...] = limited((32, 64, 128), SIZE)
    patch_size: int = limited(1, SIZE)  # Cells a side of the stem's last map that make one token.
    norm_num_groups: int = limited(8, SIZE)
    dropout: float = limited(0.0, DECAY)
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "storyboard.pixel_encoder")

    @property
    def token_size(self) -> int:
        """Pixels a side that a token covers."""
        return 2 ** (len(self.stem_channels) + 1) * self.patch_size


@dataclass(frozen=True)
class TextEncoderConfig:
    """Settings of a pretrained text encoder; without a source, tokens are embedded."""

    source: str = ""  # A Hub id, a folder or package:NAME: BERT, RoBERTa, DistilBERT, T5, CLIP's text model, ...
    max_length: int = limited(64, TOKENS)  # Tokens, including the encoder's special tokens.
    trainable_layers: int = limited(0, LAST_LAYERS)  # The last n train; -1: all of them.
    shortcuts: bool = False  # Slots also read words without their context, and begin as views of the sentence.
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "storyboard.text_encoder")


@dataclass(frozen=True)
class StoryboardConfig:
    """Settings of the storyboard: encoder, pooling and codebook."""

    dim: int = limited(256, SIZE)
    num_layers: int = limited(3, LAYERS)
    num_heads: int = limited(4, SIZE)
    patch_size: int = limited(2, SIZE)
    num_slots: int = limited(8, SIZE)
    pooling: str = choice("queries", POOLINGS)  # Or one of the others in pooling.py.
    qformer_layers: int = limited(2, LAYERS)
    qformer_groups: int = limited(0, COUNT)  # Groups of its last norm; 0: LayerNorm.
    # Read as the autoencoder's latents, in patches; "pixels": by an encoder from scratch; or by a "pretrained" one.
    pictures: str = choice("latents", PICTURES)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    pixel_encoder: ScratchImageEncoderConfig = field(default_factory=ScratchImageEncoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    codebook_size: int = limited(4096, OPEN_ENTRIES)  # 0: train chooses it from the number of training steps.
    codebook_dim: int = limited(32, SIZE)
    codebook_decay: float = limited(0.99, DECAY)
    dead_code_threshold: float = limited(0.1, WEIGHT)  # A code used less than this fraction of the mean is revived.

    def __post_init__(self) -> None:
        check_settings(self, "storyboard")
        if (self.pictures == "pretrained") != bool(self.image_encoder.source):
            raise UserError(
                'storyboard.pictures "pretrained" and storyboard.image_encoder.source, a folder or Hub id, need each'
                " other"
            )
