"""The command line with the real classes at tiny size: every file it writes, every way to give it something wrong."""

import dataclasses
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import story_generative_model
from modules.commands import data_cli
from modules.common.shipped import shipped
from modules.data.images import load_image
from modules.data.writing import write_stories
from modules.downloads import SOURCES
from modules.generation import SCHEDULERS, GenerationSettings
from modules.pipeline import StoryPipeline
from modules.presentation.story.files import read_story
from modules.saving.checkpoint import save_checkpoint
from modules.story import Story, StoryStep
from modules.storyworld import StoryWorld

ROOT = Path(__file__).parents[2]
PROMPT = "Rusty the fox wants a kite"
FILES = ["book.html", "generated.png", "page_01.png", "page_02.png", "raw/page_01.png", "raw/page_02.png", "story.json"]


def run(*argv: object) -> int:
    """The exit code, also where the parser ends the program."""
    try:
        return story_generative_model.main([str(word) for word in argv])
    except SystemExit as stop:
        return stop.code


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """Run a command that must fail as a user's mistake does: exit code 2, nothing on stdout, one line on stderr, which
    is returned.
    """
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def generate(tiny_checkpoint, tmp_path):
    """Two pages with few inference steps into a folder of the test; returns the folder."""

    def call(name: str = "out", *flags: object) -> Path:
        quick = ("--num_steps", 2, "--num_inference_steps", 2)
        assert (
            run("generate", "--prompt", PROMPT, "--ckpt", tiny_checkpoint, "--output", tmp_path / name, *quick, *flags)
            == 0
        )
        return tmp_path / name

    return call


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory) -> Path:
    """A folder of two stories; the first has three pages: both, text only, a wide picture only."""
    world = StoryWorld(1, image_size=32)[0]
    wide = world.steps[2].image.resize((1600, 800))
    steps = (world.steps[0], StoryStep(text=world.steps[1].text), StoryStep(text=None, image=wide))
    folder = tmp_path_factory.mktemp("stories")
    write_stories(
        folder,
        [Story(id="first", prompt=world.prompt, steps=steps), Story(id="second", prompt="x", steps=world.steps[:1])],
    )
    return folder


# generate


