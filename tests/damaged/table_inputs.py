"""Damaged tables of a user: JSON lines, CSV, Parquet and web datasets, each with the command that reads it."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.damaged.data_inputs import DATA, encoded_picture, write_picture
from tests.damaged.harness import Case
from tests.damaged.mutations import OTHER_KINDS, VALUES, damaged_bytes, damaged_json, json_bytes, reencoded

ROWS = [{"text": f"Page {number}.", "image": "p.png", "book": "b0", "id": f"i{number}"} for number in range(4)]


def _source(kind: str, root: Path, number: int, file: Path, rng: random.Random) -> tuple[str, ...]:
    """Return the command that reads a table."""
    flags = rng.choice(((), ("--story", "book"), ("--id", "id"), ("--probe",), ("--prompt", "text"), ("--fetch",)))
    return (DATA, kind, str(file), "--output", str(root / f"{number}-out"), *flags)


def json_tables(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """JSON lines of a user."""
    write_picture(root / "p.png")
    for number in range(count):
        action = rng.random()
        if action < 0.6:
            damage, row = damaged_json(ROWS[0], rng)
            content = b"\n".join([json_bytes(row), *map(json_bytes, ROWS[1:])])
        elif action < 0.8:
            damage, content = damaged_bytes(b"\n".join(map(json_bytes, ROWS)), rng)
        else:
            damage, content = reencoded("\n".join(json.dumps(row) for row in ROWS), rng)
        file = root / f"t{number}.jsonl"
        file.write_bytes(content)
        yield Case(f"jsonl {damage}", _source("jsonl", root, number, file, rng))


def csv_tables(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """CSV of a user: damaged bytes, odd cells, encodings, delimiters and quotes."""
    write_picture(root / "p.png")
    for number in range(count):
        rows = [dict(row) for row in ROWS]
        damage = "cell"
        if rng.random() < 0.5:
            rows[rng.randrange(4)][rng.choice(("text", "image", "book", "id"))] = str(rng.choice(VALUES))
        buffer = io.StringIO()
        names = rng.sample(list(ROWS[0]), 4) if rng.random() < 0.8 else ["text", "text", "image", "id"]
        options: dict[str, Any] = {"delimiter": rng.choice(",;\t|"), "quoting": rng.choice((0, 1))}
        writer = csv.DictWriter(buffer, names, extrasaction="ignore", **options)
        writer.writeheader()
        writer.writerows(rows)
        content = buffer.getvalue().encode("utf-8", "surrogatepass")
        action = rng.random()
        if action < 0.4:
            damage, content = damaged_bytes(content, rng)
        elif action < 0.6:
            damage, content = reencoded(buffer.getvalue().replace("\ud800", "?") + "é,ß\n", rng)
        file = root / f"t{number}.csv"
        file.write_bytes(content)
        encoding = ("--encoding", rng.choice(("cp1252", "utf-16", "utf-8"))) if rng.random() < 0.2 else ()
        yield Case(f"csv {damage}", (*_source("csv", root, number, file, rng), *encoding))


def _columns(rng: random.Random) -> dict[str, Any]:
    """Return the columns of a Parquet table, one of them of a wrong type."""
    columns: dict[str, Any] = {
        "text": ["One.", "Two.", "Three."],
        "image": [{"bytes": encoded_picture(rng)[1], "path": None} for _ in range(3)],
        "book": ["b0"] * 3,
        "id": ["i0", "i1", "i2"],
    }
    odd: tuple[Any, ...] = (
        pa.array([1, 2, 3]),
        pa.array([1.5, None, float("nan")]),
        pa.array([None] * 3),
        pa.array([[1], [], None]),
        pa.array([["a", None], ["b"], []]),
        pa.array([{"a": 1}, None, {"a": 2}]),
        pa.array([b"\xff\xfe", b"", None]),
        pa.array([True, False, None]),
        pa.array([{"bytes": b"x", "path": "../x.png"}] * 3),
        pa.array([[{"bytes": None, "path": "p.png"}], None, []]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([1, 2, 3], pa.timestamp("ns")),
        pa.array([1, 2, 3], pa.duration("s")),
        pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        pa.array(["x" * 300_000] * 3, pa.large_string()),
        pa.array(["\x1b[31m", "a\0b", ""]),
    )
    columns[rng.choice(tuple(columns))] = rng.choice(odd)
    if rng.random() < 0.2:
        del columns[rng.choice(tuple(columns))]
    return columns


def parquet_tables(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """Parquet of a user: columns of wrong types, and damaged bytes."""
    write_picture(root / "p.png")
    for number in range(count):
        file, damage = root / f"t{number}.parquet", "column"
        pq.write_table(pa.table(_columns(rng)), file, row_group_size=2)
        if rng.random() < 0.5:
            damage, content = damaged_bytes(file.read_bytes(), rng)
            file.write_bytes(content)
        yield Case(f"parquet {damage}", _source("parquet", root, number, file, rng))


def _member(archive: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content) if kind == tarfile.REGTYPE else 0, kind
    info.linkname = "" if kind == tarfile.REGTYPE else "/etc/passwd"
    archive.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


def web_datasets(root: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """Tar files of pictures and texts, as WebDataset has them."""
    for number in range(count):
        folder = root / str(number)
        folder.mkdir(parents=True)
        buffer = io.BytesIO()
        odd = rng.choice((0, 1, 2, None, None))
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for row in range(3):
                _member(archive, f"{row}.png", encoded_picture(rng)[1])
                odd_names = (f"{row}.txt", f"{row}.json", f"../{row}.txt", f"/abs{row}.txt", "")
                name = rng.choice(odd_names) if row == odd else f"{row}.txt"
                content = json_bytes(rng.choice(VALUES)) if name.endswith(".json") else b"A text."
                kind = rng.choice((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)) if row == odd else None
                _member(archive, name, content, kind or tarfile.REGTYPE)
        damage, content = "members", buffer.getvalue()
        if rng.random() < 0.6:
            damage, content = damaged_bytes(content, rng)
        (folder / "train-000.tar").write_bytes(content)
        words = ("hub", str(folder), "--text", "txt", "--image", "png", "--output", str(root / f"{number}-out"))
        yield Case(f"webdataset {damage}", (DATA, *words))


def other_kinds_as_data(root: Path, _count: int, _rng: random.Random) -> Iterator[Case]:
    """A whole file of every other kind, in the place of every table."""
    for name, content in OTHER_KINDS.items():
        for kind in ("csv", "jsonl", "parquet"):
            file = root / f"{name}.{kind}"
            file.write_bytes(content)
            yield Case(f"{name} as {kind}", (DATA, kind, str(file), "--output", str(root / f"{name}-{kind}-out")))
