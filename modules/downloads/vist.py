"""VIST: albums of photographs told as stories, from files that the user has."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.data.records import RecordError
from modules.downloads.folder import PICTURES
from modules.downloads.record import FoundStory, Page, Row, counted, first_sentence


class Vist:
    """Five photographs and five sentences a story: 40,155 and 4,990 stories of 20,211 sequences; texts 50 MB, pictures
    100 GB.

    Source: visionandlanguage.net/VIST: SIS-with-labels.tar.gz (`--json`, unpacked) and the pictures (`--images`, named
    after their Flickr id), or their addresses (`--fetch`), of which many are dead by now: such stories are left out and
    counted.
    Licence: each photograph that of its owner on Flickr; texts as the site says. Citation: Huang et al. 2016, arXiv
    1604.03968.
    """

    name, parts = "vist", ("train", "val")
    license, terms = (
        "Flickr, one for each photograph",
        "photographs belong to their makers on Flickr: do not pass them on",
    )
    sizes = {"train": 40155, "val": 4990}

    def __init__(self, args: argparse.Namespace) -> None:
        self.json, self.images, self.fetch = args.json, args.images, args.fetch
        if self.images is None and not self.fetch:
            raise UserError(
                "vist needs --images FOLDER with the photographs, or --fetch to ask for them at their addresses"
            )
        if self.images is not None and not self.images.is_dir():
            raise UserError(f"the folder {self.images} does not exist: give the one that holds VIST's photographs")
        self._pictures: dict[str, Path] | None = None

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--json", type=Path, required=True, metavar="FOLDER", help="holds train.story-in-sequence.json and val..."
        )
        parser.add_argument(
            "--images", type=Path, metavar="FOLDER", help="holds the photographs, in any folder below it"
        )
        parser.add_argument("--fetch", action="store_true", help="fetch what is not there from its address")

    def rows(self, part: str, place: Any) -> Iterator[Row]:
        path = self.json / f"{part}.story-in-sequence.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            addresses = {str(image["id"]): image.get("url_o") or image.get("url_m") for image in content["images"]}
            stories: dict[str, list[dict]] = {}
            for (sentence,) in content["annotations"]:
                stories.setdefault(str(sentence["story_id"]), []).append(sentence)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): unpack SIS-with-labels.tar.gz and give its folder"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a story-in-sequence file of VIST ({type(error).__name__}: {error})"
            ) from None
        yield from counted(
            ((f"{path.name} story {name}", (name, told, addresses)) for name, told in stories.items()), place
        )

    def stories(self, row: Row) -> Iterable[FoundStory]:
        name, sentences, addresses = row.value
        try:
            sentences = sorted(sentences, key=lambda sentence: int(sentence["worker_arranged_photo_order"]))
            told = [(str(sentence["photo_flickr_id"]), sentence["original_text"].strip()) for sentence in sentences]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"a sentence lacks a key ({error})") from None
        pages = tuple(Page(text, self._picture(photo, addresses)) for photo, text in told)
        yield FoundStory(
            f"vist-{name}",
            first_sentence(told[0][1]),
            pages,
            credit="Flickr",
            extra={"photos": [photo for photo, _ in told]},
        )

    def _picture(self, photo: str, addresses: dict[str, str]) -> Path | str:
        if self._pictures is None:
            files = self.images.rglob("*") if self.images else ()
            self._pictures = {path.stem: path for path in files if path.suffix.lower() in PICTURES}
        found = self._pictures.get(photo) or (self.fetch and addresses.get(photo))
        if not found:
            raise RecordError(f"the photograph {photo} is not there")
        return found
