"""A branched story as a book that the reader chooses a way through, as Twee for Twine, and as JSON."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from modules.common.files import write_whole
from modules.common.ownership import OwnFiles
from modules.presentation.images import png_uri, write_png
from modules.presentation.story.book import enlarge
from modules.presentation.templates import render
from modules.presentation.text import clean
from modules.steering.branches import BranchedStory, BranchPage

BOOK_FILES = ("book.html", "story.twee", "branches.json")
LONGEST_CHOICE = 160  # Characters of a page's text on the way to it.


def write_branches(folder: Path, story: BranchedStory, lang: str = "en") -> list[Path]:
    """Write book.html, story.twee, branches.json and the pages' pictures; return the files.

    The same story gives the same bytes. Raises UserError if a file cannot be written, or is not this program's.
    """
    own, files = OwnFiles(folder), [f"page_{name}.png" for name in story.pages]
    own.start([*BOOK_FILES, *files])
    pictures = [write_png(folder / f"page_{page.id}.png", enlarge(page.image)) for page in story.pages.values()]
    book = write_whole(folder / "book.html", branching_html(story, lang).encode())
    twine = write_whole(folder / "story.twee", twee(story).encode("utf-8", "replace"))
    record = json.dumps(_record(story), indent=2, ensure_ascii=False) + "\n"
    branches = write_whole(folder / "branches.json", record.encode("utf-8", "replace"))
    own.finish([*BOOK_FILES, *files])
    return [book, twine, branches, *pictures]


def branching_html(story: BranchedStory, lang: str = "en") -> str:
    """Return the book in which the reader chooses: one self-contained page."""
    return render(
        "story/branching.html",
        title=story.prompt,
        lang=lang,
        start=_choices(story, story.start),
        cover=png_uri(story.pages[story.start[0]].image),
        num_endings=len(story.endings),
        pages=[_leaf(story, page) for page in story.pages.values()],
    )


def _leaf(story: BranchedStory, page: BranchPage) -> dict[str, Any]:
    return {
        "id": page.id,
        "number": page.page + 1,
        "text": page.text,
        "picture": png_uri(enlarge(page.image)),
        "choices": _choices(story, page.next),
    }


def _choices(story: BranchedStory, ids: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"id": name, "text": _label(story.pages[name])} for name in ids]


def _label(page: BranchPage) -> str:
    """Return what the choice of a page is called."""
    text = page.caption or page.text
    return text if len(text) <= LONGEST_CHOICE else f"{text[:LONGEST_CHOICE].rsplit(maxsplit=1)[0]} …"


def _record(story: BranchedStory) -> dict[str, Any]:
    pages = [
        {
            "id": page.id,
            "page": page.page + 1,
            "text": page.text,
            "image_path": f"page_{page.id}.png",
            "codes": list(page.codes),
            "next": list(page.next),
            **({"caption": page.caption} if page.caption else {}),
        }
        for page in story.pages.values()
    ]
    endings = {name: plan.to_string() for name, plan in story.endings.items()}
    return {"prompt": story.prompt, "start": list(story.start), "pages": pages, "endings": endings}


def twee(story: BranchedStory) -> str:
    """Return the story in Twee 3, which Twine imports, with the pictures inside."""
    plans = "".join(plan.to_string() for plan in story.endings.values()) or story.prompt
    ifid = str(uuid.uuid5(uuid.NAMESPACE_URL, plans)).upper()
    data = json.dumps({"ifid": ifid, "start": "Start"}, indent=2)
    links = "\n".join(_link(story, name) for name in story.start)
    passages = [f":: StoryTitle\n{_plain(story.prompt)}", f":: StoryData\n{data}"]
    passages.append(f":: Start\n{_prose(story.prompt)}\n\n{links}")
    for page in story.pages.values():
        following = "\n".join(_link(story, name) for name in page.next) or "[[Begin again->Start]]"
        picture = f'<img src="{png_uri(page.image)}" width="384" alt="">'
        passages.append(f":: Page {page.id}\n{picture}\n\n{_prose(page.text)}\n\n{following}")
    return "\n\n\n".join(passages) + "\n"


def _link(story: BranchedStory, name: str) -> str:
    label = _plain(_label(story.pages[name])).replace("]", ")").replace("[", "(").replace("->", "-")
    return f"[[{_escaped(label.replace('|', '/').replace('<-', '-'))}->Page {name}]]"


def _prose(text: str) -> str:
    """Return a text of a passage, in which nothing is markup or a link."""
    return _escaped(_plain(text)).replace("[[", "[&#91;")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _plain(text: str) -> str:
    """Return a text on one line, in which no line can begin a passage."""
    line = " ".join(clean(text).split())
    return f"\\{line}" if line.startswith("::") else line
