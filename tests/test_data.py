"""Stories on disk, pictures, batches of an epoch, the tokenizer, and the command that writes data: all on real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import download_data
from modules import images
from modules.data import StoryFolder, epoch_batches, fit_image, open_split, write_stories
from modules.images import check_image, load_image
from modules.story import Story, StoryStep, UserError
from modules.tokenizer import SPECIAL_TOKENS, StoryTokenizer, train_tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
PICTUREBOOKS = REPOSITORY.parent / "shared" / "picturebooks"


def picture(colour=(200, 30, 40), size=(12, 8), mode="RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def record(id="a", pages=2, **more) -> dict:
    steps = [{"text": f"Page {page}.", "image_path": "images/p.png"} for page in range(pages)]
    return {"id": id, "prompt": "A fox", "steps": steps, **more}


def make_folder(folder: Path, lines: list) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picture().save(folder / "images" / "p.png")
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    (folder / "stories.jsonl").write_bytes(data)
    return folder


def noisy_jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    return path.read_bytes()


# --- reading stories


def test_reads_stories_with_pictures_and_extra_keys(tmp_path):
    one = record(license="CC-BY")
    one["steps"][1] = {"text": None, "image_path": "images/p.png", "attributes": {"place": "beach"}}
    one["steps"].append({"text": "No picture.\nTwo lines."})
    folder = StoryFolder(make_folder(tmp_path, [b"\xef\xbb\xbf" + json.dumps(one).encode(), b"", record("b", pages=1)]))
    assert len(folder) == 2 and folder.lengths == [3, 1] and folder.skipped == []
    story = folder[0]
    assert (story.id, story.prompt, dict(story.extra)) == ("a", "A fox", {"license": "CC-BY"})
    assert story.steps[0].image.mode == "RGB" and story.steps[0].image.size == (12, 8)
    assert story.steps[1].text is None and story.steps[1].attributes == {"place": "beach"}
    assert story.steps[2].image is None and story.steps[2].image_path is None
    assert list(folder.texts()) == ["A fox", "Page 0.", "No picture.\nTwo lines.", "A fox", "Page 0."]
    assert [story.id for story in folder] == ["a", "b"]
    assert "\n" not in folder.report() and "2 stories" in folder.report()


def test_reads_the_older_one_step_form(tmp_path):
    line = {"prompt": "A cat", "story": "The cat sat.", "image_path": "images/p.png", "source": "m3it"}
    folder = StoryFolder(make_folder(tmp_path, [line, line]))
    assert len({folder[0].id, folder[1].id}) == 2
    assert folder[0].prompt == "A cat" and folder[0].steps[0].text == "The cat sat." and folder[0].steps[0].image is not None
    assert folder[0].extra == {"source": "m3it"}


@pytest.mark.parametrize(("pages", "sizes"), [(7, [2, 2, 3]), (6, [3, 3]), (3, [3]), (1, [1]), (10, [2, 3, 2, 3])])
def test_long_stories_become_even_windows(tmp_path, pages, sizes):
    folder = StoryFolder(make_folder(tmp_path, [record(pages=pages)]), max_steps=3)
    assert folder.lengths == sizes
    assert [story.id for story in folder] == (["a"] if len(sizes) == 1 else [f"a#{i}" for i in range(len(sizes))])
    assert [step.text for story in folder for step in story.steps] == [f"Page {page}." for page in range(pages)]


def test_fingerprint_follows_content_not_place(tmp_path):
    first = StoryFolder(make_folder(tmp_path / "x", [record()])).fingerprint()
    second = make_folder(tmp_path / "y", [record()])
    assert StoryFolder(second).fingerprint() == first
    assert StoryFolder(second, max_steps=1).fingerprint() != first
    picture("blue").save(second / "images" / "p.png")
    assert StoryFolder(second).fingerprint() != first


def page(**step) -> dict:
    return record(steps=[{"text": "One.", "image_path": "images/p.png"}, step])


BAD_LINES = {
    "missing": (page(image_path="images/none.png"), "step 2.*does not exist"),
    "absolute": (page(image_path="/etc/hostname"), "step 2.*inside the folder"),
    "parent": (page(image_path="images/../../p.png"), "step 2.*inside the folder"),
    "windows_parent": (page(image_path="images\\..\\..\\p.png"), "step 2.*inside the folder"),
    "windows_drive": (page(image_path="C:\\p.png"), "step 2.*inside the folder"),
    "empty_path": (page(image_path="", text="Two."), "step 2.*inside the folder"),
    "null_byte": (page(image_path="images/\0.png"), "step 2"),
    "long_name": (page(image_path="x" * 5000), "step 2"),
    "a_folder": (page(image_path="images"), "step 2.*not a file"),
    "empty_step": (page(text=" \n"), "step 2.*neither a text nor a picture"),
    "text_type": (page(text=5), 'step 2.*"text" must be a text, got a number'),
    "path_type": (page(image_path=["p.png"]), 'step 2.*"image_path" must be a text, got a list'),
    "attributes_type": (page(text="Two.", attributes=[1]), 'step 2.*"attributes" must be an object'),
    "step_type": (record(steps=["One."]), "step 1.*must be an object"),
    "no_steps": (record(steps=[]), "no steps"),
    "steps_type": (record(steps={}), '"steps" must be a list'),
    "id_type": (record(id=7), '"id" must be a text'),
    "empty_id": (record(id=""), '"id" is empty'),
    "prompt_type": (record(prompt=None), '"prompt" must be a text, got null'),
    "no_prompt": ({"id": "x", "steps": [{"text": "One."}]}, '"prompt" is missing'),
    "not_a_story": ([1, 2], "must be an object, got a list"),
    "malformed": (b'{"id": "a", ', "not valid JSON"),
    "not_utf8": (b'{"id": "\xff\xfe"}', "not UTF-8"),
    "nan": (b'{"id": "a", "prompt": "p", "score": NaN, "steps": [{"text": "t"}]}', "NaN"),
    "infinity": (b'{"id": "a", "prompt": "p", "score": -Infinity, "steps": [{"text": "t"}]}', "Infinity"),
    "nesting": (b"[" * 200_000, "nested too deeply"),
    "surrogate": (b'{"id": "a", "prompt": "\\ud800", "steps": [{"text": "t"}]}', "surrogate"),
    "huge_number": (b'{"id": "a", "prompt": "p", "n": ' + b"9" * 5000 + b', "steps": [{"text": "t"}]}', "not valid JSON"),
    "duplicate": (record("good0"), 'the id "good0" is that of line 1 too'),
    "over_long": (b'{"id": "' + b"x" * 10_000_001 + b'"}', "longer than 10 MB"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_record_is_named_or_skipped(tmp_path, name):
    bad, message = BAD_LINES[name]
    good = [record(f"good{i}", pages=1) for i in range(10)]
    make_folder(tmp_path, [*good[:5], bad, *good[5:]])
    with pytest.raises(UserError, match=rf"stories\.jsonl line 6: .*{message}"):
        StoryFolder(tmp_path)
    folder = StoryFolder(tmp_path, on_bad_record="skip")
    assert len(folder) == 10 and len(folder.skipped) == 1 and "line 6" in folder.skipped[0]
    assert "1 skipped" in folder.report() and "\n" not in folder.report()


def test_a_window_id_that_another_story_has_is_a_duplicate(tmp_path):
    make_folder(tmp_path, [record("a", pages=4), record("a#1", pages=1)])
    assert len(StoryFolder(tmp_path)) == 2
    with pytest.raises(UserError, match='line 2: the id "a#1"'):
        StoryFolder(tmp_path, max_steps=2)


def test_an_error_names_the_first_five_problems(tmp_path):
    make_folder(tmp_path, [record(), *[b"{"] * 8])
    with pytest.raises(UserError, match=r"8 of 9 records.*line 2.*line 6.*and 3 more") as caught:
        StoryFolder(tmp_path)
    assert "line 7" not in str(caught.value)


def test_more_than_a_tenth_skipped_is_an_error(tmp_path):
    make_folder(tmp_path, [*(record(f"g{i}") for i in range(8)), b"{"])
    with pytest.raises(UserError, match="1 of 9 records.*too many to skip"):
        StoryFolder(tmp_path, on_bad_record="skip")


def test_missing_or_empty_files_and_wrong_options(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        StoryFolder(tmp_path)
    make_folder(tmp_path, [b"", b"  "])
    with pytest.raises(UserError, match="holds no stories"):
        StoryFolder(tmp_path)
    make_folder(tmp_path, [record()])
    with pytest.raises(UserError, match="max_steps"):
        StoryFolder(tmp_path, max_steps=0)
    with pytest.raises(UserError, match="on_bad_record"):
        StoryFolder(tmp_path, on_bad_record="ignore")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_links_that_escape_and_pipes_are_refused(tmp_path):
    folder = make_folder(tmp_path / "data", [page(image_path="images/link.png")])
    picture().save(tmp_path / "outside.png")
    link = folder / "images" / "link.png"
    link.symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match="line 1: step 2.*leaves the folder"):
        StoryFolder(folder)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(UserError, match="line 1: step 2"):
        StoryFolder(folder)
    link.unlink()
    link.symlink_to(folder / "images" / "p.png")
    assert len(StoryFolder(folder)) == 1
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(UserError, match="not a file"):
        StoryFolder(folder)


def test_open_split_picks_parts(tmp_path):
    for split, pages in (("train", 2), ("val", 1)):
        make_folder(tmp_path / split, [record(pages=pages)])
    assert open_split(tmp_path, "train").lengths == [2]
    assert open_split(tmp_path, "train", max_steps=1).lengths == [1, 1]
    assert open_split(tmp_path, "val").lengths == [1]
    assert open_split(tmp_path / "val", "val").lengths == [1]
    for folder, split, message in [
        (tmp_path / "val", "train", "one set of stories"),
        (tmp_path / "train", "val", "one set of stories"),
        (tmp_path, "test", '"train" or "val"'),
        (tmp_path / "none", "val", "does not exist"),
        (tmp_path / "train" / "images", "val", "holds neither"),
    ]:
        with pytest.raises(UserError, match=message):
            open_split(folder, split)


# --- pictures


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "png"), ("RGB", "jpg"), ("RGB", "webp"), ("RGB", "bmp"), ("RGB", "tif"), ("P", "gif"), ("P", "png"), ("L", "png")]
    + [("1", "png"), ("CMYK", "jpg"), ("CMYK", "tif"), ("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("YCbCr", "jpg")],
)
def test_every_mode_and_format_becomes_rgb(tmp_path, mode, ending):
    path = tmp_path / f"p.{ending}"
    picture((255, 255, 255), mode=mode).save(path)
    check_image(path)
    image = load_image(path)
    assert image.mode == "RGB" and image.size == (12, 8) and np.asarray(image).min() >= 250


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (7, 3)])
def test_tiny_pictures_are_pictures(tmp_path, size):
    picture(size=size).save(tmp_path / "p.jpg")
    check_image(tmp_path / "p.jpg")
    assert load_image(tmp_path / "p.jpg").size == size


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "rgba.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("rgba.png", "palette.png"):
        assert load_image(tmp_path / name).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_and_floats_are_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "int.tif")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.png", "int.tif", "float.tif"):
        check_image(tmp_path / name)
        values = np.asarray(load_image(tmp_path / name))[..., 0]
        assert np.abs(values.astype(int) - np.round(ramp / 257).astype(int)).max() <= 1


def test_first_frame_and_upright(tmp_path):
    frames = [picture("red"), picture("blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(size=(12, 8)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (8, 12)


def test_broken_pictures_are_found(tmp_path):
    whole = noisy_jpeg(tmp_path / "whole.jpg")
    check_image(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"not a picture")
    Image.open(tmp_path / "whole.jpg").save(tmp_path / "whole.png")
    data = bytearray((tmp_path / "whole.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "flipped.png").write_bytes(data)
    picture().save(tmp_path / "other.ppm")
    for name in ("cut.jpg", "empty.png", "text.png", "flipped.png", "other.ppm"):
        with pytest.raises(UserError, match=name):
            check_image(tmp_path / name)
    with pytest.raises(UserError, match="cut.jpg"):
        load_image(tmp_path / "cut.jpg")


def test_a_broken_jpeg_body_is_found_at_construction(tmp_path):
    folder = make_folder(tmp_path, [page(image_path="images/cut.jpg")])
    path = folder / "images" / "cut.jpg"
    whole = noisy_jpeg(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"line 1: step 2: the picture .*cut\.jpg is broken"):
        StoryFolder(folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [7_100, 10_000, 20_000])
def test_huge_pictures_are_refused_by_their_header(tmp_path, side, monkeypatch):
    folder = make_folder(tmp_path, [page(image_path="images/huge.png")])
    small = (folder / "images" / "p.png").read_bytes()
    header = b"IHDR" + side.to_bytes(4, "big") * 2 + small[24:29]
    (folder / "images" / "huge.png").write_bytes(small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:])
    monkeypatch.setattr(images, "to_rgb", lambda image: pytest.fail("decoded"))
    with pytest.raises(UserError, match="huge.png is over 50 megapixels"):
        check_image(folder / "images" / "huge.png")


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (16, 16), (1, 500), (500, 1), (7, 5)])
def test_fit_image_keeps_the_shape_and_pads_with_the_border(size):
    image = picture((250, 10, 20), size)
    fitted = fit_image(image, 16)
    assert fitted.mode == "RGB" and fitted.size == (16, 16)
    assert np.abs(np.asarray(fitted).astype(int) - (250, 10, 20)).max() <= 2


def test_fit_image_centres_without_distortion():
    image = picture("white", (40, 20))
    image.paste((0, 0, 0), (10, 5, 30, 15))
    dark = np.asarray(fit_image(image, 40))[..., 0] < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (15, 24, 10, 29)
    with pytest.raises(ValueError, match="size"):
        fit_image(image, 0)


# --- writing stories


def test_what_is_written_can_be_read(tmp_path):
    steps = (
        StoryStep("Ünï ☂\n“two”", picture("red"), {"place": "hill", "with": ["fox"]}),
        StoryStep(None, picture("blue", mode="RGBA")),
        StoryStep("Text only."),
    )
    stories = [Story("x/../1", "A fox", steps, {"license": "MIT"}), Story("2", "A cat", steps[2:])]
    assert write_stories(tmp_path / "out", stories) == 2
    folder = StoryFolder(tmp_path / "out")
    story = folder[0]
    assert (story.id, story.prompt, story.extra, folder[1].id) == ("x/../1", "A fox", {"license": "MIT"}, "2")
    assert [step.text for step in story.steps] == [step.text for step in steps]
    assert story.steps[0].attributes == steps[0].attributes and story.steps[1].attributes is None
    assert story.steps[0].image.tobytes() == steps[0].image.tobytes() and story.steps[2].image is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "stories.jsonl"]


@pytest.mark.parametrize(
    ("stories", "message"),
    [
        ([Story("1", "p", (StoryStep(None),))], "neither a text nor a picture"),
        ([Story("1", "p", ())], "no steps"),
        ([Story("1", "p", (StoryStep("t"),))] * 2, 'two stories have the id "1"'),
        ([Story("1", "p", (StoryStep("t", None, {"x": object()}),))], "cannot be written"),
        ([Story("1", "p", (StoryStep("t"),), {"score": float("nan")})], "cannot be written"),
        ([Story("1", "p", (StoryStep("t"),), {"steps": 1})], "cannot be a key of extra"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, stories, message):
    with pytest.raises(UserError, match=message):
        write_stories(tmp_path, stories)
    assert not list(tmp_path.glob("stories.jsonl*"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    write_stories(tmp_path, [Story("1", "old", (StoryStep("t"),))])

    def interrupted():
        yield Story("2", "new", (StoryStep("t"),))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stories(tmp_path, interrupted())
    assert [story.prompt for story in StoryFolder(tmp_path)] == ["old"]
    assert not list(tmp_path.glob("*.partial"))


def test_an_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_stories(tmp_path / "file" / "out", [])


# --- batches of an epoch


@pytest.mark.parametrize(("count", "batch_size"), [(103, 8), (16, 4), (5, 5), (9, 8), (7, 1)])
def test_epoch_batches_are_full_and_cover_every_story(count, batch_size):
    lengths = np.random.default_rng(3).integers(3, 7, count).tolist()
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=0)
    assert all(len(batch) == batch_size == len(set(batch)) for batch in batches)
    assert {index for batch in batches for index in batch} == set(range(count))
    assert len(batches) == -(-count // batch_size)
    mixed = [batch for batch in batches if len({lengths[index] for index in batch}) > 1]
    remainders = sum(group % batch_size for group in Counter(lengths).values())
    assert len(mixed) <= -(-remainders // batch_size)


def test_epoch_batches_depend_on_seed_and_epoch_alone():
    lengths = [4, 5] * 40
    first = epoch_batches(lengths, 8, seed=0, epoch=0)
    assert first == epoch_batches(lengths, 8, seed=0, epoch=0)
    assert first != epoch_batches(lengths, 8, seed=0, epoch=1) != epoch_batches(lengths, 8, seed=1, epoch=1)
    order = [lengths[batch[0]] for batch in first]
    assert order != sorted(order)
    assert all(isinstance(index, int) for batch in first for index in batch)


def test_few_stories_are_repeated_and_none_is_an_error():
    (batch,) = epoch_batches([4, 4, 6], 8, seed=0, epoch=0)
    assert sorted(Counter(batch).values()) == [2, 3, 3]
    for lengths, batch_size in [([], 2), ([1], 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            epoch_batches(lengths, batch_size, 0, 0)


# --- tokenizer

TEXTS = ["Mia the fox found a red kite.", "The red kite flew. Mia’s kite!", "It wasn't far, said the café owner."] * 5
HARD_TEXTS = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "\n\nx\n",
    "tab\tand\r\nlines",
    "😀👩‍👩‍👧 fun",
    "مرحبا بالعالم",
    "e\u0301 ﬁ ½",
    "\u2581low",
    "\x00\x7f",
]
HARD_TEXTS += ["<eos> and <pad><bos>", "\ufeffbom", "日本語の本", "हिन्दी", "a" * 300, "\u2028line", "don't “do” it…", "\U0010ffff"]


@pytest.fixture(scope="module")
def tokenizer() -> StoryTokenizer:
    return StoryTokenizer.train(iter(TEXTS), 320)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_decode_inverts_encode(tokenizer, text):
    ids = tokenizer.encode(text, 10_000)
    assert (ids[0], ids[-1]) == (1, 2) and all(id > 2 for id in ids[1:-1])
    assert tokenizer.decode(ids) == text


def test_decode_inverts_encode_on_random_unicode(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(300):
        points = rng.choice([rng.integers(32, 127), rng.integers(0, 0xD800), rng.integers(0xE000, 0x110000)], rng.integers(1, 12))
        text = "".join(map(chr, points)) + " " * int(rng.integers(0, 3))
        assert tokenizer.decode(tokenizer.encode(text, 10_000)) == text


def test_a_word_has_the_same_tokens_everywhere(tokenizer):
    alone, within = tokenizer.encode("kite", 50), tokenizer.encode("red kite", 50)
    assert within[-len(alone) + 1 :] == alone[1:]


def test_truncation_keeps_eos_and_decode_stops_there(tokenizer):
    text = "Mia the fox found a red kite."
    ids = tokenizer.encode(text, 6)
    assert len(ids) == 6 and ids[-1] == tokenizer.eos_id and text.startswith(tokenizer.decode(ids))
    assert tokenizer.decode([1, *tokenizer.encode("fox", 20), *tokenizer.encode("kite", 20)]) == "fox"
    assert tokenizer.decode(torch.tensor(tokenizer.encode("fox", 20)[:-1])) == "fox"
    assert tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match="max_length"):
        tokenizer.encode(text, 1)
    with pytest.raises(UserError, match="Unicode"):
        tokenizer.encode("\ud800", 10)


def test_encode_batch_pads_to_the_length_asked_for(tokenizer):
    ids, mask = tokenizer.encode_batch(["fox", "", "The red kite flew far over the hill."], 12)
    assert ids.shape == mask.shape == (3, 12) and ids.dtype == torch.long and mask.dtype == torch.bool
    assert (ids[~mask] == tokenizer.pad_id).all() and (ids[mask] != tokenizer.pad_id).all()
    assert mask.sum(1).tolist()[1:] == [2, 12] and ids[2, -1] == tokenizer.eos_id
    assert tokenizer.decode(ids[0]) == "fox"
    empty, _ = tokenizer.encode_batch([], 12)
    assert empty.shape == (0, 12)


def test_training_is_deterministic_and_keeps_bytes_and_special_tokens(tokenizer):
    again = train_tokenizer(list(TEXTS), 320)
    assert again.to_str() == tokenizer.tokenizer.to_str()
    assert [again.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert 259 < tokenizer.vocab_size <= 320
    assert train_tokenizer([], 259).get_vocab_size() == 259
    with pytest.raises(UserError, match="at least 259"):
        train_tokenizer(TEXTS, 258)


def test_words_and_unseen_words(tokenizer):
    assert list(tokenizer.words) == sorted(set(tokenizer.words)) and {"mia", "mia's", "wasn't", "café", "a"} <= set(tokenizer.words)
    assert tokenizer.unseen_words("MIA’s fox’s dragon wasn’t a Dragon, cafe\u0301 42 'kite'") == ["dragon", "42"]


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "model")
    loaded = StoryTokenizer.load(tmp_path / "model")
    assert loaded.words == tokenizer.words and loaded.vocab_size == tokenizer.vocab_size
    for text in (*TEXTS, *HARD_TEXTS):
        assert loaded.encode(text, 64) == tokenizer.encode(text, 64)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    for folder in (tmp_path / "model", tmp_path / "none"):
        with pytest.raises(UserError, match="no tokenizer"):
            StoryTokenizer.load(folder)
    with pytest.raises(UserError, match="cannot be written"):
        tokenizer.save(tmp_path / "model" / "words.json")


# --- the command


class FakeWorld:
    """Stands in for the story world, which has tests of its own."""

    name = "fake"

    def __init__(self, num_stories, seed, split="train", image_size=96):
        self.num_stories, self.seed, self.split, self.image_size = num_stories, seed, split, image_size

    def __len__(self):
        return self.num_stories

    def __getitem__(self, index):
        step = StoryStep("One.", picture(size=(self.image_size, self.image_size)), {"place": "hill"})
        return Story(f"{self.split}-{self.seed}-{index}", "A fox", (step, step))


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setitem(sys.modules, "modules.storyworld", types.SimpleNamespace(StoryWorld=FakeWorld))


def download(*arguments) -> int:
    try:
        return download_data.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def test_download_writes_both_splits(world, tmp_path):
    assert download("storyworld", "--stories", 4, "--val-stories=2", "--seed", 3, "--image-size", 32, "--output", tmp_path / "my-data") == 0
    train, val = open_split(tmp_path / "my-data", "train"), open_split(tmp_path / "my-data", "val")
    assert (len(train), len(val), val[1].id, train[0].steps[0].image.size) == (4, 2, "val-3-1", (32, 32))
    assert sorted(path.name for path in (tmp_path / "my-data").iterdir()) == ["train", "val"]


def test_download_refuses_to_overwrite(world, tmp_path, capsys):
    arguments = ("storyworld", "--stories", 1, "--output", tmp_path)
    assert download(*arguments) == 0
    (tmp_path / "train" / "note.txt").write_text("mine")
    assert download(*arguments, "--seed", 1) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "train" / "note.txt").exists()
    assert download(*arguments, "--seed", 1, "--overwrite") == 0
    assert open_split(tmp_path, "train")[0].id == "train-1-0" and len(open_split(tmp_path, "val")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


def test_ctrl_c_changes_nothing(world, tmp_path, monkeypatch, capsys):
    assert download("storyworld", "--stories", 1, "--output", tmp_path) == 0

    def interrupt(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeWorld, "__getitem__", interrupt)
    assert download("storyworld", "--stories", 5, "--output", tmp_path, "--overwrite") == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(open_split(tmp_path, "train")) == 1 and sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


@pytest.mark.parametrize(
    "arguments",
    [("nowhere",), ("storyworld", "--stories", "0"), ("storyworld", "--stories", "many"), ("storyworld", "--seed", "-1")]
    + [("storyworld", "--image_size", "5"), ("storyworld", "--colour", "red"), ("storyworld", "--output", __file__)],
)
def test_bad_input_is_one_sentence(world, arguments, capsys):
    assert download(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err and captured.out == ""


def test_help_imports_nothing_heavy():
    code = "import sys, download_data\ntry: download_data.main(['storyworld', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'rich', 'tokenizers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=60).returncode == 0


# --- real data


def test_reads_real_picture_books():
    if not (PICTUREBOOKS / "val" / "stories.jsonl").exists():
        pytest.skip("the picture books are not on this machine")
    folder = open_split(PICTUREBOOKS, "val", max_steps=8)
    assert folder.skipped == [] and max(folder.lengths) <= 8
    story = folder[0]
    assert story.extra["license"] and all(step.text and fit_image(step.image, 96).size == (96, 96) for step in story.steps)
    texts = list(folder.texts())
    tokenizer = StoryTokenizer.train(texts, 500)
    assert all(tokenizer.decode(tokenizer.encode(text, 4096)) == text for text in texts)
    assert tokenizer.unseen_words(" ".join(texts)) == []
