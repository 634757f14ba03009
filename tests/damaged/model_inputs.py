"""Damaged models, runs, shards, stories, plans and configs, each with the command that reads it."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from modules.presets import PRESETS
from modules.steering.packing import compress, from_text, to_text
from tests.damaged.harness import Case
from tests.damaged.mutations import damaged_bytes, damaged_json, json_bytes
from tests.support.runs import words as words_of_run

PROGRAM = "story_generative_model.py"
FEW = ("--num_inference_steps", "1")


@dataclass(frozen=True)
class Base:
    """Whole inputs: a tiny model, a story of it with its exports, shards, and a run."""

    model: Path
    story: Path
    books: tuple[Path, ...]
    shards: Path
    run: Path

    @property
    def plan(self) -> str:
        return json.loads((self.story / "story.json").read_text())["plan"]


def _wrong_weights(folder: Path, rng: random.Random) -> str:
    """Replace some tensors of a model's weights: another shape or kind of number, NaN, missing or unknown names."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = rng.choice(sorted(weights))
    kind = rng.choice(("shape", "missing", "unknown", "NaN", "inf", "int", "empty", "scalar"))
    value = weights[name]
    changed = {
        "shape": torch.zeros(*value.shape, 2),
        "NaN": torch.full_like(value.float(), float("nan")),
        "inf": torch.full_like(value.float(), float("inf")),
        "int": torch.ones(value.shape, dtype=torch.int64),
        "empty": torch.zeros(0),
        "scalar": torch.zeros(()),
    }
    if kind in changed:
        weights[name] = changed[kind]
    elif kind == "unknown":
        weights["another.weight"] = weights.pop(name)
    else:
        del weights[name]
    save_file(weights, folder / "model.safetensors")
    return f"{kind} {name}"


