"""The studio's server: its API, its events and its page. Nothing it sends or loads comes from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from modules.common.errors import UserError, one_line
from modules.generation.pipeline import StoryPipeline
from modules.presentation.export.formats import FORMATS
from modules.steering.locks import parse_locks
from modules.studio import schema
from modules.studio.cards import CodeReports
from modules.studio.checks import split_locks
from modules.studio.files import files
from modules.studio.operations import SAMPLE
from modules.studio.page import pages
from modules.studio.project import Project, plan_of_png
from modules.studio.security import Guard
from modules.studio.shared import Here, Studio

SAMPLE_SECONDS = 20.0  # So long the address is held back, at most, until the sample is finished.


def create_app(
    pipeline: StoryPipeline,
    project: Project,
    token: str | None = None,
    sample: bool = True,
    announce: Callable[[], None] | None = None,
    reports: CodeReports | None = None,
) -> FastAPI:
    """Return the application. It works in one thread of its own as long as it runs.

    With `sample` an empty project gets a story, and in any other one the model is used once before it is asked.
    `announce` is called once there is a book to be seen, or after `SAMPLE_SECONDS`. `reports` are the cards.
    """
    studio = Studio(pipeline, project, reports)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if sample and not project.books and not project.waiting:
            studio.worker.submit({"kind": "generate", "temperature": 0.5, "best_of": 1, **SAMPLE})
        studio.worker.start(studio.operations.warm_up if sample else None)
        announcing = asyncio.create_task(_announce(studio, announce or (lambda: None)))
        yield
        announcing.cancel()
        studio.worker.stop()

    app = FastAPI(title="Studio", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan)
    app.state.studio = studio
    for router in (api, files):
        app.include_router(router, prefix="/api", responses={400: {"model": schema.Problem}})
    app.include_router(pages)
    app.add_middleware(Guard, token=token)
    app.add_exception_handler(UserError, _refuse)
    return app


async def _announce(studio: Studio, announce: Callable[[], None]) -> None:
    end = time.monotonic() + SAMPLE_SECONDS
    while not (studio.worker.is_idle or _has_book(studio)) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    announce()


def _has_book(studio: Studio) -> bool:
    return any(book.visits for book in list(studio.project.books.values()))


async def _refuse(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": one_line(error)}, 400)


api = APIRouter()


# -- the project


@api.get("/project")
def overview(here: Here) -> schema.Overview:
    """Return the model, all stories and the jobs."""
    event, pipeline = here.events.last_id, here.pipeline
    board = pipeline.config.storyboard
    model = schema.Model(
        preset=pipeline.config.preset,
        fingerprint=here.operations.fingerprint,
        num_slots=board.num_slots,
        codebook_size=board.codebook_size,
        longest_story=pipeline.longest_story,
        device=str(pipeline.device),
    )
    shelf = [
        schema.Shelf(id=book.id, title=book.title, pages=len(book.head["texts"]), cover=book.head["pictures"][0])
        for book in list(here.project.books.values())
        if book.visits
    ]
    jobs = [schema.JobRecord(**job.record()) for job in list(here.worker.jobs.values())]
    known = [{"name": name, "summary": kind.summary} for name, kind in FORMATS.items() if kind.is_available]
    return schema.Overview(model=model, stories=shelf, jobs=jobs, formats=known, event=event)


@api.get("/stories/{story}")
def story_record(here: Here, story: str) -> schema.StoryRecord:
    """Return a story with all its states."""
    return schema.StoryRecord(**here.operations.story_record(here.book(story)))


@api.delete("/stories/{story}", status_code=204)
def remove_story(here: Here, story: str) -> None:
    """Take a story off the shelf."""
    here.project.remove(here.book(story))
    here.events.add("removed", story=story)


@api.post("/stories/{story}/duplicate")
def duplicate(here: Here, story: str) -> dict[str, str]:
    """Begin another story with the state that is shown."""
    source = here.book(story)
    copy = here.project.add_story(source.title)
    kept = {name: source.head[name] for name in ("locks", "checks")}
    here.operations.add_state(copy, here.project.open_state(source.head), "Copied", **kept)
    return {"story": copy.id}


# -- jobs


@api.post("/stories")
def new_story(here: Here, body: schema.NewStory) -> schema.JobRecord:
    """Queue a new story."""
    if not body.prompt.strip():
        raise HTTPException(400, "the prompt is empty: say in one line what the story is about")
    request = {"kind": "generate", **body.model_dump(exclude={"first"})}
    return schema.JobRecord(**here.worker.submit(request, body.first).record())


@api.post("/stories/{story}/edits")
def edit(here: Here, story: str, body: schema.Edit) -> schema.JobRecord:
    """Queue a change of the story that is shown."""
    here.book(story)
    request = {"kind": "edit", "story": story, **body.model_dump()}
    return schema.JobRecord(**here.worker.submit(request, first=True).record())


@api.post("/stories/{story}/alternatives")
def look_up(here: Here, story: str, body: schema.LookUp) -> schema.JobRecord:
    """Queue a look at the likely other codes of a slot; they are the job's result."""
    here.book(story)
    request = {"kind": "alternatives", "story": story, **body.model_dump()}
    return schema.JobRecord(**here.worker.submit(request, first=True).record())


