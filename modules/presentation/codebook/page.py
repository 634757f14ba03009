"""`analyze`: the analysis of a codebook as one self-contained page, as JSON, and for TensorBoard's projector.

The same analysis gives the same bytes: no date is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.common.ownership import MARK
from modules.evaluation.codebook.analysis import CodebookAnalysis, analyze_codebook
from modules.evaluation.codebook.coded_stories import THUMBNAIL_PIXELS
from modules.evaluation.codebook.interventions import ReadPictures
from modules.generation.pipeline import StoryPipeline
from modules.presentation.codebook import sections
from modules.presentation.codebook.plots import range_plot, rank_plot
from modules.presentation.codebook.projector import check_projector, write_projector
from modules.presentation.codebook.tables import number, percent
from modules.presentation.images import jpeg_uri
from modules.presentation.story.files import prepare_output
from modules.presentation.templates import render
from modules.presentation.text import clean
from modules.steering.novelty import write_training_pages
from modules.story import StoryDataset

TRAINING_PAGES = "training_pages.json"
SPRITE_COLUMNS, SPRITE_QUALITY = 32, 74


def analyze(
    pipeline: StoryPipeline,
    train: StoryDataset,
    held_out: StoryDataset,
    num_stories: int,
    seed: int,
    output: Path,
    read_pictures: ReadPictures | None = None,
) -> list[Path]:
    """Write `codebook.html`, `codebook.json`, `training_pages.json`, from which `score` tells what a story is near to,
    and the folder `projector` into `output`; see `analyze_codebook`.

    Raises:
        UserError: the checkpoint has no codebook yet, or the output cannot be written.
    """
    prepare_output(output)
    check_projector(output / "projector")
    analysis = analyze_codebook(pipeline, train, held_out, num_stories, seed, read_pictures)
    report = {"generator": MARK, **analysis.report}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in report.items())
    record = write_whole(output / "codebook.json", f"{{\n{lines}\n}}\n".encode())
    learnt = analysis.learnt
    pages = write_training_pages(
        output / TRAINING_PAGES, pipeline.fingerprint(), learnt.codes.tolist(), learnt.lengths, learnt.stories.texts
    )
    return [write_page(output, analysis), record, pages, write_projector(output / "projector", analysis)]


def write_page(output: Path, analysis: CodebookAnalysis) -> Path:
    """Write `codebook.html`. Raises UserError if that fails."""
    report = analysis.report
    rows = sorted({row for card in report["cards"] for row in card["pages"]})
    pictured = [row for row in rows if analysis.thumbnails[row] is not None]
    same_page, next_page = sections.code_pairs(report)
    measures = {name: report["disentanglement"][name] for name in ("disentanglement", "completeness", "gap")}
    document = render(
        "codebook/codebook.html",
        report=report,
        number=number,
        percent=percent,
        slots=sections.slot_names(report),
        tiles=sections.tiles(report),
        information=sections.information_table(report),
        information_widths=sections.information_widths(report),
        measures=range_plot(measures),
        roles=sections.roles(report),
        probes=sections.probe_table(report),
        probe_widths=sections.probe_widths(report),
        swapped=sections.swapped_pages(report, analysis.drawn),
        effects=sections.effect_table(report),
        tree=sections.code_tree(report),
        map=sections.code_map(report),
        same_page=same_page,
        next_page=next_page,
        ranks=rank_plot(report["usage"]["counts"]),
        usage=sections.usage_table(report),
        sprite=_sprite([image for image in map(analysis.thumbnails.__getitem__, pictured) if image is not None]),
        columns=SPRITE_COLUMNS,
        data=_script_data(report, rows, pictured),
    )
    return write_whole(output / "codebook.html", document.encode())


def _sprite(thumbnails: Sequence[Image.Image]) -> str | None:
    """Return all thumbnails in one image, so that each is stored once however many cards show it."""
    if not thumbnails:
        return None
    side = THUMBNAIL_PIXELS
    sprite = Image.new("RGB", (SPRITE_COLUMNS * side, -(-len(thumbnails) // SPRITE_COLUMNS) * side))
    for index, thumbnail in enumerate(thumbnails):
        sprite.paste(thumbnail, (index % SPRITE_COLUMNS * side, index // SPRITE_COLUMNS * side))
    return jpeg_uri(sprite, SPRITE_QUALITY)


def _script_data(report: Mapping[str, Any], rows: Sequence[int], pictured: Sequence[int]) -> dict[str, Any]:
    """Return the data of the page's script: the cards, and the pages that they show."""
    place, steps = {row: index for index, row in enumerate(pictured)}, report["steps"]
    pages = {
        row: [place.get(row, -1), clean(steps[row]["text"] or ""), steps[row]["story"] + 1, steps[row]["step"] + 1]
        for row in rows
    }
    colors = sections.code_colors(report)
    cards = [card | {"colors": colors[card["code"]]} for card in report["cards"]]
    return {"cards": cards, "pages": pages, "slots": report["num_slots"], "columns": SPRITE_COLUMNS}
