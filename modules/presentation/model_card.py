"""The model card of a trained model: its figures as `evaluate` measured them, and samples that nobody chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.config import StoryConfig
from modules.pipeline import StoryPipeline
from modules.presentation.markup import encode_image
from modules.story import StoryDataset

NUM_SAMPLES = 6
CARD, SAMPLES = "README.md", "samples.png"
DRAWN = (
    "character_f1",
    "frame_accuracy",
    "colour",
    "place",
    "object",
    "weather",
    "action",
    "hero_colour_persistence",
    "text_and_picture_agree",
)
NEXT = (
    "character_f1",
    "hero",
    "hero_colour",
    "place",
    "object",
    "text_character",
    "text_object",
    "text_and_picture_agree",
)
WHOLE = (
    "hero",
    "hero_colour_persistence",
    "text_and_picture_agree",
    "character_in_texts",
    "object_in_texts",
    "place_in_texts",
    "character_in_pictures",
    "object_in_pictures",
    "place_in_pictures",
)
BOUND = {
    "text_nats_per_token_own": "text, nats a token",
    "text_nats_per_token_swapped": "the same with another step's codes",
    "text_nats_per_token_null": "the same with null codes",
    "prior_bits_per_code": "prior, bits a code",
    "prior_bits_per_step": "prior, bits a step",
    "latent_bits_per_dim_own": "pictures' latents, bits a dimension (VLB)",
    "latent_bits_per_dim_null": "the same with null codes",
    "code_charged_nats_per_token": "text and its codes, nats a token",
    "net_code_value_text": "net code value, text: nats a step",
    "net_code_value_text_and_picture": "the same, text and picture",
    "velocity_mse_own": "velocity error (a training loss)",
    "velocity_mse_swapped": "the same with another step's codes",
    "noise_mse_own": "noise error (a training loss)",
    "noise_mse_swapped": "the same with another step's codes",
}
OF_THE_WORLD = {
    False: "It has learnt nothing of the real world.",
    True: "What pretrained parts know of the real world may show.",
}


def write_card(folder: Path, pipeline: StoryPipeline, source: StoryDataset, report: Mapping[str, Any]) -> list[Path]:
    """Write README.md and samples.png into a model's folder; `report` is `evaluate`'s, with pages drawn, of `source`."""
    samples = _samples(pipeline, source)
    parts = [_head(pipeline.config, source), _figures(report), _sample_texts(samples)]
    sheet = encode_image(_sheet([story.images for story in samples]))
    return [write_whole(folder / CARD, ("\n\n".join(parts) + "\n").encode()), write_whole(folder / SAMPLES, sheet)]


def _samples(pipeline: StoryPipeline, source: StoryDataset) -> list[Any]:
    """Whole stories for the first held-out prompts, with seeds 0, 1, 2 ...: not chosen."""
    prompts = [source[index].prompt for index in range(min(NUM_SAMPLES, len(source)))]
    return [pipeline(prompt, num_steps=5, seed=seed) for seed, prompt in enumerate(prompts)]


def _sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (max(map(len, rows)) * (width + gap) - gap, len(rows) * (height + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * (width + gap), y * (height + gap)))
    return sheet


def _head(config: StoryConfig, source: StoryDataset) -> str:
    training, text, image = config.training, config.text_decoder, config.image_decoder
    writer = text.source or f"a GPT-2 ({text.num_layers} layers,\n{text.dim} wide)"
    painter, pretrained = image.source or "a UNet", bool(text.source or image.source)
    return f"""---
license: mit
tags: [story-generation, discrete-storyboard, latent-diffusion]
---

# Stories from a discrete storyboard: `{config.preset}`

{config.storyboard.num_slots} codes of {config.storyboard.codebook_size} a page; from them {writer} writes the text and {painter} \
draws the picture ({config.autoencoder.image_size} pixels). To use it:

    python story_generative_model.py generate --ckpt {{this folder}} --prompt "Rusty the fox wants a kite"

**Data**: {training.num_stories} stories of {source.name}, made by this program from a seed; figures are from stories of another split.
**Training**: one command, six phases ({training.max_steps} joint updates of {training.batch_size} stories; the rest is in config.json);
`assets/notes.md` of the repository tells the machine, the time, and what was tried.
**Limits**: it knows this world's ten characters, twelve objects and eight places, in short English sentences; other words are
passed over. Pictures are {config.autoencoder.image_size} pixels wide. {OF_THE_WORLD[pretrained]}"""


def _figures(report: Mapping[str, Any]) -> str:
    drawn = report["drawn"]
    true_steps = {name.removeprefix("true step, "): drawn[name] for name in drawn if name.startswith("true step, ")}
    books = report["codebook"]
    return "\n\n".join(
        [
            f"## Figures\n\n`evaluate` on {report['num_stories']} held-out stories ({report['num_steps']} steps), pictures of "
            f"{drawn['num_stories']} of them; brackets are 95 % intervals over stories.",
            "Pictures drawn from a true step's codes, read by the judge; the ceiling is what it reads off real renders, the floor what pages "
            "of other stories score:",
            _beside(true_steps, DRAWN),
            "Texts from a true step's codes name exactly what the true text names:",
            _beside(report["named_right"], tuple(report["named_right"]["text and picture"])),
            "The next step after three true ones, beside what needs no model:",
            _beside(
                {name: drawn[name] for name in ("next step", "repeat the last page", "a random page") if name in drawn},
                NEXT,
            ),
            "Whole stories from the prompt alone:",
            _beside({"value": drawn["whole story"]}, WHOLE),
            "The next step among candidates, by exact code likelihood:",
            _beside({"value": report["next_step"]}, tuple(report["next_step"])),
            "The bound:",
            _beside({"value": report["bound"]}, tuple(BOUND), BOUND),
            f"Codes used {books['used']:.1%} of {books['codebook_size']} (so few pages would use {books['used_ceiling']:.1%} if all were used "
            f"alike), perplexity {books['perplexity']:.0f}.",
        ]
    )


def _beside(
    columns: Mapping[str, Mapping[str, Any]], names: Sequence[str], titles: Mapping[str, str] | None = None
) -> str:
    first = next(iter(columns.values()))
    lines = [f"| | {' | '.join(columns)} | floor | ceiling |", "|---" * (len(columns) + 3) + "|"]
    for name in (name for name in names if name in first):
        cells = [_cell(figures[name]) if name in figures else "" for figures in columns.values()]
        title = (titles or {}).get(name, name.replace("_", " "))
        lines.append(
            f"| {title} | {' | '.join(cells)} | {_number(first[name]['floor'])} | {_number(first[name]['ceiling'])} |"
        )
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    return (
        f"{_number(figure['value'])} [{_number(figure['low'])}, {_number(figure['high'])}]"
        if figure["value"] is not None
        else ""
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _sample_texts(samples: Sequence[Any]) -> str:
    lines = [
        "## Samples, not chosen",
        "The first held-out prompts with seeds 0, 1, 2 and so on, five pages each:",
        f"![Samples]({SAMPLES})",
    ]
    for story in samples:
        lines.append(
            f"**{story.prompt}**\n\n" + "\n".join(f"{page}. {text}" for page, text in enumerate(story.texts, 1))
        )
    return "\n\n".join(lines)
