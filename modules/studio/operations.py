"""What jobs do: the operations of steering on the story that is shown, each result a new state of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.rendering import render_images, render_texts
from modules.generation.settings import GenerationSettings, check_story
from modules.steering import arrange, edit
from modules.steering.alternatives import alternatives
from modules.steering.locks import Locks, parse_locks
from modules.steering.plan import Plan, drawn_plan
from modules.steering.planned_story import PlannedStory, codebook_size, codes_of, replay, with_log_probs
from modules.steering.search import search
from modules.story import StoryStep
from modules.studio.checks import LOCKS_TRIED, TEXTS_TRIED, Checker, hold, split_locks, texts_change
from modules.studio.events import EventLog
from modules.studio.jobs import Job, Worker
from modules.studio.previews import Watcher
from modules.studio.project import Book, Project, State
from modules.studio.ways import grow
from modules.studio.wording import label_of

SAMPLE = {"prompt": "Rusty the fox wants a kite", "pages": 6, "seed": 1}
CANDIDATES = ("redraw", "rewrite", "replan")  # Wait until one is picked.


class Operations:
    """Performs jobs with a model on a project. Only the worker's thread calls it."""

    def __init__(
        self, pipeline: StoryPipeline, project: Project, events: EventLog, carriers: Callable[[], list[int]]
    ) -> None:
        self.pipeline, self.project, self.events, self.carriers = pipeline, project, events, carriers
        self.fingerprint = pipeline.fingerprint()  # Hashes all weights, which do not change here.
        self.worker = Worker(project, events, self.perform)
        self.watcher, self.checker = Watcher(pipeline, self.worker), Checker(pipeline)

    def warm_up(self) -> None:
        """Use every part of the model once, so that the first story is not the slowest: libraries load late.

        A pretrained model on a CPU takes too long for that.
        """
        if not self.pipeline.config.image_decoder.source or self.pipeline.device.type != "cpu":
            self.pipeline("a fox", num_steps=1, num_inference_steps=2)

    def perform(self, job: Job) -> dict[str, Any] | None:
        """Do what a job's request says and return its result."""
        kinds: dict[str, Callable[[Job], dict[str, Any] | None]] = {
            "generate": self._generate,
            "import": self._import,
            "edit": self._edit,
            "alternatives": self._alternatives,
            "branch": self._branch,
            "find": self._find,
        }
        return kinds[job.request["kind"]](job)

    def book(self, request: dict[str, Any]) -> Book:
        """Return the story that a request names. Raises UserError if it is gone."""
        book = self.project.books.get(str(request["story"]))
        if book is None or not book.visits:
            raise UserError("this story is not in the project any more: choose another one")
        return book

    def add_state(self, book: Book, story: PlannedStory, label: str, **more: Any) -> State:
        """Check a story, add it as a state and tell the clients."""
        plan = story.plan if story.plan.log_probs is not None else with_log_probs(self.pipeline, story.plan)
        story = replace(story, plan=plan)
        bits = [-sum(page) / 0.6931471805599453 for page in plan.log_probs or ()]
        held = split_locks(more.get("locks", ()))[1]
        state = self.project.add_state(book, story, label, checks=self.checker.check(story, bits, held), **more)
        self.events.add("state", story=book.id, title=book.title, state=state, head=book.visits[-1])
        return state

    # -- new stories

    def _generate(self, job: Job) -> dict[str, Any]:
        """Plan, write all texts, and draw all pictures: the same bytes as the command `generate`."""
        request, pipeline = job.request, self.pipeline
        settings = GenerationSettings.resolve(seed=request["seed"], temperature=request["temperature"])
        prompt, count = request["prompt"], request["pages"]
        check_story(prompt, count, pipeline.longest_story)
        if request["best_of"] > 1:
            found = search(pipeline, prompt, count, request["best_of"], keep=1, settings=settings)[0]
            plan = with_log_probs(pipeline, found.plan)
        else:
            sample = pipeline.plan(prompt, count, settings=settings)
            plan = drawn_plan(prompt, codes_of(sample.codes[0]), codebook_size(pipeline), self.fingerprint, settings)
            plan = replace(plan, log_probs=tuple(map(tuple, sample.log_probs[0].tolist())))
        story = self._render(job, plan)
        book = self.project.add_story(prompt)
        state = self.add_state(book, story, "Made")
        return {"story": book.id, "state": state["id"]}

    def _render(self, job: Job, plan: Plan) -> PlannedStory:
        """Decode all pages of a plan in one batch; the texts are shown word by word, before the pictures are drawn."""
        pipeline, settings, pages = self.pipeline, plan.settings, range(plan.num_pages)
        rows = pipeline.embed(torch.tensor(plan.codes))
        window = pipeline.model.window(rows, [len(rows)])
        with self.watcher.writing(job):
            texts = render_texts(pipeline.model, pipeline.tokenizer, rows, settings, window)
        job.draft = {"texts": texts}
        with self.watcher.watching(job, pages, settings):
            self.worker.changed(job)
            images = render_images(pipeline.model, rows, texts, settings, None, window)
        stamps = (plan.to_string(),) * plan.num_pages
        return PlannedStory(plan, tuple(texts), tuple(images), stamps, pipeline.notes(plan.prompt))

    def _import(self, job: Job) -> dict[str, Any]:
        """Make a story again from the text form of its plan."""
        plan = Plan.from_string(job.request["plan"])
        with self.watcher.watching(job, range(plan.num_pages), plan.settings, len(plan.renderings) or 1):
            story = replay(self.pipeline, plan)
        book = self.project.add_story(plan.prompt)
        state = self.add_state(book, story, "Restored")
        return {"story": book.id, "state": state["id"]}

    # -- edits

    def _edit(self, job: Job) -> dict[str, Any]:
        """Change the story that is shown; several results of the same edit wait as candidates."""
        request, operation = job.request, job.request["operation"]
        book = self.book(request)
        head = book.head
        story, locks, held = self.project.open_state(head), self._locks(head), split_locks(head["locks"])[1]
        page, count = request["page"], request["count"] if operation in CANDIDATES else 1
        if page is not None and page >= story.plan.num_pages + (operation == "insert"):
            raise UserError(f"page {page + 1} does not exist any more: choose another one")
        pages = range(page, story.plan.num_pages) if request["and_after"] else [page]
        made = []
        more = {
            "page": request["to"] if operation == "move" else page,
            "parent": head["id"],
            "locks": _moved_locks(head["locks"], request),
        }
        with self.watcher.watching(job, pages, story.plan.settings, count):
            for _ in range(count):
                self.worker.changed(job)
                waits = operation in CANDIDATES
                if waits:
                    edited, more["changes"] = self._candidate(job, story, locks, held)
                else:
                    edited = self._apply(story, request, locks, None)
                group = job.id if waits else None
                state = self.add_state(book, edited, label_of(request), show=not waits, group=group, **more)
                made.append(state["id"])
                job.previews = {}
        return {"story": book.id, "states": made}

    def _candidate(self, job: Job, story: PlannedStory, locks: Locks, held: dict[str, str]) -> tuple[PlannedStory, int]:
        """Return a candidate in which the locked characters stay as they are; after some tries the best of these.

        The number is that of its pages on which a locked character is not what it was.
        """
        locks = hold(locks, story.texts, held, self.carriers())
        best, fewest, per_try = story, len(story.texts) * len(held) + 1, job.total // job.request["count"]
        for attempt in range(LOCKS_TRIED if held else 1):
            job.total += per_try if attempt else 0
            edited = self._apply(story, job.request, locks, self._seed(job, story, locks, held))
            changes = self.checker.changes(story, edited, held)
            if changes < fewest:
                best, fewest = edited, changes
            if not changes:
                break
        return best, fewest

    def _seed(self, job: Job, story: PlannedStory, locks: Locks, held: dict[str, str]) -> int:
        """Return a seed for a candidate, with locked characters one whose texts keep them: texts cost little."""
        no_pictures = replace(locks, pictures=frozenset(range(story.plan.num_pages)))
        for _ in range(TEXTS_TRIED):
            seed = secrets.randbits(31)
            if not held or job.request["operation"] == "redraw":
                break
            self.worker.changed(job)
            draft = self._apply(story, job.request, no_pictures, seed)
            if not texts_change(story.texts, draft.texts, held):
                break
        return seed

    def _apply(self, story: PlannedStory, request: dict[str, Any], locks: Locks, seed: int | None) -> PlannedStory:
        """Return the story after the operation of a request."""
        pipeline, operation, page = self.pipeline, request["operation"], request["page"]
        if operation == "replan":
            return edit.replan(pipeline, story, page, request["and_after"], locks, seed)
        if operation in CANDIDATES:
            again = edit.redraw if operation == "redraw" else edit.rewrite
            return again(pipeline, story, page, locks, seed)
        if operation == "text":
            return edit.set_text(pipeline, story, page, request["text"] or "", locks)
        if operation == "words":
            return edit.put_text(pipeline, story, page, request["text"] or "")
        if operation == "codes":
            values = {int(slot): code for slot, code in (request["codes"] or {}).items()}
            return edit.set_codes(pipeline, story, page, values, locks)
        if operation == "picture":
            image = self.project.picture(request["picture"] or "")
            if image is None:
                raise UserError("the picture was not uploaded: choose it again")
            return edit.set_image(pipeline, story, page, image, locks)
        if operation == "insert":
            return arrange.insert(pipeline, story, page, secrets.randbits(31))
        if operation == "restore":
            states = self.book(request).states
            if request["state"] not in states:
                raise UserError("this version of the page does not exist: choose another one")
            return arrange.take_page(pipeline, story, page, self.project.open_state(states[request["state"]]))
        order = [other for other in range(story.plan.num_pages) if other != page]
        if operation == "move":
            order.insert(request["to"], page)
        return arrange.arrange(pipeline, story, order)

    def _locks(self, state: State) -> Locks:
        return parse_locks(split_locks(state["locks"])[0], len(state["texts"]), len(state["codes"][0]))

    # -- looking ahead

    def _alternatives(self, job: Job) -> dict[str, Any]:
        """Return the likely other codes of one slot, with the text and the picture that each would give."""
        request = job.request
        book = self.book(request)
        story, page, slot = self.project.open_state(book.head), request["page"], request["slot"]
        if page >= story.plan.num_pages:
            raise UserError(f"page {page + 1} does not exist any more: choose another one")
        with self.watcher.watching(
            job, range(request["count"] + 1), replace(story.plan.settings, strength=1.0), show=False
        ):
            found = alternatives(self.pipeline, story, page, slot, request["count"])
        options = [
            {"code": one.code, "probability": one.probability, "text": one.text, "picture": self._keep(one.image)}
            for one in found
        ]
        return {"story": book.id, "state": book.visits[-1], "page": page, "slot": slot, "options": options}

    def _branch(self, job: Job) -> dict[str, Any]:
        """Let the story fork at a page; the map shows its branches."""
        request = job.request
        book = self.book(request)
        story = self.project.open_state(book.head)
        with self.watcher.watching(job, range(8), story.plan.settings, 2, show=False):
            grown = grow(self.pipeline, story, request["page"], request["branches"], request["depth"], self._keep)
        record = {"state": book.visits[-1], **grown}
        record = self.project.append("branches", story=book.id, **record)
        self.events.add("branches", story=book.id, branches=record)
        return {"story": book.id}

    def _find(self, job: Job) -> dict[str, Any]:
        """Return the codes of a picture by slot."""
        image = self.project.picture(job.request["picture"])
        if image is None:
            raise UserError("the picture was not uploaded: choose it again")
        return {"codes": codes_of(self.pipeline.encode([StoryStep(text=None, image=image)]))[0]}

    def _keep(self, image: Any) -> str:
        return self.project.store(image)

    def story_record(self, book: Book) -> dict[str, Any]:
        """Return all that a client needs to edit a story."""
        return {
            "id": book.id,
            "title": book.title,
            "states": list(book.states.values()),
            "visits": book.visits,
            "branches": book.branches,
        }


def _moved_locks(locks: list[str], request: dict[str, Any]) -> list[str]:
    """Return locks after pages changed their places: those of a page go with it."""
    operation, page, to = request["operation"], request["page"], request["to"]
    if operation not in ("move", "insert", "remove"):
        return locks
    moved = []
    for lock in locks:
        number, _, part = lock.partition(".")
        if number == "cast":
            moved.append(lock)
            continue
        place = int(number) - 1
        if operation == "remove" and place == page:
            continue
        if operation == "insert":
            place += place >= page
        elif operation == "move" and place == page:
            place = to
        else:
            place -= place > page
            place += operation == "move" and place >= to
        moved.append(f"{place + 1}.{part}" if part else f"{place + 1}")
    return moved
