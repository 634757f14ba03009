"""Exports of a book: every file is opened again."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from PIL import Image

import story_generative_model
from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings
from modules.presentation.export import enlarging
from modules.presentation.export.book import Book, read_book
from modules.presentation.export.enlarging import enlarge_well
from modules.presentation.export.formats import FORMATS, export_book, guess_format
from modules.presentation.export.layout import lay_out
from modules.presentation.export.settings import ExportSettings
from modules.presentation.story.book import BookPage, write_story_json
from modules.presentation.story.embedded import embedded_plan
from modules.steering.plan import drawn_plan

TEXTS = ("Rusty the fox finds a kite.", "", "He flies it & laughs <aloud>.")
SETTINGS = ExportSettings(seconds=0.5)


@pytest.fixture(autouse=True)
def quick_enlarging(monkeypatch):
    """Sharpen at small sizes only: that takes the time."""
    monkeypatch.setattr(enlarging, "LARGEST_SHARPENED", 60)


def picture(number: int) -> Image.Image:
    image = Image.new("RGB", (24, 24), (90, 160, 60 * number))
    image.paste((240, 120, 20), (4, 4, 12 + number, 20))
    return image


def make_book(texts=TEXTS, **fields) -> Book:
    plan = drawn_plan("A kite", ((1, 2),) * min(len(texts), 60), 8, "ab" * 4, GenerationSettings()).to_string()
    pages = tuple(BookPage(picture(number % 4), text, [1, 2], None, plan) for number, text in enumerate(texts))
    return Book("Rusty’s kite", pages, plan, author="Nala", **fields)


def encode(name: str, book: Book) -> bytes:
    if name in ("pdf", "print"):
        pytest.importorskip("fpdf")
    if name == "qr":
        pytest.importorskip("segno")
    return FORMATS[name].encode(book, SETTINGS)


@pytest.mark.parametrize("name", ["pdf", "epub", "gif", "twee", "sheet"])
def test_the_same_book_gives_the_same_bytes(name):
    assert encode(name, make_book(TEXTS[:1])) == encode(name, make_book(TEXTS[:1]))


@pytest.mark.parametrize("name", ["pdf", "epub", "cbz", "gif", "webp", "string"])
def test_a_file_carries_the_plan(name, tmp_path):
    file = tmp_path / f"book{FORMATS[name].suffix}"
    book = make_book(TEXTS[:1])
    file.write_bytes(encode(name, book))
    assert embedded_plan(file) == book.plan


def test_pdf_has_real_text_in_embedded_fonts():
    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(io.BytesIO(encode("print", make_book())))
    assert [TEXTS[0] in page.extract_text() for page in reader.pages] == [False, True, False, False]
    assert (reader.metadata.title, reader.metadata.author) == ("Rusty’s kite", "Nala")
    box, trim = reader.pages[1].mediabox, reader.pages[1].trimbox
    assert (box.width, box.height, trim.width, trim.height) == (630, 810, 612, 792)
    for font in reader.pages[1]["/Resources"]["/Font"].values():
        descriptor = font["/DescendantFonts"][0].get_object()["/FontDescriptor"]
        assert "/FontFile2" in descriptor


def test_epub_pages_are_well_formed_and_listed():
    with zipfile.ZipFile(io.BytesIO(encode("epub", make_book()))) as archive:
        names = archive.namelist()
        assert names[0] == "mimetype" and archive.infolist()[0].compress_type == zipfile.ZIP_STORED
        assert archive.read("mimetype") == b"application/epub+zip"
        package = ElementTree.fromstring(archive.read("book/package.opf"))
        listed = {item.get("href") for item in package.iter("{http://www.idpf.org/2007/opf}item")}
        assert {f"book/{name}" for name in listed} == {name for name in names if name.startswith("book/")} - {
            "book/package.opf"
        }
        pages = [ElementTree.fromstring(archive.read(name)) for name in names if name.endswith(".xhtml")]
        words = ["".join(page.itertext()) for page in pages]
        assert any(TEXTS[2] in text for text in words)
        images = [image for page in pages for image in page.iter("{http://www.w3.org/1999/xhtml}img")]
        assert len(images) == 4 and all(image.get("alt") for image in images)


def test_comic_archive_has_a_picture_a_page():
    with zipfile.ZipFile(io.BytesIO(encode("cbz", make_book()))) as archive:
        info = ElementTree.fromstring(archive.read("ComicInfo.xml"))
        pictures = [name for name in archive.namelist() if name.endswith(".jpg")]
        assert info.findtext("PageCount") == "4" == str(len(pictures))
        with Image.open(io.BytesIO(archive.read(pictures[1]))) as page:
            assert page.size == (1275, 1650)


@pytest.mark.parametrize("name", ["gif", "webp"])
def test_animations_show_every_page_for_its_time(name):
    with Image.open(io.BytesIO(encode(name, make_book()))) as image:
        durations = []
        for frame in range(image.n_frames):
            image.seek(frame)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [500] * 4 and image.info["loop"] == 0


def test_video_needs_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="needs ffmpeg"):
        encode("mp4", make_book())


def test_qr_code_is_the_plan():
    segno = pytest.importorskip("segno")
    with Image.open(io.BytesIO(encode("qr", make_book()))) as image:
        modules = image.convert("1").reduce(8) if image.mode != "1" else image.convert("L").reduce(8)
        drawn = [
            [modules.convert("L").getpixel((x, y)) < 128 for x in range(modules.width)] for y in range(modules.height)
        ]
    expected = segno.make(make_book().plan, micro=False).matrix_iter(border=4)
    assert drawn == [list(map(bool, row)) for row in expected]


def test_a_story_without_forks_is_a_chain_in_twee():
    passages = re.findall(r"^:: (.*)$", encode("twee", make_book()).decode(), re.M)
    assert passages == ["StoryTitle", "StoryData", "Start", "Page 1", "Page 2", "Page 3"]


def test_a_long_text_goes_on_on_more_leaves():
    words = [f"word{number}" for number in range(3000)]
    leaves = lay_out(make_book((" ".join(words), "The end.")), SETTINGS)
    assert " ".join(line for leaf in leaves[1:-1] for line in leaf.lines).split() == words
    assert [leaf.picture is None for leaf in leaves[:3]] == [False, False, True]


@pytest.mark.parametrize("text", ["שועל מוצא עפיפון", "وجد الثعلب طائرة ورقية"])
def test_right_to_left_texts_are_set(text):
    pytest.importorskip("uharfbuzz")
    assert encode("pdf", make_book((text,))).startswith(b"%PDF")
    assert encode("webp", make_book((text,))) != encode("webp", make_book(("",)))


def test_characters_without_a_font_are_named():
    with pytest.raises(UserError, match=r"狐 \(U\+72D0\).*--font"):
        encode("cbz", make_book(("狐",)))
    assert "狐" in encode("html", make_book(("狐",))).decode()


def test_a_hundred_pages_are_laid_out():
    leaves = lay_out(make_book([f"Page {number}." for number in range(100)]), SETTINGS)
    assert [leaf.number for leaf in leaves[1:]] == [str(number) for number in range(1, 101)]


@pytest.mark.parametrize("size", [(1, 1), (96, 96), (40, 90), (3000, 1200)])
def test_enlarging_keeps_the_shape(size):
    assert max(enlarge_well(Image.new("RGB", size, "red"), 700).size) == 700
    assert enlarge_well(Image.new("RGB", size, "red"), 700).getpixel((0, 0)) == (255, 0, 0)


def test_foreign_files_and_sources_are_never_overwritten(tmp_path):
    path = tmp_path / "book.cbz"
    export_book(make_book(), "cbz", path)
    export_book(make_book(), "cbz", path)  # Its own file.
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="never overwritten"):
        export_book(make_book(), "cbz", path)
    with pytest.raises(UserError, match="story itself"):
        export_book(replace(make_book(), sources=(tmp_path / "a.png",)), "sheet", tmp_path / "a.png")
    assert path.read_bytes() == b"mine" and not (tmp_path / "a.png").exists()


def test_unknown_formats_are_named(tmp_path):
    assert guess_format(tmp_path / "BOOK.EPUB") == "epub"
    with pytest.raises(UserError, match=r"suffix.*\.epub"):
        guess_format(tmp_path / "book.doc")
    with pytest.raises(UserError, match="there is no format"):
        export_book(make_book(), "doc", tmp_path / "book.doc")


def test_the_command_exports_a_folder(tmp_path, capsys):
    picture(1).save(tmp_path / "one.png")
    steps = [{"text": "A fox.", "image_path": "one.png"}, {"text": "No picture."}]
    write_story_json(tmp_path, {"id": "a", "prompt": "A fox", "steps": steps})
    output = tmp_path / "out" / "book.epub"
    assert story_generative_model.main(["export_book", str(tmp_path), "--output", str(output)]) == 0
    assert zipfile.is_zipfile(output) and "no picture: page 2" in capsys.readouterr().err
    assert story_generative_model.main(["export_book", str(tmp_path), "--format", "qr", "--output", str(output)]) == 2
    assert len(read_book(tmp_path).pages) == 2


def test_twee_shows_a_text_as_it_is():
    text = encode("twee", make_book(("A <b>fox</b> & a [[link->Start]].",))).decode()
    assert "\n\nA &lt;b>fox&lt;/b> &amp; a [&#91;link->Start]].\n" in text
    assert "[[A &lt;b>fox&lt;/b> &amp; a ((link-Start)).->Page 1]]" in text


@pytest.mark.parametrize("name", ["epub", "cbz"])
def test_control_characters_make_no_book_unreadable(name):
    """A vertical tab is what slides have between lines."""
    book = replace(make_book(("One\x0btwo\x1c\ufffe.",)), title="A\x0bkite\x0c", author="N\x1fala")
    with zipfile.ZipFile(io.BytesIO(encode(name, book))) as archive:
        files = [name for name in archive.namelist() if name.endswith((".xml", ".opf", ".xhtml"))]
        content = ["".join(ElementTree.fromstring(archive.read(file)).itertext()) for file in files]
    assert any("A kite" in text for text in content)
    assert name != "epub" or any("One two ." in text for text in content)


def test_an_epub_breaks_no_word():
    """Lines break in words that are wider than a page; what a reader copies has no space there."""
    word = "a" * 4000
    with zipfile.ZipFile(io.BytesIO(encode("epub", make_book((f"One {word} end.",))))) as archive:
        pages = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".xhtml")]
    told = ["".join(re.findall(r"<p[^>]*>(.*?)</p>", page, re.S)).strip() for page in pages]
    assert "".join(told).replace(" ", "").count("a" * 4000) == 1
    assert all(re.fullmatch(r"(One )?a*( end\.)?", text) for text in told if "aaa" in text)


def test_a_gif_shows_a_page_for_eleven_minutes_at_most():
    with pytest.raises(UserError, match="for 655 seconds at most"):
        FORMATS["gif"].encode(make_book(TEXTS[:1]), replace(SETTINGS, seconds=700))


def test_an_encrypted_archive_is_reported(tmp_path):
    file = tmp_path / "book.cbz"
    content = bytearray(encode("cbz", make_book(TEXTS[:1])))
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):  # The flag of encryption, in both directories.
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + offset] |= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        embedded_plan(file)
