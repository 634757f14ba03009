"""Settings of the storyboard encoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.common.errors import UserError
from modules.common.limits import DECAY, MIN_TOKENS, NOT_NEGATIVE, SHARE, SIZE, Limit, check_choices, check_limits

PICTURES = ("latents", "pixels", "pretrained")
POOLINGS = ("queries", "majority_vote", "qformer", "mean")
TRAINABLE_LAYERS = Limit(-1)


@dataclass(frozen=True)
class AidsConfig:
    """Settings of the encoder's auxiliary losses."""

    num_visual_words: int = 1024
    draft_dim: int = 384

    def __post_init__(self) -> None:
        check_limits("aids", self, {SIZE: "num_visual_words draft_dim"})


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Settings of a pretrained image encoder."""

    source: str = ""  # A Hub id or a folder: ResNet, ViT, CLIP or SigLIP.
    trainable_layers: int = 0  # The last n train, of a ResNet the last n stages; -1: all of them.
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_limits("storyboard.image_encoder", self, {TRAINABLE_LAYERS: "trainable_layers"})


@dataclass(frozen=True)
class ScratchImageEncoderConfig:
    """Settings of the image encoder that is trained from scratch."""

    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    image_size: int = 96
    stem_channels: tuple[int, ...] = (32, 64, 128)  # Of the stem's stages, each of which halves height and width.
    patch_size: int = 1  # Cells a side of the stem's last map that make one token.
    norm_num_groups: int = 8
    dropout: float = 0.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        sizes = "dim num_layers num_heads image_size stem_channels patch_size norm_num_groups"
        check_limits("storyboard.pixel_encoder", self, {SIZE: sizes, DECAY: "dropout"})

    @property
    def token_size(self) -> int:
        """Pixels a side that a token covers."""
        return 2 ** (len(self.stem_channels) + 1) * self.patch_size


@dataclass(frozen=True)
class TextEncoderConfig:
    """Settings of a pretrained text encoder; without a source, tokens are embedded."""

    source: str = ""  # A Hub id or a folder: BERT, RoBERTa, DistilBERT, T5, CLIP's text model, ...
    max_length: int = 64  # Tokens, including the encoder's special tokens.
    trainable_layers: int = 0  # The last n train; -1: all of them.
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        limits = {MIN_TOKENS: "max_length", TRAINABLE_LAYERS: "trainable_layers"}
        check_limits("storyboard.text_encoder", self, limits)


@dataclass(frozen=True)
class StoryboardConfig:
    """Settings of the storyboard: encoder, pooling and codebook."""

    dim: int = 256
    num_layers: int = 3
    num_heads: int = 4
    patch_size: int = 2
    num_slots: int = 8
    pooling: str = "queries"  # Or one of the others in pooling.py.
    qformer_layers: int = 2
    qformer_groups: int = 0  # Groups of its last norm; 0: LayerNorm.
    # Read as the autoencoder's latents, in patches; "pixels": by an encoder from scratch; or by a "pretrained" one.
    pictures: str = "latents"
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    pixel_encoder: ScratchImageEncoderConfig = field(default_factory=ScratchImageEncoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    codebook_size: int = 4096
    codebook_dim: int = 32
    codebook_decay: float = 0.99
    dead_code_threshold: float = 0.1  # A code used less than this fraction of the mean is revived.

    def __post_init__(self) -> None:
        check_choices("storyboard", self, {"pooling": POOLINGS, "pictures": PICTURES})
        sizes = "dim num_layers num_heads patch_size num_slots qformer_layers codebook_size codebook_dim"
        limits = {SIZE: sizes, NOT_NEGATIVE: "qformer_groups dead_code_threshold", SHARE: "codebook_decay"}
        check_limits("storyboard", self, limits)
        if (self.pictures == "pretrained") != bool(self.image_encoder.source):
            raise UserError(
                'storyboard.pictures "pretrained" and storyboard.image_encoder.source, a folder or Hub id, need each'
                " other"
            )
