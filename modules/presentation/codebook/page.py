"""analyze(): the analysis of a codebook as one self-contained page, the JSON behind it, and the TensorBoard projector's
files.

The same analysis gives the same bytes: nothing here knows the date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modules.common.files import write_whole
from modules.evaluation.codebook.analysis import CodebookAnalysis, analyze_codebook
from modules.evaluation.codebook.coded_stories import THUMBNAIL_PIXELS
from modules.evaluation.codebook.interventions import ReadPictures
from modules.pipeline import StoryPipeline
from modules.presentation.codebook import sections
from modules.presentation.codebook.figures import jpeg, range_plot, rank_plot
from modules.presentation.codebook.projector import write_projector
from modules.presentation.markup import clean, fill_page
from modules.presentation.story.story_files import prepare_output
from modules.story import StoryDataset

SHEET_COLUMNS, SHEET_QUALITY = 32, 74
SETS = {"train": "training stories", "held_out": "held-out stories", "prior": "plans of the prior"}
_TEMPLATE = Path(__file__).with_name("codebook.html")


def analyze(
    pipeline: StoryPipeline,
    train: StoryDataset,
    held_out: StoryDataset,
    num_stories: int,
    seed: int,
    output: Path,
    read_pictures: ReadPictures | None = None,
) -> list[Path]:
    """Write `codebook.html`, `codebook.json` and the folder `projector` into `output`; see `analyze_codebook`.

    Raises:
        UserError: the checkpoint has no codebook yet, or the output cannot be written.
    """
    prepare_output(output)
    analysis = analyze_codebook(pipeline, train, held_out, num_stories, seed, read_pictures)
    lines = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in analysis.report.items()
    )
    record = write_whole(output / "codebook.json", f"{{\n{lines}\n}}\n".encode())
    return [write_page(output, analysis), record, write_projector(output / "projector", analysis)]


def write_page(output: Path, analysis: CodebookAnalysis) -> Path:
    """Write `codebook.html`. Raises UserError if that fails."""
    report = analysis.report
    rows = sorted({row for card in report["cards"] for row in card["pages"]})
    pictured = [row for row in rows if analysis.thumbnails[row] is not None]
    slots = [f"slot {slot + 1}" for slot in range(report["num_slots"])]
    measures = {name: report["disentanglement"][name] for name in ("disentanglement", "completeness", "gap")}
    document = fill_page(
        _TEMPLATE,
        "What the storyboard's codes hold",
        about=sections.about(report),
        tiles=sections.tiles(report),
        information=sections.information_table(report, slots),
        roles=sections.roles_table(report),
        specialise=range_plot(measures),
        factors=", ".join(report["disentanglement"]["factors"]),
        probes=sections.probe_table(report, slots),
        examples=sections.swap_table(report, analysis.drawn),
        effects=sections.effect_table(report, slots),
        attributes=sections.legend(report["information"]),
        slots=sections.legend(slots),
        map=sections.code_map(report),
        together=sections.code_matrices(report),
        sets=sections.legend(SETS.values()),
        ranks=rank_plot(report["usage"]["counts"]),
        usage=sections.usage_table(report, slots),
        sheet=_sheet([analysis.thumbnails[row] for row in pictured]),
        columns=SHEET_COLUMNS,
        data=_data(report, rows, pictured),
    )
    return write_whole(output / "codebook.html", document.encode("utf-8", "replace"))


def _sheet(thumbnails: Sequence[Image.Image]) -> str:
    """All small pictures in one, so that each travels once however many cards show it."""
    if not thumbnails:
        return "none"
    side = THUMBNAIL_PIXELS
    sheet = Image.new("RGB", (SHEET_COLUMNS * side, -(-len(thumbnails) // SHEET_COLUMNS) * side))
    for index, thumbnail in enumerate(thumbnails):
        sheet.paste(thumbnail, (index % SHEET_COLUMNS * side, index // SHEET_COLUMNS * side))
    return f"url({jpeg(sheet, SHEET_QUALITY)})"


def _data(report: Mapping[str, Any], rows: Sequence[int], pictured: Sequence[int]) -> str:
    """What the script of the page reads: the cards, and the pages that they show."""
    place, steps = {row: index for index, row in enumerate(pictured)}, report["steps"]
    pages = {
        row: [place.get(row, -1), clean(steps[row]["text"] or ""), steps[row]["story"] + 1, steps[row]["step"] + 1]
        for row in rows
    }
    looks = sections.code_looks(report)
    cards = [card | {"colors": looks[card["code"]]} for card in report["cards"]]
    text = json.dumps(
        {"cards": cards, "pages": pages, "slots": report["num_slots"], "columns": SHEET_COLUMNS}, separators=(",", ":")
    )
    return text.replace("<", "\\u003c")
