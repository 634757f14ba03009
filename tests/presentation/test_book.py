"""The book opens anywhere, says everything it was given, and is the same bytes for the same story."""

import base64
import io
import json
import re

import pytest
from PIL import Image, ImageChops, PngImagePlugin

from modules.common.errors import UserError
from modules.presentation.images import write_png
from modules.presentation.story.book import BookPage, write_book, write_pages, write_story_json
from modules.presentation.story.sheet import contact_sheet
from modules.presentation.theme import code_color
from tests.support.html_pages import Collector

NASTY = "<script>alert(\"1\")</script> & 'quotes'"
TEXTS = {
    "empty": "",
    "long": "and then they walked on " * 200,
    "one word": "x" * 3000,
    "arabic": "كان يا ما كان أرنب صغير يحب النجوم",
    "chinese": "从前有一只小兔子它想要一颗星星" * 30,
    "emoji": "A 👩‍👩‍👧 family 🐰✨ 🇺🇳",
    "broken": "nul \x00 bell \x07 surrogate \ud800 line\nbreak\ttab",
    "markup": NASTY,
}


def picture(size=(96, 96), mode="RGB") -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def story(texts=("Once upon a time.", "They lived happily.")) -> list[BookPage]:
    return [BookPage(picture(), text, [7, 511, 0, 4095, 12, 12, 300, 99], 31.25) for text in texts]


def book(tmp_path, title="A star", pages=None, details=None, **kwargs) -> tuple[str, Collector]:
    path = write_book(tmp_path, title, story() if pages is None else pages, details or {"seed": 7}, **kwargs)
    assert path == tmp_path / "book.html"
    document = path.read_text(encoding="utf-8")
    return document, Collector(document)


# book.html


def test_book_is_self_contained(tmp_path):
    document, seen = book(tmp_path)
    assert not re.search(r"https?://|url\(|@import|\$\w", document)
    assert all(value.startswith("data:image/png;base64,") for value in seen.values("src"))
    targets = seen.values("id")
    assert all(value[0] == "#" and value[1:] in targets for value in seen.values("href"))
    assert "link" not in seen.tags
    assert seen.tags.count("script") == 1


def test_book_shows_notes_on_its_title_page(tmp_path):
    document, seen = book(tmp_path, notes=["the model reads kite instead", NASTY])
    assert "The model reads kite instead." in document and NASTY not in document
    assert seen.tags.count("script") == 1
    assert 'class="note"' not in book(tmp_path)[0]


def test_book_holds_pictures_texts_and_plan(tmp_path):
    _, seen = book(tmp_path, lang="fr")
    assert seen.values("lang", "html") == ["fr"]
    first = Image.open(io.BytesIO(base64.b64decode(seen.values("src")[1].split(",")[1])))
    assert first.size == (384, 384)
    assert seen.values("alt") == ["", "Picture of page 1: Once upon a time.", "Picture of page 2: They lived happily."]
    assert set(seen.values("dir")) == {"auto"}
    words = " ".join(seen.text)
    for expected in (
        "A star",
        "Once upon a time.",
        "4095",
        "31.2 bits",
        "How it was made",
        "seed",
        "A picture story in 2 pages",
    ):
        assert expected in words
    assert len(seen.values("style", "li")) == 16


def test_book_escapes_everything(tmp_path):
    document, seen = book(tmp_path, NASTY, story([NASTY]), {NASTY: NASTY, "list": [NASTY]}, lang='"><b>')
    assert "alert(" in "".join(seen.text)
    assert "<script>alert" not in document
    assert "b" not in seen.tags
    assert seen.tags.count("script") == 1
    assert NASTY in seen.text
    assert any(NASTY in alt for alt in seen.values("alt"))


def test_book_without_plan_or_pages(tmp_path):
    _, seen = book(tmp_path, pages=[BookPage(picture(), "Only words")])
    assert seen.tags.count("details") == 1  # The settings, on the last page; no page has codes.
    assert "i" not in seen.tags
    assert "A picture story in 1 page" in seen.text
    assert "Colophon" in book(tmp_path, pages=[])[1].text


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_makes_a_book_and_a_sheet(tmp_path, name):
    text = TEXTS[name]
    _, seen = book(tmp_path, text, story([text, "short"]), {text: text})
    assert len(seen.values("alt", "img")) == 3
    sheet = contact_sheet(story([text, "short"]), text)
    assert sheet.mode == "RGB"