def test_generate_writes_every_file_and_prints_the_story(generate, capsys):
    folder = generate()
    assert sorted(files(folder)) == FILES
    captured = capsys.readouterr()
    story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    assert list(story) == ["prompt", "settings", "steps", "total_bits"]
    assert story["prompt"] == PROMPT
    assert story["settings"]["seed"] == 0
    assert [line[:3] for line in captured.out.splitlines()] == ["1. ", "2. "]
    assert "2 pages in " in captured.err
    for number, step in enumerate(story["steps"], 1):
        assert step["image_path"] == f"raw/page_{number:02}.png"
        assert (len(step["codes"]), step["given"]) == (8, False)
        assert Image.open(folder / step["image_path"]).size == (32, 32)
        assert Image.open(folder / f"page_{number:02}.png").size == (384, 384)
    assert sum(step["bits"] for step in story["steps"]) == pytest.approx(story["total_bits"], abs=0.01) != 0
    assert PROMPT in (folder / "book.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_is_told_and_leaves_no_story(tiny_checkpoint, tmp_path, capsys, monkeypatch, number, code):
    monkeypatch.setattr(StoryPipeline, "render", lambda *_, **__: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A program started in the background ignores it.
    try:
        words = ["generate", "--ckpt", str(tiny_checkpoint), "--prompt", "a fox", "--output", str(tmp_path / "out")]
        assert story_generative_model.main(words) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("stopped\n") and not (tmp_path / "out" / "story.json").exists()


def test_same_seed_same_bytes_another_seed_another_story(generate):
    first, second, other = (files(generate(name, "--seed", seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == second
    assert all(
        first[name] != other[name]
        for name in ("book.html", "generated.png", "page_01.png", "raw/page_01.png", "story.json")
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_draws(generate, scheduler):
    folder = generate("out", "--scheduler", scheduler)
    low, high = load_image(folder / "page_01.png").convert("L").getextrema()
    assert low < high


@pytest.mark.parametrize(
    "flags", [("--decoding", "beam"), ("--decoding", "top_p"), ("--decoding", "top_p", "--temperature", 0)]
)
def test_every_decoding_writes(generate, capsys, flags):
    generate("out", *flags)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_flags_take_dashes_and_underscores_and_their_values_stay(generate):
    folder = generate(
        "out", "--num-inference-steps=3", "--guidance-scale", "1", "--num-steps", "1", "--prompt=a well-known fox"
    )
    story = read_story(folder)
    assert (len(story.steps), story.prompt) == (1, "a well-known fox")
    assert story.extra["settings"]["num_inference_steps"] == 3
    assert run("generate", "--num_Steps", 1) == 2


def test_shorter_story_removes_the_pages_of_the_longer_one_and_no_other_file(generate):
    folder = generate("out", "--num_steps", 3)
    for name in ("page_notes.png", "mine.txt", "raw/mine.png"):
        (folder / name).write_text("keep me")
    generate("out")
    assert sorted(files(folder)) == sorted([*FILES, "page_notes.png", "mine.txt", "raw/mine.png"])


def test_unseen_words_and_a_long_prompt_are_told_on_a_line_each(generate, capsys):
    generate(
        "out", "--num_steps", 1, "--prompt", "Rusty wants a zeppelin, a Zeppelin and a sousaphone " + "and a kite " * 40
    )
    unseen, cut, _ = capsys.readouterr().err.splitlines()
    assert "zeppelin, sousaphone;" in unseen
    assert "30 tokens of the prompt" in cut


def test_generate_from_a_run_a_step_and_a_model_folder(tiny_checkpoint, generate, tmp_path):
    step = save_checkpoint(
        tmp_path / "run", 7, {}, {}, 1, extra=lambda folder: shutil.copytree(tiny_checkpoint, folder / "model")
    )
    stories = [
        files(generate(f"out{index}", "--ckpt", path))
        for index, path in enumerate((tiny_checkpoint, step, tmp_path / "run"))
    ]
    assert stories[0] == stories[1] == stories[2]


# continue, illustrate, caption


def test_continue_shows_the_given_pages_first_and_can_go_on_from_itself(
    tiny_checkpoint, tiny_pipeline, generate, capsys
):
    folder = generate()
    before, pictures = json.loads((folder / "story.json").read_text()), files(folder)
    codes = tiny_pipeline.encode(read_story(folder / "story.json").steps)
    quick = ("--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", folder)
    capsys.readouterr()
    assert run("continue", "--story", folder / "story.json", *quick, "--num_steps", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{number}. (given)") for number, line in enumerate(lines, 1)] == [True, True, False]
    after = json.loads((folder / "story.json").read_text())
    assert [step["given"] for step in after["steps"]] == [True, True, False]
    assert [step["text"] for step in after["steps"][:2]] == [step["text"] for step in before["steps"]]
    assert [step["codes"] for step in after["steps"][:2]] == codes.tolist()
    assert after["total_bits"] == after["steps"][2]["bits"]
    assert all(files(folder)[name] == pictures[name] for name in FILES if "page" in name)
    assert run("continue", "--story", folder, *quick, "--num_steps", 1, "--prompt", "another prompt") == 0
    assert [step["given"] for step in json.loads((folder / "story.json").read_text())["steps"]] == [
        True,
        True,
        True,
        False,
    ]


def test_continue_from_a_folder_of_stories_fills_what_a_page_lacks(tiny_checkpoint, story_folder, tmp_path):
    given, out = read_story(story_folder), tmp_path / "out"
    assert (
        run("continue", "--story", story_folder, "--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", out)
        == 0
    )
    story = read_story(out)
    assert story.prompt == given.prompt
    assert [step.text for step in story.steps[:2]] == [step.text for step in given.steps[:2]]
    assert story.steps[2].text
    assert story.steps[0].image.tobytes() == given.steps[0].image.tobytes()
    assert load_image(out / "page_03.png").size == (1024, 512)
    assert all(step.image.size == (32, 32) for step in story.steps)
    assert len(story.steps) == 5


def test_illustrate_draws_each_text(tiny_checkpoint, tmp_path):
    texts = ["Rusty sees a kite.", "Rusty is happy."]
    flags = ("--ckpt", tiny_checkpoint, "--num_inference_steps", 2, "--output", tmp_path)
    assert run("illustrate", "--text", texts[0], "--text", texts[1], *flags) == 0
    assert [step.text for step in read_story(tmp_path).steps] == texts
    assert sorted(files(tmp_path)) == FILES


def test_caption_prints_one_text_and_the_codes(tiny_checkpoint, tmp_path, capsys):
    StoryWorld(1, image_size=64)[0].steps[0].image.save(tmp_path / "picture.png")
    assert run("caption", "--image", tmp_path / "picture.png", "--ckpt", tiny_checkpoint) == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert len(captured.err.removeprefix("codes ").split()) == 8


# What is wrong is told in one line.

BAD_FLAGS = {
    "empty prompt": (("--prompt", "  "), "prompt is empty"),
    "no prompt": ((), "required: --prompt"),
    "no steps": (("--num_steps", "0"), "--num_steps: must be 1 or more"),
    "negative steps": (("--num_steps", "-3"), "--num_steps: must be 1 or more"),
    "steps in words": (("--num-steps", "x"), "--num_steps: must be a whole number, got 'x'"),
    "too many steps": (("--num_steps", "2000"), "num_steps must be from 1 to 1000"),
    "nan temperature": (("--temperature", "nan"), "temperature must be"),
    "negative temperature": (("--temperature", "-1"), "temperature must be"),
    "top_p": (("--top_p", "2"), "top_p must be"),
    "nan guidance": (("--guidance_scale", "nan"), "guidance_scale must be"),
    "inference steps": (("--num_inference_steps", "1001"), "--num_inference_steps: must be from 1 to 1000, got 1001"),
    "penalty": (("--penalty_alpha", "0.6", "--decoding", "beam"), "penalty_alpha changes greedy decoding only"),
    "seed": (("--seed", str(2**70)), "--seed: must be from 0 to"),
    "no output": (("--output", ""), "--output: must not be empty"),
    "scheduler": (("--scheduler", "magic"), "invalid choice: 'magic'"),
    "unknown flag": (("--colour", "red"), "unrecognized arguments: --colour red"),
    "short flag": (("--prom", "red"), "unrecognized arguments: --prom red"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flag_is_told_before_anything_is_loaded_or_written(tmp_path, capsys, name):
    flags, message = BAD_FLAGS[name]
    prompt = () if name in ("no prompt", "empty prompt") else ("--prompt", PROMPT)
    assert message in fails(
        capsys, "generate", *prompt, *flags, "--ckpt", tmp_path / "absent", "--output", tmp_path / "out"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [("--num_steps", 33), ("--device", "meta"), ("--device", "nonsense")])
def test_what_the_model_or_the_machine_cannot_do_is_told_in_one_line(tiny_checkpoint, tmp_path, capsys, flags):
    assert fails(
        capsys, "generate", "--prompt", "Zorblax", *flags, "--ckpt", tiny_checkpoint, "--output", tmp_path / "out"
    )


def test_figures_that_could_not_be_written_are_not_computed(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    started = ("--ckpt", tiny_checkpoint, "--num_stories", 2, "--num_drawn", 0)
    assert "cannot write" in fails(capsys, "evaluate", *started, "--json", tmp_path / "file" / "out.json")
    assert "--seed: must be from 0 to" in fails(capsys, "evaluate", *started, "--seed", -1)


@pytest.mark.parametrize("argv", [(), ("conjure",), ("--prompt", "a"), ("caption",), ("illustrate", "--text", " ")])
def test_bad_command_is_told(capsys, argv):
    assert fails(capsys, *argv)


def edit_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


BAD_CHECKPOINTS = {
    "absent": (shutil.rmtree, "no checkpoint at"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "is a file, and not a checkpoint"),
    "random files": (
        lambda folder: [(folder / name).unlink() for name in ("config.json", "words.json")],
        "not a checkpoint",
    ),
    "another program": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'),
        "is no config of a story model",
    ),
    "no JSON": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"),
        "config.json is not a readable config",
    ),
    "newer": (lambda folder: edit_config(folder, format_version=3), "format version 3"),
    "another shape": (lambda folder: edit_config(folder, vocab_size=500), "does not contain this model's weights"),
    "no such shape": (lambda folder: edit_config(folder, vocab_size=-1), "describes no model"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"),
        "model.safetensors does not contain",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_told(tiny_checkpoint, tmp_path, capsys, name):
    break_it, message = BAD_CHECKPOINTS[name]
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    break_it(folder)
    assert message in fails(capsys, "generate", "--prompt", PROMPT, "--ckpt", folder, "--output", tmp_path / "out")
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_unwritable_output_is_told_before_the_model_is_loaded(tmp_path, capsys, output):
    (tmp_path / "file").write_text("mine")
    line = fails(capsys, "generate", "--prompt", PROMPT, "--ckpt", tmp_path / "absent", "--output", tmp_path / output)
    assert str(tmp_path / output) in line
    assert files(tmp_path) == {"file": b"mine"}


STEP = {"text": "A fox.", "image_path": None}
BAD_STORIES = {
    "absent": (None, "no story at"),
    "no JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "a list": ([], "must be an object"),
    "no prompt": ({"steps": [STEP]}, '"prompt" is missing'),
    "empty prompt": ({"prompt": " ", "steps": [STEP]}, "prompt is empty"),
    "no steps": ({"prompt": "a", "steps": []}, "no steps"),
    "empty step": ({"prompt": "a", "steps": [STEP, {"text": " "}]}, "step 2: has neither"),
    "leaves": ({"prompt": "a", "steps": [{"text": "b", "image_path": "../secret.png"}]}, "inside the folder"),
    "no picture": ({"prompt": "a", "steps": [{"text": "b", "image_path": "c.png"}]}, "c.png does not exist"),
    "broken picture": ({"prompt": "a", "steps": [{"text": "b", "image_path": "story.json"}]}, "story.json is broken"),
}


@pytest.mark.parametrize("name", BAD_STORIES)
def test_bad_story_is_told(tiny_checkpoint, tmp_path, capsys, name):
    content, message = BAD_STORIES[name]
    path = tmp_path / "story.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    line = fails(capsys, "continue", "--story", path, "--ckpt", tiny_checkpoint, "--output", tmp_path / "out")
    assert message in line
    assert str(tmp_path) in line or "prompt is empty" in line
    assert not (tmp_path / "out").exists()


def test_folder_without_a_story_is_told(tmp_path, capsys):
    assert "neither story.json nor stories.jsonl" in fails(capsys, "continue", "--story", tmp_path)
    (tmp_path / "stories.jsonl").write_text("\n")
    assert "contains no stories" in fails(capsys, "continue", "--story", tmp_path)


# As a program


def program(*argv: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "story_generative_model.py", *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


HEAVY = {
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "matplotlib",
    "numpy",
    "datasets",
    "pyarrow",
    "scipy",
}
SHOW_HELP = """
import sys, {script}
try: {script}.main(sys.argv[1:])
except SystemExit as stop: print(stop.code, *sys.modules, file=sys.stderr)
"""


def child_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("story_generative_model", ""),
        *(("story_generative_model", name) for name in story_generative_model.COMMANDS),
        ("download_data", ""),
        *(("download_data", name) for name in (*data_cli.COMMANDS, *SOURCES)),
    ],
)
def test_help_is_quick_and_explains_every_flag(script, command):
    before = child_seconds()
    code = [sys.executable, "-c", SHOW_HELP.format(script=script), *([command] if command else []), "--help"]
    shown = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert child_seconds() - before < 1.0
    status, *loaded = shown.stderr.split()
    assert status == "0" and HEAVY.isdisjoint(loaded)
    assert shown.stdout.startswith(f"usage: {' '.join([f'{script}.py', command]).strip()} ")
    entries = re.split(r"^  (?=-)", shown.stdout, flags=re.MULTILINE)[1:]
    lacking = [entry for entry in entries if not re.search(r"  +\S|\n", entry.strip())]
    assert entries and not lacking


def test_help_lists_the_commands(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\s", shown, re.MULTILINE) for name in story_generative_model.COMMANDS)


def test_every_generation_setting_is_a_flag_of_every_command_that_samples(capsys):
    for command in ("generate", "continue", "illustrate"):
        assert run(command, "--help") == 0
        shown = capsys.readouterr().out
        assert all(f"--{field.name} " in shown for field in dataclasses.fields(GenerationSettings))


def test_default_checkpoint_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("checkpoints/storyworld") == ROOT / "checkpoints" / "storyworld"
    assert shipped("checkpoints/run") == Path("checkpoints/run")
    (tmp_path / "checkpoints" / "storyworld").mkdir(parents=True)
    assert shipped("checkpoints/storyworld") == Path("checkpoints/storyworld")


def test_program_tells_a_story_and_its_errors(tiny_checkpoint, tmp_path):
    flags = ("--prompt", PROMPT, "--num_steps", 1, "--num_inference_steps", 2, "--output", tmp_path / "out")
    good = program("generate", *flags, "--ckpt", tiny_checkpoint)
    assert (good.returncode, good.stdout[:3]) == (0, "1. ")
    assert len(good.stderr.splitlines()) == 1
    bad = program("generate", *flags, "--ckpt", tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert [line[:7] for line in bad.stderr.splitlines()] == ["error: "]
