"""What the API accepts and returns, with its limits; OpenAPI at /api/openapi.json is made from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Operation = Literal[
    "redraw", "rewrite", "replan", "text", "words", "codes", "picture", "move", "remove", "insert", "restore"
]
MAX_SEED = 2**53 - 1  # What JavaScript can count to.
LONGEST_PLAN = 200_000  # Characters.


class Body(BaseModel):
    """A request body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class NewStory(Body):
    """A story to be made."""

    prompt: str = Field(min_length=1, max_length=500)
    pages: int = Field(5, ge=1, le=32)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    temperature: float = Field(0.5, ge=0, le=2)
    best_of: int = Field(1, ge=1, le=256)
    first: bool = False


class Edit(Body):
    """A change of the story that is shown. `page` counts from 0; `count` is the number of candidates."""

    operation: Operation
    page: int = Field(ge=0, le=2000)
    count: int = Field(3, ge=1, le=8)
    and_after: bool = False
    text: str | None = Field(None, max_length=2000)
    codes: dict[int, int] | None = None
    picture: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    to: int = Field(0, ge=0, le=2000)
    state: str | None = Field(None, max_length=40)


class LookUp(Body):
    """A slot of a page whose likely other codes are to be shown."""

    page: int = Field(ge=0, le=2000)
    slot: int = Field(ge=0, le=1023)
    count: int = Field(8, ge=1, le=16)


class Sought(Body):
    """A picture whose codes are to be found."""

    picture: str = Field(pattern="^[0-9a-f]{32}$")


class Caption(Body):
    """What the choice of a page of the branches is called; empty: its text."""

    page: str = Field(max_length=20)
    caption: str = Field(max_length=160)


class Fork(Body):
    """A page at which the story is to fork."""

    page: int = Field(ge=0, le=2000)
    branches: int = Field(2, ge=2, le=4)
    depth: int = Field(1, ge=1, le=3)


class Shown(Body):
    """The state to be shown: a candidate that is picked, or what undoing and redoing lead to."""

    state: str = Field(max_length=40)


class LockSet(Body):
    """All locks of the story, such as 2, 2.text, 2.picture or 2.5, with numbers from 1."""

    locks: list[str] = Field(max_length=4000)


class Recipe(Body):
    """The text form of a plan."""

    plan: str = Field(min_length=1, max_length=LONGEST_PLAN)


class JobRecord(BaseModel):
    """How far a job is."""

    id: str
    title: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    kind: str
    story: str | None
    operation: str | None
    page: int | None
    slot: int | None
    done: int
    total: int
    seconds_left: float | None
    error: str | None
    draft: dict[str, Any] | None
    result: dict[str, Any] | None
    preview_version: int
    preview_pages: list[int]


class Model(BaseModel):
    """The model that makes the stories."""

    preset: str
    fingerprint: str
    num_slots: int
    codebook_size: int
    longest_story: int
    device: str


class Shelf(BaseModel):
    """A story on the shelf."""

    id: str
    title: str
    pages: int
    cover: str


class Overview(BaseModel):
    """What a client loads first. `event` is the id of the last event that it contains."""

    model: Model
    stories: list[Shelf]
    jobs: list[JobRecord]
    formats: list[dict[str, str]]
    event: str


class CodeCard(BaseModel):
    """A code: how often it is used, its most frequent slot, from 0, what it is most informative about, its pages."""

    code: int
    uses: int
    slot: int | None
    tells: dict[str, Any] | None
    words: list[str]
    near: list[int]
    pages: list[dict[str, Any]]


class CodeCards(BaseModel):
    """Cards of codes, what each slot is most informative about, and what to do where nothing is known of them."""

    cards: list[CodeCard]
    slots: list[str]
    hint: str


class StoryRecord(BaseModel):
    """A story with all its states; `visits` are the states shown so far, the present one last."""

    id: str
    title: str
    states: list[dict[str, Any]]
    visits: list[str]
    branches: dict[str, Any] | None


class Stored(BaseModel):
    """A picture that was taken in."""

    picture: str


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str
