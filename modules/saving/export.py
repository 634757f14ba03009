"""Export of a trained model: as a folder, to the Hub, and its low-rank updates alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from modules.common.errors import UserError
from modules.common.files import STAGING, fresh_staging, remove_staging, write_whole
from modules.common.ownership import OwnFiles
from modules.common.sums import MANIFEST
from modules.image_decoder.stable_diffusion import save_lora as save_unet_lora
from modules.saving.model_folder import architectures_of, save_model
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

CARD_FILE = "README.md"
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

    Frozen weights of pretrained parts are left out: they are read from their sources again. A card that is there stays.
    Raises UserError where the folder cannot be written, or has files of these names that this program did not write.
    """
    with written_whole(folder) as new:
        save_model(new, model.config, model.own_state(), tokenizer, architectures_of(model))
        (new / MANIFEST).unlink()  # That of the whole folder takes its place.
    card = folder / CARD_FILE
    if not card.exists():
        write_whole(card, CARD.format(preset=model.config.preset, name=folder.resolve().name).encode())
    return folder


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Give an empty folder, whose files are moved to `folder` at the end, with their sums: all of them or none.

    Raises UserError where `folder` cannot be written, or has files of these names that this program did not write.
    """
    staging = folder / ".export.partial"
    try:
        fresh_staging(staging)
        yield staging
        names = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()]
        names.remove(STAGING)
        own = OwnFiles(folder)
        own.start(names)
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(staging / name, folder / name)
        own.finish(names)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the model cannot be written to {folder}: {error}") from None
    finally:
        remove_staging(staging)


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
    writers = {name: write for name, (tuning, write) in decoders.items() if tuning == "lora"}
    if not writers:
        raise UserError('this model has no LoRA: neither of its decoders has the tuning "lora"')
    with written_whole(folder) as new:
        for name, write in writers.items():
            (new / name).mkdir()
            write(new / name)
    return [folder / name for name in writers]
