"""VIST: albums of photographs with stories, from files that the user has."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from modules.common.arguments import a_path
from modules.common.errors import UserError
from modules.common.files import visible_files
from modules.data.records import RecordError
from modules.downloads.layouts import PICTURES
from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence


class Vist(Source):
    """Stories of five photographs and five sentences (VIST), from files that you have.

    40,155 training and 4,990 validation stories; the texts have 50 MB, the pictures 100 GB.
    Source: visionandlanguage.net/VIST: the unpacked SIS-with-labels.tar.gz (`--json`) and the pictures, named by their
    Flickr id (`--images`) or fetched from their addresses (`--fetch`). Stories with dead links are left out.
    Licence: each photograph has its own licence on Flickr; for the texts see the site.
    Citation: Huang et al. 2016, arXiv 1604.03968.

        python download_data.py vist --json sis --images photographs
    """

    name, parts = "vist", ("train", "val")
    license, terms = (
        "Flickr, one for each photograph",
        "photographs belong to their makers on Flickr: do not pass them on",
    )
    sizes: ClassVar = {"train": 40155, "val": 4990}

    def __init__(self, args: argparse.Namespace) -> None:
        self.json, self.images, self.fetch = args.json, args.images, args.fetch
        self.inputs = tuple(filter(None, (args.json, args.images)))
        if self.images is None and not self.fetch:
            raise UserError(
                "vist needs --images FOLDER with the photographs, or --fetch to ask for them at their addresses"
            )
        if self.images is not None and not self.images.is_dir():
            raise UserError(f"the folder {self.images} does not exist: give the folder with VIST's photographs")
        self._pictures: dict[str, Path] | None = None

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--json",
            type=a_path,
            required=True,
            metavar="FOLDER",
            help="the folder with train.story-in-sequence.json and val.story-in-sequence.json",
        )
        parser.add_argument(
            "--images", type=a_path, metavar="FOLDER", help="the folder with the photographs, at any depth"
        )
        parser.add_argument("--fetch", action="store_true", help="fetch missing photographs from their addresses")

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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path} is not a story-in-sequence file of VIST ({type(error).__name__}: {error})"
            ) from None
        yield from counted(
            ((f"{path.name} story {name}", (name, sentences, addresses)) for name, sentences in stories.items()), place
        )

    def stories(self, row: Row) -> Iterable[SourceStory]:
        name, sentences, addresses = row.value
        try:
            sentences = sorted(sentences, key=lambda sentence: int(sentence["worker_arranged_photo_order"]))
            texts = [(str(sentence["photo_flickr_id"]), sentence["original_text"].strip()) for sentence in sentences]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"a sentence lacks a key ({error})") from None
        pages = tuple(SourceStep(text, self._picture(photo, addresses)) for photo, text in texts)
        yield SourceStory(
            f"vist-{name}",
            first_sentence(texts[0][1]),
            pages,
            credit="Flickr",
            extra={"photos": [photo for photo, _ in texts]},
        )

    def _picture(self, photo: str, addresses: dict[str, str]) -> Path | str:
        if self._pictures is None:
            files = visible_files(self.images) if self.images else ()
            self._pictures = {path.stem: path for path in files if path.suffix.lower() in PICTURES}
        found = self._pictures.get(photo) or (self.fetch and addresses.get(photo))
        if not found:
            raise RecordError(f"the photograph {photo} is missing")
        return found
