"""The bench of `mechanisms.py`: trains small models alike, and scores them on held-out stories."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import cached_property

import common  # noqa: F401 - makes `modules` importable.
import numpy as np
import torch
from torch import Tensor, nn

from modules.common.precision import has_fast_bf16
from modules.common.progress import progress_line, track
from modules.config import StoryConfig
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.evaluation.bound import story_nats
from modules.evaluation.decoded import decode_texts
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean, mean_over_rows, mean_over_steps
from modules.generation.pipeline import StoryPipeline
from modules.story import StoryDataset
from modules.story_model.story_model import StoryModel
from modules.storyboard.contrastive import pool_slots
from modules.storyworld import StoryWorld, mentioned
from modules.training.optimizer import cosine_with_warmup, parameter_groups
from modules.training.phases import StoryPhase
from modules.training.reliance import plan_conditions

LEARNING_RATE = 1e-3
ROWS = 64
Metrics = dict[str, dict[str, Estimate]]  # By variant and name.


class Bench:
    """Everything that the studies share: a finished model, encoded stories, training and scoring."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.pipeline = args, StoryPipeline.from_pretrained(args.ckpt)
        self.config, self.tokenizer = self.pipeline.config, self.pipeline.tokenizer

    def world(self, split: str, count: int, num_episodes: int = 1) -> StoryWorld:
        """Return `count` stories of a split of the story world."""
        return StoryWorld(count, split=split, image_size=self.config.autoencoder.image_size, num_episodes=num_episodes)

    def encode(self, dataset: StoryDataset, title: str) -> EncodedStories:
        """Encode stories, with the finished model's codes."""
        with progress_line(f"encoding {title}", len(dataset)) as progress:
            stories = EncodedStories(dataset, self.pipeline.model, self.tokenizer, progress.update)
        with self.autocast():
            stories.codes = cache_codes(self.pipeline.model, stories)
        return stories

    @cached_property
    def stories(self) -> EncodedStories:
        """The training stories, encoded."""
        return self.encode(self.world("train", self.args.num_stories), "stories")

    @cached_property
    def held_out(self) -> EncodedStories:
        """The held-out stories, encoded."""
        return self.encode(self.world("val", self.args.num_held_out), "held-out stories")

    def autocast(self) -> torch.autocast:
        """Return the context of bf16 computation, if the CPU is fast at it."""
        return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())

    def model(self, config: StoryConfig, keep: Sequence[str] = ("storyboard", "autoencoder")) -> StoryModel:
        """Return a new model; the parts named in `keep` have the finished model's weights, the others random ones."""
        torch.manual_seed(self.args.seed)
        model, state = StoryModel(config), self.pipeline.model.state_dict()
        model.load_state_dict(
            {name: value for name, value in state.items() if name.startswith(tuple(keep))}, strict=False
        )
        return model

    def train(self, phase_class: type[StoryPhase], model: StoryModel, stories: EncodedStories) -> StoryModel:
        """Train the parts of a phase as a training run does, without weight averaging."""
        updates, training = self.args.updates, self.config.training
        phase = phase_class(
            model,
            lambda: stories,
            num_steps=updates,
            learning_rate=LEARNING_RATE,
            global_batch=training.batch_size,
            seed=self.args.seed,
            autocast=self.autocast,
        )
        phase.start()
        phase.set_modes()
        phase.begin()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = parameter_groups(model.named_parameters(), model.pretrained, model.gates, training)
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=training.adam_betas, fused=True)
        with progress_line(phase.name, updates) as progress:
            for step in range(updates):
                rate = LEARNING_RATE * cosine_with_warmup(step, updates, max(1, updates // 12), 0.05)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["share"]
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

    # -- metrics

    def mean(self, sums: Tensor, counts: Tensor) -> Estimate:
        """Return sum / count over the held-out steps (N,), with an interval over stories."""
        return mean_over_steps(sums.double().numpy(), counts.double().numpy(), self.held_out.lengths)

    @torch.no_grad()
    def text_nats(self, model: StoryModel, null: bool = False) -> Estimate:
        """Return the nats a token of the held-out texts given the slots of their pages, or the null codes."""
        stories = self.held_out
        parts = torch.arange(len(stories.texts)).split(ROWS)
        embeds = torch.cat([model.storyboard(stories.steps(rows)).code_embeds for rows in track("slots", parts)])
        conditions = plan_conditions(embeds, model.window(embeds, stories.lengths), torch.arange(len(embeds)))
        condition, nats = conditions["null" if null else "own"], []
        for rows in track("texts", parts):
            nats.append(condition.rows(rows).text_nats(model, stories.input_ids[rows], stories.text_mask[rows]))
        return self.mean(torch.cat(nats), stories.text_mask[:, 1:].sum(1))

    def plan_bits(self, model: StoryModel) -> Estimate:
        """Return the bits a step of the held-out stories' codes."""
        pipeline, stories = StoryPipeline(model, self.tokenizer), self.held_out
        bits = story_nats(pipeline, stories, stories.codes[0]) / math.log(2)
        return self.mean(bits, torch.ones_like(bits))

    def story_metrics(self, model: StoryModel) -> dict[str, Estimate]:
        """Generate stories from the held-out prompts at temperature 1, and score what their texts name."""
        pipeline, stories = StoryPipeline(model, self.tokenizer), self.held_out
        plans = [
            pipeline.plan(prompt, stories.lengths[index], seed=index, temperature=1.0, top_p=1.0).codes[0]
            for index, prompt in track("plans", list(enumerate(stories.prompts)))
        ]
        texts = decode_texts(self.pipeline, torch.cat(plans), stories.lengths, "plans")
        named, kept, has_hero = [], [], []
        for index, prompt in enumerate(stories.prompts):
            pages = [mentioned(texts[row]) for row in stories.rows(index)]
            wish = [(group, word) for group in ("characters", "objects", "places") for word in mentioned(prompt)[group]]
            named.append(sum(any(word in page[group] for page in pages) for group, word in wish) / max(1, len(wish)))
            hero = hero_of(prompt)
            kept.append(sum(hero in page["characters"] for page in pages) / len(pages) if hero else 0.0)
            has_hero.append(float(hero is not None))
        return {
            "of what the prompt names, the texts name": bootstrap_mean(named, [1] * len(named)),
            "pages that name a character of the prompt": bootstrap_mean(kept, has_hero),
        }

    @torch.no_grad()
    def retrieval(self, model: StoryModel) -> Estimate:
        """Return R@1 of a picture's text among all held-out texts, by pooled slots; equal texts count as one."""
        stories, images, texts = self.held_out, [], []
        rows = [row for row in range(len(stories.texts)) if stories.image_mask[row] and stories.texts[row] is not None]
        for part in torch.tensor(rows).split(ROWS):
            steps = stories.steps(part)
            images.append(pool_slots(model.storyboard.encode(steps.without_text())))
            texts.append(pool_slots(model.storyboard.encode(steps.without_image())))
        best = (torch.cat(images) @ torch.cat(texts).T).argmax(1).tolist()
        right = [stories.texts[rows[best_row]] == stories.texts[row] for row, best_row in zip(rows, best, strict=True)]
        owners = np.unique(np.searchsorted(stories.starts, rows, side="right"), return_inverse=True)[1]
        return mean_over_rows(right, owners, floor=1 / len(set(stories.texts)))


def hero_of(prompt: str) -> str | None:
    """Return the first character, in alphabetical order, that a prompt names."""
    return next(iter(sorted(mentioned(prompt)["characters"])), None)