def models(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Model folders with damaged files, with and without their manifest; wrong values in their JSON and weights."""
    for number in range(count):
        folder = shutil.copytree(base.model, root / str(number))
        name = rng.choice(("config.json", "model.safetensors", "tokenizer.json", "words.json", "manifest.json"))
        if name != "manifest.json" and rng.random() < 0.8:
            (folder / "manifest.json").unlink()
        action = rng.random()
        if action < 0.15:
            name, damage = "model.safetensors", _wrong_weights(folder, rng)
        elif action < 0.6 and name != "model.safetensors":
            damage, value = damaged_json(json.loads((folder / name).read_text()), rng)
            (folder / name).write_bytes(json_bytes(value))
        elif action < 0.9:
            damage, content = damaged_bytes((folder / name).read_bytes(), rng)
            (folder / name).write_bytes(content)
        else:
            damage = "missing"
            (folder / name).unlink()
        words = ("generate", "--prompt", "A fox", "--num_steps", "1", *FEW, "--output", str(root / f"{number}-out"))
        if rng.random() < 0.2:
            words = ("export", "--output", str(root / f"{number}-out"))
        yield Case(f"model {name} {damage}", (PROGRAM, *words, "--ckpt", str(folder)))


def runs(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Runs and step folders with damaged files, read by `export` and by a training that resumes."""
    for number in range(count):
        run = shutil.copytree(base.run, root / str(number))
        step_folder = rng.choice(sorted(run.glob("step_*")))
        files = [path for path in sorted(step_folder.rglob("*")) if path.is_file()] + [run / "losses.jsonl"]
        file = rng.choice(files)
        if rng.random() < 0.8:
            damage, content = damaged_bytes(file.read_bytes(), rng)
            file.write_bytes(content)
        else:
            damage = "missing"
            file.unlink()
        name = f"run {file.relative_to(run)} {damage}"
        if rng.random() < 0.2:
            yield Case(f"{name} train", (PROGRAM, *words_of_run(run)))
        else:
            ckpt = rng.choice((run, step_folder))
            words = ("export", "--output", str(root / f"{number}-out"), "--ckpt", str(ckpt))
            yield Case(f"{name} export", (PROGRAM, *words))


def shards(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Shards with damaged bytes, rows and lists, read by `precompute`."""
    for number in range(count):
        folder = shutil.copytree(base.shards, root / str(number))
        manifest = json.loads((folder / "shards.json").read_text())
        file = next(folder.glob("train-*.parquet"))
        action = rng.random()
        if action < 0.3:
            damage, manifest = damaged_json(manifest, rng)
        elif action < 0.55:
            damage, content = damaged_bytes(file.read_bytes(), rng)
            file.write_bytes(content)
            if rng.random() < 0.5:
                manifest["splits"]["train"][0] |= {"sha256": "", "bytes": len(content)}
        else:
            table = pq.read_table(file)
            rows = table.to_pylist()
            row, column = rng.choice(rows), rng.choice(table.column_names)
            damage, wrong = damaged_json(row[column] if isinstance(row[column], list | dict) else [row[column]], rng)
            damage = f"row {column} {damage}"
            row[column] = wrong if isinstance(row[column], list) else rng.choice((None, "", "[", "x" * 9000, "\0"))
            try:
                pq.write_table(type(table).from_pylist(rows, schema=table.schema), file, compression="none")
            except Exception:  # Arrow has no such value in such a column.
                damage += " not storable"
            entry = manifest["splits"]["train"][0]
            entry |= {"sha256": "", "bytes": file.stat().st_size}
        (folder / "shards.json").write_bytes(json_bytes(manifest))
        words = ("precompute", "--preset", "tiny", "--ckpt", str(base.model), "--data", str(folder))
        words += ("--output", str(root / f"{number}-out"))
        yield Case(f"shards {damage}", (PROGRAM, *words, *rng.choice(((), ("--on_bad_record", "skip")))))


def stories(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """story.json with wrong values or bytes: read by `export_book`, which needs no model, and by those that do."""
    record = json.loads((base.story / "story.json").read_text())
    model = ("--ckpt", str(base.model))
    for number in range(count):
        folder = root / str(number)
        shutil.copytree(base.story, folder)
        if rng.random() < 0.7:
            damage, value = damaged_json(record, rng)
            content = json_bytes(value)
        else:
            damage, content = damaged_bytes((base.story / "story.json").read_bytes(), rng)
        (folder / "story.json").write_bytes(content)
        output = str(root / f"{number}-out")
        words = rng.choice(
            (
                ("export_book", str(folder), "--output", str(root / f"{number}.cbz")),
                ("export_book", str(folder), "--output", str(root / f"{number}.twee")),
                ("export_book", str(folder), "--output", str(root / f"{number}.txt")),
                ("generate", "--from", str(folder / "story.json"), "--output", output, *model),
                ("edit", str(folder), "--page", "2", "--text", "A fox.", "--output", output, *model),
                ("continue", "--story", str(folder), "--num_steps", "1", *FEW, "--output", output, *model),
                ("score", str(folder), *model),
            )
        )
        yield Case(f"story.json {damage} {words[0]}", (PROGRAM, *words))


def plans(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Plans as text: damaged letters, and whole texts with wrong contents."""
    text = base.plan
    for number in range(count):
        action = rng.random()
        if action < 0.3:
            damage, content = damaged_bytes(text.encode(), rng)
            plan = content.decode("latin-1").replace("\0", "0")
        elif action < 0.5:  # The checksum is right, what it covers is not.
            damage, content = damaged_bytes(from_text(text), rng)
            plan = to_text(content)
        elif action < 0.9:
            damage, plan = _replanned(text, rng)
        else:
            damage, plan = (
                "word",
                f"plan1.{rng.choice(('', 'A', '!' * 50, 'A' * 200_000, '%00', 'é', '../..', '=' * 9))}",
            )
        words = ("generate", "--from", plan, "--ckpt", str(base.model), "--output", str(root / f"{number}-out"))
        yield Case(f"plan {damage} {plan[:40]}", (PROGRAM, *words))


def _replanned(text: str, rng: random.Random) -> tuple[str, str]:
    """Return a plan whose description has wrong values, with a right checksum."""
    from modules.steering.packing import Reader, Writer, decompress

    content = from_text(text)
    reader, writer = Reader(content), Writer()
    writer.block(reader.block())
    writer.number(reader.number())
    writer.number(reader.number())
    head = len(writer.content())
    block = reader.block()
    damage, value = damaged_json(json.loads(decompress(block)), rng)
    lengths = Writer()
    lengths.block(block)
    rest = content[head + len(lengths.content()) :]
    writer.block(compress(json.dumps(value, ensure_ascii=True)))
    return f"description {damage}", to_text(writer.content() + rest)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def plan_chunks(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """Pages and exported books that carry a plan, with damaged files or odd chunks of text."""
    page = base.story / "page_01.png"
    for number in range(count):
        source = rng.choice((page, page, *base.books))
        file = root / f"{number}{source.suffix}"
        if source == page and rng.random() < 0.5:
            damage, content = "chunk", page.read_bytes()
            texts = (
                b"storyboard-plan\0" + base.plan.encode()[: rng.randrange(60)],
                b"storyboard-plan\0" + b"\xff" * 30,
                b"storyboard-plan\0\0",
                b"storyboard-plan\0" + b"plan1." + b"A" * 3_000_000,
                b"\0",
            )
            kinds = {b"tEXt": rng.choice(texts), b"iTXt": b"storyboard-plan\0\1\0\0\0" + rng.randbytes(40)}
            kinds[b"zTXt"] = b"storyboard-plan\0\0" + zlib.compress(rng.choice(texts) * rng.choice((1, 3000)))
            kind = rng.choice(tuple(kinds))
            plain = Image.open(page)
            plain.save(file, pnginfo=PngImagePlugin.PngInfo())
            whole = file.read_bytes()
            end = whole.rindex(b"IEND") - 4
            content = whole[:33] + _chunk(kind, kinds[kind]) + whole[33:end] + whole[end:]
        else:
            damage, content = damaged_bytes(source.read_bytes(), rng)
        file.write_bytes(content)
        words = ("generate", "--from", str(file), "--ckpt", str(base.model), "--output", str(root / f"{number}-out"))
        yield Case(f"plan in {file.suffix} {damage}", (PROGRAM, *words))


def configs(root: Path, count: int, rng: random.Random, _base: Base) -> Iterator[Case]:
    """Configs with wrong values or bytes; whoever accepts one finds no data."""
    record = json.loads(PRESETS["tiny"].to_json())
    for number in range(count):
        file = root / f"{number}.json"
        if rng.random() < 0.7:
            damage, value = damaged_json(record, rng)
            file.write_bytes(json_bytes(value))
        else:
            damage, content = damaged_bytes(json_bytes(record, indent=1), rng)
            file.write_bytes(content)
        data = ("--data", str(root / "absent"))
        yield Case(f"config {damage}", (PROGRAM, "train", "--config", str(file), *data))


def pictures_to_caption(root: Path, count: int, rng: random.Random, base: Base) -> Iterator[Case]:
    """A damaged page as the picture to caption."""
    for number in range(count):
        damage, content = damaged_bytes((base.story / "page_01.png").read_bytes(), rng)
        (root / f"{number}.png").write_bytes(content)
        words = ("caption", "--ckpt", str(base.model), "--image", str(root / f"{number}.png"))
        yield Case(f"caption {damage}", (PROGRAM, *words))
