"""What all requests share: the model's operations, the project, the events and the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from modules.common.shipped import WEIGHTS
from modules.generation.pipeline import StoryPipeline
from modules.studio.cards import CodeReports
from modules.studio.events import EventLog
from modules.studio.jobs import Job
from modules.studio.operations import Operations
from modules.studio.project import Book, Project

REPORTS = Path("report")  # Where `analyze` writes if nothing else is said.


class Studio:
    """A studio as long as it runs."""

    def __init__(self, pipeline: StoryPipeline, project: Project, reports: CodeReports | None = None) -> None:
        self.pipeline, self.project, self.events = pipeline, project, EventLog()
        self.reports = reports or CodeReports(REPORTS, pipeline, WEIGHTS)
        self.operations = Operations(pipeline, project, self.events, self.reports.carriers)
        self.worker = self.operations.worker

    def book(self, story: str) -> Book:
        """Return a story of the project; 404 if there is none of this id."""
        book = self.project.books.get(story)
        if book is None or not book.visits:
            raise HTTPException(404, "there is no such story")
        return book

    def job(self, job: str) -> Job:
        if job not in self.worker.jobs:
            raise HTTPException(404, "there is no such job")
        return self.worker.jobs[job]


def _studio(request: Request) -> Studio:
    found: Studio = request.app.state.studio
    return found


Here = Annotated[Studio, Depends(_studio)]
