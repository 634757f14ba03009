"""Story folders: written by `generate`, read again by `continue`.

book.html, generated.png    the whole story as a book, and as a contact sheet
page_01.png, ...            the pages' pictures, large
story.json                  texts, codes, settings and notes, and the names of the pictures in raw/
raw/page_01.png, ...        the same pictures at the model's size, which give the same latents when read again
manifest.json               the sums of these files: no others are ever overwritten or removed
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from modules.common.errors import UserError
from modules.common.ownership import OwnFiles
from modules.data.images import fit_image, load_image
from modules.data.records import MAX_LINE_BYTES, RecordError, decode_line, parse_record, read_lines
from modules.presentation.images import read_png_text, write_png
from modules.presentation.story.book import BookPage, page_names, plan_texts, write_book, write_pages, write_story_json
from modules.presentation.story.embedded import CARRIERS, PLAN_KEYWORD, PLAN_PREFIX, SHORT_PREFIX, embedded_plan
from modules.presentation.story.sheet import contact_sheet
from modules.story import Story

if TYPE_CHECKING:
    from modules.generation.pipeline import StoryPipelineOutput


RAW = "raw"
WHOLE_STORY = ("book.html", "generated.png", "story.json")
LARGEST_PAGE = 1024  # Pixels. A given photo of many megapixels would make a book too large to open.
_PAGE_FILE = re.compile(r"page_[0-9]{2,}\.png")


def prepare_output(folder: Path) -> None:
    """Make the folder and check that a story can be written there.

    Raises UserError if it cannot, or if a file of a story is there that this program did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the output {folder} is a file: give a folder, or move the file away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into the folder {folder} ({error.strerror}): choose another output") from None
    OwnFiles(folder).check(name for name in WHOLE_STORY if (folder / name).exists())
    OwnFiles(folder).check(path.relative_to(folder).as_posix() for path in _page_files(folder))


def write_story(
    folder: Path,
    story: StoryPipelineOutput,
    settings: Mapping[str, Any],
    given: StoryPipelineOutput | None = None,
    *,
    plan: str | None = None,
    page_plans: Sequence[str | None] = (),
    given_pages: Collection[int] | None = None,
) -> list[Path]:
    """Write a story's folder, the `given` pages first, and return the files for the user to open.

    The same story and settings give the same bytes. Pages of an earlier, longer story in the folder are removed. `plan`
    is the text form of the story's plan, and `page_plans` (T) are those for the pages' PNGs; `given_pages` are the
    numbers of those that were given, from 0, by default those of `given`.

    Raises:
        UserError: a file cannot be written, or one of its name is not this program's.
    """
    parts = [story] if given is None else [given, story]
    pages = [page for part in parts for page in _pages(part)]
    stamps = page_plans or [plan] * len(pages)
    pages = [replace(page, plan=stamp) for page, stamp in zip(pages, stamps, strict=True)]
    total_bits = None if story.bits is None else round(sum(story.bits), 3)
    own = OwnFiles(folder)
    own.start(_file_names(len(pages)))
    details = {**settings, **({} if total_bits is None else {"bits": total_bits})}
    sheet = write_png(folder / "generated.png", contact_sheet(pages, story.prompt), plan_texts(plan))
    book = write_book(folder, story.prompt, pages, details, notes=story.notes)
    page_files = write_pages(folder, pages)
    images = [image for part in parts for image in part.images]
    for page, file, image in zip(pages, page_files, images, strict=True):
        write_png(folder / RAW / file.name, fit_image(image, story.images[0].width), plan_texts(page.plan))
    steps = _step_records(
        pages, page_files, range(len(pages) - len(story.images)) if given_pages is None else given_pages
    )
    record = {"prompt": story.prompt, "settings": dict(settings), "notes": list(story.notes)}
    if plan is not None:
        record["plan"] = plan
    json_file = write_story_json(folder, record | {"steps": steps, "total_bits": total_bits})
    own.finish(_file_names(len(pages)), _remove_other_pages(folder, own, {file.name for file in page_files}))
    return [book, sheet, json_file, *page_files]


def read_story(path: Path, prompt: str | None = None) -> Story:
    """Read a story with its pictures: a `story.json`, its folder, or the first story of a `stories.jsonl`.

    `prompt` takes the place of the story's own, which may then be missing.

    Raises:
        UserError: no such file, or it is malformed, or a picture is missing or broken; the file is named.
    """
    file = _find_story(path)
    try:
        story = _read_first(file, prompt) if file.suffix == ".jsonl" else _read_single(file, prompt)
    except RecordError as error:
        raise UserError(f"{file}: {error}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    steps = (
        step if step.image_path is None else replace(step, image=load_image(step.image_path)) for step in story.steps
    )
    return replace(story, steps=tuple(steps))


