"""Whether a pretrained language model reads the plan: levers of its training compared, on texts of held-out stories.

Every variant is the same number of updates of texts alone (no pictures, no UNet): continuous slots first, then codes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Goal, make_parser, print_table, start

from modules.common.arguments import positive_int
from modules.common.precision import inference_autocast
from modules.common.progress import track
from modules.config import StoryConfig
from modules.data.folder import StoryFolder, split_folders
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.layers.seeding import derive_seed
from modules.presets import PRESETS
from modules.story import Story
from modules.story_model.story_model import StoryModel, build_model
from modules.text_decoder.tokenizers import make_vocabulary
from modules.training.optimizer import learning_rate_at, parameter_groups
from modules.training.phases import JointPhase
from modules.training.reliance import plan_conditions, swap_rows

SIDE_READER_FIRST = "+ at first the side reader alone"  # Until the slots become codes.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "before: gated soft prompt, rate 2e-4": {
        "text_decoder": {"prefix": "embeds"},
        "training": {"learning_rate": 2e-4, "word_dropout": 0.0},
    },
    "keys and values in every layer, rate 1e-3": {"training": {"word_dropout": 0.0}},
    "+ a side reader of the last hidden states": {"training": {"word_dropout": 0.0}},
    "+ no text hidden from the encoder": {"training": {"word_dropout": 0.0, "modality_dropout": 0.0}},
    SIDE_READER_FIRST: {"training": {"word_dropout": 0.0, "modality_dropout": 0.0}},
    "no text hidden, word dropout .3": {"training": {"word_dropout": 0.3, "modality_dropout": 0.0}},
}
WITHOUT_SIDE_READER = tuple(VARIANTS)[:2]  # In these the plan is read through the gated prefix alone.


class TextPhase(JointPhase):
    """The joint phase without pictures."""

    trains = ("storyboard", "prior", "text_decoder", "aids")


class Texts:
    """The first stories of a data set, without their pictures."""

    def __init__(self, folder: Path, max_steps: int, count: int) -> None:
        self.source = StoryFolder(folder, "skip", max_steps)
        self.count = min(count, len(self.source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        return self.outline(index)

    def outline(self, index: int) -> Story:
        """Return one story without its pictures."""
        story = self.source.outline(index)
        return replace(story, steps=tuple(replace(step, image_path=None) for step in story.steps))


def config_of(variant: str, args: argparse.Namespace) -> StoryConfig:
    """Return the preset `picturebooks`, its pictures tiny, with the settings of a variant."""
    config, tiny = PRESETS["picturebooks"], PRESETS["tiny"]
    changed = {name: replace(getattr(config, name), **values) for name, values in VARIANTS[variant].items()}
    config = replace(config, **changed)
    board = config.storyboard
    encoder = replace(board.text_encoder, max_length=args.max_length + 8)
    return replace(
        config,
        storyboard=replace(board, codebook_size=args.codebook_size, text_encoder=encoder),
        text_decoder=replace(config.text_decoder, max_length=args.max_length),
        image_decoder=tiny.image_decoder,
        autoencoder=tiny.autoencoder,
        aids=tiny.aids,
        training=replace(config.training, max_steps=args.num_updates, batch_size=args.batch_size, quantize_at=0.7),
    )


def encode(model: StoryModel, data: Path, count: int, max_steps: int) -> EncodedStories:
    """Return stories as the model's inputs; what a frozen text encoder makes of the texts is computed once."""
    vocabulary = make_vocabulary(model.config.text_decoder, 0, (), model.sources["text_decoder"])
    stories = EncodedStories(Texts(data, max_steps, count), model, vocabulary)
    encoder = model.frozen_encoders().get("text_encoder")
    if encoder is not None:
        ids, mask = stories.tokens["encoder_ids"].split(64), stories.tokens["encoder_mask"].split(64)
        with torch.no_grad():
            features = [encoder(*rows) for rows in track("reading texts", list(zip(ids, mask, strict=True)))]
        stories.tokens["text_features"] = torch.cat(features)
    return stories


def precision() -> torch.autocast:
    """Return a context that computes in bf16 where this machine has it."""
    return inference_autocast("auto", torch.device("cpu"))


def train_parts(model: StoryModel, variant: str, has_codes: bool) -> None:
    """Set what trains. A side reader that does not train adds nothing."""
    model.train_parts(TextPhase.trains)
    if variant in WITHOUT_SIDE_READER:
        model.text_decoder.side_reader.requires_grad_(False)
    elif variant == SIDE_READER_FIRST and not has_codes:
        model.text_decoder.train_side_reader()


