"""The notebooks run from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHORTER = {  # Minutes of training and hundreds of pages are for readers.
    "read_the_codebook": {"StoryWorld(100,": "StoryWorld(24,"},
    "steer_a_story": {"num_plans=32": "num_plans=4"},
    "train_on_your_pictures": {"max_steps=120": "max_steps=8", "range(48)": "range(16)"},
}


def test_there_are_four_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "read_the_codebook",
        "steer_a_story",
        "tell_a_story",
        "train_on_your_pictures",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_start_to_end(notebook):
    import nbformat
    from nbclient import NotebookClient

    text = notebook.read_text(encoding="utf-8")
    for long, short in SHORTER.get(notebook.stem, {}).items():
        assert long in text
        text = text.replace(long, short)
    cells = nbformat.reads(text, as_version=4)
    NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
