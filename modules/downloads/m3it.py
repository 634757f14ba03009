"""M3IT's image paragraphs, from the Hub's Parquet copy or the raw lines; its loading script no longer runs."""

from __future__ import annotations

import argparse
import base64
import binascii
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from modules.data.records import RecordError, decode_line
from modules.downloads.record import Row, Source, SourceStep, SourceStory, first_sentence

TASK = "image-paragraph-captioning"
RAW = "data/captioning/image_paragraph_captioning/image_paragraph_captioning_{}.jsonl"
HUB_NAMES = {"train": "train", "val": "validation"}
IMAGE_KEYS = ("image_base64_str", "image_str", "img_str", "image_base64", "base64", "image")
TEXT_KEYS = ("output", "outputs", "caption", "paragraph")


class M3IT(Source):
    """Photographs with a paragraph each (M3IT, task image-paragraph-captioning).

    14,575 training and 2,487 validation stories of one step, 990 MB. This is the default source.
    Source: MMInstruction/M3IT on the Hub: its Parquet copy, or the raw lines if there is none any more.
    Licence: "other": the pictures are Visual Genome's, the paragraphs Stanford's; not to be passed on.
    Citation: Li et al. 2023, arXiv 2306.04387; Krause et al. 2017, arXiv 1611.06607.

        python download_data.py m3it --max_stories 1000
    """

    name = "m3it"
    license = "other"
    terms = "pictures are Visual Genome's, paragraphs Stanford's: for your own training, not to be passed on"
    parts = ("train", "val")
    sizes: ClassVar = {"train": 14575, "val": 2487}

    def __init__(self, args: argparse.Namespace) -> None:
        self.repo, self.route = args.repo or "MMInstruction/M3IT", args.route

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--repo", metavar="ID", help="another copy on the Hub (MMInstruction/M3IT)")
        parser.add_argument(
            "--route",
            choices=("auto", "parquet", "jsonl"),
            default="auto",
            help="read the Hub's Parquet copy or the raw lines (auto: the first where it is there)",
        )

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        from modules.downloads.hub_files import HubDataset, first_found

        raw, copy = HubDataset(self.repo), HubDataset(self.repo, "refs/convert/parquet")
        raw.check()
        route, place = place or (self.route, None)
        pattern = f"{TASK}/{HUB_NAMES[part]}/*.parquet"
        if route != "jsonl" and (paths := copy.find(pattern) if route == "auto" else first_found(copy, pattern)):
            rows, route = copy.parquet(paths, place, (*IMAGE_KEYS, *TEXT_KEYS, "meta")), "parquet"
        else:
            if route == "auto":
                print(f"{self.repo} has no Parquet copy any more: reading its raw lines", file=sys.stderr)
            rows, route = raw.lines(first_found(raw, RAW.format(part)), place), "jsonl"
        for row in rows:  # The place includes the route, because a resumed run must take the same one.
            yield Row(row.name, [route, row.place], row.value)

    def stories(self, row: Row) -> Iterable[SourceStory]:
        record = decode_line(row.value) if isinstance(row.value, bytes) else row.value
        if not isinstance(record, Mapping):
            raise RecordError("it is not an object")
        meta = record.get("meta")
        record = {**record, **(meta if isinstance(meta, Mapping) else {})}
        text, encoded = _first(record, TEXT_KEYS, "text").strip(), _first(record, IMAGE_KEYS, "picture")
        try:
            image = base64.b64decode(
                encoded.partition(",")[2] if encoded.startswith("data:") else encoded, validate=True
            )
        except (binascii.Error, ValueError):
            raise RecordError("its picture is not base64") from None
        yield SourceStory("", first_sentence(text), (SourceStep(text, image),), credit="Visual Genome; Krause et al.")


def _first(record: Mapping[str, Any], keys: tuple[str, ...], kind: str) -> str:
    for key in keys:
        value = record.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and value.strip():
            return value
    raise RecordError(f"it has no {kind} under {', '.join(keys)} (it has {', '.join(record)})")
