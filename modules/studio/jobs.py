"""Jobs: what the model is asked to do, one after the other, in the one thread that uses it."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from modules.common.errors import UserError, one_line
from modules.studio.events import EventLog
from modules.studio.project import Project
from modules.studio.wording import title_of

Status = Literal["queued", "running", "done", "failed", "cancelled"]
KEPT_JOBS = 200
LASTING = ("generate", "import")  # Jobs that a killed server begins again.


class Cancelled(Exception):
    """The job was cancelled."""


@dataclass
class Job:
    """A request, how far it is, and what it made.

    `done` of `total` are denoising steps; `draft` are texts that are there before their pictures; `previews` are JPEGs
    of the pages that are being drawn.
    """

    id: str
    request: dict[str, Any]
    title: str
    status: Status = "queued"
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    error: str | None = None
    draft: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    preview_version: int = 0
    previews: dict[int, bytes] = field(default_factory=dict, repr=False)
    cancel: threading.Event = field(default_factory=threading.Event, repr=False)

    def record(self) -> dict[str, Any]:
        """Return what clients are told."""
        left = None if self.seconds_left is None else round(self.seconds_left, 1)
        kept = {name: self.request.get(name) for name in ("kind", "story", "operation", "page", "slot")}
        return {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "done": self.done,
            "total": self.total,
            "seconds_left": left,
            "error": self.error,
            "draft": self.draft,
            "result": self.result,
            "preview_version": self.preview_version,
            "preview_pages": sorted(self.previews),
            **kept,
        }


class Worker:
    """The queue and its thread. `perform` does a job; it reports by `changed` and ends with Cancelled if asked to."""

    def __init__(self, project: Project, events: EventLog, perform: Callable[[Job], dict[str, Any] | None]) -> None:
        self.project, self.events, self.perform = project, events, perform
        self.jobs = dict[str, Job]()
        self._queue, self._condition, self._stopped = list[Job](), threading.Condition(), False
        self.warm_up: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self, warm_up: Callable[[], None] | None = None) -> None:
        """Begin, with the jobs that a killed server left; with `warm_up` if there are none."""
        self.warm_up = warm_up
        for identity, request in list(self.project.waiting.items()):
            if identity not in self.jobs:
                self._enqueue(Job(identity, request, title_of(request)))
        self._thread.start()

    def stop(self) -> None:
        """Cancel what runs and end the thread; jobs that wait are found again by the next server."""
        with self._condition:
            self._stopped = True
            for job in self.jobs.values():
                if job.status == "running":
                    job.cancel.set()
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, request: dict[str, Any], first: bool = False) -> Job:
        """Queue a request, at the end or at the front."""
        job = Job(self.project.new_id("job")["id"], request, title_of(request))
        if request["kind"] in LASTING:
            self.project.append("job", id=job.id, request=request, number=int(job.id.removeprefix("job")))
        self._enqueue(job, first)
        return job

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or end it after the denoising step that it is in."""
        with self._condition:
            job.cancel.set()
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "cancelled")

    def changed(self, job: Job) -> None:
        """Tell clients how far a job is. Raises Cancelled if it was cancelled."""
        if job.cancel.is_set():
            raise Cancelled
        self.events.add("job", job=job.record())

    def _enqueue(self, job: Job, first: bool = False) -> None:
        with self._condition:
            self._queue.insert(0 if first else len(self._queue), job)
            self.jobs[job.id] = job
            for old in [one for one in self.jobs.values() if one.status not in ("queued", "running")][:-KEPT_JOBS]:
                del self.jobs[old.id]
            self.events.add("job", job=job.record())
            self._condition.notify_all()

    @property
    def is_idle(self) -> bool:
        """Return whether no job waits or runs."""
        return not any(job.status in ("queued", "running") for job in list(self.jobs.values()))

    def _work(self) -> None:
        if self.is_idle and self.warm_up is not None:
            self.warm_up()
        while True:
            with self._condition:
                while not self._queue and not self._stopped:
                    self._condition.wait()
                if self._stopped:
                    return
                job = self._queue.pop(0)
                job.status = "running"
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            self.changed(job)
            job.result = self.perform(job)
            self._end(job, "done")
        except Cancelled:
            if not self._stopped:
                self._end(job, "cancelled")
        except UserError as error:
            self._end(job, "failed", one_line(error))
        except Exception as error:  # The studio goes on; the terminal has the details.
            traceback.print_exc()
            self._end(job, "failed", f"this failed unexpectedly ({type(error).__name__}); the terminal has the details")

    def _end(self, job: Job, status: Status, error: str | None = None) -> None:
        job.status, job.error, job.seconds_left = status, error, None
        if job.id in self.project.waiting:
            with contextlib.suppress(OSError):  # A full disk: the next server begins the job again.
                self.project.append("job_end", id=job.id)
        job.draft, job.previews = None, {}
        self.events.add("job", job=job.record())


class Pace:
    """How long a denoising step takes on this machine for what it costs, from the steps so far."""

    def __init__(self) -> None:
        self._seconds: float | None = None  # For a unit of cost.
        self._last = 0.0

    def begin(self) -> None:
        """Note that a step begins."""
        self._last = time.monotonic()

    def step(self, cost: float, is_first: bool) -> None:
        """Note the end of a step. The first one of a picture is not counted: codes and texts were made before it."""
        now = time.monotonic()
        took, self._last = (now - self._last) / cost, now
        if not is_first:
            self._seconds = took if self._seconds is None else 0.7 * self._seconds + 0.3 * took

    def seconds(self, cost: float) -> float | None:
        """Return how long steps of this cost will take, if that is known."""
        return None if self._seconds is None else self._seconds * cost