@api.post("/stories/{story}/branches")
def fork(here: Here, story: str, body: schema.Fork) -> schema.JobRecord:
    """Queue branches of the story that is shown."""
    here.book(story)
    return schema.JobRecord(**here.worker.submit({"kind": "branch", "story": story, **body.model_dump()}).record())


@api.post("/stories/{story}/captions", status_code=204)
def name_choice(here: Here, story: str, body: schema.Caption) -> None:
    """Say what the choice of a page of the branches is called."""
    book = here.book(story)
    if book.branches is None or body.page not in book.branches["pages"]:
        raise HTTPException(404, "there is no such page in the map")
    here.project.append("caption", story=story, page=body.page, caption=" ".join(body.caption.split()))
    here.events.add("branches", story=story, branches=book.branches)


@api.get("/codes")
def find_codes(here: Here, words: str = "", codes: str = "", count: int = 24) -> schema.CodeCards:
    """Return the cards of `codes`, numbers with commas; without them of those that fit the words best."""
    report, hint = here.reports.open()
    if report is None:
        return schema.CodeCards(cards=[], slots=[], hint=hint)
    numbers = [int(code) for code in codes.split(",") if code.isascii() and code.isdigit() and len(code) < 10]
    found = numbers or report.search(words[:500].lower().split(), count)
    cards = [schema.CodeCard(**report.card(code)) for code in found[: min(max(count, 1), 100)]]
    return schema.CodeCards(cards=cards, slots=report.slots, hint="")


@api.post("/codes/picture")
def find_by_picture(here: Here, body: schema.Sought) -> schema.JobRecord:
    """Queue a look at a picture; its codes are the job's result."""
    return schema.JobRecord(**here.worker.submit({"kind": "find", **body.model_dump()}, first=True).record())


@api.post("/import")
def restore(here: Here, body: schema.Recipe) -> schema.JobRecord:
    """Queue a story that is made again from its string."""
    from modules.steering.plan import Plan
    from modules.steering.short import ShortTexts, is_short

    text = body.plan.strip()
    plan = ShortTexts(here.operations.pipeline).read(text) if is_short(text) else Plan.from_string(text)
    plan.check_weights(here.operations.fingerprint)
    return schema.JobRecord(**here.worker.submit({"kind": "import", "plan": plan.to_string()}).record())


@api.post("/import/picture")
async def restore_from_picture(here: Here, request: Request) -> schema.JobRecord:
    """Queue the story that a page's PNG carries."""
    plan = plan_of_png(await request.body())
    if plan is None or len(plan) > schema.LONGEST_PLAN:
        raise HTTPException(400, "this picture carries no story: use a page that this program wrote, as it was written")
    return restore(here, schema.Recipe(plan=plan))


@api.post("/jobs/{job}/cancel", status_code=204)
def cancel(here: Here, job: str) -> None:
    """Take a job out of the queue, or end it after its denoising step."""
    here.worker.cancel(here.job(job))


@api.get("/jobs/{job}/previews/{page}", response_class=Response)
def preview(here: Here, job: str, page: int) -> Response:
    """Return a page that is being drawn."""
    content = here.job(job).previews.get(page)
    if content is None:
        raise HTTPException(404, "there is no preview of this page")
    return Response(content, media_type="image/jpeg", headers={"cache-control": "no-store"})


@api.get("/events", response_class=StreamingResponse)
async def events(
    here: Here, after: str | None = None, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Stream events; after a lost connection those since `Last-Event-ID`."""
    stream = here.events.stream(last_event_id or after)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


# -- states


@api.post("/stories/{story}/shown", status_code=204)
def show(here: Here, story: str, body: schema.Shown) -> None:
    """Show another state: pick a candidate, undo or redo."""
    book = here.book(story)
    if body.state not in book.states:
        raise HTTPException(404, "there is no such version of the story")
    if book.visits[-1] != body.state:
        here.project.show(book, body.state)
        here.events.add("shown", story=story, state=body.state)


@api.post("/stories/{story}/locks", status_code=204)
def lock(here: Here, story: str, body: schema.LockSet) -> None:
    """Set the locks; this too can be undone."""
    book = here.book(story)
    head = book.head
    parse_locks(split_locks(body.locks)[0], len(head["texts"]), len(head["codes"][0]))
    names = {name: value for name, value in head.items() if name not in ("kind", "id", "number", "story")}
    names |= {"parent": head["id"], "locks": body.locks, "label": "Locks", "group": None, "page": None}
    state = here.project.append("state", story=story, **names, **here.project.new_id("state"))
    here.project.show(book, state["id"])
    here.events.add("state", story=story, title=book.title, state=state, head=state["id"])
