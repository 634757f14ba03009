"""A new model that starts from the weights of a trained one, where they fit."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from modules.common.errors import UserError
from modules.config import StoryConfig, load_config
from modules.saving.model_folder import CONFIG, TRAINING_ONLY, load_model, resolve_model_folder
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import StoryTokenizer, Vocabulary

_ENDS_A_BLOCK = re.compile(r"^autoencoder\.vae\..*\.resnets\.\d+\.conv2\.")


def donor_config(path: Path, *, offline: bool = False) -> StoryConfig:
    """Return the config of a trained model. Raises UserError where there is none."""
    return load_config(resolve_model_folder(path, offline=offline) / CONFIG)


def with_autoencoder_of(config: StoryConfig, path: Path, *, offline: bool = False) -> StoryConfig:
    """Return the config with the autoencoder of the trained model at `path`, for pictures of the same size, if it has
    another architecture. Raises UserError where there is no model.
    """
    own, given = config.autoencoder, donor_config(path, offline=offline).autoencoder
    is_same = own.architecture == given.architecture or own.source or given.source
    if is_same or (own.image_size, own.downsampling) != (given.image_size, given.downsampling):
        return config
    return replace(config, autoencoder=given)


def start_from(
    model: StoryModel, tokenizer: Vocabulary, path: Path, *, offline: bool = False, visible: bool = True
) -> Vocabulary:
    """Copy the weights of the trained model at `path` into `model` where name and shape agree.

    Prints on stderr, where `visible`, how many were copied and what starts fresh. Returns the vocabulary to use: the
    trained model's with the words of `tokenizer` added. Raises UserError where the vocabularies differ in size or kind:
    the embeddings of words would be mixed up.
    """
    donor, vocabulary = load_model(path, offline=offline)
    if type(vocabulary) is not type(tokenizer) or donor.vocab_size != model.vocab_size:
        raise UserError(
            f"--init_from {path}: its vocabulary has {donor.vocab_size} tokens, this config's {model.vocab_size}:"
            " set vocab_size and text_decoder.source as there"
        )
    weights, own = donor.state_dict(), model.state_dict()
    trained = [name for name in own if name not in model.frozen and not name.startswith(TRAINING_ONLY)]
    taken = [name for name in trained if name in weights and weights[name].shape == own[name].shape]
    fresh = sorted(set(trained) - set(taken))
    # New residual blocks of the autoencoder start as the identity: with more layers it starts as the trained one.
    added = {name: own[name].zero_() for name in fresh if _ENDS_A_BLOCK.search(name)}
    model.load_state_dict({**own, **added, **{name: weights[name] for name in taken}})
    if model.has_codes and "storyboard.quantizer.codebook" in taken:
        model.storyboard.quantizer.restart_averages()
    if isinstance(vocabulary, StoryTokenizer) and isinstance(tokenizer, StoryTokenizer):
        vocabulary = StoryTokenizer(vocabulary.tokenizer, {*vocabulary.words, *tokenizer.words}, vocabulary.nearest)
    if visible:
        print(f"starting from {path}: {_summary(len(taken), fresh)}", file=sys.stderr)
    return vocabulary


def _summary(num_taken: int, fresh: list[str]) -> str:
    """Return how many tensors were taken over and what starts fresh, by module."""
    modules = sorted({".".join(name.split(".")[:3]) for name in fresh})
    shown = ", ".join(modules[:12]) + (", ..." if len(modules) > 12 else "")
    return f"{num_taken} tensors taken over; fresh: {shown or 'none'}"
