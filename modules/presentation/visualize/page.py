"""Pictures of what a model does, as PNG and as one HTML file that works anywhere. The same model, stories and seed give
the same bytes.

predictions.png    pages as they are, from their own codes, predicted from the pages before, and from the prompt alone
denoising.png      one page on its way from noise
timeline.png       a story's codes, slot by slot and step by step, where the model has codes
curves.png         the training curves of a run
visualize.html     all of it, for every story
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.progress import track
from modules.pipeline import StoryPipeline
from modules.presentation.markup import data_uri, encode_image, escape, fill_page
from modules.presentation.plots.curves import DARK, LIGHT, Curve, draw_curves, read_curves
from modules.presentation.story.book import code_color, write_png
from modules.presentation.story.story_files import prepare_output
from modules.presentation.visualize.panels import (
    caption,
    draw_denoising,
    draw_predictions,
    draw_timeline,
    known,
    signal_caption,
    stack,
)
from modules.presentation.visualize.tellings import (
    Cell,
    Run,
    Study,
    Telling,
    Trail,
    denoise_one,
    repeated_codes,
    slot_runs,
    study_story,
)
from modules.story import StoryDataset

_TEMPLATE = Path(__file__).with_name("visualize.html")


def visualize(
    pipeline: StoryPipeline,
    source: StoryDataset,
    output: Path,
    num_stories: int = 3,
    run: Path | None = None,
    num_given: int = 3,
    seed: int = 0,
    num_inference_steps: int = 20,
) -> list[Path]:
    """Draw the first `num_stories` stories of `source`, and with `run` the curves of that training, and return the
    files written.

    `num_given` true pages come before the predicted ones, fewer in a story that has no page after them.

    Raises:
        UserError: a number out of range, no training curves in `run`, a checkpoint from before its codebook was
            placed, or `output` cannot be written.
    """
    for name, value in (("num_stories", num_stories), ("num_given", num_given)):
        if value < 1:
            raise UserError(f"{name} must be 1 or more, got {value}")
    curves = None if run is None else read_curves(run)
    prepare_output(output)
    indices = track("telling stories", range(min(num_stories, len(source))))
    studies = [study_story(pipeline, source[index], num_given, seed, num_inference_steps) for index in indices]
    trail = denoise_one(pipeline, studies, seed, num_inference_steps)
    pictures = {
        "predictions.png": stack([draw_predictions(study) for study in studies]),
        "denoising.png": draw_denoising(trail),
    }
    if studies[0].has_codes:
        pictures["timeline.png"] = draw_timeline(studies[0])
    if curves is not None:
        pictures["curves.png"] = draw_curves(curves)
    details = {
        "stories": source.name,
        "preset": pipeline.config.preset,
        "seed": seed,
        "denoising updates": num_inference_steps,
    }
    page = write_page(output / "visualize.html", studies, trail, curves, details)
    return [page, *(write_png(output / name, image) for name, image in pictures.items())]


def write_page(
    path: Path,
    studies: Sequence[Study],
    trail: Trail,
    curves: Mapping[str, Curve] | None,
    details: Mapping[str, object],
) -> Path:
    """Write one self-contained page of everything; without `curves`, of everything else.

    Raises UserError if that fails.
    """
    sections = _sections(studies, trail, curves)
    body = "".join(
        f'<section id="part-{number}"><h2>{title}</h2><p class="lead">{lead}</p>{content}</section>'
        for number, (title, (lead, content)) in enumerate(sections.items(), 1)
    )
    links = " ".join(f'<a href="#part-{number}">{title}</a>' for number, title in enumerate(sections, 1))
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in details.items())
    document = fill_page(_TEMPLATE, "What the storyboard tells", links=links, body=body, details=items)
    return write_whole(path, document.encode("utf-8", "replace"))


def _sections(studies: Sequence[Study], trail: Trail, curves: Mapping[str, Curve] | None) -> dict[str, tuple[str, str]]:
    """By title: a lead and the content. What is said of codes is left out where there are none."""
    has_codes = studies[0].has_codes
    of_codes = (
        " A tile is a code of the storyboard, and a number has one colour everywhere; a framed one is the true page's. Bits say how "
        "surprised the prior is. Point at a code to find it again."
    )
    sections = {
        "Predicted beside target": (
            "Every row tells the same story from less." + (of_codes if has_codes else ""),
            "".join(map(_predictions, studies)),
        ),
        "From noise to page": (
            f"One page, drawn from {'its codes' if has_codes else 'the prompt'} alone by removing noise little by little.",
            _denoising(trail),
        ),
    }
    if has_codes:
        sections["Codes over time"] = (
            "What a slot keeps from page to page is one long tile; what comes back to it is tied; what the story uses once is pale.",
            "".join(map(_timeline, studies)),
        )
    if curves is not None:
        sections["Training"] = ("Faint: as measured. Strong: smoothed, stage by stage.", _curves(curves))
    return sections


def _predictions(study: Study) -> str:
    rows = "".join(_telling(study, telling) for telling in study.tellings)
    return f'{_heading(study)}<div class="scroll"><div class="board" style="--columns:{len(study.cells)}">{rows}</div></div>'


def _telling(study: Study, telling: Telling) -> str:
    cells = []
    for index, cell in enumerate(telling.cells):
        hits = study.matches(index, cell) if telling.is_guess else []
        if cell.is_given:
            cells.append(
                f'<figure class="given">{_image(cell.image, "")}<figcaption><p class="soft">given</p></figcaption></figure>'
            )
            continue
        bits = "" if cell.bits is None else f'<p class="soft">{caption(cell, hits)}</p>'
        picture = _image(cell.image, f"{telling.title}, page {index + 1}")
        cells.append(f"<figure>{picture}<figcaption>{_codes(cell, hits)}{bits}{_text(cell)}</figcaption></figure>")
    return f"<header><h4>{telling.title}</h4><p>{telling.note}</p></header>{''.join(cells)}"


def _denoising(trail: Trail) -> str:
    columns = [
        (f"update {step}", signal_caption(signal)) for step, signal in zip(trail.steps, trail.signal, strict=True)
    ]
    heads = "".join(f'<p class="head"><b>{title}</b><br>{note}</p>' for title, note in columns)
    codes = f'<p class="soft">{known(trail)}</p>{_codes(trail.cell)}'
    rows = [
        ("Picture so far", "what an update starts from", trail.noisy, _image(trail.cell.image, "True page")),
        ("Aimed at", "the finished page that the model expects from there", trail.guesses, codes),
    ]
    body = "".join(
        f"<header><h4>{title}</h4><p>{note}</p></header>"
        + "".join(
            f"<figure>{_image(image, f'{title}, {head}')}</figure>"
            for image, (head, _) in zip(images, columns, strict=True)
        )
        + f"<figure>{last}</figure>"
        for title, note, images, last in rows
    )
    heading = f'<h3 dir="auto">{escape(trail.cell.text or "A page without a text")}</h3>'
    board = f'<div class="board" style="--columns:{len(columns) + 1}"><span></span>{heads}<p class="head"><b>true page</b></p>{body}</div>'
    return f'{heading}<div class="scroll">{board}</div>'


def _timeline(study: Study) -> str:
    cells, repeated = study.cells, repeated_codes(study.cells)
    pictures = "".join(f"<td>{_image(cell.image, f'Page {index}')}</td>" for index, cell in enumerate(cells, 1))
    slots = []
    for slot in range(len(cells[0].codes)):
        runs = slot_runs([cell.codes[slot] for cell in cells])
        tiles = "".join(
            f'<td colspan="{run.end - run.start + 1}" style="background:{_ties(run, runs)}">'
            f"{_tile(run.code, is_pale=run.code not in repeated)}</td>"
            for run in runs
        )
        slots.append(f"<tr><th>slot {slot + 1}</th>{tiles}</tr>")
    feet = "".join(f'<td><p class="soft">{caption(cell)}</p>{_text(cell)}</td>' for cell in cells)
    rows = f"<tr><th></th>{pictures}</tr>{''.join(slots)}<tr><th></th>{feet}</tr>"
    return f'{_heading(study)}<div class="scroll"><table style="--columns:{len(cells)}">{rows}</table></div>'


def _ties(run: Run, runs: Sequence[Run]) -> str:
    """The lines behind a run's tile, as a CSS background: those that come to it, leave it, and pass it by."""
    layers = []
    for later in runs:
        if later.previous is None or not later.previous <= run.end <= later.end:
            continue
        side = "100%" if later.previous == run.end else "0" if later is run else None
        color = code_color(later.code)
        layers.append(f"linear-gradient({color},{color}) {side or '0'} 50%/{'50%' if side else '100%'} 5px no-repeat")
    return ",".join(layers) or "none"


