"""The documentation: links lead somewhere, commands are understood and run, figures are current."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import download_data
import story_generative_model
from modules.commands import cli, data_cli
from modules.presentation.plots.architecture import architecture_svg
from tests.support.story_folders import write_captioned_folder

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "modules").glob("*/README.md"), *ROOT.glob("benchmarks/*.md")])
MAINS = {"story_generative_model.py": story_generative_model.main, "download_data.py": download_data.main}
COMMAND = re.compile(
    r"^(?:    |`)?(?:accelerate launch .*?|python )(story_generative_model\.py|download_data\.py)(.*)$"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Flags that make a documented command quick; a later flag overrides an earlier one.
SMALL = {
    "train": ["--preset", "tiny", "--max_steps", "4", "--mixed_precision", "no", "--num_stories", "24"],
    "evaluate": ["--num_stories", "2", "--num_drawn", "1"],
    **{name: ["--num_inference_steps", "4"] for name in ("generate", "continue", "illustrate")},
}


def commands(document: Path) -> list[list[str]]:
    """Return the words of the document's commands, the program first.

    Comments are dropped, and so are lines with an ellipsis or a placeholder in capitals.
    """
    found = []
    for line in document.read_text().replace("\\\n", " ").splitlines():
        match = COMMAND.match(line.rstrip("`"))
        words = shlex.split(match[2], comments=True) if match else []
        if match and not any("..." in word or re.fullmatch("[A-Z]{3,}", word) for word in words):
            found.append([match[1], *words])
    return found


def test_every_link_leads_to_a_file():
    links = [(path, link) for path in DOCUMENTS for link in LINK.findall(path.read_text()) if "://" not in link]
    assert links
    assert [(str(path), link) for path, link in links if not (path.parent / link.partition("#")[0]).exists()] == []


def test_every_documented_path_exists():
    """Folders and files that a document names in backticks."""
    names = re.compile(r"`((?:modules|tests|assets|benchmarks|configs|notebooks|checkpoints)/[\w./-]+)`")
    named = {(path.name, name) for path in DOCUMENTS for name in names.findall(path.read_text())}
    made_up = ("checkpoints/run", "checkpoints/mine", "modules/commands/NAME.py")
    absent = {(document, name) for document, name in named if not (ROOT / name).exists()}
    assert sorted(pair for pair in absent if not pair[1].startswith(made_up)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_documented_command_is_understood(document, monkeypatch):
    """Its own parser accepts each command, word for word."""
    monkeypatch.setattr(cli, "execute", lambda _run, _args: 0)
    for program, *words in commands(document):
        if program == "download_data.py":
            words = words if words and not words[0].startswith("--") else [data_cli.DEFAULT_SOURCE, *words]
            data_cli.build_parser().parse_args(words)
        else:
            assert cli.main(words) == 0, words


def test_the_readme_is_short_and_has_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 115
    documented = {words[1] for words in commands(ROOT / "README.md")}
    assert documented >= {"generate", "continue", "train", "evaluate", "folder"}


def test_the_architecture_figure_is_current():
    assert (ROOT / "assets/architecture.svg").read_text() == architecture_svg()


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    """In an empty folder with a folder of pictures, at small size, in their order."""
    write_captioned_folder(tmp_path / "my_pictures", num_stories=12)
    for name in ("checkpoints", "assets"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "checkpoints/storyworld", tmp_path / "checkpoints/storyworld")
    shutil.copytree(ROOT / "checkpoints/judge", tmp_path / "checkpoints/judge")
    monkeypatch.chdir(tmp_path)
    for program, *words in commands(ROOT / "README.md"):
        assert MAINS[program]([*words, *SMALL.get(words[0], [])]) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "checkpoints/mine/model/model.safetensors").is_file()


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["story"].images) == len(names["story"].texts) == 5