def read_page_plans(story: Story) -> list[str | None]:
    """Return the text form of the plan in every page's picture file (T), None where there is none."""
    return [None if step.image_path is None else read_png_text(step.image_path, PLAN_KEYWORD) for step in story.steps]


def read_plan(source: str) -> tuple[str, Story | None]:
    """Return the text form of a plan, and the story it is of where the source is one.

    `source` is a page's PNG, an exported book, a `story.json` or its folder, or the text itself. Raises UserError if
    there is no plan.
    """
    if source.strip().startswith((PLAN_PREFIX, SHORT_PREFIX)):
        return source.strip(), None
    path = Path(source)
    if not _exists(path):
        shown = source if len(source) <= 60 else f"{source[:60]}..."
        raise UserError(
            f"{shown} is neither a file nor a plan, which begins with {PLAN_PREFIX} or {SHORT_PREFIX}: give a page's"
            " PNG, a story.json or the whole text of a plan"
        )
    if path.suffix.lower() in CARRIERS and path.is_file():
        text = embedded_plan(path)
        if text is None:
            raise UserError(f"{path} carries no plan: give a page that generate wrote, or a book, as it was written")
        return text, None
    story = read_story(path)
    if "plan" not in story.extra:
        raise UserError(f"{path} carries no plan: it was not written by generate, or was written by an older version")
    return str(story.extra["plan"]), story


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # A name that is too long.
        return False


def _pages(part: StoryPipelineOutput) -> list[BookPage]:
    missing = [None] * len(part.texts)
    codes = missing if part.codes is None else part.codes.tolist()
    return [
        BookPage(_shrink(image), text, row, None if bits is None else round(bits, 3))
        for image, text, row, bits in zip(part.images, part.texts, codes, part.bits or missing, strict=True)
    ]


def _shrink(image: Image.Image) -> Image.Image:
    """Return a copy of at most `LARGEST_PAGE` pixels; smaller images keep their size."""
    small = image.copy()
    small.thumbnail((LARGEST_PAGE, LARGEST_PAGE), Image.Resampling.LANCZOS)
    return small


def _step_records(
    pages: Sequence[BookPage], files: Sequence[Path], given_pages: Collection[int]
) -> list[dict[str, Any]]:
    return [
        {
            "text": page.text,
            "image_path": f"{RAW}/{file.name}",
            "codes": page.codes,
            "bits": page.bits,
            "given": index in given_pages,
        }
        for index, (page, file) in enumerate(zip(pages, files, strict=True))
    ]


def _page_files(folder: Path) -> list[Path]:
    files = [*folder.glob("page_*.png"), *(folder / RAW).glob("page_*.png")]
    return [file for file in files if _PAGE_FILE.fullmatch(file.name)]


def _file_names(num_pages: int) -> list[str]:
    """Return the paths of a story's files within its folder."""
    pages = page_names(num_pages)
    return [*WHOLE_STORY, *pages, *(f"{RAW}/{name}" for name in pages)]


def _remove_other_pages(folder: Path, own: OwnFiles, keep: set[str]) -> list[str]:
    """Remove the pages that an earlier, longer story left, and return their paths within the folder."""
    removed = []
    for file in _page_files(folder):
        name = file.relative_to(folder).as_posix()
        if file.name not in keep and name in own.names:
            try:
                file.unlink()
            except OSError as error:
                raise UserError(f"cannot remove {file}, a page of an earlier story: {error.strerror}") from None
            removed.append(name)
    return removed


def _find_story(path: Path) -> Path:
    candidates = [path / "story.json", path / "stories.jsonl"] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file
    if path.is_dir():
        raise UserError(f"{path} contains neither story.json nor stories.jsonl")
    raise UserError(f"no story at {path}: give a story.json, or a folder with story.json or stories.jsonl")


def _read_single(file: Path, prompt: str | None) -> Story:
    with open(file, "rb") as stream:
        content = stream.read(MAX_LINE_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    record = decode_line(content)
    return parse_record(_completed(record, prompt, {"id": file.stem}), file.stem, file.parent)


def _completed(record: Any, prompt: str | None, defaults: Mapping[str, Any]) -> Any:
    """Return a decoded record with an id and with another prompt, if one is given."""
    if not isinstance(record, dict):
        return record
    return {**defaults, **record, **({} if prompt is None else {"prompt": prompt})}


def _read_first(file: Path, prompt: str | None) -> Story:
    for number, line in read_lines(file):
        return parse_record(_completed(decode_line(line), prompt, {}), f"line{number}", file.parent)
    raise RecordError("contains no stories")
