"""Export of a trained model: as a folder, to the Hub, and its low-rank updates alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from modules.common.errors import UserError
from modules.image_decoder.stable_diffusion import save_lora as save_unet_lora
from modules.saving.model_folder import architectures_of, save_model
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

CARD = """---
license: mit
tags: [story-generation, discrete-storyboard]
---

# {name}

A story generator that plans in a discrete storyboard (preset `{preset}`); config.json contains all its settings.
With the program's repository:

    python story_generative_model.py generate --ckpt {{this folder or its Hub id}} --prompt "Rusty the fox wants a kite"
"""


def save_pretrained(model: StoryModel, tokenizer: Vocabulary, folder: Path) -> Path:
    """Write the model folder that `StoryPipeline.from_pretrained` reads, with a model card, and return it.

    Frozen weights of pretrained parts are left out: they are read from their sources again. Raises UserError where the
    folder cannot be written.
    """
    try:
        save_model(folder, model.config, model.own_state(), tokenizer, architectures_of(model))
        (folder / "README.md").write_text(
            CARD.format(preset=model.config.preset, name=folder.resolve().name), encoding="utf-8"
        )
    except OSError as error:
        raise UserError(f"the model cannot be written to {folder}: {error}") from None
    return folder


def push_to_hub(model: StoryModel, tokenizer: Vocabulary, repo_id: str, private: bool = False) -> str:
    """Upload the model folder to the Hub and return its address. Raises UserError where the Hub refuses it."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as parent:
        folder = save_pretrained(model, tokenizer, Path(parent) / repo_id.rpartition("/")[2])
        try:
            api = HfApi()
            repo = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a storyboard model")
        except Exception as error:  # The errors of the HTTP library share no base class with those of the Hub.
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"{repo_id} was not uploaded ({reason}): check the name, the network and `hf auth login`"
            ) from error
    return str(repo)


def save_lora(model: StoryModel, folder: Path) -> list[Path]:
    """Write the low-rank updates alone, text_decoder/ for peft and image_decoder/ for diffusers and peft.

    Returns the folders written. Raises UserError where the model has no low-rank updates.
    """
    decoders: dict[str, tuple[str, Callable[[Path], None]]] = {
        "text_decoder": (model.config.text_decoder.tuning, model.text_decoder.save_lora),
        "image_decoder": (model.config.image_decoder.tuning, partial(save_unet_lora, model.image_decoder.unet)),
    }
    written: list[Path] = []
    for name, (tuning, write) in decoders.items():
        if tuning == "lora":
            written.append(folder / name)
            written[-1].mkdir(parents=True, exist_ok=True)
            write(written[-1])
    if not written:
        raise UserError('this model has no LoRA: neither of its decoders has the tuning "lora"')
    return written
