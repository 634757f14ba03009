"""LoadedModel: a trained model with its tokenizer, loaded, saved, moved between devices and given prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from modules.common.devices import find_device
from modules.common.errors import UserError
from modules.common.shipped import shipped
from modules.config import StoryConfig
from modules.generation.notes import input_notes
from modules.generation.rendering import place_model
from modules.generation.settings import MAX_LONG_STORY, MAX_NUM_STEPS
from modules.saving.export import push_to_hub, save_lora, save_pretrained
from modules.saving.model_folder import TRAINING_ONLY, load_model
from modules.story import StoryStep
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # By the bytes of a number.


class LoadedModel:
    """A trained model and its tokenizer."""

    def __init__(self, model: StoryModel, tokenizer: Vocabulary) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, model.config
        self._hashed: tuple[object, str] = (None, "")  # The weights of the last fingerprint, and it.

    @classmethod
    def from_pretrained(cls, path: str | Path, *, offline: bool = False) -> Self:
        """Load a model folder, a checkpoint, the newest checkpoint of a run folder, or a Hub id.

        Pretrained parts are loaded from their sources, with `offline` from the local cache. Raises UserError if one is
        missing.
        """
        return cls(*load_model(shipped(path), offline=offline))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model folder that `from_pretrained` reads, and return it."""
        return save_pretrained(self.model, self.tokenizer, Path(folder))

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload the model folder to the Hub and return its address. Raises UserError if the Hub refuses it."""
        return push_to_hub(self.model, self.tokenizer, repo_id, private)

    def save_lora(self, folder: str | Path) -> list[Path]:
        """Write the low-rank weights alone; return their folders."""
        return save_lora(self.model, Path(folder))

    def fingerprint(self) -> str:
        """Return a short hash of the architecture and of all weights that generation uses.

        Weights that stay frozen at their source are known by its name, which is in the config. It is computed again
        only when a weight was changed or moved.
        """
        weights = [value for name, value in self.model.own_state().items() if not name.startswith(TRAINING_ONLY)]
        now = self.config, *map(_version, weights), *_bit_sums(weights)
        if now != self._hashed[0]:
            self._hashed = now, self._hash(weights)
        return self._hashed[1]

    def _hash(self, weights: Sequence[Tensor]) -> str:
        digest = hashlib.sha256(json.dumps(_architecture(self.config), sort_keys=True).encode())
        for value in weights:
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def longest_story(self) -> int:
        """The largest number of pages generated at once."""
        return MAX_LONG_STORY if self.config.prior.attention_window else MAX_NUM_STEPS

    def to(self, device: str | torch.device) -> Self:
        """Move the model to `device`, and return the pipeline. Raises UserError if the device is not available.

        Weights stay in float32; the setting `precision` says how pictures are computed.

        >>> pipeline.to("cpu").device
        device(type='cpu')
        """
        if not isinstance(device, (str, torch.device)):
            raise UserError(
                f"a model is moved to a device, such as 'cuda', not to {device!r:.80}: for half precision give"
                " precision='bf16' when you draw"
            )
        self.model.to(find_device(str(device)))
        return self

    def place(self, device: str | None = None, save_memory: bool = False) -> Self:
        """Move the model to `device`, by default the accelerator.

        With `save_memory` a pretrained autoencoder decodes one image at a time and, on an accelerator, the large
        pretrained parts stay in main memory until they are used: the same result, slower. Raises UserError if the
        device is not available.
        """
        place_model(self.model, find_device(device), save_memory)
        return self

    def notes(self, prompt: str, steps: Sequence[StoryStep] = ()) -> tuple[str, ...]:
        """Return what the model cannot take into account in a prompt and in given pages, a sentence each."""
        return input_notes(self.tokenizer, self.config, prompt, [step.text for step in steps])

    def prompt_tokens(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Return the tokens (1,Lp) of a prompt as the model reads it and their mask, on the model's device."""
        ids, mask = self.model.tokenize_prompts([self.tokenizer.read(prompt).text], self.tokenizer)
        return ids[:, : mask.sum()].to(self.device), mask[:, : mask.sum()].to(self.device)


def _version(value: Tensor) -> tuple[int, int]:
    """Return where a tensor is, and how often it was changed in place, as far as autograd was told."""
    return value.data_ptr(), 0 if value.is_inference() else value._version


def _bit_sums(values: Sequence[Tensor]) -> list[int]:
    """Return the sum of the bits of each tensor as integers, which also changes with what goes past autograd (`.data`).

    It takes a quarter of the time of a hash on a CPU, and moves nothing from an accelerator but the sums.
    """
    flat = [value.detach().contiguous().flatten() for value in values]
    return [int(bits.view(INTEGERS[bits.element_size()]).sum(dtype=torch.int64)) for bits in flat]


def _architecture(config: StoryConfig) -> dict[str, Any]:
    """Return the settings of the model that differ from the defaults: a setting that a later version adds changes
    nothing for the weights from before.
    """

    def differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        return {
            name: differences(value, defaults[name]) if isinstance(value, dict) else value
            for name, value in values.items()
            if value != defaults[name]
        }

    found = differences(json.loads(config.to_json()), json.loads(StoryConfig().to_json()))
    return {name: value for name, value in found.items() if name not in ("preset", "training", "loss_weights")}
