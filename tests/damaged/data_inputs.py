"""Damaged pictures, tables and folders of stories, each with the command that reads it."""

from __future__ import annotations

import io
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, PngImagePlugin

from tests.damaged.harness import Case
from tests.damaged.mutations import damaged_bytes, damaged_json, json_bytes, reencoded

DATA = "download_data.py"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "1", "LA")
STORIES = [
    {
        "id": f"s{number}",
        "prompt": "A fox",
        "license": "CC0",
        "steps": [
            {"text": "One.", "image_path": "images/p.png", "attributes": {"a": [1]}},
            {"text": "Two.", "image_path": None},
        ],
    }
    for number in range(3)
]


def encoded_picture(rng: random.Random, size: tuple[int, int] = (24, 16)) -> tuple[str, bytes]:
    """Return a format and a whole picture in it."""
    kind = rng.choice(FORMATS)
    mode = rng.choice(MODES)
    image = Image.effect_noise(size, 60).convert("RGB").convert("I" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind)
    except (OSError, ValueError):  # A format without this mode.
        image.convert("RGB").save(buffer, kind)
    return kind, buffer.getvalue()


def odd_picture(rng: random.Random) -> tuple[str, bytes]:
    """Return a picture that is whole and yet nothing that a page should have."""
    name = rng.choice(("1 x 1", "ratio", "text", "frames", "exif", "palette", "transparent"))
    buffer, image = io.BytesIO(), Image.effect_noise((24, 16), 60)
    if name == "1 x 1":
        image.resize((1, 1)).save(buffer, "PNG")
    elif name == "ratio":
        image.resize((2500, 1)).save(buffer, "PNG")
    elif name == "text":
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", "x" * 2_000_000, zip=rng.random() < 0.5)
        image.save(buffer, "PNG", pnginfo=info)
    elif name == "frames":
        image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(90)] * 5)
    elif name == "exif":
        image.save(buffer, "JPEG", exif=b"Exif\0\0" + rng.randbytes(200))
    elif name == "palette":
        image.convert("P").save(buffer, "PNG", icc_profile=rng.randbytes(300))
    else:
        image.convert("LA").save(buffer, "PNG")
    return name, buffer.getvalue()


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (200, 30, 40)).save(path)


def pictures(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """A folder of captioned pictures, one of which is damaged: read by `folder`, and what it wrote by `validate`."""
    for number in range(count // 2):
        folder = root / str(number)
        for name in ("a", "c"):
            write_picture(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(f"Page {name}.")
        kind, content = encoded_picture(rng) if rng.random() < 0.9 else odd_picture(rng)
        damage = "whole"
        if rng.random() < 0.9:
            damage, content = damaged_bytes(content, rng)
        suffix = rng.choice((f".{kind.lower()}" if kind in FORMATS else ".png", ".png", ".jpg"))
        (folder / f"b{suffix}").write_bytes(content)
        (folder / "b.txt").write_text("Page b.")
        output = root / f"{number}-out"
        yield Case(f"{kind} {damage} folder", (DATA, "folder", str(folder), "--output", str(output)))
        if (output / "train").is_dir():
            yield Case(f"{kind} {damage} must be whole", (DATA, "validate", str(output)), must_work=True)


def story_lines(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """stories.jsonl with wrong values, wrong bytes or another encoding: read by `validate`, `stats`, `view`, `pack`."""
    for number in range(count):
        folder = root / str(number)
        write_picture(folder / "images/p.png")
        action = rng.random()
        if action < 0.6:
            damage, record = damaged_json(STORIES[0], rng)
            lines = [json_bytes(record), *map(json_bytes, STORIES[1:])]
            content = b"\n".join(rng.sample(lines, 3))
        elif action < 0.9:
            damage, content = damaged_bytes(b"\n".join(map(json_bytes, STORIES)), rng)
        else:
            damage, content = reencoded("\n".join(json.dumps(story) for story in STORIES), rng)
        (folder / "stories.jsonl").write_bytes(content)
        words: tuple[str, ...] = rng.choice((("validate",), ("stats",), ("view",), ("pack",)))
        extra = {"validate": (), "pack": ("--output", str(root / f"{number}-out"))}.get(
            words[0], ("--output", str(root / f"{number}.{'png' if words[0] == 'stats' else 'html'}"))
        )
        yield Case(f"stories.jsonl {damage}", (DATA, *words, str(folder), *extra))


def _odd_file(folder: Path, rng: random.Random) -> str:
    """Put something into a folder that is no plain file, or has no plain name; return what."""
    kind = rng.choice(("fifo", "device", "loop", "socket", "long name", "not UTF-8", "folder", "outside", "newline"))
    path = folder / f"odd{rng.choice(('.png', '.txt', '.jsonl'))}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "outside":
        path.symlink_to("/etc/passwd")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened, _within(folder):
            opened.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        names = {"long name": b"n" * 251 + b".png", "not UTF-8": b"a\xff\xfe.png", "newline": b"a\n\x1b[31m.png"}
        Path(os.fsdecode(os.path.join(os.fsencode(folder), names[kind]))).write_bytes(b"x")
    return kind


class _within:
    """Work inside a folder: the path of a socket has at most 108 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.before = Path.cwd()
        os.chdir(self.folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def folders(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """Folders of captioned pictures and of records, with special files, odd names and a damaged metadata.jsonl."""
    for number in range(count):
        folder = root / str(number)
        for page in range(3):
            write_picture(folder / f"{page}.png")
            if rng.random() < 0.8:
                (folder / f"{page}.txt").write_bytes(rng.choice((b"A text.", b"\xff\xfeA\0", b"\x80", b"", b"\0")))
        damage = _odd_file(folder, rng)
        if rng.random() < 0.6:
            lines = [{"file_name": f"{page}.png", "text": f"Page {page}."} for page in range(3)]
            wrong, lines[1] = damaged_json(lines[1], rng)
            content = b"\n".join(map(json_bytes, lines))
            if rng.random() < 0.3:
                wrong, content = damaged_bytes(content, rng)
            (folder / "metadata.jsonl").write_bytes(content)
            damage += f" metadata {wrong}"
        yield Case(f"folder {damage}", (DATA, "folder", str(folder), "--output", str(root / f"{number}-out")))


def clones(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """Clones of picture books: damaged pages, wrong numbers of pictures."""
    page = (
        "# A title\n\n##\nThe first page.\n\n##\nThe second.\n\n##\n* License: [CC-BY]\n* Text: Ann\n* Language: en\n"
    )
    dash = "---\ntitle: A book\n---\n\n![one](images/p.jpg)\nA text.\n\n![two](images/p.jpg)\nMore.\n"
    for number in range(count):
        folder = root / str(number)
        words: tuple[str, ...]
        if rng.random() < 0.5:
            damage, content = damaged_bytes(page.encode(), rng)
            (folder / "texts/en").mkdir(parents=True)
            (folder / "texts/en/0001_a.md").write_bytes(content)
            for picture in range(rng.choice((1, 3, 4))):
                write_picture(folder / f"images/medium/0001/{picture}.jpg")
            words = ("african-storybook", "--texts", str(folder / "texts"), "--images", str(folder / "images"))
        else:
            damage, content = damaged_bytes(dash.encode(), rng)
            (folder / "book/en").mkdir(parents=True)
            (folder / "book/en/index.md").write_bytes(content)
            write_picture(folder / "book/en/images/p.jpg")
            words = ("bookdash", "--clone", str(folder))
        yield Case(f"{words[0]} {damage}", (DATA, *words, "--output", str(root / f"{number}-out")))
