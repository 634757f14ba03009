"""Record a session in the studio as an animation: a real browser, the shipped weights, what the screen shows.

    python benchmarks/record_studio.py --output assets/studio.webp

Needs Playwright and Chromium. Waits longer than a moment are shortened; nothing else is.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from studio_session import PROMPT, open_browser, running_studio

from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.files import write_whole

WIDTH, HEIGHT = 1280, 800  # Pixels of the window, and of the animation.
SHORT, LONG = 160, 1500  # Milliseconds that a frame is shown: while something changes, and to be read.
DRAFT = 10  # A quality up to which the animation is encoded fast.
LONGEST_WAIT = 14  # Frames of a wait that are kept.
LABEL = """text => {
    const box = document.getElementById("label") ?? document.body.appendChild(document.createElement("div"));
    box.id = "label";
    box.textContent = text;
    box.hidden = !text;
    Object.assign(box.style, { position: "fixed", zIndex: 9, left: "50%", top: "14px", transform: "translateX(-50%)",
        background: "#221910", color: "#fffaf0", borderRadius: "2rem", padding: ".45rem 1.1rem",
        font: "600 17px system-ui, sans-serif", boxShadow: "0 4px 18px #0005", whiteSpace: "nowrap" });
}"""


class Recording:
    """The frames of a session. A frame like the one before lengthens it."""

    def __init__(self, page: Any) -> None:
        self.page, self.frames, self.durations = page, list[Image.Image](), list[int]()

    def frame(self, duration: int = SHORT) -> None:
        """Add what the window shows."""
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and ImageChops.difference(image, self.frames[-1]).getbbox() is None:
            self.durations[-1] = max(self.durations[-1], duration)
            return
        self.frames.append(image)
        self.durations.append(duration)

    def label(self, text: str) -> None:
        self.page.evaluate(LABEL, text)

    def until(self, *selectors: str, seconds: float = 120) -> None:
        """Record until one of some elements is there; of a long wait only some frames."""
        end, start = time.monotonic() + seconds, len(self.frames)
        while not any(self.page.locator(selector).count() for selector in selectors):
            if time.monotonic() > end:
                raise UserError(f"the studio never showed {' or '.join(selectors)}")
            self.frame()
            self.page.wait_for_timeout(SHORT)
        waited = len(self.frames) - start
        kept = {start + index * waited // LONGEST_WAIT for index in range(LONGEST_WAIT)} | set(range(start))
        if waited > LONGEST_WAIT:
            self.frames = [frame for index, frame in enumerate(self.frames) if index in kept]
            self.durations = [duration for index, duration in enumerate(self.durations) if index in kept]
        self.page.wait_for_timeout(400)  # Pictures load, pages finish turning.

    def press(self, key: str, label: str, *selectors: str, reading: int = LONG) -> None:
        """Press a key under a label, and record what follows until one of some elements is there."""
        self.label(label)
        self.frame(SHORT * 4)
        self.page.keyboard.press(key)
        self.until(*selectors)
        self.frame(reading)

    def encode(self, quality: int) -> bytes:
        """Return the animation as the bytes of a WebP."""
        buffer, (first, *rest) = io.BytesIO(), self.frames
        options: dict[str, Any] = {"duration": self.durations, "loop": 0, "quality": quality}
        small = {"method": 6, "minimize_size": True} if quality > DRAFT else {"method": 0}  # Half a second a frame.
        first.save(buffer, "WEBP", save_all=True, append_images=rest, **small, **options)
        return buffer.getvalue()


def record(page: Any, address: str) -> Recording:
    """Make a story, change it, let it fork and read it."""
    film = Recording(page)
    page.goto(address)
    page.wait_for_selector(".leaf img")
    page.fill("[data-field=pages]", "6")
    film.label("One line …")
    for end in range(0, len(PROMPT) + 6, 6):
        page.fill("[data-field=prompt]", PROMPT[:end])
        film.frame()
    # A small model may have finished before its drafts are seen.
    film.press("Control+Enter", "… a story", ".drafts p", f"h1:text-is('{PROMPT}')", reading=SHORT * 6)
    film.until(".leaf img")
    film.frame(LONG)
    page.click(".film [data-do=toPage] >> nth=2")
    film.press("p", "P: plan this page anew", ".candidates li:nth-child(4)")
    film.press("3", "3: take the third", ".candidates [aria-pressed=true]")
    page.click("[data-do=dismiss]")
    film.press("k", "K: what else the codes could say", ".options li:nth-child(5)")
    page.keyboard.press("Escape")
    film.press("b", "B: let the story fork", ".card.fork")
    page.keyboard.press("Escape")
    page.click(".film [data-do=toPage] >> nth=0")
    film.press("f", "F: read", ".told.cover", reading=SHORT * 6)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        for _ in range(3):
            film.frame(SHORT // 2)
        page.wait_for_timeout(400)
        film.frame(LONG)
    return film


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="checkpoints/storyworld", metavar="PATH", help="the model")
    parser.add_argument("--output", type=a_path, default=Path("studio.webp"), metavar="FILE", help="WebP to write")
    parser.add_argument(
        "--quality", type=int, default=60, metavar="N", help="quality of the pictures, up to 10 a draft (default 60)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_studio(args.ckpt, Path(folder) / "project") as studio:
        with open_browser() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            film = record(page, studio.address)
    content = film.encode(args.quality)
    write_whole(args.output, content)
    seconds, size = sum(film.durations) / 1000, len(content) / 2**20
    print(f"{args.output}: {len(film.frames)} frames, {seconds:.1f} s, {size:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
