"""Mechanisms of the presets, each compared with its own ablation at small size, all else being equal.

    python benchmarks/mechanisms.py --json results/mechanisms.json

Mechanisms of the prior are trained on the codes of a finished model (`--ckpt`), those of the encoder from scratch on
texts and pictures, without quantisation (the opening phase). One seed; intervals are 95 %, over held-out stories. The
JSON keeps finished studies: the same command resumes after a stop.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mechanism_bench import LEARNING_RATE, ROWS, Bench, Metrics
from mechanism_sinks import study_sinks
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modules.common.arguments import Parser
from modules.common.process import tune_process
from modules.common.progress import progress_line
from modules.config import StoryConfig
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import to_dicts
from modules.prior.config import ExpertsConfig
from modules.training.optimizer import cosine_with_warmup
from modules.training.phases import OpeningPhase, PlanningPhase, StoryPhase
from modules.training.processes import forgotten_precision

GPT2_SIZES = {
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
Results = dict[str, dict[str, dict[str, dict[str, float | None]]]]  # By study, variant, metric.


class TextPhase(StoryPhase):
    """Trains the text decoder alone, on the codes of a frozen encoder."""

    name = "text"
    trains = ("text_decoder",)


def halved(config: StoryConfig) -> StoryConfig:
    """Return the config with encoder and text decoder half as wide, to train from scratch in minutes on any CPU."""
    board, text = config.storyboard, config.text_decoder
    return replace(
        config,
        storyboard=replace(board, dim=board.dim // 2, num_heads=board.num_heads // 2),
        text_decoder=replace(text, dim=text.dim // 2, num_heads=text.num_heads // 2),
    )


def study_pooling(bench: Bench) -> Metrics:
    """Compare pooling by learned queries in one transformer, by a Q-Former, and by the mean of a page's vectors."""
    metrics = {}
    for pooling in ("qformer", "mean", "queries"):
        config = halved(bench.config)
        config = replace(config, storyboard=replace(config.storyboard, pooling=pooling))
        model = bench.train(OpeningPhase, bench.model(config, ("autoencoder",)), uncoded(bench.stories))
        metrics[pooling] = {"text, nats a token": bench.text_nats(model)}
    return metrics


def study_contrast(bench: Bench) -> Metrics:
    """Compare training with and without the sigmoid contrastive loss."""
    metrics = {}
    for weight in (0.1, 0.0):
        config = replace(halved(bench.config), loss_weights=replace(bench.config.loss_weights, contrastive_loss=weight))
        model = bench.train(Contrasting, bench.model(config, ("autoencoder",)), uncoded(bench.stories))
        metrics[f"weight {weight}"] = {
            "picture finds its text, R@1": bench.retrieval(model),
            "text, nats a token": bench.text_nats(model),
        }
    return metrics


class Contrasting(OpeningPhase):
    """The opening phase with the contrastive loss."""

    trains = (*OpeningPhase.trains, "contrastive")


def uncoded(stories: EncodedStories) -> EncodedStories:
    """Return the same stories without cached codes, so that the encoder is trained."""
    stories = copy.copy(stories)
    stories.codes = None
    return stories


def study_prior(bench: Bench) -> Metrics:
    """Compare a mixture of experts and scheduled sampling with the plain prior."""
    prior = bench.config.prior
    return compare_priors(
        bench,
        {
            "plain": bench.config,
            "8 experts, 2 a token": replace(bench.config, prior=replace(prior, experts=ExpertsConfig(num_experts=8))),
            "own codes, up to .25": replace(bench.config, training=replace(bench.config.training, own_codes=0.25)),
        },
    )


def study_temporal(bench: Bench) -> Metrics:
    """Compare the prior with and without a temporal transformer over whole steps."""
    prior = bench.config.prior
    return compare_priors(
        bench,
        {
            "plain": bench.config,
            "temporal transformer, 2 layers": replace(bench.config, prior=replace(prior, temporal_layers=2)),
        },
    )


