"""`analyze`: the analysis of a codebook as one self-contained page, as JSON, and for TensorBoard's projector.

The same analysis gives the same bytes: no date is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.common.ownership import MARK
from modules.evaluation.codebook.analysis import CodebookAnalysis, analyze_codebook, plain
from modules.evaluation.codebook.coded_stories import THUMBNAIL_PIXELS
from modules.evaluation.codebook.interventions import ReadPictures
from modules.generation.pipeline import StoryPipeline
from modules.presentation.codebook import sections
from modules.presentation.codebook.plots import range_plot, rank_plot
from modules.presentation.codebook.projector import check_projector, write_projector
from modules.presentation.codebook.tables import number, percent
from modules.presentation.images import encode_image, jpeg_uri
from modules.presentation.story.files import prepare_output
from modules.presentation.templates import render
from modules.presentation.text import clean
from modules.steering.novelty import write_training_pages
from modules.story import StoryDataset

TRAINING_PAGES, UNFINISHED = "training_pages.json", "codebook_unfinished.json"
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
    """Write `codebook.html`, `codebook.json`, the pages' small pictures as `codebook.jpg`, `training_pages.json`, from
    which `score` tells what a story is near to, and the folder `projector` into `output`; see `analyze_codebook`.

    If it is stopped, the parts of the report that are finished are written to `codebook_unfinished.json`.

    Raises:
        UserError: the checkpoint has no codebook yet, or the output cannot be written.
    """
    prepare_output(output)
    check_projector(output / "projector")
    with _kept_if_stopped(output / UNFINISHED) as report:
        analysis = analyze_codebook(pipeline, train, held_out, num_stories, seed, read_pictures, report)
    sprite, pictured = _pictures(analysis)
    thumbnails = {"rows": pictured, "columns": SPRITE_COLUMNS}
    head = {"generator": MARK, "fingerprint": pipeline.fingerprint(), "thumbnails": thumbnails}
    record = _write_record(output / "codebook.json", head | analysis.report)
    files = [write_page(output, analysis), record]
    if sprite is not None:
        files.append(write_whole(output / "codebook.jpg", _jpeg(sprite)))
    learnt = analysis.learnt
    pages = write_training_pages(
        output / TRAINING_PAGES, pipeline.fingerprint(), learnt.codes.tolist(), learnt.lengths, learnt.stories.texts
    )
    projector = write_projector(output / "projector", analysis)
    (output / UNFINISHED).unlink(missing_ok=True)
    return [*files, pages, projector]


@contextmanager
def _kept_if_stopped(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a report to fill; if that is stopped, write what it has by then to `path`."""
    report: dict[str, Any] = {}
    try:
        yield report
    except KeyboardInterrupt:
        if report:
            _write_record(path, {"generator": MARK, "unfinished": True} | plain(report))
            print(f"note: stopped; what was analysed by then is in {path}", file=sys.stderr)
        raise


def _write_record(path: Path, report: Mapping[str, Any]) -> Path:
    """Write a report as JSON, a line for each of its parts."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in report.items())
    return write_whole(path, f"{{\n{lines}\n}}\n".encode())


def write_page(output: Path, analysis: CodebookAnalysis) -> Path:
    """Write `codebook.html`. Raises UserError if that fails."""
    report = analysis.report
    rows = _shown_rows(report)
    sprite, pictured = _pictures(analysis)
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
        sprite=None if sprite is None else jpeg_uri(sprite, SPRITE_QUALITY),
        columns=SPRITE_COLUMNS,
        data=_script_data(report, rows, pictured),
    )
    return write_whole(output / "codebook.html", document.encode())


def _shown_rows(report: Mapping[str, Any]) -> list[int]:
    return sorted({row for card in report["cards"] for row in card["pages"]})


def _pictures(analysis: CodebookAnalysis) -> tuple[Image.Image | None, list[int]]:
    """Return the thumbnails of all pages on cards in one image, and the rows of those pages that have one."""
    images = {row: analysis.thumbnails[row] for row in _shown_rows(analysis.report)}
    pictured = [row for row, image in images.items() if image is not None]
    return _sprite([image for image in images.values() if image is not None]), pictured


def _jpeg(image: Image.Image) -> bytes:
    """Return a JPEG whose comment says which program wrote it, so that it may be overwritten."""
    return encode_image(image, "JPEG", quality=SPRITE_QUALITY, optimize=True, comment=MARK)


def _sprite(thumbnails: Sequence[Image.Image]) -> Image.Image | None:
    """Return all thumbnails in one image, so that each is stored once however many cards show it."""
    if not thumbnails:
        return None
    side = THUMBNAIL_PIXELS
    sprite = Image.new("RGB", (SPRITE_COLUMNS * side, -(-len(thumbnails) // SPRITE_COLUMNS) * side))
    for index, thumbnail in enumerate(thumbnails):
        sprite.paste(thumbnail, (index % SPRITE_COLUMNS * side, index // SPRITE_COLUMNS * side))
    return sprite


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
