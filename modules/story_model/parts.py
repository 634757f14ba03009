"""The parts of a story model: construction, state, and what each part needs of the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from modules.batch import StepInputs, StoryBatch
from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.image_decoder.autoencoder import PictureAutoencoder, PretrainedAutoencoder
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.transformer import Transformer
from modules.pretrained.freezing import enable_checkpointing
from modules.pretrained.part import gate_names, pretrained_names
from modules.pretrained.source import PretrainedSource
from modules.prior.predictor import Predictor
from modules.prior.prior import Prior
from modules.storyboard.aids import EncoderAids
from modules.storyboard.contrastive import ContrastiveLoss
from modules.storyboard.pooling import MajorityVoteStoryboard, MeanStoryboard, QFormerStoryboard
from modules.storyboard.storyboard import Storyboard
from modules.storyboard.text_encoders import PretrainedTextEncoder
from modules.text_decoder.language_model import vocabulary_of
from modules.text_decoder.text_decoder import TextDecoder
from modules.text_decoder.tokenizers import Vocabulary

FACTORS = ("storyboard", "prior", "predictor", "text_decoder", "image_decoder")
PARTS = (*FACTORS, "aids", "contrastive")  # All parts that are trained jointly.
STORYBOARDS = {
    "queries": Storyboard,
    "majority_vote": MajorityVoteStoryboard,
    "qformer": QFormerStoryboard,
    "mean": MeanStoryboard,
}
SPECIAL_IDS = (0, 1, 2)  # <pad>, <bos>, <eos> of every tokenizer trained here.


class StoryParts(nn.Module):
    """All parts of a story model. Its subclasses decide by `_build_plan` which of the parts of a plan they have."""

    storyboard: Storyboard
    prior: Prior
    predictor: Predictor
    has_codes = True  # Whether the plan is a storyboard of codes, with a prior.
    reads_steps = True  # Whether an encoder reads the steps' texts and images.

    def __init__(
        self,
        config: StoryConfig,
        *,
        offline: bool = False,
        random: bool = False,
        sources: Mapping[str, PretrainedSource] | None = None,
    ) -> None:
        """Build the model with fresh weights; parts with a `source` are pretrained.

        With `offline` they are read from the local cache only; with `random` they get random weights. `sources` replace
        those that the config names, by the part's name. Raises UserError where a source cannot be loaded.
        """
        super().__init__()
        self.config = config
        self.sources = pretrained_sources(config, offline, random) | dict(sources or {})
        board, latent_shape = config.storyboard, config.autoencoder.latent_shape
        slots, language_model = (board.num_slots, board.codebook_dim), self.sources.get("text_decoder")
        self.vocab_size = config.vocab_size if language_model is None else vocabulary_of(language_model)
        self._build_plan(config)
        special_ids = SPECIAL_IDS if language_model is None or random else None
        self.text_decoder = TextDecoder(
            config.text_decoder, self.vocab_size, *slots, special_ids, language_model, self.reads_plan
        )
        self.image_decoder = ImageDecoder(
            config.image_decoder, latent_shape, *slots, self.sources.get("image_decoder"), self.reads_plan
        )
        self.aids = EncoderAids(config.aids, self.vocab_size, latent_shape, *slots)
        contrasts = config.loss_weights.contrastive_loss > 0 and self.reads_steps
        self.contrastive = ContrastiveLoss() if contrasts else None
        self.autoencoder = self._build_autoencoder(config)
        if config.training.gradient_checkpointing:
            self._keep_less()
        self.pretrained, self.gates = pretrained_names(self), gate_names(self)
        parameters = dict(self.named_parameters(remove_duplicate=False))
        self.frozen = frozenset(name for name in self.pretrained if not parameters[name].requires_grad)

    def _build_plan(self, config: StoryConfig) -> None:
        """Build the parts that differ between plans."""
        raise NotImplementedError

    def _build_storyboard(self, config: StoryConfig) -> None:
        board, max_text_length = config.storyboard, config.text_decoder.max_length
        if not board.codebook_size:
            raise UserError("storyboard.codebook_size is 0, which only train resolves: set a number with --config")
        shape = config.autoencoder.latent_shape
        self.storyboard = STORYBOARDS[board.pooling](board, self.vocab_size, max_text_length, shape, self.sources)

    def _build_autoencoder(self, config: StoryConfig) -> PictureAutoencoder | PretrainedAutoencoder:
        if config.autoencoder.source:
            return PretrainedAutoencoder(config.autoencoder, self.sources["autoencoder"])
        return PictureAutoencoder(config.autoencoder).requires_grad_(False)

    def _keep_less(self) -> None:
        """Checkpoint the blocks of all transformers and of the UNet. Pretrained encoders have settings of their own."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.gradient_checkpointing = True
        self.image_decoder.enable_gradient_checkpointing()
        enable_checkpointing(self.text_decoder.language_model)

    @property
    def reads_plan(self) -> bool:
        """Whether the decoders of a page read the whole plan; without codes there is none."""
        return self.has_codes and self.config.context == "plan"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.autoencoder.latent_mean.device

    def own_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen weights, which stay at their source."""
        return {name: value for name, value in self.state_dict().items() if name not in self.frozen}

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the output of `own_state`. Raises RuntimeError if it belongs to another model."""
        self.load_state_dict(
            {name: value for name, value in self.state_dict().items() if name in self.frozen} | dict(state)
        )

    def parts(self, names: Collection[str] = PARTS) -> dict[str, nn.Module]:
        """Return the trainable parts that this model has, of those named."""
        return {name: part for name in names if isinstance(part := getattr(self, name, None), nn.Module)}

    def train_parts(self, names: Collection[str]) -> None:
        """Train the named parts, except pretrained weights that stay frozen, and freeze everything else."""
        self.requires_grad_(False).eval()
        for part in self.parts(names).values():
            part.requires_grad_(True).train()
        for name, parameter in self.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)

    @property
    def factors(self) -> dict[str, nn.Module]:
        """The trainable factors by name, without auxiliary losses."""
        return self.parts(FACTORS)

    @property
    def pictures(self) -> str | None:
        """The form in which the encoder reads pictures, see `StoryboardConfig.pictures`; None if it reads no steps."""
        return self.config.storyboard.pictures

    @property
    def reads_pixels(self) -> bool:
        """Whether the encoder reads pixels, not latents."""
        return self.pictures not in (None, "latents")

    def frozen_encoders(self) -> dict[str, nn.Module]:
        """Return the pretrained encoders of steps that are wholly frozen, by the name of their config."""
        return dict(self.storyboard.frozen_encoders())

    @torch.no_grad()
    def frozen_features(self, steps: StepInputs) -> dict[str, Tensor]:
        """Return what the frozen encoders make of N steps, by field of `StepInputs`, but for what is given already."""
        features, encoders = dict[str, Tensor](), self.frozen_encoders()
        if "text_encoder" in encoders and steps.text_features is None:
            features["text_features"] = encoders["text_encoder"](steps.encoder_ids, steps.encoder_mask)
        if "image_encoder" in encoders and steps.image_features is None:
            features["image_features"] = encoders["image_encoder"](steps.pixels)
        return features

    def with_features(self, batch: StoryBatch) -> StoryBatch:
        """Return a batch with its frozen features: the storyboard reads it more than once an update."""
        if batch.codes is not None:
            return batch
        features, shape = self.frozen_features(batch.steps()), batch.step_mask.shape
        return StoryBatch(**batch, **{name: value.unflatten(0, shape) for name, value in features.items()})

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the tokens that the encoder reads of N texts beside the text decoder's, by field of `StoryBatch`."""
        return self.storyboard.tokenize(texts)

    @property
    def prompt_encoder(self) -> PretrainedTextEncoder | None:
        """The pretrained text encoder that reads prompts, as a prior with a cache has them read; None without one."""
        encoder = self.storyboard.text_encoder if self.has_codes and self.config.prior.cache else None
        return encoder if isinstance(encoder, PretrainedTextEncoder) else None

    def tokenize_prompts(self, prompts: Sequence[str], tokenizer: Vocabulary) -> tuple[Tensor, Tensor]:
        """Return the tokens (N,Lp) of prompts and their mask, by the text decoder's `tokenizer` or the encoder's."""
        if self.prompt_encoder is not None:
            return self.prompt_encoder.tokenizer.encode_batch(prompts)
        return tokenizer.encode_batch(prompts, self.config.max_prompt_length)


def pretrained_sources(config: StoryConfig, offline: bool = False, random: bool = False) -> dict[str, PretrainedSource]:
    """Return the source of every pretrained part, by the part's name in a config."""
    board = config.storyboard
    ids = {
        "storyboard.image_encoder": board.image_encoder.source if board.pictures == "pretrained" else "",
        "storyboard.text_encoder": board.text_encoder.source,
        "text_decoder": config.text_decoder.source,
        "image_decoder": config.image_decoder.source,
        "autoencoder": config.autoencoder.source,
    }
    return {
        part: PretrainedSource(source, f"{part}.source", offline=offline, random=random)
        for part, source in ids.items()
        if source
    }