def compare_priors(bench: Bench, variants: dict[str, StoryConfig]) -> Metrics:
    """Train a prior for each config on the same codes, and score it."""
    metrics = {}
    for name, config in variants.items():
        model = bench.train(PlanningPhase, bench.model(config), bench.stories)
        size = sum(parameter.numel() for parameter in model.prior.parameters()) / 1e6
        metrics[f"{name} ({size:.1f} M)"] = {"plan, bits a step": bench.plan_bits(model), **bench.story_metrics(model)}
    return metrics


def study_lora(bench: Bench) -> Metrics:
    """Compare a GPT-2, frozen and with LoRA, that was pretrained on the texts and reads codes as a prefix."""
    with tempfile.TemporaryDirectory() as folder:
        pretrain_language_model(bench, bench.stories, Path(folder))
        metrics = {}
        for tuning in ("lora", "frozen"):
            config = replace(
                bench.config, text_decoder=replace(bench.config.text_decoder, source=folder, tuning=tuning)
            )
            model = bench.model(config)
            if tuning == "lora":
                metrics["text alone"] = {"text, nats a token": bench.text_nats(model, null=True)}
            model = bench.train(TextPhase, model, bench.stories)
            metrics[f"{tuning}, with the codes"] = {"text, nats a token": bench.text_nats(model)}
    return metrics


def pretrain_language_model(bench: Bench, stories: EncodedStories, folder: Path) -> None:
    """Write a small GPT-2 in the Hub's layout, trained on the stories' texts alone."""
    torch.manual_seed(bench.args.seed)
    ids, mask, updates = stories.input_ids, stories.text_mask, 2 * bench.args.updates
    labels = ids.masked_fill(~mask, -100)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=bench.config.vocab_size, **GPT2_SIZES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    with progress_line("language model", updates) as progress:
        for step in range(updates):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine_with_warmup(step, updates, 50, 0.05)
            rows = torch.randint(len(ids), (ROWS,))
            with bench.autocast():
                loss = model(ids[rows], attention_mask=mask[rows].long(), labels=labels[rows]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.update(step + 1, f"loss {loss.item():.3f}")
    model.save_pretrained(folder)
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=bench.tokenizer.tokenizer, **names).save_pretrained(folder)


STUDIES: Mapping[str, Callable[[Bench], Metrics]] = {
    "prior": study_prior,
    "temporal": study_temporal,
    "pooling": study_pooling,
    "contrast": study_contrast,
    "lora": study_lora,
    "sinks": study_sinks,
}


def table(results: Results) -> str:
    """Return the metrics as Markdown."""
    lines = ["| study | variant | metric | value |", "|---|---|---|---|"]
    for study, variants in results.items():
        for variant, metrics in variants.items():
            for name, metric in metrics.items():
                value, low, high = (f"{metric[key]:.3f}" for key in ("value", "low", "high"))
                lines.append(f"| {study} | {variant} | {name} | {value} [{low}, {high}] |")
    return "\n".join(lines)


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the metrics; finished studies in it are not repeated")
    parser.add_argument("--ckpt", type=Path, default=Path("checkpoints/storyworld"), help="the finished model")
    parser.add_argument("--only", default=",".join(STUDIES), help="studies, separated by commas (default all)")
    parser.add_argument("--updates", type=int, default=400, help="updates of each training (default 400)")
    parser.add_argument("--num_stories", type=int, default=2400, help="training stories (default 2400)")
    parser.add_argument("--num_held_out", type=int, default=200, help="held-out stories (default 200)")
    parser.add_argument("--num_long", type=int, default=40, help="long stories of the study sinks (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> int:
    args = make_flags().parse_args()
    tune_process()
    results: Results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with forgotten_precision():
        bench = Bench(args)
        for name in args.only.split(","):
            if name not in results:
                results[name] = {variant: to_dicts(row) for variant, row in STUDIES[name](bench).items()}
                if args.json:
                    args.json.parent.mkdir(parents=True, exist_ok=True)
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
