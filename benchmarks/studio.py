"""How long the studio takes to show a story, seen from the browser, and whether its memory stays flat.

Needs Playwright and Chromium. Drives the page as a person does; the clock runs in the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import Goal, make_parser, print_table, rss_mib, start, summary
from studio_session import PROMPT, open_browser, running_studio

from modules.common.arguments import positive_int
from modules.common.errors import UserError
from modules.common.progress import track

PATIENCE = 300  # Seconds for one story.
WARM = 25  # Stories after which memory should not grow any more.
# Notes when each thing is first on screen, in seconds since the call, until the book is.
WATCH = """([title, patience]) => {
    const begun = performance.now(), marks = {};
    const there = {
        words: () => [...document.querySelectorAll(".drafts p")].some(p => p.textContent.trim().length > 3),
        preview: () => document.querySelector(".drafts img"),
        book: () => !document.querySelector(".drafts") && document.querySelector(".leaf img")
            && [...document.querySelectorAll("h1")].some(h => h.textContent.trim() === title),
    };
    window.marks = new Promise((resolve, reject) => {
        const look = () => {
            const seconds = (performance.now() - begun) / 1000;
            for (const name in there) if (!(name in marks) && there[name]()) marks[name] = seconds;
            if ("book" in marks) resolve(marks);
            else if (seconds > patience) reject(new Error(`no book after ${patience} seconds`));
            else requestAnimationFrame(look);
        };
        look();
    });
}"""
GOALS = {"sample": 1.0, "words": 0.5, "preview": 2.0, "book": 8.0}
SAYS = {
    "sample": "the sample is on screen after the page is opened",
    "words": "first words",
    "preview": "first previews of all pictures",
    "book": "the finished book",
}


def time_story(browser: Any, address: str, prompt: str, num_pages: int) -> dict[str, float]:
    """Open the page, ask for a story, and return after how many seconds each thing was on screen.

    A small model may finish before its drafts are seen: then these are as late as the book.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    started = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(".leaf img")
    marks = {"sample": time.perf_counter() - started}
    page.fill("[data-field=pages]", str(num_pages))
    page.fill("[data-field=prompt]", prompt)
    page.evaluate(WATCH, [prompt, PATIENCE])
    page.keyboard.press("Control+Enter")
    marks |= page.evaluate("() => window.marks")
    page.close()
    return {name: marks.get(name, marks["book"]) for name in SAYS}


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the studio's API answers; a body is sent as JSON."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def tell(address: str, seed: int) -> None:
    """Order a story of three pages and wait for it."""
    job = ask(address, "stories", {"prompt": f"{PROMPT} {seed}", "pages": 3, "seed": seed})["id"]
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        states = [found["status"] for found in ask(address, "project")["jobs"] if found["id"] == job]
        if not set(states) & {"queued", "running"}:
            return
        time.sleep(0.05)
    raise UserError(f"story {seed} was not finished within {PATIENCE} seconds")


def measure_memory(address: str, process_id: int, num_stories: int) -> dict[str, float]:
    """Return the studio's MiB before it tells so many stories, after some and after all of them."""
    found = {"0": rss_mib(process_id)}
    for number in track("telling stories", range(1, num_stories + 1)):
        tell(address, number)
        if number in (WARM, num_stories):
            found[str(number)] = rss_mib(process_id)
    return found


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Goal]]:
    """Return seconds until each thing is on screen, and MiB by numbers of stories."""
    with tempfile.TemporaryDirectory() as folder, running_studio(args.ckpt, Path(folder) / "project") as studio:
        with open_browser() as browser:
            rows = [
                time_story(browser, studio.address, f"{PROMPT} {number}", args.num_pages)
                for number in range(args.warmups + args.repeats)
            ][args.warmups :]
        memory = measure_memory(studio.address, studio.process_id, args.num_stories) if args.num_stories else {}
    seconds = {name: [row[name] for row in rows] for name in SAYS}
    table = [
        [SAYS[name], f"{min(values):.2f}", f"{summary(values)['median']:.2f}", f"{max(values):.2f}"]
        for name, values in seconds.items()
    ]
    print_table(("seconds", "min", "median", "max"), table)
    goals = [Goal(f"{SAYS[name]}, seconds", summary(values)["median"], GOALS[name]) for name, values in seconds.items()]
    if memory:
        print("MiB of the studio:", ", ".join(f"{value:.0f} after {count} stories" for count, value in memory.items()))
        *_, before, after = memory.values()
        goals.append(Goal("memory at the end, as a multiple", after / before, 1.1))
    return {"seconds": seconds, "memory_mib": memory}, goals


def main() -> None:
    parser = make_parser(__doc__, repeats=5, warmups=1)
    parser.add_argument("--ckpt", default="checkpoints/storyworld", metavar="PATH", help="the model")
    parser.add_argument("--num_pages", type=positive_int, default=6, metavar="N", help="of a timed story (default 6)")
    parser.add_argument(
        "--num_stories", type=int, default=200, metavar="N", help="told for the memory (default 200; 0: none)"
    )
    start(measure, parser)


if __name__ == "__main__":
    main()
