"""A book as an animation, a page after the other: GIF, WebP, and MP4 where ffmpeg is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from modules.common.errors import UserError
from modules.common.progress import track
from modules.presentation.export.book import Book
from modules.presentation.export.drawing import draw_leaf
from modules.presentation.export.layout import LANDSCAPE, lay_out
from modules.presentation.export.settings import ExportSettings

WIDTH, VIDEO_WIDTH, VIDEO_RATE = 960, 1920, 25
LONGEST_GIF = 655  # Seconds: hundredths in 16 bits.


def gif(book: Book, settings: ExportSettings) -> bytes:
    """Return an endless GIF, with the plan as its comment. Raises UserError if a page is to be shown for too long."""
    if settings.seconds > LONGEST_GIF:
        raise UserError(f"a gif shows a page for {LONGEST_GIF} seconds at most: lower --seconds, or choose webp or mp4")
    frames = [frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in _frames(book, settings, WIDTH)]
    return _animation(frames, "GIF", settings, comment=(book.plan or "").encode(), disposal=1)


def webp(book: Book, settings: ExportSettings) -> bytes:
    """Return an endless WebP, with the plan as its XMP."""
    return _animation(
        _frames(book, settings, WIDTH), "WEBP", settings, quality=88, method=4, xmp=(book.plan or "").encode()
    )


def mp4(book: Book, settings: ExportSettings) -> bytes:
    """Return an H.264 video, with title and plan in its metadata. Raises UserError where there is no ffmpeg."""
    program = _ffmpeg()
    frames = _frames(book, settings, VIDEO_WIDTH)
    width, height = frames[0].size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "book.mp4")
        command = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-framerate", f"{1 / settings.seconds:.6f}", "-i", "-", "-r", str(VIDEO_RATE)]
        command += ["-c:v", "libx264", "-preset", "veryfast", "-tune", "stillimage", "-threads", "1", "-crf", "18"]
        command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
        command += ["-metadata", f"title={book.title}", "-metadata", f"comment={book.plan or ''}", str(file)]
        frame_bytes = b"".join(frame.tobytes() for frame in frames)
        done = subprocess.run(command, input=frame_bytes, capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise UserError(f"ffmpeg could not write the video ({reason[0]}): choose gif or webp")
        return file.read_bytes()


def _ffmpeg() -> str:
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise UserError(
            "mp4 needs ffmpeg, which is not installed: install it or the package imageio-ffmpeg, or choose webp"
        ) from None


def _frames(book: Book, settings: ExportSettings, width: int) -> list[Image.Image]:
    leaves = lay_out(book, settings, LANDSCAPE)
    return [draw_leaf(leaf, width) for leaf in track("pages drawn", leaves, visible=len(leaves) > 20)]


def _animation(frames: list[Image.Image], kind: str, settings: ExportSettings, **options: object) -> bytes:
    buffer = io.BytesIO()
    duration = round(settings.seconds * 1000)
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=duration, loop=0, **options)
    return buffer.getvalue()
