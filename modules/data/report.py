"""Validate and measure a folder of stories: faults, counts, lengths, licences and near-duplicates."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from modules.common.errors import UserError
from modules.common.ownership import MARK
from modules.data.folder import picture_paths, read_pictures, split_folders
from modules.data.images import check_image, load_image
from modules.data.records import STORIES_FILE, RecordError, parse_line, read_lines
from modules.story import Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HASH_SIDE, BAND_BITS, NEAR_BITS = 8, 16, 3
MAX_BUCKET = 200  # Hundreds of plain pages share a band; their pairs are meaningless and quadratic in number.


@dataclass(frozen=True)
class Picture:
    """A picture file as read; `problem` is None if it is intact."""

    path: Path
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    hash: int = 0  # dHash, 64 bits: which of two neighbouring cells of an 8 x 9 grid is brighter.
    problem: str | None = None


@dataclass(frozen=True)
class Split:
    """A split as read: the stories that parse, the pictures by path, and every fault."""

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
    """Read every record and decode every picture of a folder's splits.

    Raises:
        UserError: there are no stories.
    """
    return [_read_split(part, part.resolve().name) for part in split_folders(folder).values()]


def _read_split(folder: Path, name: str) -> Split:
    stories: list[Story] = []
    problems: list[str] = []
    ids: set[str] = set()
    try:
        for number, line in read_lines(folder / STORIES_FILE):
            try:
                story = parse_line(line, number, folder)
                if story.id in ids:
                    raise RecordError(f'the id "{story.id}" was used before')
                ids.add(story.id)
                stories.append(story)
            except RecordError as error:
                problems.append(f"{folder / STORIES_FILE} line {number}: {error}")
    except OSError as error:
        raise UserError(
            f"{folder / STORIES_FILE} cannot be read ({error.strerror}): check its permissions and the disk"
        ) from None
    paths = picture_paths(stories)
    pictures = read_pictures(_inspect_picture, paths)
    for story in stories:
        for number, step in enumerate(story.steps, start=1):
            if step.image_path and pictures[step.image_path].problem:
                problems.append(f'story "{story.id}" step {number}: {pictures[step.image_path].problem}')
    named = {os.path.normpath(path) for path in paths}
    files = sorted(path for path in (folder / "images").rglob("*") if path.is_file())
    unused = tuple(path for path in files if os.path.normpath(path) not in named)
    return Split(name, folder, tuple(stories), pictures, tuple(problems), unused)


def _inspect_picture(path: Path) -> Picture:
    try:
        digest = check_image(path)
        image = load_image(path)
    except UserError as error:
        return Picture(path, problem=str(error))
    cells = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)).astype(int)
    bits = (cells[:, 1:] > cells[:, :-1]).ravel()
    return Picture(path, digest, image.size, int("".join("01"[bit] for bit in bits.astype(int)), 2))


def faults(splits: Sequence[Split]) -> list[str]:
    """Return every fault: bad records and pictures, an id or a picture in two splits."""
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
    """Return what may be intended: missing prompts, licences, texts or pictures, and unused pictures."""
    found = []
    for split in splits:
        steps = [step for story in split.stories for step in story.steps]
        counts = {
            "stories without a prompt": sum(not story.prompt.strip() for story in split.stories),
            "stories without a licence": sum(not story.extra.get("license") for story in split.stories),
            "steps without a text": sum(step.text is None for step in steps),
            "steps without a picture": sum(step.image_path is None for step in steps),
            "pictures that no story uses": len(split.unused),
        }
        found += [f"{split.name}: {count:,} {remark}" for remark, count in counts.items() if count]
    return found


def count_cut_texts(split: Split, max_length: int) -> tuple[int, int]:
    """Return how many texts certainly have more than `max_length` tokens, <bos> and <eos> included, and of how many.

    A word and a run of punctuation each have one token or more; the tokenizer is not needed.
    """
    texts = [step.text for story in split.stories for step in story.steps if step.text is not None]
    lengths = [len(re.findall(r"\w+|[^\w\s]+", text)) for text in texts]
    return sum(length > max_length - 2 for length in lengths), len(texts)


def near_pairs(hashes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs of indices whose hashes differ in at most `NEAR_BITS` bits.

    Such hashes agree in at least one of four bands of 16 bits, so only pairs within a band's bucket are compared.
    """
    pairs: set[tuple[int, int]] = set()
    for band in range(64 // BAND_BITS):
        buckets: dict[int, list[int]] = {}
        for index, value in enumerate(hashes):
            buckets.setdefault(value >> band * BAND_BITS & (1 << BAND_BITS) - 1, []).append(index)
        for bucket in buckets.values():
            for position, one in enumerate(bucket if len(bucket) <= MAX_BUCKET else ()):
                pairs.update(
                    (one, other)
                    for other in bucket[position + 1 :]
                    if (hashes[one] ^ hashes[other]).bit_count() <= NEAR_BITS
                )
    return sorted(pairs)


@dataclass(frozen=True)
class Statistics:
    """Statistics of a folder; the histograms are drawn from the lists."""

    stories: dict[str, int]
    steps: list[int]  # Of each story.
    words: list[int]  # Of each text.
    sides: list[int]  # The longer side of each picture, pixels.
    licenses: dict[str, int]
    vocabulary: int
    same_texts: int  # Texts that equal an earlier one except for case and punctuation.
    near_pictures: list[tuple[Path, Path]]  # Pairs across splits come first.
    near_across: int  # The number of pairs across splits.


def measure(splits: Sequence[Split]) -> Statistics:
    """Compute the statistics of some splits; faulty records and pictures are left out."""
    stories = [story for split in splits for story in split.stories]
    texts = [
        re.findall(r"\w+(?:[\u2019']\w+)?", step.text.lower()) for story in stories for step in story.steps if step.text
    ]
    pictures = [
        (split.name, picture) for split in splits for picture in split.pictures.values() if picture.problem is None
    ]
    hashed = [(name, picture) for name, picture in pictures if picture.hash]  # All blank pictures look alike.
    pairs = near_pairs([picture.hash for _, picture in hashed])
    pairs.sort(key=lambda pair: hashed[pair[0]][0] == hashed[pair[1]][0])
    return Statistics(
        stories={split.name: len(split.stories) for split in splits},
        steps=[len(story.steps) for story in stories],
        words=[len(words) for words in texts],
        sides=[max(picture.size) for _, picture in pictures],
        licenses=dict(Counter(str(story.extra.get("license") or "not stated") for story in stories).most_common()),
        vocabulary=len({word for words in texts for word in words}),
        same_texts=len(texts) - len({tuple(words) for words in texts}),
        near_pictures=[(hashed[one][1].path, hashed[other][1].path) for one, other in pairs],
        near_across=sum(hashed[one][0] != hashed[other][0] for one, other in pairs),
    )


def describe(statistics: Statistics) -> list[str]:
    """Format the statistics as lines of text."""

    def spread(values: list[int]) -> str:
        low, middle, high = np.percentile(values, (5, 50, 95)).round().astype(int) if values else (0, 0, 0)
        return f"median {middle:,}, 90 % from {low:,} to {high:,}, maximum {max(values, default=0):,}"

    return [
        "stories: " + ", ".join(f"{count:,} in {split}" for split, count in statistics.stories.items()),
        f"steps: {sum(statistics.steps):,}; per story: {spread(statistics.steps)}",
        f"words: {sum(statistics.words):,}, {statistics.vocabulary:,} different; per text: {spread(statistics.words)}",
        f"pictures: {len(statistics.sides):,}; longer side in pixels: {spread(statistics.sides)}",
        "licences: " + ", ".join(f"{name} {count:,}" for name, count in list(statistics.licenses.items())[:8]),
        f"repeated texts: {statistics.same_texts:,}",
        f"similar pictures: {len(statistics.near_pictures):,} pairs, {statistics.near_across:,} of them across splits",
    ]


def draw_histograms(statistics: Statistics) -> bytes:
    """Return a PNG of three histograms: pages of a story, words of a text, longer side of a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), facecolor="#fffaf0", layout="constrained")
    panels = (
        ("pages of a story", "stories", statistics.steps),
        ("words of a text", "texts", statistics.words),
        ("longer side of a picture, pixels", "pictures", statistics.sides),
    )
    for axes, (measure, things, values) in zip(figure.subplots(1, 3), panels, strict=True):
        _draw_histogram(axes, np.array(values), measure, things)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": MARK})
    return buffer.getvalue()


def _draw_histogram(axes: Axes, values: np.ndarray, measure: str, things: str) -> None:
    """Draw how many `things` have which measure; the few largest share a last bar of another colour, which says so."""
    low, high = (int(values.min()), int(np.percentile(values, 99.5))) if len(values) else (0, 1)
    bins = np.arange(low, high + 2) - 0.5 if high - low < 60 else np.linspace(low, high + 1, 50)
    axes.hist(values[values <= high], bins.tolist(), color="#b4552d", rwidth=0.9)
    if outliers := int((values > high).sum()):
        width = bins[1] - bins[0]
        axes.bar(bins[-1] + 1.5 * width, outliers, 0.9 * width, color="#35291d")
        axes.set_title(f"dark: {outliers:,} above {high:,}, up to {values.max():,}", color="#35291d", fontsize=10)
    axes.set_xlabel(measure, color="#35291d", fontsize=11)
    axes.set_ylabel(things, color="#35291d", fontsize=11)
    axes.set_facecolor("#fffaf0")
    axes.locator_params(integer=True)
    axes.tick_params(colors="#7d6a54")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color("#e5d8c1")
