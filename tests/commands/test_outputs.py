"""What the commands leave in their output folders, and what they find there."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from modules.commands import cli, data_cli
from modules.common.folder_lock import FolderLock
from modules.evaluation.folders import picture_files
from modules.layers.seeding import fold_seed, make_generator
from tests.support.commands import PROMPT, fails, files, run
from tests.support.story_folders import write_captioned_folder


def test_a_story_replaces_only_stories(generate, capsys, tmp_path, tiny_checkpoint):
    out = generate("out", "--num_steps", 3)
    (out / "page_07.png").write_bytes(b"mine")
    (out / "notes.txt").write_text("mine")
    words = ("generate", "--prompt", PROMPT, "--ckpt", tiny_checkpoint, "--output", out)
    before = files(out)
    capsys.readouterr()
    assert "page_07.png was not written by this program" in fails(capsys, *words) and files(out) == before
    (out / "page_07.png").unlink()
    assert generate("out") == out
    capsys.readouterr()
    kept = {"book.html", "generated.png", "story.json", "manifest.json", "notes.txt"}
    assert set(files(out)) == kept | {f"{raw}page_0{n}.png" for raw in ("", "raw/") for n in (1, 2)}
    (out / "story.json").write_text("{}")
    assert "story.json was not written by this program" in fails(capsys, *words)
    with FolderLock(tmp_path / "busy"):
        assert "another process is writing" in fails(capsys, *words[:-1], tmp_path / "busy")


def test_a_folder_that_generate_wrote_counts_its_pages_once(generate, tmp_path):
    out = generate()
    assert [path.name for path in picture_files(out)] == ["page_01.png", "page_02.png"]
    shutil.copytree(out, tmp_path / "again")
    shutil.copytree(out, tmp_path / ".hidden")
    assert len(picture_files(tmp_path)) == 4


def quick(output) -> tuple:
    return ("--num_inference_steps", 2, "--output", output)


@pytest.mark.parametrize("name", ["story.json", "stories.jsonl"])
def test_a_story_without_a_prompt_is_continued_with_one(tiny_checkpoint, tmp_path, capsys, name):
    (tmp_path / name).write_text(json.dumps({"id": "a", "steps": [{"text": "A fox sat."}]}) + "\n")
    words = ("continue", "--story", tmp_path / name, "--num_steps", 1, "--ckpt", tiny_checkpoint)
    assert 'the key "prompt" is missing' in fails(capsys, *words, *quick(tmp_path / "no"))
    assert run(*words, "--prompt", PROMPT, *quick(tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out/story.json").read_text())["prompt"] == PROMPT


def test_all_bits_of_a_seed_count():
    def drawn(seed: int) -> float:
        return torch.rand((), generator=make_generator(seed)).item()

    assert fold_seed(7) == 7 and fold_seed(2**32 - 1) == 2**32 - 1
    assert len({drawn(seed) for seed in (1, 2**32 + 1, 2**33 + 1, 2**62 + 1, 2**63 - 1)}) == 5


def test_a_report_replaces_only_reports(tmp_path, capsys, generate, tiny_checkpoint):
    """view, stats, score and the like replace their own files, others with --overwrite only."""
    write_captioned_folder(tmp_path / "pictures", 4)
    assert data_cli.main(["folder", str(tmp_path / "pictures"), "--output", str(tmp_path / "data")]) == 0
    out = generate()
    calls = {
        "mine.html": (data_cli.main, ["view", tmp_path / "data", "--output"]),
        "mine.png": (data_cli.main, ["stats", tmp_path / "data", "--output"]),
        "mine.json": (cli.main, ["score", out, "--ckpt", tiny_checkpoint, "--json"]),
    }
    for name, (main, words) in calls.items():
        file = tmp_path / name
        file.write_bytes(b"mine")
        command = [str(word) for word in (*words, file)]
        capsys.readouterr()
        assert main(command) == 2 and "is not a report of this program" in capsys.readouterr().err
        assert file.read_bytes() == b"mine"
        assert main([*command, "--overwrite"]) == 0 and b"story-generative-model" in file.read_bytes()[:4096]
        assert main(command) == 0
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(file)
        assert main([*command[:-1], str(tmp_path / "link")]) == 2
