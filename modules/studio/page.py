"""The page of the studio and its files, which are read once: no request ever opens one."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

from modules.presentation import theme

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HUES = 24  # Of the code chips.
pages = APIRouter()


def _assets() -> dict[str, tuple[bytes, str]]:
    """Return the bytes and the type of every file by its name."""
    files = {
        path.relative_to(STATIC).as_posix(): (path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in STATIC.rglob("*")
        if path.suffix in MEDIA_TYPES
    }
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in theme.css_variables(kind).items())
        for kind in (theme.LIGHT, theme.DARK)
    )
    fonts = f"--serif:{theme.SERIF};--sans:{theme.SANS};--code-ink:{theme.CODE_INK};"
    css = f":root{{{fonts}{light}}}:root[data-theme=dark]{{{dark}}}"
    css += f"@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
    css += "".join(f".hue{hue}{{background:{theme.hue_color(hue / HUES)}}}" for hue in range(HUES))
    return files | {"theme.css": (css.encode(), "text/css")}


ASSETS = _assets()


@pages.get("/", include_in_schema=False)
def index() -> Response:
    return asset("index.html")


@pages.get("/static/{name:path}", include_in_schema=False)
def asset(name: str) -> Response:
    if name not in ASSETS:
        raise HTTPException(404, "there is no such file")
    content, kind = ASSETS[name]
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})
