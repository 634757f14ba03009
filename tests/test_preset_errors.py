"""Every pretrained part of every preset that cannot be had is told in one line that names the part, and leaves nothing
behind.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

import story_generative_model
from modules.config import StoryConfig
from modules.presets import CLIP
from tests.support.tiny_presets import PRETRAINED, tiny_preset

PARTS = ("storyboard.image_encoder", "storyboard.text_encoder", "text_decoder", "image_decoder", "autoencoder")


def with_source(config: StoryConfig, name: str, source: str) -> StoryConfig:
    first, _, rest = name.partition(".")
    part = getattr(config, first)
    return replace(config, **{first: with_source(part, rest, source) if rest else replace(part, source=source)})


def sources(config: object, prefix: str = "") -> list[str]:
    """The names of all parts that have a source."""
    found = [prefix.rstrip(".")] if getattr(config, "source", None) else []
    for field in fields(config):
        value = getattr(config, field.name)
        found += sources(value, f"{prefix}{field.name}.") if is_dataclass(value) else []
    return found


def told(config: StoryConfig, folder: Path, capsys: pytest.CaptureFixture) -> str:
    """The last line on stderr of a training that cannot begin."""
    (folder / "config.json").write_text(config.to_json())
    words = ["train", "--config", str(folder / "config.json"), "--output_dir", str(folder / "run"), "--offline"]
    assert story_generative_model.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and "Traceback" not in captured.err and not list(folder.rglob("step_*"))
    return captured.err.splitlines()[-1]


CASES = [(name, part) for name in PRETRAINED for part in PARTS if part in sources(tiny_preset(name, Path("hub")))]


def test_the_parts_are_all_there_are():
    for name in PRETRAINED:
        assert set(sources(tiny_preset(name, Path("hub")))) <= set(PARTS)


@pytest.mark.parametrize(("name", "part"), CASES)
def test_a_part_that_is_nowhere(hub, tmp_path, capsys, name, part):
    config = tiny_preset(name, hub)
    line = told(with_source(config, part, str(tmp_path / "nowhere")), tmp_path, capsys)
    assert f"{part}.source" in line and "nowhere" in line
    line = told(with_source(config, part, "someone/not-cached"), tmp_path, capsys)
    assert f"{part}.source" in line and "someone/not-cached" in line and "offline" in line


@pytest.mark.parametrize(("name", "part"), CASES)
def test_a_part_of_another_kind(hub, tmp_path, capsys, name, part):
    config = tiny_preset(name, hub)
    other = config.text_decoder.source if part != "text_decoder" else str(hub / CLIP)
    line = told(with_source(config, part, other), tmp_path, capsys)
    assert f"{part}.source" in line and other in line
