"""Argument types, and flags made from the fields of a dataclass."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.common.arguments import Parser, a_path, add_dataclass_flags, from_flags, setting
from modules.common.errors import UserError
from modules.common.limits import check_settings


@dataclass(frozen=True)
class Settings:
    count: int = setting(3, "how many, in 100% of the cases", low=1, high=9)
    share: float = setting(0.5, "which part", low=0, high=1, alias="part")
    mode: str = setting("fast", "how", choices=("fast", "exact"))
    folder: Path | None = setting(None, "where")
    offline: bool = setting(False, "use no network")
    names: tuple[str, ...] = setting(("a",), "which ones (default a)", type=lambda text: tuple(text.split(",")))
    span: tuple[float, float] = setting((0.5, 1.0), "from where to where", low=0, high=1, metavar=("LOW", "HIGH"))
    internal: str = "not a flag"

    def __post_init__(self) -> None:
        check_settings(self)


def parse(*words: str, **options) -> argparse.Namespace:
    parser = Parser(prog="program")
    add_dataclass_flags(parser, Settings, **options)
    return parser.parse_args(words)


def test_flags_give_the_dataclass():
    assert from_flags(Settings, parse()) == Settings()
    words = ("--count", "4", "--share", "1", "--mode", "exact", "--folder", "a/b", "--offline")
    assert from_flags(Settings, parse(*words)) == Settings(4, 1.0, "exact", Path("a/b"), True)
    assert from_flags(Settings, parse("--span", "0", ".5")) == Settings(span=(0.0, 0.5))
    assert from_flags(Settings, parse("--names", "b,c")) == Settings(names=("b", "c"))
    assert from_flags(Settings, parse(*words), mode="fast", internal="x") == Settings(
        4, 1.0, "fast", Path("a/b"), True, internal="x"
    )


def test_defaults_of_a_command_replace_those_of_the_fields():
    assert parse(count=5).count == 5
    assert vars(parse(only=("mode", "share"))) == {"mode": "fast", "share": 0.5}
    assert from_flags(Settings, parse(only=("mode",))) == Settings()


def test_an_alias_works_and_is_not_listed(capsys):
    assert parse("--part", "0.25").share == 0.25 and parse("--share", "0.25").share == 0.25
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--share X which part (default 0.5)" in text and "--part" not in text and "internal" not in text
    assert "how many, in 100% of the cases (default 3)" in text
    assert "--span LOW HIGH from where to where (default 0.5 1.0)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--count", "0"), "argument --count: must be from 1 to 9, got 0"),
        (("--count", "10"), "must be from 1 to 9, got 10"),
        (("--count", "1.5"), "must be a whole number, got '1.5'"),
        (("--share", "half"), "argument --share: must be a number, got 'half'"),
        (("--mode", "slow"), "argument --mode: invalid choice: 'slow'"),
        (("--span", "0.5"), "argument --span: expected 2 arguments"),
        (("--span", "0", "half"), "argument --span: must be a number, got 'half'"),
        (("--folder", ""), "argument --folder: must not be empty"),
    ],
)
def test_bad_values_are_reported_on_one_line(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        parse(*words)
    assert message in capsys.readouterr().err


def test_the_dataclass_checks_what_flags_give():
    with pytest.raises(UserError, match="share must be from 0 to 1, got 2"):
        from_flags(Settings, parse("--share", "2"))
    for field, value, message in (
        ("count", 10, "count must be from 1 to 9, got 10"),
        ("share", float("nan"), "share must be from 0 to 1, got nan"),
        ("mode", "slow", "mode must be one of fast, exact, got 'slow'"),
        ("span", (1.0, 0.5), r"span must be two numbers, the lower one first, got \[1.0, 0.5\]"),
        ("span", 0.5, r"span must be two numbers, the lower one first, got \[0.5\]"),
        ("span", (0.5, 2.0), r"span must lie from 0 to 1, got \[0.5, 2.0\]"),
    ):
        with pytest.raises(UserError, match=message):
            Settings(**{field: value})


def test_a_field_without_default_is_required(capsys):
    @dataclass(frozen=True)
    class Output:
        output: Path = setting(help="a folder")

    parser = Parser(prog="program")
    add_dataclass_flags(parser, Output)
    assert from_flags(Output, parser.parse_args(["--output", "a"])) == Output(Path("a"))
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([])
    assert "the following arguments are required: --output" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["n" * 300, "n/" * 3000, "a\0b", ""])
def test_a_path_that_no_system_can_look_up_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        a_path(text)
    assert len(str(caught.value)) < 300
    assert a_path("absent/file") == Path("absent/file")
