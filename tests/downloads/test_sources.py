"""Data sets on this disk, each in a tiny copy of its layout; splits, resumption, and what is said of what cannot be
used.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from modules.data.folder import open_split
from modules.downloads import SOURCES
from modules.downloads.codraw import parse_scene
from modules.downloads.record import first_sentence, license_key
from modules.downloads.splits import assign_splits
from tests.support.downloads import collected, files, paint, run, texts

ROOT = Path(__file__).parents[2]


# --- the forms of a folder


def test_a_folder_for_each_story(tmp_path):
    for page in (10, 2, 1):
        paint(tmp_path / f"in/fox/page_{page}.png", page)
        (tmp_path / f"in/fox/page_{page}.txt").write_text(f"Page {page}.\n")
    (tmp_path / "in/fox/title.txt").write_text("The fox")
    paint(tmp_path / "in/hen/1.jpg", 5)
    (tmp_path / "in/hen/1.txt").write_text("A hen sat. It slept.")
    found = collected(tmp_path / "out", "folder", tmp_path / "in", "--license", "CC0")
    assert found["fox"].prompt == "The fox" and texts(found["fox"]) == ["Page 1.", "Page 2.", "Page 10."]
    assert found["hen"].prompt == "A hen sat." and found["hen"].extra == {"source": "folder", "license": "CC0"}


def test_metadata_of_an_imagefolder_with_splits(tmp_path):
    for number, split in enumerate(("train", "validation")):
        for page in range(2):
            paint(tmp_path / f"in/{split}/images/{page}.png", 10 * number + page)
    line = {
        "story_id": "a",
        "file_names": ["images/0.png", "images/1.png"],
        "texts": ["One.", "Two."],
        "license": "CC BY 4.0",
    }
    (tmp_path / "in/train/metadata.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "in/validation/metadata.csv").write_text("file_name,text\nimages/0.png,A cat.\nimages/9.png,None.\n")
    found = collected(tmp_path / "out", "folder", tmp_path / "in")
    assert texts(found["a"]) == ["One.", "Two."] and found["a"].extra["license"] == "CC BY 4.0"
    (val,) = open_split(tmp_path / "out", "val")
    assert texts(val) == ["A cat."]
    about = json.loads((tmp_path / "out/val/source.json").read_text())
    assert about["bad_records"] == 1 and "images/9.png does not exist" in about["problems"][0]


def test_our_own_form_and_pictures_with_a_text_beside(tmp_path):
    for number in range(3):
        paint(tmp_path / f"in/{number}.webp", number)
        (tmp_path / f"in/{number}.txt").write_text(f"Number {number}.")
    first = collected(tmp_path / "out", "folder", tmp_path / "in")
    assert sorted(first) == ["0.webp", "1.webp", "2.webp"] and len(open_split(tmp_path / "out", "val")) == 1
    again = collected(tmp_path / "again", "folder", tmp_path / "out")
    assert {story.id: texts(story) for story in again.values()} == {story.id: texts(story) for story in first.values()}
    assert [story.steps[0].image_path.read_bytes() for story in again.values()] == [
        story.steps[0].image_path.read_bytes() for story in first.values()
    ]


# --- tables


def test_csv_jsonl_and_parquet_with_columns_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(4):
        paint(tmp_path / f"pics/{number}.png", number)
    rows = [
        {"pic": f"pics/{n}.png", "says": f"Step {n}.", "book": f"b{n // 2}", "who": "Ann", "about": "A walk"}
        for n in range(4)
    ]
    (tmp_path / "t.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows[:2], "no object", *rows[2:]])))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=3)
    columns = [
        "--image",
        "pic",
        "--text",
        "says",
        "--story",
        "book",
        "--credit",
        "who",
        "--prompt",
        "about",
        "--license",
        "CC0",
    ]
    for kind in ("csv", "jsonl", "parquet"):
        found = collected(tmp_path / kind, kind, tmp_path / f"t.{kind}", *columns)
        assert {name: texts(story) for name, story in found.items()} == {
            "b0": ["Step 0.", "Step 1."],
            "b1": ["Step 2.", "Step 3."],
        }
        assert found["b0"].prompt == "A walk" and found["b0"].extra == {
            "source": kind,
            "license": "CC0",
            "credit": "Ann",
        }


def test_a_damaged_row_group_is_named_and_the_rest_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    rows = [{"image": paint(tmp_path / f"{n}.png", n).read_bytes(), "text": f"Text {n}."} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(content)
    found = collected(tmp_path / "out", "parquet", path)
    assert sorted(text for story in found.values() for text in texts(story)) == [
        "Text 0.",
        "Text 1.",
        "Text 4.",
        "Text 5.",
    ]
    assert "rows 3 to 4: 2 rows are damaged" in (tmp_path / "out/train/source.json").read_text()


# --- data sets that a user has


def write_vist(folder: Path, address: str) -> None:
    images = [{"id": str(n), "url_o": f"{address}/{n}.jpg"} for n in range(15)]
    for split, first in (("train", 0), ("val", 10)):
        told = [
            [
                {
                    "story_id": f"{n // 5}",
                    "worker_arranged_photo_order": 4 - n % 5,
                    "photo_flickr_id": str(n),
                    "original_text": f"Photo {n}. ",
                }
            ]
            for n in range(first, first + (10 if split == "train" else 5))
        ]
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.story-in-sequence.json").write_text(json.dumps({"images": images, "annotations": told}))


class Photographs(BaseHTTPRequestHandler):
    """Serves the pictures of `content` by name; one was taken away."""

    content: ClassVar[dict[str, bytes]] = {}

    def do_GET(self):
        if self.path == "/6.jpg":
            self.send_response(302)
            self.send_header("Location", "/photo_unavailable.png")
            self.end_headers()
            return
        content = self.content.get(self.path.rpartition("/")[2])
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


def test_vist_from_files_and_from_addresses_some_of_them_dead(tmp_path, capsys):
    content = {f"{n}.jpg": paint(tmp_path / f"photos/a/{n}.jpg", n).read_bytes() for n in range(15)} | {
        "photo_unavailable.png": b"gone"
    }
    handler = type("Handler", (Photographs,), {"content": content})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_vist(tmp_path / "json", f"http://127.0.0.1:{server.server_port}")
        found = collected(tmp_path / "out", "vist", "--json", tmp_path / "json", "--images", tmp_path / "photos")
        assert sorted(found) == ["vist-0", "vist-1", "vist-2"] and texts(found["vist-0"]) == [
            f"Photo {n}." for n in (4, 3, 2, 1, 0)
        ]
        capsys.readouterr()
        fetched = collected(tmp_path / "fetched", "vist", "--json", tmp_path / "json", "--fetch")
        server.shutdown()
    assert sorted(fetched) == ["vist-0", "vist-2"] and "1 with dead links" in capsys.readouterr().err
    assert run("vist", "--json", tmp_path / "json", "--output", tmp_path / "no") == 2
    assert "--images FOLDER with the photographs, or --fetch" in capsys.readouterr().err


def write_african_book(base: Path, number: str, pages: int, pictures: int, license: str = "CC-BY") -> None:
    fields = f"* License: [{license}]\n* Text: Ann\n* Illustration: Ben\n* Language: en\n"
    path = base / f"texts/en/{number}_a-book.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Book {number}\n\n" + "".join(f"##\nPage {n}\nof it.\n\n" for n in range(1, pages + 1)) + "##\n" + fields
    )
    for n in range(1, pictures + 1):
        paint(base / f"images/medium/{number}/{n:02d}.jpg", 10 * int(number) + n)


def test_african_storybook_pairs_pages_with_the_pictures_after_the_cover(tmp_path):
    write_african_book(tmp_path, "0001", 3, 4)
    write_african_book(tmp_path, "0002", 2, 4, "CC-BY-NC")
    write_african_book(tmp_path, "0003", 3, 9)
    words = ["african-storybook", "--texts", tmp_path / "texts", "--images", tmp_path / "images"]
    found = collected(tmp_path / "out", *words)
    assert sorted(found) == ["asp-0001", "asp-0002"] and texts(found["asp-0001"]) == [
        f"Page {n} of it." for n in (1, 2, 3)
    ]
    assert found["asp-0001"].steps[0].image_path.read_bytes() == (tmp_path / "images/medium/0001/02.jpg").read_bytes()
    assert found["asp-0001"].extra["license"] == "CC-BY" and found["asp-0001"].extra["credit"] == "Ann; Ben"
    assert list(collected(tmp_path / "nc", *words, "--licenses", "cc by-nc 4.0")) == ["asp-0002"]


def test_bookdash_keeps_the_text_and_the_description(tmp_path):
    book = tmp_path / "clone/my-dog/en"
    folders = ("{{ site.image-set }}", "{{ page.images-folder }}", "images")  # As its books have it.
    told = ("", "The *dog* ran.", "It\n\nslept.")
    pages = "".join(
        f"\n![A dog, {n}]({folders[n - 1]}/{n:02d}.jpg)\n{{:.spread}}\n\n{told[n - 1]}\n" for n in (1, 2, 3)
    )
    book.mkdir(parents=True)
    (book / "index.md").write_text(f'---\ntitle: "My dog"\n---\n{pages}')
    for n in (1, 2, 3):
        paint(book / f"images/{n:02d}.jpg", n, (40, 20))
    (story,) = collected(tmp_path / "out", "bookdash", "--clone", tmp_path / "clone").values()
    assert (story.prompt, texts(story), story.extra["captions"]) == (
        "My dog",
        ["The dog ran.", "It slept."],
        ["A dog, 2", "A dog, 3"],
    )


def test_codraw_draws_a_step_each_time_the_canvas_changes(tmp_path):
    art = tmp_path / "clone/Pngs"
    paint(art / "background.png", "white", (500, 400))
    for name, colour in (("s_3s.png", "yellow"), ("p_1s.png", "red"), ("hb0_1s.png", "blue")):
        paint(art / name, colour, (100, 100))
    sun, tree = "s_3s.png,0,0,0,60,60,0,0,", "p_1s.png,0,0,0,250,200,1,1,"
    boy, unused = "hb0_1s.png,0,0,0,60,60,2,0,", "p_1s.png,1,0,0,-10000,-10000,0,0,"
    scenes = [f"1,{unused}", f"2,{sun}{unused}", f"2,{sun}{unused}", f"3,{sun}{tree}{boy}"]
    turns = [{"msg_t": f"Say {n}.", "abs_d": scene} for n, scene in enumerate(scenes)]
    for split in ("train", "val"):
        path = tmp_path / f"clone/output/{split}_00001.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"dialog": turns if split == "train" else [{"msg_t": "Only a tree.", "abs_d": f"1,{tree}"}]})
        )
    found = collected(tmp_path / "out", "codraw", "--clone", tmp_path / "clone")
    first, last = (step.image for step in found["codraw-train_00001"].steps)
    assert texts(found["codraw-train_00001"]) == ["Say 0. Say 1.", "Say 2. Say 3."]
    assert [first.getpixel(at) for at in ((60, 60), (250, 200))] == [(255, 255, 0), (255, 255, 255)]
    assert last.getpixel((60, 60)) == (0, 0, 255) and last.getpixel((20, 20)) == (255, 255, 0)  # The sun lies behind.
    assert last.getpixel((280, 200)) == (255, 0, 0) != last.getpixel((290, 200))  # 70 pixels wide.
    assert len(parse_scene(f"2,{sun}{unused}")) == 1


# --- splits


def test_stories_that_share_a_picture_go_together():
    chain = [("a", "all", "12"), ("b", "all", "23"), ("c", "all", "34")]
    stories = [*chain, *((f"s{n}", "all", [f"own {n}"]) for n in range(97))]
    splits = assign_splits(stories)
    assert len(set(splits[:3])) == 1 and splits.count("val") == 10 and splits == assign_splits(stories)
    own = [("a", "train", "1"), ("b", "val", "12"), ("c", "val", "2"), ("d", "val", "3")]
    assert assign_splits(own) == ["train", "train", "train", "val"]
    assert assign_splits(own[1:]) == ["val"] * 3
    assert assign_splits([("a", "all", "1"), ("b", "all", "1")]) == ["train", "train"]


def test_no_picture_is_in_two_splits_on_disk(tmp_path, capsys):
    for n in range(30):
        paint(tmp_path / f"in/{n:02d}/1.png", n // 2)
        (tmp_path / f"in/{n:02d}/1.txt").write_text(f"Story {n}.")
    collected(tmp_path / "out", "folder", tmp_path / "in")
    pictures = [{path.name for path in (tmp_path / "out" / split).rglob("*.png")} for split in ("train", "val")]
    assert pictures[0] and pictures[1] and not pictures[0] & pictures[1]
    collected(tmp_path / "val", "folder", tmp_path / "in", "--splits", "val")
    assert files(tmp_path / "val/val") == files(tmp_path / "out/val") and not (tmp_path / "val/train").exists()
    assert run("validate", tmp_path / "out") == 0
    assert "no fault" in capsys.readouterr().out


# --- stopping, going on, and what is in the way


def many(folder: Path, count: int = 60) -> Path:
    lines = [
        {"text": f"Story {n}. It is told.", "image": paint(folder / f"{n}.png", n, (200, 160)).name}
        for n in range(count)
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "t.jsonl"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_gives_the_same_files(tmp_path, number):
    table = many(tmp_path / "in")
    collected(tmp_path / "whole", "jsonl", table)
    slowly = "import signal, sys, time; from modules.downloads import collect; import download_data\n"
    slowly += "store = collect.store_image\n"
    # Who starts tests in the background may have it ignored.
    slowly += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slowly += (
        "collect.store_image = lambda *a: (time.sleep(0.02), store(*a))[1]; collect.SECONDS_BETWEEN_SAVES = 0.05\n"
    )
    command = [
        sys.executable,
        "-c",
        f"{slowly}sys.exit(download_data.main({['jsonl', str(table), '--output', str(tmp_path / 'out')]}))",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "out/.download-jsonl/records.jsonl"
    while not (records.exists() and records.stat().st_size > 2000):
        assert process.poll() is None and not time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or ("the same command goes on from there" in err and "Traceback" not in err)
    assert not (tmp_path / "out/train").exists() and 0 < len(records.read_bytes().splitlines()) < 60
    collected(tmp_path / "out", "jsonl", table)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_run_that_ends_while_it_moves_is_completed(tmp_path, monkeypatch):
    from modules.downloads import splits

    table = many(tmp_path / "in", 20)
    collected(tmp_path / "whole", "jsonl", table)
    replace_folder = splits.replace_folder

    def once(folder: Path, new: Path) -> None:
        replace_folder(folder, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(splits, "replace_folder", once)
    assert run("jsonl", table, "--output", tmp_path / "out") == 130 and not (tmp_path / "out/val").exists()
    monkeypatch.undo()
    collected(tmp_path / "out", "jsonl", table)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, capsys):
    table = many(tmp_path / "in", 3)
    (tmp_path / "out/.download-jsonl").mkdir(parents=True)
    (tmp_path / "out/.download-jsonl/records.jsonl").symlink_to("/dev/full")
    assert run("jsonl", table, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in error and "the same command goes on from there" in error
    assert len(collected(tmp_path / "out", "jsonl", table)) == 3


def test_bad_records_are_named_and_none_that_is_good_is_an_error(tmp_path, capsys):
    table = many(tmp_path / "in", 4)
    (tmp_path / "in/2.png").write_bytes((tmp_path / "in/2.png").read_bytes()[:60])
    with open(table, "a") as file:
        file.write('\n{"text": 5}\n{"image": "1.png"\n' + json.dumps({"text": "t", "image": "../in/0.png", "id": "x"}))
    found = collected(tmp_path / "out", "jsonl", table)
    problems = json.loads((tmp_path / "out/train/source.json").read_text())["problems"]
    assert (
        len(found) == 4
        and [
            any(word in line for line in problems) for word in ("2.png is broken", "'text' holds int", "not valid JSON")
        ]
        == [True] * 3
    )
    assert f"left out 3 bad; the first: {table} byte-" in capsys.readouterr().err
    assert run("jsonl", table, "--text", "words", "--image", "photo", "--output", tmp_path / "none") == 2
    assert "has no usable story" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_pictures_are_kept_as_they_are_or_made_smaller(tmp_path):
    kept = paint(tmp_path / "in/a.jpg", 3, (300, 200), quality=60).read_bytes()
    paint(tmp_path / "in/b.jpg", 4, (900, 300))
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "in/c.png")
    for name in "abc":
        (tmp_path / f"in/{name}.txt").write_text(f"Picture {name}.")
    found = {
        texts(story)[0][8]: story.steps[0]
        for story in collected(tmp_path / "out", "folder", tmp_path / "in", "--image_size", 400).values()
    }
    assert found["a"].image_path.read_bytes() == kept and found["b"].image.size == (400, 133)
    assert found["c"].image.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["folder", "nowhere"], "the folder nowhere does not exist"),
        (["jsonl", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["csv", "tests"], "there is no .csv file in tests"),
        (["folder", "modules"], "holds no stories.jsonl"),
        (["m3it", "--splits", "test"], "must be train, val or train,val"),
        (["m3it", "--image_size", "5"], "must be from 16 to 4096"),
        (["african-storybook", "--texts", "no", "--images", "no"], "clone global-asp/asp-source"),
        (["validate", "nowhere"], "holds"),
        (["bookdash", "--clone", "no"], "clone bookdash/bookdash-books"),
        (["codraw", "--clone", "no", "--clipart", "no"], "clone parthra"),
        (["vist", "--json", "no", "--fetch"], "unpack SIS-with-labels"),
        (["view", "nowhere"], "holds neither"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    output = [] if words[0] in ("validate", "view") else ["--output", tmp_path]
    assert run(*words, *output) == 2
    err = capsys.readouterr().err.splitlines()
    assert said in err[-1] and not any("Traceback" in line for line in err)


def test_every_source_says_where_it_comes_from():
    for name, source in SOURCES.items():
        assert "icence" in source.__doc__, name
        assert name in ("folder", "csv", "jsonl", "parquet") or (
            "Source: " in source.__doc__ and hasattr(source, "terms")
        ), name


def test_first_sentences_and_licence_names():
    assert first_sentence('"Stop!" said\nMia. Then she ran.') == '"Stop!"' and first_sentence("no end") == "no end"
    assert first_sentence("It cost 3.5 coins. Much.") == "It cost 3.5 coins." and first_sentence("") == ""
    assert [license_key(name) for name in ("CC BY-NC 4.0", "[CC-BY]", "cc_by_sa v3", "MIT License")] == [
        "cc-by-nc",
        "cc-by",
        "cc-by-sa",
        "mit",
    ]
