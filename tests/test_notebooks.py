"""The notebooks run from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


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

    cells = nbformat.read(notebook, as_version=4)
    NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
