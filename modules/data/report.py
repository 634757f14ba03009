"""What is in a folder of stories: every fault of it, its counts, its lengths, and what is there twice."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modules.common.errors import UserError
from modules.data.folder import STORIES_FILE, split_folders
from modules.data.images import check_image, load_image
from modules.data.records import RecordError, parse_line, read_lines
from modules.story import Story

HASH_SIDE, BAND_BITS, NEAR_BITS = 8, 16, 3
MAX_BUCKET = 200  # Plain pages agree by the hundred: pairs of these say nothing, and would be a square of them.


@dataclass(frozen=True)
class Picture:
    """One picture's file as it was found; `problem` is None where it is whole."""

    path: Path
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    look: int = 0  # 64 bits: which of two neighbouring cells of 8 x 9 is the brighter (dHash).
    problem: str | None = None


@dataclass(frozen=True)
class Split:
    """A split as it was found: stories that parse, pictures by path, and what is wrong, by line."""

    name: str
    folder: Path
    stories: tuple[Story, ...]
    pictures: dict[Path, Picture]
    problems: tuple[str, ...]
    unused: tuple[Path, ...]  # Pictures that no story names.

    @property
    def steps(self) -> int:
        return sum(len(story.steps) for story in self.stories)


def read_splits(folder: Path) -> list[Split]:
    """Read the train and val of a folder, or the one set of stories in it, to the last byte of the last picture.

    Raises:
        UserError: there are no stories.
    """
    return [_read_split(part, part.resolve().name) for part in split_folders(folder).values()]


def _read_split(folder: Path, name: str) -> Split:
    stories, problems, ids = [], [], set()
    try:
        for number, line in read_lines(folder / STORIES_FILE):
            try:
                story = parse_line(line, number, folder)
                if story.id in ids:
                    raise RecordError(f'the id "{story.id}" was there before')
                ids.add(story.id)
                stories.append(story)
            except RecordError as error:
                problems.append(f"{folder / STORIES_FILE} line {number}: {error}")
    except OSError as error:
        raise UserError(f"{folder / STORIES_FILE} cannot be read ({error.strerror}): mend that first") from None
    paths = list(dict.fromkeys(step.image_path for story in stories for step in story.steps if step.image_path))
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pictures = dict(zip(paths, pool.map(_look_at, paths), strict=True))
    for story in stories:
        for number, step in enumerate(story.steps, start=1):
            if step.image_path and pictures[step.image_path].problem:
                problems.append(f'story "{story.id}" step {number}: {pictures[step.image_path].problem}')
    named = {os.path.normpath(path) for path in paths}
    there = sorted(path for path in (folder / "images").rglob("*") if path.is_file())
    unused = tuple(path for path in there if os.path.normpath(path) not in named)
    return Split(name, folder, tuple(stories), pictures, tuple(problems), unused)


def _look_at(path: Path) -> Picture:
    try:
        digest = check_image(path)
        image = load_image(path)
    except UserError as error:
        return Picture(path, problem=str(error))
    cells = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)).astype(int)
    bits = (cells[:, 1:] > cells[:, :-1]).ravel()
    return Picture(path, digest, image.size, int("".join("01"[bit] for bit in bits.astype(int)), 2))


def faults(splits: Sequence[Split]) -> list[str]:
    """What must not be: bad records and pictures, an id or a picture in two splits."""
    found = [problem for split in splits for problem in split.problems]
    if len(splits) == 2:
        train, val = splits
        shared = {story.id for story in train.stories} & {story.id for story in val.stories}
        found += [f'the id "{name}" is in {train.name} and in {val.name}' for name in sorted(shared)]
        first = {picture.digest: path for path, picture in train.pictures.items() if picture.digest}
        both = [(first[picture.digest], path) for path, picture in val.pictures.items() if picture.digest in first]
        found += [f"{one} and {other} are the same picture in two splits" for one, other in both]
    return found


def remarks(splits: Sequence[Split]) -> list[str]:
    """What may be meant so: stories without prompt or licence, steps without text or picture, pictures that are not
    used.
    """
    found = []
    for split in splits:
        steps = [step for story in split.stories for step in story.steps]
        counts = {
            "stories without a prompt": sum(not story.prompt.strip() for story in split.stories),
            "stories that name no licence": sum(not story.extra.get("license") for story in split.stories),
            "steps without a text": sum(step.text is None for step in steps),
            "steps without a picture": sum(step.image_path is None for step in steps),
            "pictures that no story names": len(split.unused),
        }
        found += [f"{split.name}: {count:,} {what}" for what, count in counts.items() if count]
    return found