def _curves(curves: Mapping[str, Curve]) -> str:
    dark, light = (data_uri(encode_image(draw_curves(curves, theme))) for theme in (DARK, LIGHT))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img class="curves" src="{light}" alt="Training curves"></picture>'


def _heading(study: Study) -> str:
    return f'<h3 dir="auto">{escape(study.prompt.strip() or "A story without a prompt")}</h3>'


def _codes(cell: Cell, hits: Sequence[bool] = ()) -> str:
    tiles = [_tile(code, is_hit=bool(hits) and hits[slot]) for slot, code in enumerate(cell.codes)]
    return f'<div class="codes">{"".join(tiles)}</div>' if tiles else ""


def _tile(code: int, is_pale: bool = False, is_hit: bool = False) -> str:
    kind = " pale" if is_pale else " hit" if is_hit else ""
    return f'<span class="code{kind}" data-code="{code}" style="--code:{code_color(code)}">{code}</span>'


def _text(cell: Cell) -> str:
    return '<p class="soft">no text</p>' if cell.text is None else f'<p dir="auto">{escape(cell.text)}</p>'


def _image(image: Image.Image | None, alt: str) -> str:
    return (
        f'<img src="{data_uri(encode_image(image.convert("RGB")))}" alt="{escape(alt)}">'
        if image
        else '<div class="blank">no picture</div>'
    )