def train(model: StoryModel, phase: TextPhase, num_updates: range) -> float:
    """Run some of a phase's updates and return their seconds."""
    started, training = time.perf_counter(), model.config.training
    for step in track("training", num_updates):
        rate = learning_rate_at(step, phase.num_steps, training.learning_rate, training)
        for group in phase.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        phase.before_update(step)
        with precision():
            output = phase.loss(model, step, 0, 1)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in phase.optimizer.param_groups for p in group["params"]], training.max_grad_norm
        )
        phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
        phase.after_update(step, [output], lambda value: value)
    return time.perf_counter() - started


@torch.no_grad()
def measure_gaps(model: StoryModel, stories: EncodedStories) -> dict[str, Any]:
    """Return nats a token of held-out texts from their own, swapped and null plans, with intervals over stories, and
    what the plan costs and saves, in nats a step.
    """
    model.eval()
    sums: dict[str, list[float]] = {}
    for index in range(0, len(stories), 2):
        pair = list(range(index, min(index + 2, len(stories))))
        batch = stories.batch(pair)
        with precision():
            board = model.condition(batch)
            real = batch.step_mask.flatten().nonzero()[:, 0]
            swap = torch.arange(batch.step_mask.numel())
            swap[real] = real[swap_rows(len(real))]
            conditions = plan_conditions(board.code_embeds, model.batch_window(board, batch), swap)
            ids, mask = batch.input_ids.flatten(0, 1), batch.text_mask.flatten(0, 1)
            rows = {name: conditions[name].text_nats(model, ids, mask) for name in ("own", "swapped", "null")}
            losses, _ = model.prior_losses(board, batch)
            if losses:
                codes = board.codes.unflatten(0, batch.step_mask.shape)
                prior = model.prior(codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask)
                rows["cost"] = (prior.nll.sum(-1) * batch.step_mask).flatten()
        rows |= {"tokens": mask[:, 1:].sum(1), "steps": batch.step_mask.flatten()}
        for name, values in rows.items():
            sums.setdefault(name, []).extend(values.view(batch.step_mask.shape).sum(1).tolist())
    table = {name: torch.tensor(values) for name, values in sums.items()}
    return summarise(table)


def summarise(sums: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return estimates from each story's sums."""
    tokens, steps = sums["tokens"], sums["steps"]
    results = {
        "own": bootstrap_mean(sums["own"], tokens),
        "swap_gap": bootstrap_mean(sums["swapped"] - sums["own"], tokens),
        "null_gap": bootstrap_mean(sums["null"] - sums["own"], tokens),
    }
    if "cost" in sums:
        results["cost"] = bootstrap_mean(sums["cost"], steps)
        results["net"] = bootstrap_mean(sums["null"] - sums["own"] - sums["cost"], steps)
    return {name: estimate.to_dict() for name, estimate in results.items()}


def run(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant; return its gaps before the quantiser and after it, and its seconds an update."""
    config = config_of(variant, args)
    torch.manual_seed(derive_seed(args.seed, "weights"))
    model = build_model(config, "this benchmark", offline=True)
    set_modes = partial(train_parts, model, variant)
    folders = split_folders(args.data)
    encoded = partial(encode, model, max_steps=config.max_steps)
    held_out = encoded(folders["val"], args.num_held_out)
    stories = encoded(folders["train"], args.num_stories)
    options = {"num_steps": args.num_updates, "learning_rate": config.training.learning_rate, "seed": args.seed}
    phase = TextPhase(model, lambda: stories, global_batch=args.batch_size, autocast=precision, **options)
    phase.start()
    model.aids.fit_words(stories.input_ids, stories.text_mask)
    set_modes(has_codes=True)
    groups = parameter_groups(model.named_parameters(), model.pretrained, model.gates, config.training)
    phase.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.training.adam_betas)
    middle = phase.quantize_step
    results: dict[str, Any] = {"before": measure_gaps(model, held_out)}
    for name, updates in (("continuous", range(middle)), ("codes", range(middle, args.num_updates))):
        set_modes(has_codes=name == "codes")
        seconds = train(model, phase, updates)
        results[name] = {**measure_gaps(model, held_out), "seconds_per_update": seconds / len(updates)}
        print(f"{variant}, {name}: swap gap {cell(results[name]['swap_gap'])}", flush=True)
    return results


def cell(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


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