def near_pairs(looks: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of indices whose 64 bits differ in at most `NEAR_BITS`: such agree in one of four bands of 16 bits at
    least.
    """
    pairs: set[tuple[int, int]] = set()
    for band in range(64 // BAND_BITS):
        buckets: dict[int, list[int]] = {}
        for index, look in enumerate(looks):
            buckets.setdefault(look >> band * BAND_BITS & (1 << BAND_BITS) - 1, []).append(index)
        for bucket in buckets.values():
            for position, one in enumerate(bucket if len(bucket) <= MAX_BUCKET else ()):
                pairs.update(
                    (one, other)
                    for other in bucket[position + 1 :]
                    if (looks[one] ^ looks[other]).bit_count() <= NEAR_BITS
                )
    return sorted(pairs)


@dataclass(frozen=True)
class Statistics:
    """Figures of a folder; the lists are what the histograms are drawn of."""

    stories: dict[str, int]
    steps: list[int]  # Of each story.
    words: list[int]  # Of each text.
    sides: list[int]  # The longer side of each picture, pixels.
    licenses: dict[str, int]
    vocabulary: int
    same_texts: int  # Texts that an earlier one equals but for case and punctuation.
    near_pictures: list[tuple[Path, Path]]  # Those between two splits first.
    near_across: int  # Of these, between two splits.


def measure(splits: Sequence[Split]) -> Statistics:
    """Count what is there, and what is there twice or nearly so."""
    stories = [story for split in splits for story in split.stories]
    texts = [
        re.findall(r"\w+(?:[’']\w+)?", step.text.lower()) for story in stories for step in story.steps if step.text
    ]
    pictures = [
        (split.name, picture) for split in splits for picture in split.pictures.values() if picture.problem is None
    ]
    plain = [
        (name, picture) for name, picture in pictures if picture.look
    ]  # A blank picture is like every other blank one.
    pairs = sorted(
        near_pairs([picture.look for _, picture in plain]), key=lambda pair: plain[pair[0]][0] == plain[pair[1]][0]
    )
    return Statistics(
        stories={split.name: len(split.stories) for split in splits},
        steps=[len(story.steps) for story in stories],
        words=[len(words) for words in texts],
        sides=[max(picture.size) for _, picture in pictures],
        licenses=dict(Counter(str(story.extra.get("license") or "not named") for story in stories).most_common()),
        vocabulary=len({word for words in texts for word in words}),
        same_texts=len(texts) - len({tuple(words) for words in texts}),
        near_pictures=[(plain[one][1].path, plain[other][1].path) for one, other in pairs],
        near_across=sum(plain[one][0] != plain[other][0] for one, other in pairs),
    )


def describe(statistics: Statistics) -> list[str]:
    """The figures as lines for people."""

    def spread(values: list[int]) -> str:
        low, middle, high = np.percentile(values, (5, 50, 95)).round().astype(int) if values else (0, 0, 0)
        return f"{middle:,} in the middle, {low:,} to {high:,} for nine in ten, {max(values, default=0):,} at most"

    return [
        "stories: " + ", ".join(f"{count:,} in {split}" for split, count in statistics.stories.items()),
        f"steps: {sum(statistics.steps):,}; of a story {spread(statistics.steps)}",
        f"words: {sum(statistics.words):,}, {statistics.vocabulary:,} different; of a text {spread(statistics.words)}",
        f"pictures: {len(statistics.sides):,}; longer side {spread(statistics.sides)}",
        "licences: " + ", ".join(f"{name} {count:,}" for name, count in list(statistics.licenses.items())[:8]),
        f"texts that are there before: {statistics.same_texts:,}",
        f"pairs of pictures that look alike: {len(statistics.near_pictures):,}, {statistics.near_across:,} of them across splits",
    ]


def draw_histograms(statistics: Statistics) -> bytes:
    """A PNG: steps of a story, words of a text, longer side of a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), facecolor="#fffaf0", layout="constrained")
    panels = (
        ("steps of a story", statistics.steps),
        ("words of a text", statistics.words),
        ("longer side, pixels", statistics.sides),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
        low, high = (min(values), int(np.percentile(values, 99.5))) if values else (0, 1)
        bins = np.arange(low, high + 2) - 0.5 if high - low < 60 else np.linspace(low, high + 1, 50)
        axes.hist(
            np.clip(values, low, high), bins, color="#b4552d", rwidth=0.9
        )  # The last bar holds the few that lie beyond.
        axes.set_title(title, color="#35291d", fontsize=12)
        axes.set_facecolor("#fffaf0")
        axes.locator_params(integer=True)
        axes.tick_params(colors="#7d6a54")
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color("#e5d8c1")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
