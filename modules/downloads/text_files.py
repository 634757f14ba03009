"""Text files in any encoding, and the names of their columns."""

from __future__ import annotations

import argparse
import codecs
import difflib
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from modules.common.errors import UserError, shown
from modules.data.records import RecordError

MARKS = {  # The longer ones first: UTF-32's begins with that of UTF-16.
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HEAD, CHUNK = 4096, 1 << 20
# Other names that columns go by.
NEAR_NAMES = {
    "text": {"texts", "caption", "captions", "description", "sentence", "sentences", "txt", "content"},
    "image": {"images", "picture", "pictures", "img", "pic", "photo", "foto", "bild", "jpg", "png", "url", "image_url"}
    | {"file", "filename", "file_name", "file_names", "path", "image_path", "image_file", "filepath"},
}


def encoding_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoding",
        type=encoding_name,
        metavar="NAME",
        help="the encoding of text files, such as windows-1252 (default: UTF-8, or what the byte order mark says)",
    )


def encoding_name(text: str) -> str:
    """Parse the name of an encoding of texts."""
    try:
        "".encode(text)
        return codecs.lookup(text).name
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(f"must be an encoding such as windows-1252, got {shown(text)}") from None


def encoding_of(path: Path, given: str | None) -> str:
    """Return the encoding of a file: the `given` one, else that of its byte order mark, else UTF-8.

    Raises:
        UserError: the file has bytes that do not exist in it.
    """
    with open(path, "rb") as file:
        found = given or _marked(file.read(HEAD))
        file.seek(0)
        decoder, done = codecs.getincrementaldecoder(found)(), 0
        try:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
                done += len(chunk)
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            place = done + getattr(error, "start", 0) + 1
            name = found.upper().removesuffix("-SIG")
            raise UserError(
                f"{path} is not {name} (near byte {place:,}): give its encoding, such as --encoding windows-1252"
            ) from None
    return "utf-8-sig" if found == "utf-8" else found


def _marked(head: bytes) -> str:
    """Return the encoding that the first bytes of a file tell."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    # UTF-16 without a mark: every other byte of Latin letters is zero.
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) >= 4 and head[start::2].count(0) > len(head) // 5:
            return name
    return "utf-8"


def open_as_utf8(path: Path, given: str | None) -> IO[bytes]:
    """Open a file of lines as UTF-8 bytes. Raises UserError as `encoding_of`, except where `given` is UTF-8."""
    found = "utf-8-sig" if given == "utf-8" else encoding_of(path, given)
    if found == "utf-8-sig":
        return open(path, "rb", buffering=0)
    return io.BytesIO(path.read_text(encoding=found).removeprefix("\ufeff").encode())


def read_text(path: Path, given: str | None = None) -> str:
    """Return a whole text file without blanks around it. Raises RecordError if it cannot be decoded."""
    try:
        return path.read_text(encoding=encoding_of(path, given)).removeprefix("\ufeff").strip()
    except UserError as error:
        raise RecordError(str(error)) from None


def stripped(record: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a record whose keys have no blanks around them."""
    return {key.strip("\ufeff \t\r\n") if isinstance(key, str) else key: value for key, value in record.items()}


def near_names(name: str, columns: Iterable[Any]) -> list[str]:
    """Return the columns that may be meant by `name`, the most similar first."""
    by_key = {str(column).lower().replace(" ", "_"): str(column) for column in columns}
    alike = difflib.get_close_matches(name.lower(), by_key, n=3, cutoff=0.7)
    alike += [key for key in by_key if key in NEAR_NAMES.get(name, set()) and key not in alike]
    return [by_key[key] for key in alike if by_key[key] != name]


def check_header(path: Path, header: Collection[str] | RecordError) -> None:
    """Raise UserError if the header cannot be read, or two columns have one name: one of them would be lost."""
    if isinstance(header, RecordError):
        raise UserError(f"{path}: {header}: save it as CSV anew")
    names = [name.strip("\ufeff \t\r\n") for name in header]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has two columns {shown(twice[0])!r}: rename one of them")


def local_lines(encoding: str | None) -> Any:
    """Return what opens local files of lines for `readers.line_rows`."""
    return lambda name: cast(IO[bytes], open_as_utf8(Path(name), encoding))
