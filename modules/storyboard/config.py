"""Settings of the storyboard encoder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.common.errors import UserError


@dataclass(frozen=True)
class AidsConfig:
    num_visual_words: int = 1024
    draft_dim: int = 384


@dataclass(frozen=True)
class ImageEncoderConfig:
    source: str = ""  # A Hub id or a folder: ResNet, ViT, CLIP or SigLIP.
    trainable_layers: int = 0  # The last n train, of a ResNet the last n stages; -1: all of it.
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class ScratchImageEncoderConfig:
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    image_size: int = 96
    stem_channels: tuple[int, ...] = (32, 64, 128)  # Of the stem's stages, each of which halves the picture once more.
    patch_size: int = 1  # Cells a side of the stem's last map that make a token.
    norm_num_groups: int = 8
    dropout: float = 0.0
    gradient_checkpointing: bool = False

    @property
    def token_size(self) -> int:
        """Pixels a side that a token stands for."""
        return 2 ** (len(self.stem_channels) + 1) * self.patch_size


PICTURES = ("latents", "pixels", "pretrained")
POOLINGS = ("queries", "majority_vote", "qformer", "mean")


@dataclass(frozen=True)
class TextEncoderConfig:
    source: str = ""  # A Hub id or a folder: BERT, RoBERTa, DistilBERT, T5, CLIP's text model, ...
    max_length: int = 64  # Tokens, the encoder's own special tokens included.
    trainable_layers: int = 0  # The last n train; -1: all of it.
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class StoryboardConfig:
    dim: int = 256
    num_layers: int = 3
    num_heads: int = 4
    patch_size: int = 2
    num_slots: int = 8
    pooling: str = "queries"  # Or "majority_vote": see majority_vote.py; "qformer" or "mean": see pooling.py.
    qformer_layers: int = 2
    qformer_groups: int = 0  # Groups of its last norm; 0: LayerNorm.
    pictures: str = (
        "latents"  # The autoencoder's, in patches; "pixels" by a small encoder from scratch; by a "pretrained" one.
    )
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)  # The pretrained one.
    pixel_encoder: ScratchImageEncoderConfig = field(default_factory=ScratchImageEncoderConfig)  # The one from scratch.
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)  # Without a source: tokens, embedded.
    codebook_size: int = 4096
    codebook_dim: int = 32
    codebook_decay: float = 0.99
    dead_code_threshold: float = 0.1  # A code used less than this fraction of the mean is revived.

    def __post_init__(self) -> None:
        for name, value, known in (("pooling", self.pooling, POOLINGS), ("pictures", self.pictures, PICTURES)):
            if value not in known:
                raise UserError(f"storyboard.{name} must be one of {', '.join(known)}, got {value!r}")
        if (self.pictures == "pretrained") != bool(self.image_encoder.source):
            raise UserError(
                'storyboard.pictures "pretrained" and storyboard.image_encoder.source, a folder or Hub id, need each'
                " other"
            )
