"""Does each mechanism of the presets learn? Each beside its own ablation at small size on the story world, the rest
being equal.

    python benchmarks/mechanisms.py --json results/mechanisms.json

What concerns plans alone is trained on the codes of a finished model (`--ckpt`), and what concerns the encoder from
scratch, on texts and pictures, continuous (the opening phase). One seed; intervals are 95 %, over held-out stories.
Finished studies are kept in the JSON: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import common  # noqa: F401 - makes `modules` importable.
import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modules.common.arguments import Parser
from modules.common.malloc import keep_freed_memory
from modules.common.progress import progress_line, track
from modules.config import StoryConfig
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import plan_nats
from modules.evaluation.decoded import decode_texts
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean
from modules.pipeline import StoryPipeline
from modules.prior.config import ExpertsConfig
from modules.story import Story
from modules.story_model import StoryModel
from modules.storyboard.contrastive import pool_slots
from modules.storyworld import StoryWorld, mentioned
from modules.training.optimizer import cosine_with_warmup, parameter_groups
from modules.training.phases import OpeningPhase, PlanningPhase, StoryPhase
from modules.training.processes import forgotten_precision, has_fast_bf16

WINDOW = 8  # Steps that the sinks' priors are trained on, and see of the past.
ROWS = 64


class Tellers(StoryPhase):
    """Trains the text decoder alone, on the codes of a frozen encoder."""

    name = "text"
    trains = ("text_decoder",)


class Bench:
    """What the studies share: a finished model, stories in tensors, and one way to train and to score."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.pipeline = args, StoryPipeline.from_pretrained(args.ckpt)
        self.config, self.tokenizer = self.pipeline.config, self.pipeline.tokenizer

    def world(self, split: str, count: int, num_episodes: int = 1) -> StoryWorld:
        return StoryWorld(count, split=split, image_size=self.config.autoencoder.image_size, num_episodes=num_episodes)

    def encode(self, source: Sequence[Story], what: str) -> EncodedStories:
        """Stories in tensors, with their codes by the finished model."""
        with progress_line(f"encoding {what}", len(source)) as progress:
            stories = EncodedStories(source, self.pipeline.model, self.tokenizer, progress.update)
        with self.autocast():
            stories.codes = cache_codes(self.pipeline.model, stories)
        return stories

    @cached_property
    def stories(self) -> EncodedStories:
        return self.encode(self.world("train", self.args.num_stories), "stories")

    @cached_property
    def held_out(self) -> EncodedStories:
        return self.encode(self.world("val", self.args.num_held_out), "held-out stories")

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())

    def model(self, config: StoryConfig, keep: Sequence[str] = ("storyboard", "autoencoder")) -> StoryModel:
        """A model with fresh weights, but for the parts that are the finished one's."""
        torch.manual_seed(self.args.seed)
        model, state = StoryModel(config), self.pipeline.model.state_dict()
        model.load_state_dict(
            {name: value for name, value in state.items() if name.startswith(tuple(keep))}, strict=False
        )
        return model

    def train(self, phase_class: type[StoryPhase], model: StoryModel, stories: EncodedStories) -> StoryModel:
        """Train the parts of a phase as a run does, without averaging."""
        updates, rate = self.args.updates, 1e-3
        options = {
            "num_steps": updates,
            "learning_rate": rate,
            "global_batch": self.config.training.batch_size,
            "seed": self.args.seed,
        }
        phase = phase_class(model, lambda: stories, **options, autocast=self.autocast)
        phase.start()
        phase.set_modes()
        phase.begin()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = parameter_groups(model.named_parameters(), model.pretrained, self.config.training)
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=self.config.training.adam_betas, fused=True)
        with progress_line(phase.name, updates) as progress:
            for step in range(updates):
                for group in optimizer.param_groups:
                    group["lr"] = rate * cosine_with_warmup(step, updates, max(1, updates // 12), 0.05) * group["share"]
                torch.manual_seed(step)
                with self.autocast():
                    output = phase.loss(model, step, 0, 1)
                output.loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                phase.after_update(step, [output], lambda value: value)
                progress.update(step + 1, f"loss {output.loss.item():.3f}")
        return model.requires_grad_(False).eval()

    # -- figures

    def by_story(self, sums: Tensor, counts: Tensor, stories: EncodedStories) -> Estimate:
        """sum / count over steps (N,), with an interval over stories."""
        return bootstrap_mean(*(np.add.reduceat(values.double().numpy(), stories.starts) for values in (sums, counts)))

    @torch.no_grad()
    def text_nats(self, model: StoryModel, null: bool = False) -> Estimate:
        """Nats a token of the held-out texts, from the slots of their own pages."""
        stories, nats = self.held_out, []
        for rows in track("texts", torch.arange(len(stories.texts)).split(ROWS)):
            steps = stories.steps(rows)
            embeds = model.storyboard(steps).code_embeds
            is_null = torch.full((len(rows),), null)
            nats.append(model.text_decoder(embeds, steps.input_ids, steps.text_mask, is_null).nll.sum(1))
        return self.by_story(torch.cat(nats), stories.text_mask[:, 1:].sum(1), stories)

    def plan_bits(self, model: StoryModel) -> Estimate:
        """Bits a step of the held-out stories' codes."""
        pipeline, stories = StoryPipeline(model, self.tokenizer), self.held_out
        codes = stories.codes[0]
        nats = [
            plan_nats(pipeline, stories, index, codes[None, list(stories.rows(index))])[0]
            for index in track("plans", range(len(stories)))
        ]
        bits = torch.cat(nats) / math.log(2)
        return self.by_story(bits, torch.ones_like(bits), stories)

    def told_figures(self, model: StoryModel) -> dict[str, Estimate]:
        """Stories from the held-out prompts alone, at temperature 1: whether the texts name what the prompt names, and
        keep their hero.
        """
        pipeline, stories = StoryPipeline(model, self.tokenizer), self.held_out
        plans = [
            pipeline.plan(stories.prompts[index], stories.lengths[index], seed=index, temperature=1.0, top_p=1.0).codes[
                0
            ]
            for index in track("stories planned", range(len(stories)))
        ]
        texts = decode_texts(self.pipeline, torch.cat(plans), "texts")
        named, kept, ones = [], [], []
        for index, prompt in enumerate(stories.prompts):
            pages = [mentioned(texts[row]) for row in stories.rows(index)]
            wish = [(group, word) for group in ("characters", "objects", "places") for word in mentioned(prompt)[group]]
            named.append(sum(any(word in page[group] for page in pages) for group, word in wish) / max(1, len(wish)))
            hero = next(iter(sorted(mentioned(prompt)["characters"])), None)
            kept.append(sum(hero in page["characters"] for page in pages) / len(pages) if hero else 0.0)
            ones.append(float(hero is not None))
        return {
            "of what the prompt names, the texts name": bootstrap_mean(named, [1] * len(named)),
            "pages that name a character of the prompt": bootstrap_mean(kept, ones),
        }

    @torch.no_grad()
    def retrieval(self, model: StoryModel) -> Estimate:
        """R@1 of a picture's text among the held-out pages' (equal texts count as one), by the slots of each alone."""
        stories, images, texts = self.held_out, [], []
        rows = [row for row in range(len(stories.texts)) if stories.image_mask[row] and stories.texts[row] is not None]
        for part in torch.tensor(rows).split(ROWS):
            steps = stories.steps(part)
            images.append(pool_slots(model.storyboard.encode(steps.without_text())))
            texts.append(pool_slots(model.storyboard.encode(steps.without_image())))
        best = (torch.cat(images) @ torch.cat(texts).T).argmax(1).tolist()
        right = np.array(
            [stories.texts[rows[found]] == stories.texts[row] for row, found in zip(rows, best, strict=True)],
            dtype=float,
        )
        owner = np.searchsorted(stories.starts, rows, side="right") - 1
        sums, counts = np.bincount(owner, right, len(stories)), np.bincount(owner, minlength=len(stories))
        return bootstrap_mean(sums[counts > 0], counts[counts > 0], floor=1 / len(set(stories.texts)))


# The studies: each gives figures by variant and name.
Figures = dict[str, dict[str, Estimate]]


def halved(config: StoryConfig) -> StoryConfig:
    """Encoder and text decoder half as wide: what is trained from scratch is to be done in minutes on any CPU."""
    board, text = config.storyboard, config.text_decoder
    return replace(
        config,
        storyboard=replace(board, dim=board.dim // 2, num_heads=board.num_heads // 2),
        text_decoder=replace(text, dim=text.dim // 2, num_heads=text.num_heads // 2),
    )


def study_pooling(bench: Bench) -> Figures:
    """Learned queries in one transformer, a Q-Former, and the mean of a page's vectors."""
    found = {}
    for pooling in ("qformer", "mean", "queries"):
        config = halved(bench.config)
        config = replace(config, storyboard=replace(config.storyboard, pooling=pooling))
        model = bench.train(OpeningPhase, bench.model(config, ("autoencoder",)), uncoded(bench.stories))
        found[pooling] = {"text, nats a token": bench.text_nats(model)}
    return found


def study_contrast(bench: Bench) -> Figures:
    """The sigmoid contrastive loss, and nothing in its place."""
    found = {}
    for weight in (0.1, 0.0):
        config = replace(halved(bench.config), loss_weights=replace(bench.config.loss_weights, contrastive_loss=weight))
        model = bench.train(Contrasting, bench.model(config, ("autoencoder",)), uncoded(bench.stories))
        found[f"weight {weight}"] = {
            "picture finds its text, R@1": bench.retrieval(model),
            "text, nats a token": bench.text_nats(model),
        }
    return found


class Contrasting(OpeningPhase):
    """The opening phase with the contrastive loss."""

    trains = (*OpeningPhase.trains, "contrastive")


def uncoded(stories: EncodedStories) -> EncodedStories:
    """The same stories without codes: the encoder is to be trained."""
    stories = copy.copy(stories)
    stories.codes = None
    return stories


def study_prior(bench: Bench) -> Figures:
    """Experts and scheduled sampling, beside the plain prior."""
    prior = bench.config.prior
    return compare_priors(
        bench,
        {
            "plain": bench.config,
            "8 experts, 2 a token": replace(bench.config, prior=replace(prior, experts=ExpertsConfig(num_experts=8))),
            "own codes, up to .25": replace(bench.config, training=replace(bench.config.training, own_codes=0.25)),
        },
    )


def study_temporal(bench: Bench) -> Figures:
    """A transformer over whole steps that conditions every code of the next one, and none."""
    prior = bench.config.prior
    return compare_priors(
        bench,
        {
            "plain": bench.config,
            "temporal transformer, 2 layers": replace(bench.config, prior=replace(prior, temporal_layers=2)),
        },
    )


def compare_priors(bench: Bench, variants: dict[str, StoryConfig]) -> Figures:
    """Each trained alone, on the same codes."""
    found = {}
    for name, config in variants.items():
        model = bench.train(PlanningPhase, bench.model(config), bench.stories)
        size = sum(parameter.numel() for parameter in model.prior.parameters()) / 1e6
        found[f"{name} ({size:.1f} M)"] = {"plan, bits a step": bench.plan_bits(model), **bench.told_figures(model)}
    return found


def study_lora(bench: Bench) -> Figures:
    """A GPT-2 that has read the texts alone, then the codes as a prefix through gates: frozen, or with low-rank
    updates.
    """
    with tempfile.TemporaryDirectory() as folder:
        pretrain_language_model(bench, bench.stories, Path(folder))
        found = {}
        for tuning in ("lora", "frozen"):
            config = replace(
                bench.config, text_decoder=replace(bench.config.text_decoder, source=folder, tuning=tuning)
            )
            model = bench.model(config)
            if tuning == "lora":
                found["text alone"] = {"text, nats a token": bench.text_nats(model, null=True)}
            model = bench.train(Tellers, model, bench.stories)
            found[f"{tuning}, with the codes"] = {"text, nats a token": bench.text_nats(model)}
    return found


def pretrain_language_model(bench: Bench, stories: EncodedStories, folder: Path) -> None:
    """Write a small GPT-2 in the Hub's layout, trained on the stories' texts and nothing else."""
    torch.manual_seed(bench.args.seed)
    ids, mask = stories.input_ids, stories.text_mask
    sizes = {
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    model = GPT2LMHeadModel(GPT2Config(vocab_size=bench.config.vocab_size, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    with progress_line("language model", 2 * bench.args.updates) as progress:
        for step in range(2 * bench.args.updates):
            optimizer.param_groups[0]["lr"] = 1e-3 * cosine_with_warmup(step, 2 * bench.args.updates, 50, 0.05)
            rows = torch.randint(len(ids), (ROWS,))
            with bench.autocast():
                loss = model(
                    ids[rows], attention_mask=mask[rows].long(), labels=ids[rows].masked_fill(~mask[rows], -100)
                ).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.update(step + 1, f"loss {loss.item():.3f}")
    model.save_pretrained(folder)
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=bench.tokenizer.tokenizer, **names).save_pretrained(folder)


class Windows:
    """Windows of WINDOW steps of long stories, under the story's own prompt."""

    def __init__(self, source: StoryWorld) -> None:
        self.source = source
        self.places = [
            (i, s) for i, length in enumerate(source.lengths) for s in range(0, length - WINDOW + 1, WINDOW // 2)
        ]
        self._last: tuple[int, Story] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Story:
        story, first = self.places[index]
        if self._last is None or self._last[0] != story:
            self._last = story, self.source[story]
        long = self._last[1]
        return Story(f"{long.id}-{first}", long.prompt, long.steps[first : first + WINDOW])


def study_sinks(bench: Bench) -> Figures:
    """Trained on windows of 8 steps of one hero's adventures; plans ten times as long scored, and stories of 100 pages
    told.

    In sight are the last 8 steps and: prompt and first step (sinks), the prompt alone, or, ten times as far as ever
    trained, everything.
    """
    config = replace(
        bench.config, prior=replace(bench.config.prior, max_steps=1)
    )  # It cannot tell how many steps are left.
    windows = bench.encode(Windows(bench.world("train", bench.args.num_stories // 3, 3)), "windows")
    model = bench.train(PlanningPhase, bench.model(config), windows)
    long = bench.encode(bench.world("val", bench.args.num_long, 14), "long stories")
    found = {}
    for name, window, sinks in (("first step and window", WINDOW, 1), ("window", WINDOW, 0), ("everything", 0, 0)):
        config = replace(config, prior=replace(config.prior, attention_window=8 * window, num_sink_steps=sinks))
        variant = bench.model(config)
        variant.load_state_dict(model.state_dict())
        found[name] = {**long_bits(bench, variant.eval(), long), **long_heroes(bench, variant, long)}
    return found


@torch.no_grad()
def long_bits(bench: Bench, model: StoryModel, stories: EncodedStories) -> dict[str, Estimate]:
    """Bits a step within the length of training (steps 2 to 8) and at ten times it (steps 41 to 80)."""
    bits = []
    for index in track("long plans", range(len(stories))):
        codes = stories.codes[0, list(stories.rows(index))[:80]][None]
        ids, mask = stories.prompt_ids[[index]], stories.prompt_mask[[index]]
        nll = model.prior.score(codes, ids, mask, torch.ones(codes.shape[:2], dtype=torch.bool)).nll
        bits.append(nll[0].sum(-1).double().numpy() / math.log(2))
    spans = {"bits a step, steps 2 to 8": slice(1, WINDOW), "bits a step, steps 41 to 80": slice(40, 80)}
    return {
        name: bootstrap_mean([story[span].sum() for story in bits], [len(story[span]) for story in bits])
        for name, span in spans.items()
    }


def long_heroes(bench: Bench, model: StoryModel, stories: EncodedStories, num_steps: int = 100) -> dict[str, Estimate]:
    """Stories of 100 pages from the prompts that name their hero: in how many of the pages that name anybody it is
    named.
    """
    thirds = {"pages 1 to 33": slice(0, 33), "pages 68 to 100": slice(67, 100)}
    heroes = [next(iter(sorted(mentioned(prompt)["characters"])), None) for prompt in stories.prompts]
    told, kept = [index for index, hero in enumerate(heroes) if hero], {name: ([], []) for name in thirds}
    for index in track("stories of 100 pages", told):
        mask = stories.prompt_mask[[index]]
        ids, mask = stories.prompt_ids[[index]][:, mask[0]], mask[:, mask[0]]
        codes = model.prior.sample(ids, mask, num_steps, 0.5, 0.95, torch.Generator().manual_seed(index)).codes[0]
        pages = [mentioned(text)["characters"] for text in decode_texts(bench.pipeline, codes, "texts")]
        for name, span in thirds.items():
            named = [page for page in pages[span] if page]
            kept[name][0].append(sum(heroes[index] in page for page in named))
            kept[name][1].append(len(named))
    return {f"hero named, {name}": bootstrap_mean(*values) for name, values in kept.items()}


STUDIES: Mapping[str, Callable[[Bench], Figures]] = {
    "prior": study_prior,
    "temporal": study_temporal,
    "pooling": study_pooling,
    "contrast": study_contrast,
    "lora": study_lora,
    "sinks": study_sinks,
}


def table(results: Mapping[str, Figures]) -> str:
    """The figures as Markdown."""
    lines = ["| study | variant | figure | value |", "|---|---|---|---|"]
    for study, variants in results.items():
        for variant, figures in variants.items():
            for name, figure in figures.items():
                lines.append(
                    f"| {study} | {variant} | {name} | {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] |"
                )
    return "\n".join(lines)


def main() -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    parser.add_argument("--ckpt", type=Path, default=Path("checkpoints/storyworld"))
    parser.add_argument("--only", default=",".join(STUDIES), help="which studies (default all)")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--num_stories", type=int, default=2400)
    parser.add_argument("--num_held_out", type=int, default=200)
    parser.add_argument("--num_long", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with forgotten_precision():
        bench = Bench(args)
        for name in args.only.split(","):
            if name not in results:
                figures = STUDIES[name](bench)
                results[name] = {
                    variant: {key: figure.to_dict() for key, figure in row.items()} for variant, row in figures.items()
                }
                if args.json:
                    args.json.parent.mkdir(parents=True, exist_ok=True)
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
