"""Data sets that lie on the Hub as Parquet: one small class each, and one for any other table of pictures and texts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from modules.data.records import RecordError
from modules.downloads.record import FoundStory, Page, Row, first_sentence, require

_FRAME = re.compile(r"<gdi\s+image(\d+)>(.*?)</gdi>", re.DOTALL)
_TAG = re.compile(r"</?gd[oal][^>]*>|</?gdi[^>]*>")


class HubTable:
    """What the classes below share: they read Parquet files of one data set, whose patterns stand in `files`, newest
    layout first.
    """

    repo: ClassVar[str]
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("data/train-*.parquet", "train/*.parquet", "*/train/*.parquet", "*/train-*.parquet"),
        "val": ("data/val*.parquet", "validation/*.parquet", "*/val*/*.parquet", "*/val*.parquet"),
        "all": ("data/*.parquet", "*.parquet"),
    }
    parts = ("train", "val")
    license, terms, sizes, revision = "", "", {}, None

    def __init__(self, args: argparse.Namespace) -> None:
        self.repo = args.repo or self.repo

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--repo", metavar="ID", help=f"another copy on the Hub ({cls.repo})")

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.hub_files import HubDataset, first_found

        dataset = HubDataset(self.repo, self.revision)
        dataset.check()
        yield from dataset.parquet(first_found(dataset, *self.files[part]), place)


class StoryReasoning(HubTable):
    """Stories of 5 to 22 frames of films, their text tied to the frames by tags: 3,552 stories, 52,016 frames, 773 MB.

    Source: daniel3303/StoryReasoning. Licence: CC BY-ND 4.0: what is made of it may not be passed on. No validation
    part of its
    own: one is held out. Citation: Oliveira and Martins de Matos 2025, arXiv 2505.10292.
    """

    name, repo = "storyreasoning", "daniel3303/StoryReasoning"
    license, terms = "CC BY-ND 4.0", "no derivatives: train on it, but do not pass on what is made of it"
    parts, sizes = ("all",), {"all": 3552}
    files = {"all": ("data/train-*.parquet", "*/train/*.parquet")}

    def stories(self, row: Row) -> Iterable[FoundStory]:
        story_id, images, text = require(row.value, "story_id", "images", "story")
        texts: dict[int, str] = {}
        for number, passage in _FRAME.findall(text):
            texts[int(number)] = f"{texts.get(int(number), '')} {_TAG.sub('', passage)}".strip()
        texts = {number: " ".join(passage.split()) for number, passage in texts.items() if passage.strip()}
        if not texts or max(texts) > len(images) or min(texts) < 1:
            raise RecordError(f"its text names frames {sorted(texts)} of {len(images)}")
        pages = tuple(
            Page(texts.get(number), picture_bytes(image, "images")) for number, image in enumerate(images, start=1)
        )
        yield FoundStory(
            str(story_id),
            first_sentence(texts[min(texts)]),
            pages,
            credit="MovieNet, VWP; Oliveira and Martins de Matos",
        )


class Flickr8k(HubTable):
    """Photographs with five captions each: 6,000 and 1,000 of 8,091; 1.1 GB.

    Source: jxie/flickr8k. Licence: for research and teaching, not to be passed on. Citation: Hodosh, Young and
    Hockenmaier 2013, Framing image description as a ranking task, JAIR 47.
    """

    name, repo = "flickr8k", "jxie/flickr8k"
    license, terms = (
        "research only",
        "for research and teaching: photographs belong to their makers on Flickr, do not pass them on",
    )
    sizes = {"train": 6000, "val": 1000}

    def stories(self, row: Row) -> Iterable[FoundStory]:
        (image,) = require(row.value, "image")
        captions = [row.value[key] for key in sorted(row.value) if key.startswith("caption_") and row.value[key]]
        yield captioned(image, captions or row.value.get("captions") or row.value.get("text"))


class Coco(HubTable):
    """Photographs with five captions each: the 5,000 of COCO's validation part of 2017, here cut into train and val;
    815 MB.

    Source: lmms-lab/COCO-Caption2017 (it has no training part; --repo names another table with pictures and captions).
    Licence: captions CC BY 4.0, photographs that of each on Flickr. Citation: Chen et al. 2015, arXiv 1504.00325.
    """

    name, repo = "coco", "lmms-lab/COCO-Caption2017"
    license, terms = (
        "CC BY 4.0 (captions)",
        "captions are CC BY 4.0, each photograph has its own licence on Flickr: do not pass them on",
    )
    parts, sizes = ("all",), {"all": 5000}
    files = {"all": ("data/val-*.parquet", "*/val*/*.parquet", "data/*.parquet")}

    def stories(self, row: Row) -> Iterable[FoundStory]:
        (image,) = require(row.value, "image")
        found = next(
            (
                row.value[key]
                for key in ("answer", "captions", "caption", "sentences_raw", "text")
                if row.value.get(key)
            ),
            None,
        )
        yield captioned(image, found)


class PororoSV(HubTable):
    """Five clips of the cartoon Pororo in a row, a frame and a description each: 10,191 and 2,334 stories; 410 MB.

    Source: dhruvrnaik/pororo_storyviz, whose columns are not documented: any five pictures and five texts a row are
    read. Licence: none stated; the frames belong to the studio. Citation: Li et al. 2019 (StoryGAN), arXiv 1812.02784.
    """

    name, repo = "pororosv", "dhruvrnaik/pororo_storyviz"
    license, terms = "none stated", "frames of a cartoon, no licence stated: for research, do not pass them on"
    sizes = {"train": 10191, "val": 2334}

    def stories(self, row: Row) -> Iterable[FoundStory]:
        yield wide_story(row.value)


class FlintstonesSV(PororoSV):
    """Five clips of The Flintstones in a row, a frame and a description each: 20,132 and 2,071 stories.

    Source: dhruvrnaik/flintstones_story (`--repo Janak12/FlintstonesSV_Plus_Plus` is a later one), read as `PororoSV`
    is. Licence: none stated; the frames belong to the studio. Citation: Gupta et al. 2018, arXiv 1804.03608; Maharana
    and Bansal 2021.
    """

    name, repo = "flintstonessv", "dhruvrnaik/flintstones_story"
    sizes = {"train": 20132, "val": 2071}


def picture_bytes(value: Any, what: str) -> bytes:
    """The bytes of a picture as Parquet holds it: {"bytes", "path"}, or bare. Raises RecordError."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise RecordError(f'"{what}" holds no picture')
    return content


