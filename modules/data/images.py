"""Read image files of any common format and mode as RGB, reject broken or huge ones, and fit them into a square."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from modules.common.errors import UserError
from modules.common.faults import are_too_many_files
from modules.story import Story

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS, MAX_RATIO = 50_000_000, 1000
_GRAY = ("L", "LA", "La", "I", "I;16", "I;16B")
SRGB_LEVELS = 4  # Profiles of sRGB by other makers differ by less.
# Texts and colour profiles in a PNG may have more than Pillow's 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 64 << 20


def load_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB: its first frame, rotated by its EXIF tag, on white, in sRGB, with 16 bits scaled to 8.

    Raises:
        UserError: the file is missing, broken (also by its checksums), not in one of `FORMATS`, larger than
            `MAX_PIXELS`, or over `MAX_RATIO` times as long as wide.
    """
    with _errors_named(path), _open_file(path) as file:
        return _decode(file)


def decode_image(content: bytes, name: str) -> Image.Image:
    """As `load_image`, from a file's bytes; `name` appears in errors."""
    with _errors_named(name):
        return _decode(io.BytesIO(content))


def with_pictures(story: Story, pictures: Sequence[bytes | None]) -> Story:
    """Decode encoded pictures into the steps of a story. Raises UserError if one is broken."""
    names = (f'of step {number} of "{story.id}"' for number in range(1, len(story.steps) + 1))
    steps = (
        step if picture is None else replace(step, image=decode_image(picture, name))
        for step, picture, name in zip(story.steps, pictures, names, strict=True)
    )
    return replace(story, steps=tuple(steps))


def check_image(path: str | Path) -> str:
    """Decode an image file completely, so that a broken one is found before training, and return its SHA-256.

    `verify()` reads checksums (PNG) but not the body of a JPEG, so the image is decoded too; a JPEG at an eighth of
    its size, which still consumes the whole stream.

    Raises:
        UserError: as `load_image`.
    """
    with _errors_named(path), _open_file(path) as file:
        image = _open_verified(file)
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        to_rgb(image)
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def store_image(content: bytes, name: str, max_side: int) -> tuple[bytes, str]:
    """Return the bytes and suffix of the file to store for an image, with sides of at most `max_side` pixels.

    A JPEG or PNG that is small enough, upright and opaque is kept byte for byte, since encoding it again loses quality.

    Raises:
        UserError: as `load_image`; `name` appears in errors.
    """
    with _errors_named(name):
        image = _open_verified(io.BytesIO(content))
        kind, plain = image.format, image.mode in ("RGB", "L") and not image.has_transparency_data
        image.load()
        small = max(image.size) <= max_side
        upright = _to_srgb(_upright(image))
        plain = plain and upright.info.get("icc_profile") == image.info.get("icc_profile")
        if small and plain and kind in ("JPEG", "PNG") and image.getexif().get(0x0112, 1) == 1:
            return content, ".jpg" if kind == "JPEG" else ".png"
        image, buffer = to_rgb(upright), io.BytesIO()
        if small and kind != "JPEG":
            image.save(buffer, "PNG")
            return buffer.getvalue(), ".png"
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=95)
        return buffer.getvalue(), ".jpg"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; transparent areas become white."""
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit_image(image: Image.Image, size: int) -> Image.Image:
    """Fit an image of any shape into a (size, size) RGB square: scale it, then pad with the colour of its border.

    Padding, not cropping: a second character often stands at the edge of a page, and a text that names what was cropped
    away would teach the model to write about what it cannot see. The border's median colour continues the page's
    background, so that the model does not learn to draw bars.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    scaled = to_rgb(image).resize((width, height), Image.Resampling.LANCZOS)
    if scaled.size == (size, size):
        return scaled
    square = Image.new("RGB", (size, size), _border_colour(scaled))
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return square


def _border_colour(image: Image.Image) -> tuple[int, ...]:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(border, axis=0))


def _open_file(path: str | Path) -> IO[bytes]:
    if not Path(path).is_file():  # Opening a pipe would block forever.
        raise FileNotFoundError
    return open(path, "rb")


def _decode(file: IO[bytes]) -> Image.Image:
    return to_rgb(_to_srgb(_upright(_open_verified(file))))


def _open_verified(file: IO[bytes]) -> Image.Image:
    """Open an image whose size and checksums are in order; a PNG's pixels may be whole where its checksums are not."""
    _open_checked(file).verify()
    file.seek(0)
    return _open_checked(file)


def _open_checked(file: IO[bytes]) -> Image.Image:
    image = Image.open(file, formats=FORMATS)  # Reads only the header: nothing is decoded before the size is known.
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if max(image.size) > MAX_RATIO * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels, over {MAX_RATIO} times as long as wide")
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert the colours of an embedded profile to sRGB; an unreadable profile does not mean broken pixels."""
    profile = image.info.get("icc_profile")
    if not profile or not (image.mode in ("RGB", "RGBA", "CMYK", "P", "PA") or image.mode in _GRAY):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        plain = _to_eight_bits(image) if image.mode.startswith("I") else image
        if plain.mode != "CMYK":
            plain = plain.convert("L" if image.mode in _GRAY else "RGB")
            if _is_srgb(profile, plain.mode):
                return image
        converted = ImageCms.profileToProfile(plain, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    assert converted is not None, "only a conversion in place returns nothing"
    converted.info.pop("icc_profile", None)
    if image.has_transparency_data:
        converted.info.pop("transparency", None)  # A colour of the old profile.
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


@lru_cache(64)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a profile changes no colour by more than a few levels, whatever it is called."""
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)).convert(mode)
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    shown = ImageCms.profileToProfile(probe, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert shown is not None, "only a conversion in place returns nothing"
    return int(np.abs(np.asarray(shown).astype(int) - np.asarray(probe.convert("RGB"))).max()) <= SRGB_LEVELS


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError):  # An unreadable EXIF block does not mean broken pixels.
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    peak = values.max()
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # 32-bit files do not define white: take the lowest common level above the brightest pixel.
        levels = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((level for level in levels if peak <= level), peak)
    return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))


@contextmanager
def _errors_named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"the picture {path} does not exist or is not a file") from None
    except PermissionError:
        raise UserError(f"the picture {path} may not be read; change its permissions") from None
    except UnidentifiedImageError:
        raise UserError(f"the picture {path} is broken or not one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"the picture {path} is over {MAX_PIXELS // 1_000_000} megapixels; make it smaller") from None
    except Exception as error:
        if are_too_many_files(error):
            raise
        raise UserError(f"the picture {path} is broken ({error or type(error).__name__})") from None
