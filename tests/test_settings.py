"""Every setting of every config declares what it may be, and whatever else it is given is one line before any work."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import story_generative_model
from modules.common.errors import UserError
from modules.common.limits import Limit
from modules.config import StoryConfig, load_config, parse_config
from modules.evaluation.judge.judge import JudgeConfig
from modules.evaluation.sweep import Sweep, with_setting
from modules.generation.settings import GenerationSettings
from modules.presets import PRESETS
from modules.training.settings import TrainSettings

DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]
HUGE = 10**5000
# Values of which most settings can take none.
STRANGE = (
    None,
    "",
    "abc",
    True,
    math.nan,
    math.inf,
    -math.inf,
    0,
    -1,
    0.5,
    1e300,
    10**12,
    HUGE,
    [],
    [0],
    {},
    {"a": 1},
    DEEP,
)
TEXTS = {"preset", "source"}  # Any text may be one.


def leaves(cls: type = StoryConfig, section: str = "") -> Iterator[tuple[str, type, dataclasses.Field]]:
    """The settings of a config and its sections, each with its dotted name and its dataclass."""
    for field in dataclasses.fields(cls):
        kind, name = typing.get_type_hints(cls)[field.name], f"{section}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, name)
        else:
            yield name, cls, field


LEAVES = list(leaves())


@pytest.mark.parametrize("cls", [StoryConfig, GenerationSettings, TrainSettings, JudgeConfig])
def test_every_number_declares_its_range(cls):
    for name, owner, field in leaves(cls):
        kind = str(typing.get_type_hints(owner)[field.name])
        if ("int" in kind or "float" in kind) and "Literal" not in kind:
            limit = field.metadata.get("limit")
            assert isinstance(limit, Limit) and math.isfinite(limit.low) and math.isfinite(limit.high), name
            items = field.default if isinstance(field.default, tuple) else (field.default,)
            assert all(item is None or item in limit for item in items), name


def refused(name: str, value: Any) -> str | None:
    """What is said of a config with one value changed; None if it is accepted."""
    values = json.loads(PRESETS["tiny"].to_json())
    *sections, last = name.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[last] = value
    try:
        parse_config(values, "c.json")
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name, _, _ in LEAVES])
def test_strange_values_are_named_and_nothing_else_happens(name):
    accepted = []
    for value in STRANGE:
        said = refused(name, value)
        if said is None:
            accepted.append(value)
        else:
            assert said.startswith("c.json: ") and name in said and len(said) < 500 and "\n" not in said
    field = next(field for leaf, _, field in LEAVES if leaf == name)
    limit = field.metadata.get("limit")
    for value in accepted:
        assert name.split(".")[-1] in TEXTS or isinstance(value, bool) or isinstance(value, list) or value in limit


@pytest.mark.parametrize("cls", [GenerationSettings, TrainSettings, JudgeConfig])
def test_strange_values_are_refused_in_python_too(cls):
    given = {"output_dir": Path("run")} if cls is TrainSettings else {}
    for field in dataclasses.fields(cls):
        for value in STRANGE:
            try:
                made = cls(**given | {field.name: value})
            except UserError as error:
                assert field.name in str(error) and len(str(error)) < 500
            else:
                assert getattr(made, field.name) is value


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format_version": 3, "prior": ' + "[" * 100_000,
        '{"format_version": 3, "vocab_size": ' + "9" * 5000 + "}",
        '{"format_version": ' + "9" * 5000 + "}",
        '{"format_version": 3, "' + "\\u001b" * 5000 + '": 1}',
        '{"format_version": 3, "vocab_size": NaN}',
        '{"format_version": 3, "prior": {"num_layers": 1000000000000}}',
        "",
    ],
)
def test_strange_files_are_one_line(tmp_path, text):
    path = write(tmp_path / "c.json", text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value) and "c.json" in str(caught.value)


@pytest.mark.parametrize("name", ["n" * 300, "absent.json", "."])
def test_strange_paths_are_one_line(tmp_path, name):
    with pytest.raises(UserError, match="config file"):
        load_config(tmp_path / name)


@pytest.mark.parametrize(
    ("sweep", "name"),
    [
        ("storyboard.codebook_size=64,-1", "storyboard.codebook_size"),
        ("training.learning_rate=0.001,NaN", "training.learning_rate"),
        ("prior.num_layers=2," + "9" * 5000, "prior.num_layers"),
        ("prior.dim=" + "[" * 100_000, "prior.dim"),
        ("plan=codes,colour", "plan"),
    ],
)
def test_every_value_of_a_sweep_is_checked_first(sweep, name):
    with pytest.raises(UserError) as caught:
        parsed = Sweep.parse(sweep)
        for value in parsed.values:
            with_setting(PRESETS["tiny"], parsed.setting, value)
    assert name in str(caught.value) and len(str(caught.value)) < 700


def test_a_sweep_is_refused_before_the_first_training(tmp_path, capsys):
    words = ["ablate", "--preset", "tiny", "--sweep", "storyboard.codebook_size=64,-1", "--output", str(tmp_path)]
    assert story_generative_model.main(words) == 2
    assert "storyboard.codebook_size must be from 0 to" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [("--learning_rate", "1e9"), ("--batch_size", "9" * 5000), ("--max_steps", str(10**12))]
)
def test_flags_are_checked_like_files(tmp_path, capsys, flags):
    words = ["train", "--preset", "tiny", *flags, "--dry_run", "--output_dir", str(tmp_path / "run")]
    try:
        code = story_generative_model.main(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and flags[0].strip("-") in error and len(error) < 700 and not (tmp_path / "run").exists()