def test_same_story_same_bytes(tmp_path):
    for folder in ("a", "b"):
        write_book(tmp_path / folder, "A star", story(), {"seed": 7})
        write_pages(tmp_path / folder, story())
        write_story_json(tmp_path / folder, {"z": 1, "a": [0.1]})
        write_png(tmp_path / folder / "generated.png", contact_sheet(story(), "A star"))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["book.html", "generated.png", "page_01.png", "page_02.png", "story.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


# Pages and story.json


@pytest.mark.parametrize(
    ("size", "expected"), [((96, 96), (384, 384)), ((48, 96), (192, 384)), ((512, 512), (512, 512))]
)
def test_pages_are_enlarged_and_never_shrunk(tmp_path, size, expected):
    (path,) = write_pages(tmp_path, [BookPage(picture(size), "")])
    assert path == tmp_path / "page_01.png"
    assert Image.open(path).size == expected


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_pages_of_any_mode_become_rgb_without_metadata(tmp_path, mode):
    image = picture(mode=mode)
    image.info |= {"icc_profile": b"profile", "comment": "taken at home", "dpi": (72, 72)}
    (path,) = write_pages(tmp_path, [BookPage(image, "")])
    with Image.open(path) as written:
        assert (written.mode, written.info) == ("RGB", {})
        assert {kind for kind, *_ in chunks(path)} == {b"IHDR", b"IDAT", b"IEND"}


def chunks(path):
    with open(path, "rb") as stream:
        stream.seek(8)
        reader = PngImagePlugin.ChunkStream(stream)
        while True:
            kind, position, length = reader.read()
            yield kind, position, length
            if kind == b"IEND":
                return
            stream.seek(length + 4, 1)


def test_many_pages_sort_by_name(tmp_path):
    paths = write_pages(tmp_path, [BookPage(picture((4, 4)), "")] * 100)
    assert paths == sorted(paths)
    assert paths[0].name == "page_001.png"


def test_story_json_keeps_order_and_script(tmp_path):
    path = write_story_json(tmp_path, {"prompt": "un été", "codes": [1, 2], "a": None})
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "prompt": "un été"')
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["prompt", "codes", "a"]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_book(folder, "A star", story(), {}),
        lambda folder: write_pages(folder, story()),
        lambda folder: write_story_json(folder, {}),
        lambda folder: write_png(folder / "generated.png", picture()),
    ],
)
def test_unwritable_output_is_a_user_error(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_story_json(tmp_path, {"old": True})

    def replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(UserError, match="No space left"):
        write_story_json(tmp_path, {"old": False})
    assert [path.name for path in tmp_path.iterdir()] == ["story.json"]
    assert json.loads((tmp_path / "story.json").read_text()) == {"old": True}


# Contact sheet


def test_sheet_has_at_most_five_pages_a_row():
    widths = {count: contact_sheet(story(["text"] * count), "A star", 48).width for count in (1, 3, 5, 6, 10, 11)}
    assert widths[1] < widths[3] == widths[6] < widths[5] == widths[10]
    assert widths[11] < widths[5]  # Three rows of four, the last one short.


def test_a_title_without_end_is_shortened():
    plain, endless = (contact_sheet(story(["A fox."]), title) for title in ("A fox", "a fox wants a kite " * 5000))
    assert endless.height < 2 * plain.height


def test_sheet_grows_with_its_longest_text_instead_of_cutting_it():
    base, words = contact_sheet(story(["short"]), "A star"), "and on and on "
    heights = [contact_sheet(story([words * count]), "A star").height for count in (40, 80, 160)]
    assert base.height < heights[0] < heights[1] < heights[2]
    shorter, longer = (contact_sheet(story([words * 80 + end]), "A star") for end in ("", "END"))
    assert shorter.size != longer.size or ImageChops.difference(shorter, longer).getbbox()


def test_sheet_scales_with_the_page_size():
    small, large = contact_sheet(story(), "A star", 144), contact_sheet(story(), "A star", 288)
    assert large.width == pytest.approx(2 * small.width, rel=0.02)


def test_sheet_without_pages_is_refused():
    with pytest.raises(ValueError, match="at least one page"):
        contact_sheet([], "A star")


def test_codes_have_colors_of_their_own():
    assert len({code_color(code) for code in range(512)}) == 512
    assert all(re.fullmatch(r"#[0-9a-f]{6}", code_color(code)) for code in (0, 511, 4095, 10**6))
