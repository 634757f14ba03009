"""Whether a pretrained language model reads the plan: levers of its training compared, on texts of held-out stories.

Every variant is the same number of updates without the UNet: continuous slots first, then codes. The encoder reads
texts alone, or with `--autoencoder` pictures too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import Goal, make_parser, print_table, start
from text_training import Pages, TextPhase, Texts, cell, train_texts, without_image_decoder, without_pictures

from modules.common.arguments import positive_int
from modules.config import StoryConfig
from modules.data.folder import StoryFolder, split_folders
from modules.presets import PRESETS
from modules.story_model.story_model import StoryModel

Settings = dict[str, dict[str, Any]]
SIDE_READER_FIRST = "+ at first the side reader alone"  # Until the slots become codes.
SIDE_READER_ALONE = "+ the side reader alone"
SHORTCUTS = "+ shortcuts of the text encoder, smaller bags of words"
FOLLOWED = "+ codes that follow their slots sooner"
NOW = "+ smaller losses of pictures"
LARGE_PICTURES = {"bag_of_visual_words_loss": 0.005, "draft_loss": 0.5, "other_visual_words_loss": 0.03}
SLOW_CODES: Settings = {
    "storyboard": {"codebook_decay": 0.99},
    "prior": {"cache": False},
    "loss_weights": {"commitment_loss": 1.0, **LARGE_PICTURES},
}
BEFORE: Settings = {
    **SLOW_CODES,
    "text_encoder": {"shortcuts": False},
    "loss_weights": {**SLOW_CODES["loss_weights"], "bag_of_words_loss": 0.1, "other_words_loss": 0.05},
}
NOT_HIDDEN: Settings = {"training": {"modality_dropout": 0.0}}
VARIANTS: dict[str, Settings] = {
    "before: gated soft prompt, rate 2e-4": {
        **BEFORE,
        "text_decoder": {"prefix": "embeds"},
        "training": {"learning_rate": 2e-4},
    },
    "keys and values in every layer, rate 1e-3": BEFORE,
    "+ a side reader of the last hidden states": BEFORE,
    "+ no text hidden from the encoder": {**BEFORE, **NOT_HIDDEN},
    SIDE_READER_FIRST: {**BEFORE, **NOT_HIDDEN},
    SIDE_READER_ALONE: {**BEFORE, **NOT_HIDDEN},
    SHORTCUTS: {**SLOW_CODES, **NOT_HIDDEN},
    FOLLOWED: {"loss_weights": LARGE_PICTURES, **NOT_HIDDEN},
    NOW: NOT_HIDDEN,
    "no text hidden, word dropout .3": {**BEFORE, "training": {"word_dropout": 0.3, "modality_dropout": 0.0}},
}
WITHOUT_SIDE_READER = tuple(VARIANTS)[:2]  # In these the plan is read through the gated prefix alone.


def config_of(variant: str, args: argparse.Namespace) -> StoryConfig:
    """Return the preset `picturebooks`, what reads no text as small as it can be, with the settings of a variant."""
    preset = PRESETS["picturebooks"]
    config = without_pictures(preset) if args.autoencoder is None else without_image_decoder(preset)
    settings = dict(VARIANTS[variant])
    of_encoder = settings.pop("text_encoder", {})
    config = replace(config, **{name: replace(getattr(config, name), **values) for name, values in settings.items()})
    board = config.storyboard
    encoder = replace(board.text_encoder, max_length=args.max_length + 8, **of_encoder)
    hidden = config.training if args.autoencoder is None else preset.training  # With pictures texts may be hidden.
    return replace(
        config,
        storyboard=replace(board, codebook_size=args.codebook_size, text_encoder=encoder),
        text_decoder=replace(config.text_decoder, max_length=args.max_length),
        training=replace(
            config.training,
            modality_dropout=hidden.modality_dropout,
            max_steps=args.num_updates,
            batch_size=args.batch_size,
            quantize_at=0.7,
        ),
    )


def train_parts(variant: str, model: StoryModel, has_codes: bool) -> None:
    """Set what trains. A side reader that does not train adds nothing."""
    model.train_parts(TextPhase.trains)
    if variant in WITHOUT_SIDE_READER:
        model.text_decoder.side_reader.requires_grad_(False)
    elif variant in (SIDE_READER_ALONE, SHORTCUTS, FOLLOWED, NOW) or (variant == SIDE_READER_FIRST and not has_codes):
        model.text_decoder.train_side_reader()


def run(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant; return its gaps before the quantiser and after it, and its seconds an update."""
    config = config_of(variant, args)
    folders = split_folders(args.data)
    counts = {"train": args.num_stories, "val": args.num_held_out}
    kind = Texts if args.autoencoder is None else Pages
    texts = [kind(StoryFolder(folders[split], "skip", config.max_steps), count) for split, count in counts.items()]
    found = train_texts(config, *texts, args.seed, partial(train_parts, variant), args.autoencoder)
    for name in ("continuous", "codes"):
        print(f"{variant}, {name}: swap gap {cell(found[name]['swap_gap'])}", flush=True)
    return found


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Return the results of every variant."""
    results = {}
    for variant in args.variants or VARIANTS:
        results[variant] = found = run(variant, args)
        header = ("nats a token", "own", "swap gap", "null gap")
        rows = [
            [name, *(cell(found[name][key]) for key in ("own", "swap_gap", "null_gap"))]
            for name in ("before", "continuous", "codes")
        ]
        seconds = [found[name]["seconds_per_update"] for name in ("continuous", "codes")]
        print(f"\n{variant}: {seconds[0]:.2f} s an update, with codes {seconds[1]:.2f}")
        print_table(header, rows)
        codes = found["codes"]
        print(f"codes cost {cell(codes['cost'])}, net value {cell(codes['net'])} nats a step", flush=True)
    gap = max(found["codes"]["swap_gap"]["value"] for found in results.values())
    return {"variants": results}, [Goal("swap gap, nats a token", gap, 0.3, at_least=True)]


def main() -> None:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--data", type=Path, required=True, help="stories, with train and val")
    parser.add_argument("--autoencoder", type=Path, help="a run or model whose autoencoder encodes the pictures")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="these only (default: all)")
    parser.add_argument("--num_updates", type=positive_int, default=200)
    parser.add_argument("--batch_size", type=positive_int, default=2, help="stories (default 2)")
    parser.add_argument("--num_stories", type=positive_int, default=1000)
    parser.add_argument("--num_held_out", type=positive_int, default=40)
    parser.add_argument("--max_length", type=positive_int, default=32, help="tokens of a text (default 32)")
    parser.add_argument("--codebook_size", type=positive_int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    start(measure, parser)


if __name__ == "__main__":
    main()
