"""A new model that starts from the weights of a trained one, where they fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.common.errors import UserError
from modules.config import StoryConfig, load_config
from modules.saving.model_folder import CONFIG, TRAINING_ONLY, load_model, resolve_model_folder
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import StoryTokenizer, Vocabulary


@dataclass(frozen=True)
class WarmStart:
    """Parameters that were taken from a trained model, and those that start fresh, by name."""

    taken: list[str]
    fresh: list[str]

    @property
    def summary(self) -> str:
        """One line: how many parameters were taken, and what starts fresh, by module."""
        modules = sorted({".".join(name.split(".")[:3]) for name in self.fresh})
        fresh = ", ".join(modules[:12]) + (", ..." if len(modules) > 12 else "")
        return f"{len(self.taken)} tensors taken over; fresh: {fresh or 'none'}"


def donor_config(path: Path, *, offline: bool = False) -> StoryConfig:
    """Return the config of a trained model. Raises UserError where there is none."""
    return load_config(resolve_model_folder(path, offline=offline) / CONFIG)


def start_from(
    model: StoryModel, tokenizer: Vocabulary, path: Path, *, offline: bool = False
) -> tuple[Vocabulary, WarmStart]:
    """Copy the weights of the trained model at `path` into `model` where name and shape agree.

    Returns the vocabulary to use, the trained model's with the words of `tokenizer` added, and what was copied. Raises
    UserError where the vocabularies differ in size or kind: the embeddings of words would be mixed up.
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
    model.load_state_dict({**own, **{name: weights[name] for name in taken}})
    if model.has_codes and "storyboard.quantizer.codebook" in taken:
        model.storyboard.quantizer.restart_averages()
    if isinstance(vocabulary, StoryTokenizer) and isinstance(tokenizer, StoryTokenizer):
        vocabulary = StoryTokenizer(vocabulary.tokenizer, {*vocabulary.words, *tokenizer.words})
    return vocabulary, WarmStart(taken, [name for name in trained if name not in set(taken)])
