"""Tiny copies of data sets on the Hub, and download_data.py run against a stand-in in separate processes."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[2]
PARQUET = "refs/convert/parquet/image-paragraph-captioning"
RAW = "main/data/captioning/image_paragraph_captioning/image_paragraph_captioning_{}.jsonl"

# Many commands in one process, for imports take longer than they; "die N" ends it within a write, as a power cut would,
# and "die unpacking N" within the writing of the N-th picture of an archive.
RUN = """
import contextlib, io, json, os, sys, time
from modules.downloads import collect
import download_data
told = []
for words in json.load(sys.stdin):
    if words[0] == "die":
        add, left = collect.Staging.add, [int(words[1])]
        def die(self, *arguments):
            add(self, *arguments)
            left[0] -= 1
            if left[0] == 3:
                self.save()
            if not left[0]:
                self._records.write(b"half of a record")
                os._exit(9)
        collect.Staging.add = die
        continue
    if words[0] == "die unpacking":
        from pathlib import Path
        write, seen = Path.write_bytes, [int(words[1])]
        def die(self, content):
            seen[0] -= self.suffix == ".part"
            write(self, content if seen[0] else content[:100])
            if not seen[0]:
                os._exit(9)
        Path.write_bytes = die
        continue
    if words[0] == "patience":
        from modules.downloads import hub_files
        hub_files.PATIENCE["start"] = float(words[1])
        continue
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = download_data.main(words)
        except SystemExit as exit:
            code = exit.code
    told.append([code, out.getvalue(), err.getvalue(), time.monotonic() - start])
print(json.dumps(told))
"""


def picture(seed: int, kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
        buffer, kind
    )
    return buffer.getvalue()


def write_parquet(path: Path, rows: list[dict], rows_a_group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=rows_a_group)


def image(seed: int) -> dict:
    return {"bytes": picture(seed), "path": None}


def paragraph(number: int) -> str:
    return f"Picture {number} shows a dog. It is number {number}."


def write_m3it(folder: Path) -> None:
    """Six to train with, in two files of the Parquet copy, and three to validate with, one of whose pictures is in
    train too.
    """
    seeds = {"train": range(6), "validation": (10, 11, 3)}
    for split, numbers in seeds.items():
        rows = [
            {
                "instruction": "Describe.",
                "inputs": "",
                "image_base64_str": [base64.b64encode(picture(n)).decode()],
                "outputs": paragraph(n),
            }
            for n in numbers
        ]
        for index in range(0, len(rows), 3):
            write_parquet(folder / PARQUET / split / f"{index // 3:04d}.parquet", rows[index : index + 3])
        raw = folder / RAW.format(split.removesuffix("idation"))
        raw.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"image_str": row["image_base64_str"][0], "output": row["outputs"]}).encode() for row in rows
        ]
        lines.insert(2, b'{"image_str": "broken')
        raw.write_bytes(b"\n".join(lines) + b"\n")


def write_storyreasoning(folder: Path) -> None:
    story = "<gdo id=1>Ann</gdo> waits. <gdi image1><gdo char1>Ann</gdo> sits\ndown.</gdi> "
    story += "<gdi image2>She <gda>leaves</gda>.</gdi>"
    rows = [
        {"story_id": f"s{n}", "images": [image(20 + n), image(30 + n)], "frame_count": 2, "story": story}
        for n in range(3)
    ]
    rows.append({"story_id": "s3", "images": [image(40)], "frame_count": 1, "story": "No tags at all."})
    write_parquet(folder / "main/data/train-00000-of-00001.parquet", rows)


def write_storystream(folder: Path) -> None:
    base = folder / "main/The_Land"
    base.mkdir(parents=True)
    names = [f"000{story}/frame_{frame}.jpg" for story in range(2) for frame in range(5)]
    lines = [
        {
            "id": story,
            "images": names[story * 5 : story * 5 + 5],
            "captions": [f"Frame {frame}." for frame in range(5)],
            "orders": [],
        }
        for story in range(2)
    ]
    with zipfile.ZipFile(base / "the_land_story.zip", "w") as archive:
        archive.writestr("the_land/val.jsonl", "\n".join(map(json.dumps, lines)))
    with tarfile.open(base / "the_land.tar.gz", "w:gz") as archive:
        for seed, name in enumerate([*names, "not/wanted.jpg", "../../escape.jpg"]):
            member = tarfile.TarInfo(name if name.startswith("..") else f"image/The_Land/{name}")
            content = picture(50 + seed)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_others(root: Path) -> None:
    captions = {f"caption_{n}": f"Caption {n} of it." for n in range(5)}
    for split in ("train", "validation"):
        rows = [{"image": image(70 + n + len(split)), **captions} for n in range(2)]
        write_parquet(root / f"jxie/flickr8k/main/data/{split}-00000-of-00001.parquet", rows)
        wide = [
            {
                **{f"image_{n}": image(100 + n + 5 * len(split)) for n in range(5)},
                "text": "|".join(f"Clip {n}." for n in range(5)),
            }
        ]
        write_parquet(root / f"dhruvrnaik/pororo_storyviz/main/data/{split}-0.parquet", wide)
        listed = [
            {
                "story_id": "x",
                "images": [image(200 + n + 5 * len(split)) for n in range(5)],
                "captions": [f"Clip {n}." for n in range(5)],
            }
        ]
        write_parquet(root / f"dhruvrnaik/flintstones_story/main/data/{split}-0.parquet", listed)
    coco = [{"image": image(300 + n), "question_id": str(n), "answer": [f"A cat {n}.", "One cat."]} for n in range(4)]
    write_parquet(root / "lmms-lab/COCO-Caption2017/main/data/val-00000-of-00001.parquet", coco)
    table = [
        {"pic": picture(400 + n, "PNG"), "says": f"Number {n}.", "book": n // 2, "by": "CC BY 4.0"} for n in range(4)
    ]
    write_parquet(root / "some/table/main/part/0.parquet", table)
    write_parquet(root / "half/broken/main/a.parquet", [{"image": image(500), "text": "One."}])
    (root / "half/broken/main/b.parquet").write_bytes(b"PAR1 this is no table PAR1")


def run(endpoint: str, home: Path, *commands: list, **settings: str) -> list[tuple[int, str, str, float]]:
    """What each command told: its code, its output, its errors, its seconds."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **settings,
    }
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    } | settings
    words = json.dumps([list(map(str, command)) for command in commands])
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env=environment,
        input=words,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if result.returncode == 9:
        return []
    assert result.returncode == 0, result.stderr
    return [tuple(told) for told in json.loads(result.stdout.splitlines()[-1])]
