"""The model card of a trained model: the metrics of `evaluate`, and samples that were not selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.errors import UserError
from modules.common.files import check_writable, write_whole
from modules.evaluation.labels import KINDS, label
from modules.generation.pipeline import StoryPipeline, StoryPipelineOutput
from modules.presentation.images import encode_image
from modules.presentation.templates import render
from modules.story import StoryDataset

NUM_SAMPLES = 6
CARD, SAMPLES = "README.md", "samples.png"
TAG = "discrete-storyboard"  # In every card that this program wrote.
FROM_CODES = (
    "character_f1",
    "frame_accuracy",
    "colour",
    "place",
    "object",
    "weather",
    "action",
    "hero_colour_persistence",
    "text_and_picture_agree",
    "worn_as_told",
)
NEXT_PAGE = (
    "character_f1",
    "hero",
    "hero_colour",
    "place",
    "object",
    "text_character",
    "text_object",
    "text_and_picture_agree",
    "worn_as_told",
)
WHOLE_STORY = (
    "hero",
    "hero_colour_persistence",
    "text_and_picture_agree",
    "worn_as_told",
    "character_in_texts",
    "object_in_texts",
    "place_in_texts",
    "character_in_pictures",
    "object_in_pictures",
    "place_in_pictures",
)
BOUND = (
    "text_nats_per_token_own",
    "text_nats_per_token_swapped",
    "text_nats_per_token_null",
    "prior_bits_per_code",
    "prior_bits_per_step",
    "latent_bits_per_dim_own",
    "latent_bits_per_dim_null",
    "code_charged_nats_per_token",
    "net_code_value_text",
    "net_code_value_text_and_picture",
    "velocity_mse_own",
    "velocity_mse_swapped",
    "noise_mse_own",
    "noise_mse_swapped",
)
Metrics = Mapping[str, Mapping[str, float | None]]  # By name: value, low, high, floor and ceiling.


@dataclass(frozen=True)
class Row:
    """A metric in a table of the card, all numbers formatted."""

    name: str
    cells: list[str]
    floor: str
    ceiling: str


@dataclass(frozen=True)
class Section:
    """A table of the card under a sentence."""

    title: str
    columns: list[str]
    rows: list[Row]


def check_card(folder: Path) -> None:
    """Raise UserError if a card cannot be written into a model's folder, or one is there that is not this program's."""
    card = folder / CARD
    if card.is_file() and TAG not in card.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{card} was not written by this program, and is never overwritten: move it away")
    check_writable(card)


def write_card(folder: Path, pipeline: StoryPipeline, dataset: StoryDataset, report: Mapping[str, Any]) -> list[Path]:
    """Write README.md and samples.png into a model's folder.

    Args:
        folder: The model's.
        pipeline: The model.
        dataset: Held-out stories, whose first prompts are the samples'.
        report: Of `evaluate` on `dataset`, with pages drawn.

    Raises:
        UserError: a file cannot be written.
    """
    config = pipeline.config
    text, image = config.text_decoder, config.image_decoder
    samples = _generate_samples(pipeline, dataset)
    card = render(
        "model_card.md",
        config=config,
        dataset=dataset.name,
        writer=text.source or f"a GPT-2 ({text.num_layers} layers, {text.dim} wide)",
        painter=image.source or "a UNet",
        is_pretrained=bool(text.source or image.source),
        report=report,
        sections=metric_sections(report),
        samples=samples,
        samples_file=SAMPLES,
    )
    grid = encode_image(_draw_grid([story.images for story in samples]))
    return [write_whole(folder / CARD, card.encode()), write_whole(folder / SAMPLES, grid)]


def _generate_samples(pipeline: StoryPipeline, dataset: StoryDataset) -> list[StoryPipelineOutput]:
    """Generate whole stories for the first held-out prompts, with seeds 0, 1, 2 and so on."""
    prompts = [dataset[index].prompt for index in range(min(NUM_SAMPLES, len(dataset)))]
    return [pipeline(prompt, num_steps=5, seed=seed) for seed, prompt in enumerate(prompts)]


def _draw_grid(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    width, height = rows[0][0].size
    grid = Image.new("RGB", (max(map(len, rows)) * (width + gap) - gap, len(rows) * (height + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            grid.paste(image, (x * (width + gap), y * (height + gap)))
    return grid


def metric_sections(report: Mapping[str, Any]) -> list[Section]:
    """Return the tables of a report of `evaluate` with pages drawn."""
    drawn, texts = report["drawn"], report["named_right"]
    from_codes = {name: metrics for name, metrics in drawn.items() if name.startswith("true step, ")}
    next_pages = {name: drawn[name] for name in ("next step", "repeat the last page", "a random page") if name in drawn}
    sections = [
        _section(
            "Pictures drawn from a true page's codes, read by the judge. The ceiling is its reading of true pictures, "
            "the floor its reading of other stories' pages:",
            from_codes,
            FROM_CODES,
        ),
        _section(
            "Texts decoded from a true page's codes that name exactly what the true text names:",
            texts,
            tuple(texts["text and picture"]),
            label_prefix="text_",
        ),
        _section("The next page after three true ones, beside predictions without a model:", next_pages, NEXT_PAGE),
        _section("Whole stories from the prompt alone:", {"value": drawn["whole story"]}, WHOLE_STORY),
        _section(
            "The next page among candidates, by exact code likelihood:",
            {"value": report["next_step"]},
            tuple(report["next_step"]),
        ),
        _section("The bound:", {"value": report["bound"]}, BOUND),
    ]
    if "steering" in report:
        steering = report["steering"]
        sections.append(
            _section(
                "Steering a story ([what is measured](../../modules/evaluation/README.md)):",
                {"value": steering},
                tuple(steering),
            )
        )
    return sections


def _section(title: str, columns: Mapping[str, Metrics], names: Sequence[str], label_prefix: str = "") -> Section:
    """Return a table with a row for each metric that the first column has."""
    first = next(iter(columns.values()))
    rows = [
        Row(
            label(label_prefix + name),
            [_interval(metrics[name]) if name in metrics else "" for metrics in columns.values()],
            _number(first[name]["floor"]),
            _number(first[name]["ceiling"]),
        )
        for name in names
        if name in first
    ]
    return Section(title, [KINDS.get(name, name) for name in columns], rows)


def _interval(metric: Mapping[str, float | None]) -> str:
    if metric["value"] is None:
        return ""
    if metric["low"] is None:
        return _number(metric["value"])
    return f"{_number(metric['value'])} [{_number(metric['low'])}, {_number(metric['high'])}]"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