def captioned(image: Any, captions: Any) -> FoundStory:
    """One picture: its first caption is the text and the prompt, all of them are kept. Raises RecordError."""
    captions = [
        text.strip() for text in ([captions] if isinstance(captions, str) else captions or []) if str(text).strip()
    ]
    if not captions:
        raise RecordError("it has no caption")
    page = Page(captions[0], picture_bytes(image, "image"))
    return FoundStory("", first_sentence(captions[0]), (page,), extra={"captions": captions})


def wide_story(row: Mapping[str, Any]) -> FoundStory:
    """A story of a row whose pictures and texts are lists, or stand in numbered columns, or whose texts are joined by
    "|".
    """
    images, texts = [], []
    for key in sorted(
        row, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    ):
        for value in row[key] if isinstance(row[key], list) else [row[key]]:
            if isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)):
                images.append(picture_bytes(value, key))
            elif isinstance(value, str) and re.fullmatch(
                r"(text|caption|description|sentence|story)s?_?\d*", key.lower()
            ):
                texts += value.split("|")
    if not images or len(images) != len(texts):
        raise RecordError(
            f"it holds {len(images)} pictures and {len(texts)} texts (columns {', '.join(row)}): try hub --image --text"
        )
    pages = tuple(Page(text.strip(), image) for text, image in zip(texts, images, strict=True))
    return FoundStory("", first_sentence(pages[0].text), pages)
