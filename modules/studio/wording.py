"""What jobs and the states that they make are called."""

from __future__ import annotations

from typing import Any


def title_of(request: dict[str, Any]) -> str:
    """Return a job's name in the queue."""
    kind = request["kind"]
    if kind == "generate":
        return str(request["prompt"])
    names = {
        "import": "Restore a story",
        "branch": "Grow branches",
        "find": "Read a picture",
        "alternatives": "Look up other codes",
        "redraw": "Redraw",
        "rewrite": "Rewrite",
        "replan": "Plan anew",
        "text": "Draw new words",
        "words": "Change words",
        "picture": "Read a new picture",
        "codes": "Change codes",
        "move": "Move",
        "remove": "Remove",
        "insert": "Insert",
        "append": "Add a page",
        "restore": "Restore",
    }
    name = names[request.get("operation") or kind]
    page = request.get("page")
    return name if page is None or kind == "import" else f"{name}: page {page + 1}"


def label_of(request: dict[str, Any]) -> str:
    """Return what the state is called that an edit makes."""
    names = {"redraw": "Redrawn", "rewrite": "Rewritten", "replan": "Planned anew", "text": "New words, redrawn"}
    names |= {"words": "New words", "codes": "Other codes", "picture": "New picture", "move": "Moved"}
    names |= {"insert": "Inserted", "remove": "Removed", "restore": "Taken back"}
    name = names[request["operation"]]
    return f"{name} and what follows" if request["and_after"] else name
