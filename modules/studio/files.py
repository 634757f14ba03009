"""Pictures and exports: the API's answers that are files."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, HTTPException, Request, Response

from modules.presentation.export.book import branched_book, planned_book
from modules.presentation.export.formats import FORMATS
from modules.presentation.export.settings import ExportSettings
from modules.presentation.images import encode_png, scale_to
from modules.presentation.story.book import enlarge, plan_texts
from modules.studio import schema
from modules.studio.previews import as_jpeg
from modules.studio.project import as_upload
from modules.studio.shared import Here
from modules.studio.ways import branched_story

PICTURE_SIZE = 768  # Pixels, of the open page; thumbnails are 192.
files = APIRouter()


@files.post("/pictures")
async def take_picture(here: Here, request: Request) -> schema.Stored:
    """Take in a picture: it is decoded, and written again without anything else that was in its file."""
    image = as_upload(await request.body())
    return schema.Stored(picture=here.project.store(scale_to(image, min(1024, max(image.size)))))


@files.get("/pictures/{name}", response_class=Response)
def picture(here: Here, name: str, size: int = PICTURE_SIZE) -> Response:
    """Return a picture of the project, scaled."""
    image = here.project.picture(name)
    if image is None:
        raise HTTPException(404, "there is no such picture")
    content = as_jpeg(image, min(max(size, 16), PICTURE_SIZE), 93)
    return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=31536000, immutable"})


@files.get("/codes/pages/{row}", response_class=Response)
def code_page(here: Here, row: int) -> Response:
    """Return the small picture of a page on the cards of codes."""
    report, _ = here.reports.open()
    image = None if report is None else report.picture(row)
    if image is None:
        raise HTTPException(404, "there is no such picture")
    return Response(
        as_jpeg(image, max(image.size)), media_type="image/jpeg", headers={"cache-control": "private, max-age=60"}
    )


@files.get("/stories/{story}/states/{state}/pages/{page}.png", response_class=Response)
def page_png(here: Here, story: str, state: str, page: int) -> Response:
    """Return a page as a PNG that carries the story."""
    found = here.book(story).states.get(state)
    if found is None or not 0 <= page < len(found["pictures"]):
        raise HTTPException(404, "there is no such page")
    image = here.project.picture(found["pictures"][page])
    if image is None:
        raise HTTPException(404, "the picture is gone")
    content = encode_png(enlarge(image), plan_texts(found["plan"]))
    return _download(content, "image/png", f"page_{page + 1:02}.png")


@files.get("/stories/{story}/export/{name}", response_class=Response)
def export(here: Here, story: str, name: str, branches: bool = False) -> Response:
    """Return the story that is shown in a format, or its branches."""
    if name not in FORMATS:
        raise HTTPException(404, "there is no such format")
    book = here.book(story)
    kind = FORMATS[name]
    if branches:
        whole = branched_book(branched_story(here.project, book))
    else:
        whole = planned_book(replace(here.project.open_state(book.head), notes=()))
    content = kind.encode(whole, ExportSettings())
    return _download(content, kind.media_type, f"{_file_name(book.title)}{kind.suffix}")


def _download(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


def _file_name(title: str) -> str:
    words = "".join(char if char.isascii() and char.isalnum() else " " for char in title).split()
    return "-".join(words)[:60].lower() or "story"
