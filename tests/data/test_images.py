"""Pictures of every mode and format, and broken ones."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from modules.common.errors import UserError
from modules.data import images
from modules.data.folder import StoryFolder
from modules.data.images import check_image, fit_image, load_image, store_image
from tests.support.story_folders import make_folder, page, picture


def noisy_jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("RGB", "tif"),
        ("P", "gif"),
        ("P", "png"),
        ("L", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("RGBA", "webp"),
        ("YCbCr", "jpg"),
    ],
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
    with pytest.raises(UserError, match=r"cut\.jpg"):
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
    (folder / "images" / "huge.png").write_bytes(
        small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    )
    monkeypatch.setattr(images, "to_rgb", lambda _: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"huge\.png is over 50 megapixels"):
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


def test_pictures_with_broken_checksums_are_refused_everywhere(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    for name, broken in (("no end", content[:-12]), ("bad sum", content[:-16] + b"xxxx" + content[-12:])):
        path = tmp_path / f"{name}.png"
        path.write_bytes(broken)
        for read in (load_image, check_image, lambda path: store_image(path.read_bytes(), "x", 512)):
            with pytest.raises(UserError, match="is broken"):
                read(path)


def test_metadata_may_be_large(tmp_path):
    notes = PngInfo()
    notes.add_text("prompt", "long " * 500_000, zip=True)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png", pnginfo=notes)
    assert load_image(tmp_path / "a.png").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_profile_become_srgb(tmp_path, mode):
    """A profile whose red and green primaries have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[:] = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    image = Image.new("RGB", (40, 30), (200, 20, 20)).convert(mode)
    image.save(tmp_path / "swapped.png", icc_profile=bytes(profile))
    red, green, _ = load_image(tmp_path / "swapped.png").getpixel((3, 3))
    assert green > 150 > 80 > red
    stored, _ = store_image((tmp_path / "swapped.png").read_bytes(), "x", 512)
    assert Image.open(io.BytesIO(stored)).convert("RGB").getpixel((3, 3))[:2] == (red, green)
    image.save(tmp_path / "plain.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert load_image(tmp_path / "plain.png").getpixel((3, 3)) == image.convert("RGB").getpixel((3, 3))
    image.save(tmp_path / "odd.png", icc_profile=b"no profile")
    assert load_image(tmp_path / "odd.png").getpixel((3, 3)) == image.convert("RGB").getpixel((3, 3))


def gray_profile() -> bytes:
    """A profile of gray whose levels are proportional to light: ICC.1:2001-04, with four tags."""
    white = struct.pack(">4s4xiii", b"XYZ ", 63190, 65536, 54061)
    tags = {
        b"desc": struct.pack(">4s4xI5s79x", b"desc", 5, b"gray"),
        b"cprt": struct.pack(">4s4x4s", b"text", b"x"),
        b"wtpt": white,
        b"kTRC": struct.pack(">4s4xIHxx", b"curv", 1, 256),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(content))
        body += content
    head = struct.pack(">I4xI", 128 + len(table + body), 0x02400000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + white[8:] + bytes(48) + table + body


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_levels_of_a_gray_profile_become_srgb(tmp_path, mode):
    gray = np.full((20, 20), 100 * 257 if mode == "I;16" else 100, np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(gray).convert(mode).save(tmp_path / "gray.png", icc_profile=gray_profile())
    assert load_image(tmp_path / "gray.png").getpixel((3, 3)) == (168, 168, 168)  # (100 / 255) ** (1 / 2.2), nearly.


def test_a_transparent_colour_has_a_profile_too(tmp_path):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[:] = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    image = Image.new("RGB", (40, 30), (200, 20, 20))
    image.paste((0, 0, 200), (0, 0, 20, 30))
    image.save(tmp_path / "key.png", icc_profile=bytes(profile), transparency=(0, 0, 200))
    read = load_image(tmp_path / "key.png")
    assert read.getpixel((3, 3)) == (255, 255, 255) and read.getpixel((30, 3))[1] > 150


def test_a_picture_that_is_a_line_is_refused(tmp_path):
    Image.new("RGB", (3000, 1)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match="3000 x 1 pixels, over 1000 times"):
        load_image(tmp_path / "line.png")


def test_a_picture_is_not_broken_because_too_many_files_are_open(tmp_path, monkeypatch):
    picture().save(tmp_path / "page.png")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(images.Image, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        load_image(tmp_path / "page.png")
