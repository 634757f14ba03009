"""Train the shipped weights further on one GPU in minutes: more latent channels, then the decoders and the prior.

    python benchmarks/gpu_weights.py autoencoder --ckpt A --channels 24 --length 90s --output B
    python benchmarks/gpu_weights.py decoders --ckpt B --parts image_decoder=280s prior=30s text_decoder=30s --output C

The first command adds channels to the latents and trains the autoencoder. The channels that there were stay close to
what they were, so the storyboard's encoder, which ignores the new ones, gives nearly the same codes, and text decoder
and prior stay good. The second command trains parts of the model one after the other on cached codes, as `train` does
in its last phases, but with all data on the GPU: stories are drawn by all cores, encoded once and never leave it. Both
write a model folder. A length is a number of seconds, 90s, or of updates, 1349. Without a GPU they run on the CPU,
slowly.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from pathlib import Path
from typing import Any

import torch
from common import environment
from drawer import Drawer
from gpu_autoencoder import AutoencoderTrainer
from gpu_fit import Length, say
from gpu_parts import PARTS, PartTrainer
from gpu_stories import Stories, as_images
from gpu_widen import widen, with_given_pages
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.commands.cli import execute
from modules.commands.shared import write_json
from modules.common.arguments import Parser, a_path, positive_int
from modules.common.errors import UserError
from modules.common.files import check_writable
from modules.saving.model_folder import load_model, save_model
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

HELD_OUT = 40  # Stories of the split "tune".
MAX_BYTES = 15_000_000


def train_autoencoder(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Train the autoencoder and write the model."""
    drawn = Drawer(args.ckpt, args.num_stories, "train", args.processes, with_texts=False)
    tuning = Drawer(args.ckpt, HELD_OUT, "tune", 1, with_texts=False)
    pixels, held_out = (torch.cat([chunk["pixels"].to(device) for chunk in chunks]) for chunks in (drawn, tuning))
    say(f"{len(pixels):,} pictures drawn")
    old, tokenizer = load_model(args.ckpt, offline=True)
    trainer = AutoencoderTrainer(old, pixels, args)
    found = trainer.train(as_images(held_out))
    write_part(args.output, trainer.model.cpu(), tokenizer, "autoencoder")
    return found


def train_decoders(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Train parts of the model, and write it after each."""
    drawn = Drawer(args.ckpt, args.num_stories, "train", args.processes)
    tuning = Drawer(args.ckpt, args.held_out, "tune", 1)
    model, tokenizer = load_model(args.ckpt, offline=True)
    model = with_given_pages(model) if any(name == "prior" for name, _ in args.parts) else model
    model.to(device)
    stories, held_out = Stories(drawn, model, device), Stories(tuning, model, device)
    say(f"{len(stories.lengths):,} stories, {stories.codes.shape[1]:,} pages encoded")
    trainer, found = PartTrainer(model, stories, held_out, args), {}
    for part, length in args.parts:
        found[part] = trainer.train(part, length)
        write_part(args.output, copy.deepcopy(model).cpu(), tokenizer, part)
        say(f"{part}: written")
    return found


def write_part(folder: Path, model: StoryModel, tokenizer: Vocabulary, part: str) -> None:
    """Write the model folder, and the weights of one part alone beside it, in files of at most 15 MB."""
    save_model(folder, model.config, model.own_state(), tokenizer)
    files: list[dict[str, Tensor]] = [{}]
    for name, value in model.own_state().items():
        if not name.startswith((part, *(("storyboard.image_encoder",) if part == "autoencoder" else ()))):
            continue
        if sum(tensor.nbytes for tensor in files[-1].values()) + value.numel() * 2 > MAX_BYTES:
            files.append({})
        files[-1][name] = value.half().contiguous().clone()
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    for number, tensors in enumerate(files):
        save_file(tensors, parts / f"{part}.{number}.safetensors")


def join(args: argparse.Namespace, _: torch.device) -> dict[str, Any]:
    """Write the model of a folder with the parts of others in place of its own."""
    model, tokenizer = load_model(args.ckpt, offline=True)
    given: dict[str, Tensor] = {}
    for path in args.parts:
        try:
            given |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} contains no weights of a part ({error}): copy it anew") from error
    channels = given.get("autoencoder.latent_mean", model.autoencoder.latent_mean).shape[0]
    if channels != model.config.autoencoder.latent_channels:
        model = widen(model, channels)
    if "prior.given_pages" in given:
        model = with_given_pages(model)
    model.load_state_dict(model.state_dict() | {name: value.float() for name, value in given.items()})
    save_model(args.output, model.config, model.own_state(), tokenizer)
    return {"parts": [str(path) for path in args.parts]}


def a_part(text: str) -> tuple[str, Length]:
    """Parse "prior=30s" or "prior=496"."""
    name, _, length = text.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {name!r}: one of {', '.join(PARTS)}")
    return name, Length.parse(length)


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = {"autoencoder": add_autoencoder_flags, "decoders": add_decoder_flags, "join": add_join_flags}
    for name, add_flags in add.items():
        command = commands.add_parser(name)
        command.add_argument("--ckpt", type=a_path, required=True, help="the model to start from")
        command.add_argument("--output", type=a_path, required=True, help="the model folder to write")
        command.add_argument("--json", type=a_path, help="write losses and figures to this file")
        command.add_argument("--seed", type=int, default=0)
        add_flags(command)
    return parser


def add_training_flags(command: argparse.ArgumentParser, rows: int) -> None:
    command.add_argument("--num_stories", type=positive_int, default=40_000)
    command.add_argument("--processes", type=positive_int, default=os.cpu_count(), help="that draw the stories")
    command.add_argument("--rows", type=positive_int, default=rows, help="pages an update")


def add_autoencoder_flags(command: argparse.ArgumentParser) -> None:
    add_training_flags(command, 768)
    command.add_argument("--channels", type=positive_int, default=24)
    command.add_argument("--length", type=Length.parse, default=Length(1349), help="updates, or seconds: 90s")
    command.add_argument("--anchor", type=float, default=2.0, help="weight of the channels that stay as they are")
    command.add_argument("--learning_rate", type=float, default=1e-3)


def add_decoder_flags(command: argparse.ArgumentParser) -> None:
    add_training_flags(command, 1680)  # A multiple of every number of pages.
    command.add_argument("--parts", type=a_part, nargs="+", required=True, help="NAME=UPDATES or NAME=SECONDSs")
    command.add_argument("--held_out", type=positive_int, default=200, help="stories that losses are measured on")
    command.add_argument("--plan_rows", type=positive_int, default=3360, help="pages an update of the prior")
    command.add_argument("--image_decoder_rate", type=float, default=1e-3)
    command.add_argument("--text_decoder_rate", type=float, default=8e-4)
    command.add_argument("--prior_rate", type=float, default=8e-4)


def add_join_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--parts", type=a_path, nargs="+", required=True, help="files of weights, of OUTPUT/parts")


def run(args: argparse.Namespace) -> int:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # Every part has batches of one shape.
    torch.manual_seed(args.seed)
    if args.json:
        check_writable(args.json)
    commands = {"autoencoder": train_autoencoder, "decoders": train_decoders, "join": join}
    found = commands[args.command](args, device)
    if args.json:
        write_json(args.json, {"command": sys.argv, "environment": environment(), **found})
    return 0


if __name__ == "__main__":
    sys.exit(execute(run, make_flags().parse_args()))
