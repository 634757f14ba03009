"""Sources on this disk, each in a tiny copy of its layout, and messages about faults."""

from __future__ import annotations

import json
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from modules.data.folder import open_split
from modules.downloads import SOURCES
from modules.downloads.codraw import parse_scene
from modules.downloads.record import first_sentence, license_key
from tests.support.downloads import collected, paint, run, texts

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


def test_african_storybook_pairs_pages_with_pictures(tmp_path):
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
        (["folder", "modules"], "has no stories.jsonl"),
        (["m3it", "--splits", "test"], "must be train, val or train,val"),
        (["m3it", "--image_size", "5"], "must be from 16 to 4096"),
        (["african-storybook", "--texts", "no", "--images", "no"], "clone global-asp/asp-source"),
        (["validate", "nowhere"], "has neither"),
        (["bookdash", "--clone", "no"], "clone bookdash/bookdash-books"),
        (["codraw", "--clone", "no", "--clipart", "no"], "clone parthra"),
        (["vist", "--json", "no", "--fetch"], "unpack SIS-with-labels"),
        (["view", "nowhere"], "has neither"),
    ],
)
def test_missing_input_is_one_sentence(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    output = [] if words[0] in ("validate", "view") else ["--output", tmp_path]
    assert run(*words, *output) == 2
    err = capsys.readouterr().err.splitlines()
    assert said in err[-1] and not any("Traceback" in line for line in err)


def test_every_source_documents_its_origin_and_licence():
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


def test_the_source_in_the_readme_works(tmp_path, monkeypatch):
    """A new source is one class and its entry in SOURCES."""
    text = (ROOT / "modules/data/README.md").read_text(encoding="utf-8")
    code = textwrap.dedent(text[text.index("    class Fables") : text.index("`rows` yields records")])
    imports = (
        "import argparse\nfrom collections.abc import Iterable, Iterator\n"
        "from pathlib import Path\nfrom typing import Any\n"
        "from modules.downloads.record import Row, Source, SourceStep, SourceStory, counted, first_sentence\n"
    )
    names: dict = {}
    exec(imports + code, names)
    for number in range(3):
        paint(tmp_path / f"clone/{number}.png", number)
        (tmp_path / f"clone/{number}.txt").write_text(f"Fable {number}. The end.")
    monkeypatch.setitem(SOURCES, "fables", names["Fables"])
    found = collected(tmp_path / "out", "fables", "--clone", tmp_path / "clone")
    assert sorted(story.prompt for story in found.values()) == [f"Fable {number}." for number in range(3)]
