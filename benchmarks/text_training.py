"""Training of the plan and the text decoder alone, without the UNet, and what the plan is worth to held-out texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modules.common.precision import inference_autocast
from modules.common.progress import track
from modules.config import StoryConfig
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.layers.seeding import derive_seed
from modules.presets import PRESETS
from modules.saving.model_folder import load_autoencoder
from modules.story import Story, StoryDataset
from modules.story_model.story_model import StoryModel, build_model
from modules.text_decoder.tokenizers import Vocabulary, make_vocabulary
from modules.training.optimizer import learning_rate_at, parameter_groups
from modules.training.phases import JointPhase, OpeningPhase
from modules.training.reliance import plan_conditions, swap_rows


class TextPhase(JointPhase):
    """The joint phase without the image decoder."""

    trains = ("storyboard", "prior", "text_decoder", "aids")
    begin = OpeningPhase.begin  # It comes without an opening.


class Texts:
    """The first stories of a data set, without their pictures."""

    def __init__(self, source: StoryDataset, count: int) -> None:
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        return self.outline(index)

    def outline(self, index: int) -> Story:
        """Return one story without its pictures."""
        story = self.source.outline(index)
        return replace(story, steps=tuple(replace(step, image_path=None) for step in story.steps))


class Pages(Texts):
    """The first stories of a data set, with their pictures."""

    def __getitem__(self, index: int) -> Story:
        return self.source[index]

    def outline(self, index: int) -> Story:
        """Return one story without opening its pictures."""
        return self.source.outline(index)


def without_image_decoder(config: StoryConfig) -> StoryConfig:
    """Return the config with an image decoder as small as it can be."""
    return replace(config, image_decoder=PRESETS["tiny"].image_decoder)


def without_pictures(config: StoryConfig) -> StoryConfig:
    """Return the config with the parts that see pictures as small as they can be."""
    tiny = PRESETS["tiny"]
    return replace(without_image_decoder(config), autoencoder=tiny.autoencoder, aids=tiny.aids)


def encode(model: StoryModel, texts: Texts, vocabulary: Vocabulary) -> EncodedStories:
    """Return stories as the model's inputs; what a frozen text encoder makes of the texts is computed once."""
    stories = EncodedStories(texts, model, vocabulary)
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


def train_all(model: StoryModel, has_codes: bool) -> None:  # noqa: ARG001
    """Train all parts, before the slots become codes and after."""
    model.train_parts(TextPhase.trains)


def train_texts(
    config: StoryConfig,
    training_texts: Texts,
    held_out_texts: Texts,
    seed: int,
    set_modes: Callable[[StoryModel, bool], None] = train_all,
    autoencoder: Path | None = None,
) -> dict[str, Any]:
    """Train a model on texts; return what its plan is worth before the training, before the quantiser and after it.

    `set_modes(model, has_codes)` sets what trains. `Pages` also need a model whose autoencoder encodes their pictures.
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    vocabulary = make_vocabulary(config.text_decoder, config.vocab_size, training_texts.source.texts())
    model = build_model(config, "this benchmark", offline=True)
    if autoencoder is not None:
        model.autoencoder.load_state_dict(load_autoencoder(autoencoder, model, offline=True))
    model.eval()
    held_out = encode(model, held_out_texts, vocabulary)
    stories = encode(model, training_texts, vocabulary)
    num_updates, rate = config.training.max_steps, config.training.learning_rate
    options = {"num_steps": num_updates, "learning_rate": rate, "seed": seed}
    phase = TextPhase(model, lambda: stories, global_batch=config.training.batch_size, autocast=precision, **options)
    phase.start()
    phase.begin()
    set_modes(model, True)
    groups = parameter_groups(model.named_parameters(), model.pretrained, model.gates, config.training)
    phase.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.training.adam_betas)
    results: dict[str, Any] = {"before": measure_gaps(model, held_out)}
    middle = phase.quantize_step
    for name, updates in (("continuous", range(middle)), ("codes", range(middle, num_updates))):
        set_modes(model, name == "codes")
        seconds = train(model, phase, updates)
        results[name] = {**measure_gaps(model, held_out), "seconds_per_update": seconds / max(1, len(updates))}
    return results


def cell(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
