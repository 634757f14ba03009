"""Known data sets in Parquet format on the Hub, one small class each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from modules.data.records import RecordError
from modules.downloads.record import Row, Source, SourceStep, SourceStory, first_sentence, require

_FRAME = re.compile(r"<gdi\s+image(\d+)>(.*?)</gdi>", re.DOTALL)
_TAG = re.compile(r"</?gd[oal][^>]*>|</?gdi[^>]*>")


class HubTable(Source):
    """Base class of Parquet data sets on the Hub.

    Attributes:
        repo: the id of the data set.
        files: for each part, the patterns of its files, newest layout first.
        revision: the branch or tag, None for the main one.
    """

    repo: str
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("data/train-*.parquet", "train/*.parquet", "*/train/*.parquet", "*/train-*.parquet"),
        "val": ("data/val*.parquet", "validation/*.parquet", "*/val*/*.parquet", "*/val*.parquet"),
        "all": ("data/*.parquet", "*.parquet"),
    }
    parts: tuple[str, ...] = ("train", "val")
    revision: str | None = None

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
    """Stories of 5 to 22 film frames, whose text is tied to the frames by tags (StoryReasoning).

    3,552 stories, 52,016 frames, 773 MB. There is no validation split, so a tenth is held out.
    Source: daniel3303/StoryReasoning on the Hub. Licence: CC BY-ND 4.0, so derivatives may not be passed on.
    Citation: Oliveira and Martins de Matos 2025, arXiv 2505.10292.

        python download_data.py storyreasoning --max_stories 500 --image_size 256
    """

    name, repo = "storyreasoning", "daniel3303/StoryReasoning"
    license, terms = "CC BY-ND 4.0", "no derivatives: train on it, but do not pass on what is made of it"
    parts = ("all",)
    sizes: ClassVar = {"all": 3552}
    files: ClassVar = {"all": ("data/train-*.parquet", "*/train/*.parquet")}

    def stories(self, row: Row) -> Iterable[SourceStory]:
        story_id, images, text = require(row.value, "story_id", "images", "story")
        texts: dict[int, str] = {}
        for number, passage in _FRAME.findall(text):
            texts[int(number)] = f"{texts.get(int(number), '')} {_TAG.sub('', passage)}".strip()
        texts = {number: " ".join(passage.split()) for number, passage in texts.items() if passage.strip()}
        if not texts or max(texts) > len(images) or min(texts) < 1:
            raise RecordError(f"its text names frames {sorted(texts)} of {len(images)}")
        pictures = [picture_bytes(image, "images") for image in images]
        steps = tuple(SourceStep(texts.get(number), picture) for number, picture in enumerate(pictures, start=1))
        credit = "MovieNet, VWP; Oliveira and Martins de Matos"
        yield SourceStory(str(story_id), first_sentence(texts[min(texts)]), steps, credit=credit)


class Flickr8k(HubTable):
    """Photographs with five captions each (Flickr8k).

    6,000 training and 1,000 validation stories of one step, 1.1 GB. The first caption is the text; all are kept.
    Source: jxie/flickr8k on the Hub. Licence: for research and teaching only, not to be passed on.
    Citation: Hodosh, Young and Hockenmaier 2013, Framing image description as a ranking task, JAIR 47.

        python download_data.py flickr8k
    """

    name, repo = "flickr8k", "jxie/flickr8k"
    license, terms = (
        "research only",
        "for research and teaching: photographs belong to their makers on Flickr, do not pass them on",
    )
    sizes: ClassVar = {"train": 6000, "val": 1000}

    def stories(self, row: Row) -> Iterable[SourceStory]:
        (image,) = require(row.value, "image")
        captions = [row.value[key] for key in sorted(row.value) if key.startswith("caption_") and row.value[key]]
        yield captioned(image, captions or row.value.get("captions") or row.value.get("text"))


class Coco(HubTable):
    """Photographs with five captions each (COCO 2017, validation part).

    5,000 stories of one step, 815 MB; a tenth is held out for validation. The first caption is the text; all are kept.
    Source: lmms-lab/COCO-Caption2017 on the Hub; `--repo` names another table with pictures and captions.
    Licence: CC BY 4.0 for the captions; each photograph has its own licence on Flickr.
    Citation: Chen et al. 2015, arXiv 1504.00325.

        python download_data.py coco
    """

    name, repo = "coco", "lmms-lab/COCO-Caption2017"
    license, terms = (
        "CC BY 4.0 (captions)",
        "captions are CC BY 4.0, each photograph has its own licence on Flickr: do not pass them on",
    )
    parts = ("all",)
    sizes: ClassVar = {"all": 5000}
    files: ClassVar = {"all": ("data/val-*.parquet", "*/val*/*.parquet", "data/*.parquet")}

    def stories(self, row: Row) -> Iterable[SourceStory]:
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
    """Five consecutive clips of the cartoon Pororo, each a frame and a description (PororoSV).

    10,191 training and 2,334 validation stories, 410 MB.
    Source: dhruvrnaik/pororo_storyviz on the Hub. Its columns are not documented: any five pictures and texts are read.
    Licence: none stated; the frames belong to the studio. Citation: Li et al. 2019 (StoryGAN), arXiv 1812.02784.

        python download_data.py pororosv
    """

    name, repo = "pororosv", "dhruvrnaik/pororo_storyviz"
    license, terms = "none stated", "frames of a cartoon, no licence stated: for research, do not pass them on"
    sizes: ClassVar = {"train": 10191, "val": 2334}

    def stories(self, row: Row) -> Iterable[SourceStory]:
        yield wide_story(row.value)


class FlintstonesSV(PororoSV):
    """Five consecutive clips of The Flintstones, each a frame and a description (FlintstonesSV).

    20,132 training and 2,071 validation stories.
    Source: dhruvrnaik/flintstones_story on the Hub (`--repo Janak12/FlintstonesSV_Plus_Plus` is a later version).
    Licence: none stated; the frames belong to the studio.
    Citation: Gupta et al. 2018, arXiv 1804.03608; Maharana and Bansal 2021.

        python download_data.py flintstonessv
    """

    name, repo = "flintstonessv", "dhruvrnaik/flintstones_story"
    sizes: ClassVar = {"train": 20132, "val": 2071}


def picture_bytes(value: Any, column: str) -> bytes:
    """Return the bytes of a picture in Parquet: {"bytes", "path"} or bare bytes. Raises RecordError."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise RecordError(f'"{column}" has no picture')
    return content


def captioned(image: Any, captions: Any) -> SourceStory:
    """Return a story of one picture, its first caption as text, and all captions as extra. Raises RecordError."""
    captions = [
        text.strip() for text in ([captions] if isinstance(captions, str) else captions or []) if str(text).strip()
    ]
    if not captions:
        raise RecordError("it has no caption")
    page = SourceStep(captions[0], picture_bytes(image, "image"))
    return SourceStory("", first_sentence(captions[0]), (page,), extra={"captions": captions})


def wide_story(row: Mapping[str, Any]) -> SourceStory:
    """Return the story of a row with lists of pictures and texts, numbered columns, or texts joined by "|"."""
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
            f"it has {len(images)} pictures and {len(texts)} texts (columns {', '.join(row)}): try hub --image --text"
        )
    pages = tuple(SourceStep(text.strip(), image) for text, image in zip(texts, images, strict=True))
    return SourceStory("", first_sentence(texts[0].strip()), pages)
