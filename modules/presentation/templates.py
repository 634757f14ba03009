"""Jinja2 templates of the pages: HTML is escaped, anything undefined is an error.

Templates lie beside the Python files that fill them and are named by their path below this folder.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.presentation import theme
from modules.presentation.images import jpeg_uri, png_uri
from modules.presentation.text import clean

if TYPE_CHECKING:
    from jinja2 import Environment

MARKDOWN = ".md"  # Not escaped.


def render(template: str, **data: Any) -> str:
    """Fill a template, such as ``story/book.html``; strings are cleaned, and escaped unless it is Markdown."""
    return _environment().get_template(template).render(data)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # Here: importing this module stays fast.

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is None or not name.endswith(MARKDOWN),
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "light": theme.css_variables(theme.LIGHT),
        "dark": theme.css_variables(theme.DARK),
        "fonts": {"serif": theme.SERIF, "sans": theme.SANS},
        "code_ink": theme.CODE_INK,
        "code_color": theme.code_color,
    }
    environment.filters |= {"png_uri": png_uri, "jpeg_uri": jpeg_uri}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _clean(value: Any) -> Any:
    """Remove unprintable characters from a plain string; markup passes unchanged."""
    return clean(value) if type(value) is str else value
