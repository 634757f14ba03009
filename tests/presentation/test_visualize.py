"""Visualising: what is shown is what the model does, whatever gaps the stories have; the curves are the run's; the page
stands alone.
"""

from __future__ import annotations

import math
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from modules.common.errors import UserError
from modules.common.ownership import MARK
from modules.data.folder import StoryFolder
from modules.data.writing import write_stories
from modules.generation.pipeline import StoryPipeline
from modules.presentation.plots.curve_files import Curve, phase_starts, read_curves
from modules.presentation.plots.curves import draw_curves, group_curves, smooth
from modules.presentation.theme import DARK
from modules.presentation.visualize.canvas import TEXT, text_width, wrap_text
from modules.presentation.visualize.denoising import DenoisingTrace, denoise, denoise_one
from modules.presentation.visualize.drawings import draw_denoising, draw_predictions, draw_timeline, stack
from modules.presentation.visualize.page import visualize, write_page
from modules.presentation.visualize.timeline import CodeRun, repeated_codes, slot_runs
from modules.presentation.visualize.versions import Comparison, PageView, Version, compare_versions
from modules.story import Story, StoryStep
from modules.storyworld import StoryWorld
from tests.support.runs import trace

NASTY = "<script>alert(1)</script> & $\\frac{1}$ 从前有一只小兔子"
STEPS = 4  # Denoising updates.


@pytest.fixture(scope="module")
def story() -> Story:
    world = StoryWorld(20, split="val", image_size=32)
    return world[next(index for index, length in enumerate(world.lengths) if length == 5)]


@pytest.fixture(scope="module")
def comparison(tiny_pipeline: StoryPipeline, story: Story) -> Comparison:
    return compare_versions(tiny_pipeline, story, num_given=3, seed=5, num_inference_steps=STEPS)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> StoryFolder:
    """A story with gaps, one of a single step, and one without a prompt."""
    folder = tmp_path_factory.mktemp("gaps")
    image = Image.linear_gradient("L").resize((50, 20))
    steps = (StoryStep(NASTY), StoryStep(None, image), StoryStep("She runs.", image))
    write_stories(folder, [Story("a", NASTY, steps), Story("b", "One", steps[:1]), Story("c", " ", steps[1:])])
    return StoryFolder(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed and resumed twice: updates 6 and later were made again, then 15 and later."""
    folder = tmp_path_factory.mktemp("run")
    for attempt, (start, end) in enumerate([(0, 10), (6, 20), (15, 40)]):
        with SummaryWriter(folder / "tensorboard", purge_step=start) as writer:
            for step in range(start, end):
                writer.add_scalar("joint/loss", attempt + 1 / (1 + step), step)
                writer.add_scalar("gradient_norm/prior", math.nan if step == 3 else 1.0, step)
                writer.add_scalar("skipped_updates", 0, step)
                if step >= 10:
                    writer.add_scalar("joint/prior_nll", 2.0, step)
        # Files are read in the order of their names, which is that of their seconds; these are of one second.
        (written,) = (folder / "tensorboard").glob("events.out.*")
        written.rename(written.with_name(f"{attempt}.tfevents"))
    return folder


def board(*rows: list[int]) -> Comparison:
    """A story of codes alone, given page by page."""
    return Comparison("A prompt", [Version("True pages", "note", [PageView(None, "text", row, 1.0) for row in rows])])


def tags(document: str, tag: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda name, attributes: found.append(dict(attributes)) if name == tag else None
    parser.feed(document)
    return found


# A story told several ways


def test_tellings_are_those_of_the_pipeline(tiny_pipeline, story, comparison):
    true, own, predicted, told = comparison.versions
    count = len(story.steps)
    assert count > 3
    codes = tiny_pipeline.encode(story.steps)
    assert [page.codes for page in true.pages] == [page.codes for page in own.pages] == codes.tolist()
    assert [page.text for page in true.pages] == [step.text for step in story.steps]
    texts, images = tiny_pipeline.render(codes, seed=5, num_inference_steps=STEPS)
    assert [page.text for page in own.pages] == texts
    assert [page.image.tobytes() for page in own.pages] == [image.tobytes() for image in images]
    options = {"seed": 5, "num_inference_steps": STEPS}
    next_pages = tiny_pipeline.continue_story(story.prompt, story.steps[:3], count - 3, **options)
    whole = tiny_pipeline(story.prompt, count, **options)
    assert [page.is_given for page in predicted.pages] == [True] * 3 + [False] * (count - 3)
    for pages, expected in ((predicted.pages[3:], next_pages), (told.pages, whole)):
        assert [page.codes for page in pages] == expected.codes.tolist()
        assert [page.text for page in pages] == expected.texts
        assert [page.bits for page in pages] == pytest.approx(expected.bits, rel=1e-5)


def test_bits_of_true_pages_match_the_prior(tiny_pipeline, story, comparison):
    """The prior's own sample, taken for a true story, costs by `forward` what sampling said."""
    plan = tiny_pipeline.plan(story.prompt, len(story.steps), seed=5)
    ids, mask = tiny_pipeline.tokenizer.encode_batch([story.prompt], tiny_pipeline.config.max_prompt_length)
    true_codes = torch.tensor([[page.codes for page in comparison.pages]])
    everything = torch.ones(1, len(story.steps), dtype=torch.bool)
    with torch.no_grad():
        costs = [
            tiny_pipeline.model.prior(codes, ids, mask, everything).nll.sum(-1)[0] / math.log(2)
            for codes in (plan.codes, true_codes)
        ]
    assert [page.bits for page in comparison.versions[-1].pages] == pytest.approx(costs[0].tolist(), rel=1e-4)
    assert [page.bits for page in comparison.pages] == pytest.approx(costs[1].tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("index", "titles"), [(0, "Predicted after 2 pages"), (1, None), (2, "Predicted after 1 page")]
)
def test_short_stories_with_gaps_are_told_as_far_as_they_go(tiny_pipeline, gaps, index, titles):
    story = gaps[index]
    comparison = compare_versions(tiny_pipeline, story, num_inference_steps=2)
    middle = [version.title for version in comparison.versions[2:-1]]
    assert middle == ([] if titles is None else [titles])
    assert all(len(version.pages) == len(story.steps) for version in comparison.versions)
    for page, step in zip(comparison.pages, story.steps, strict=True):
        assert (page.text, page.image is None) == (step.text, step.image is None)
        assert page.image is None or page.image.size == (32, 32)
    assert all(
        page.image and page.text is not None
        for version in comparison.versions[1:]
        for page in version.pages
        if not page.is_given
    )


def test_matches_count_slot_by_slot(comparison):
    guess = PageView(None, None, [comparison.pages[1].codes[0], -1, *comparison.pages[1].codes[2:]])
    assert comparison.matches(1, guess) == [True, False, True, True, True, True, True, True]


# The trace


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "unipc", "euler"])
def test_what_a_step_aims_at_is_what_the_model_predicts(tiny_pipeline, comparison, scheduler):
    decoder = tiny_pipeline.model.image_decoder
    embeds = tiny_pipeline.model.storyboard.embed(torch.tensor([comparison.pages[0].codes])).code_embeds
    noise = torch.randn(1, *decoder.latent_shape, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    final = decoder.sample(
        embeds, 7, 1.0, scheduler, noise=noise, on_step=lambda latents, clean: seen.append((latents, clean))
    )
    schedule, timesteps = decoder.schedule(scheduler, 7)  # 7 does not divide the 1000 timesteps of training.
    latents = noise * schedule.init_noise_sigma
    for timestep, (after, clean) in zip(timesteps, seen, strict=True):
        noisy = schedule.scale_model_input(latents, timestep)
        with torch.no_grad():
            velocity = decoder.predict(noisy, timestep, decoder.context(embeds))
        signal = decoder.alphas_cumprod[int(timestep)].item()
        expected = math.sqrt(signal) * noisy - math.sqrt(1 - signal) * velocity
        torch.testing.assert_close(clean, expected, atol=1e-4, rtol=1e-3)
        schedule.step(velocity, timestep, latents, return_dict=False)
        latents = after
    # Where timesteps come out even, the last step of DDIM leaves a little noise in.
    torch.testing.assert_close(seen[-1][1], final, atol=0.2 if scheduler == "ddim" else 1e-3, rtol=0)


def test_trail_goes_from_noise_alone_to_the_page(tiny_pipeline, comparison):
    trace = denoise(
        tiny_pipeline, comparison.pages[0], torch.tensor([comparison.pages[0].codes]), seed=5, num_inference_steps=20
    )
    assert (trace.steps[0], trace.steps[-1], len(trace.steps)) == (1, 20, 7)
    assert trace.signal[0] == pytest.approx(0, abs=1e-6)
    assert trace.signal == sorted(trace.signal)
    _, (picture,) = tiny_pipeline.render(torch.tensor([comparison.pages[0].codes]), seed=5, num_inference_steps=20)
    difference = np.asarray(trace.guesses[-1], int) - np.asarray(picture, int)
    assert np.abs(difference).max() <= 1
    short = denoise(
        tiny_pipeline, comparison.pages[0], torch.tensor([comparison.pages[0].codes]), num_inference_steps=1
    )
    assert (short.steps, len(short.noisy), len(short.guesses)) == ([1], 1, 1)


# The timeline


def test_runs_and_repeats():
    assert slot_runs([7, 7, 3, 7, 3]) == [
        CodeRun(7, 0, 1, None),
        CodeRun(3, 2, 2, None),
        CodeRun(7, 3, 3, 1),
        CodeRun(3, 4, 4, 2),
    ]
    comparison = board([1, 2], [3, 1], [4, 5])
    assert repeated_codes([page.codes for page in comparison.pages]) == {1}  # In whichever slot.


def test_timeline_ties_what_comes_back(tmp_path):
    """Codes 1 2 2 1 in one slot: three tiles, one of them two pages wide, and a line from the first one through to the
    last.
    """
    trace = DenoisingTrace(
        PageView(None, "text", [1]), [1], [0.0], [Image.new("RGB", (8, 8))], [Image.new("RGB", (8, 8))]
    )
    document = write_page(tmp_path / "page.html", [board([1], [2], [2], [1])], trace, None, {}).read_text()
    pages = [page for page in tags(document, "td") if "colspan" in page]
    assert [page["colspan"] for page in pages] == ["1", "2", "1"]
    assert [re.findall(r"\) (0|100%) 50%/(50%|100%) ", page["style"]) for page in pages] == [
        [("100%", "50%")],
        [("0", "100%")],
        [("0", "50%")],
    ]


# The curves


def test_resumed_run_gives_every_update_once_as_it_was_made_last(run):
    curves = read_curves(run)
    loss = curves["joint/loss"]
    assert loss.steps.tolist() == list(range(40))
    assert loss.values.astype(int).tolist()[1:] == [0] * 5 + [1] * 9 + [2] * 25
    assert 3 not in curves["gradient_norm/prior"].steps  # What is no number cannot be drawn.
    assert read_curves(run / "tensorboard").keys() == curves.keys()
    assert phase_starts(curves) == {"joint": 0, "joint, quantised": 10}
    assert [panel.title for panel in group_curves(curves)] == ["Losses: joint phase", "Gradient norms"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "does not exist"),
        (lambda folder: folder.mkdir(), "contains no TensorBoard files"),
        (lambda folder: SummaryWriter(folder / "tensorboard").close(), "contain no curves yet"),
    ],
)
def test_folder_without_curves_is_a_user_error(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        read_curves(tmp_path / "run")


def test_every_curve_has_its_place_and_colors_keep_apart(reference):
    curves = read_curves(reference) | {
        "new/thing": Curve(np.arange(3), np.ones(3)),
        "bare": Curve(np.arange(3), -np.ones(3)),
    }
    panels = group_curves(curves)
    shown = [id(curve) for panel in panels for curve in panel.curves.values()]
    assert sorted(shown) == sorted(id(curve) for curve in curves.values() if curve.values.any())
    titles = [panel.title for panel in panels]
    phases = list(dict.fromkeys(line["phase"] for line in trace(reference)))
    assert titles[: len(phases)] == [f"Losses: {phase} phase" for phase in phases]
    assert {"Held out: text", "Codebook: perplexity", "Learning rate", "Gradient norms", "new", "Other"} <= set(titles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_curves(curves).width > 1000


def test_smoothing_lags_behind_nothing():
    assert smooth(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
    ramp = np.arange(100.0)
    assert smooth(ramp)[20:80] == pytest.approx(ramp[20:80])
    noise = np.random.default_rng(0).normal(size=300)
    assert smooth(noise).std() < 0.3 * noise.std()


def test_drawing_ignores_and_keeps_matplotlib_settings(run, comparison):
    before = draw_curves(read_curves(run)).tobytes(), draw_timeline(comparison).tobytes()
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9, "image.interpolation": "nearest"}
    ):
        settings = dict(matplotlib.rcParams)
        assert (draw_curves(read_curves(run)).tobytes(), draw_timeline(comparison).tobytes()) == before
        assert dict(matplotlib.rcParams) == settings
    assert draw_curves(read_curves(run), DARK).getpixel((0, 0)) == (0x26, 0x20, 0x19)


# Panels


@pytest.mark.filterwarnings("ignore:Glyph")
def test_wrapped_lines_fit_and_say_where_text_is_left_out():
    for text in ("a little bear " * 40, "从前有一只小兔子" * 40, "x" * 500):
        lines = wrap_text(text, 148, TEXT, max_lines=5)
        assert len(lines) == 5
        assert lines[-1].endswith("…")
        assert all(text_width(line, TEXT) <= 148 for line in lines)
    assert wrap_text("one\n two", 148, TEXT) == ["one two"]
    assert wrap_text("", 148, TEXT) == []
    assert "".join(wrap_text("y" * 60, 148, TEXT)) == "y" * 60


def test_any_text_and_any_gap_can_be_drawn(tiny_pipeline, gaps):
    comparisons = [compare_versions(tiny_pipeline, gaps[index], num_inference_steps=1) for index in range(3)]
    denoised = denoise_one(tiny_pipeline, comparisons, num_inference_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheets = [draw(comparison) for comparison in comparisons for draw in (draw_predictions, draw_timeline)]
        sheets.append(draw_denoising(denoised))
    assert len({sheet.width for sheet in sheets[:2]}) == 1  # One column a page in both.
    together = stack(sheets)
    assert together.size == (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets))


# All of it


def test_everything_is_written_and_the_same_again(tiny_pipeline, gaps, run, tmp_path):
    names = ["visualize.html", "predictions.png", "denoising.png", "timeline.png", "curves.png"]
    for folder in ("a", "b"):
        files = visualize(tiny_pipeline, gaps, tmp_path / folder, num_stories=9, run=run, num_inference_steps=2)
        assert [file.relative_to(tmp_path / folder).as_posix() for file in files] == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    for name in names[1:]:
        with Image.open(tmp_path / "a" / name) as image:
            assert (image.mode, image.info) == ("RGB", {"Software": MARK})


def test_page_stands_alone_and_escapes_what_it_is_given(tiny_pipeline, gaps, tmp_path):
    files = visualize(tiny_pipeline, gaps, tmp_path, num_stories=1, num_inference_steps=2)
    document = files[0].read_text(encoding="utf-8")
    assert "curves.png" not in [file.name for file in files]
    assert not re.search(r"https?://|url\(|@import|\$\w", document)
    assert all(image["src"].startswith("data:image/png;base64,") for image in tags(document, "img"))
    assert len(tags(document, "script")) == 1
    assert "&lt;script&gt;" in document
    targets = [section["id"] for section in tags(document, "section")]
    assert [link["href"] for link in tags(document, "a")] == [f"#{target}" for target in targets]
    assert "no picture" in document
    assert "no text" in document


def test_what_cannot_be_done_is_told_before_any_work(tiny_pipeline, gaps, tmp_path):
    (tmp_path / "file").write_text("mine")
    for options, message in (
        ({"num_given": 0}, "num_given must be 1 or more"),
        ({"num_stories": 0}, "num_stories must be 1 or more"),
        ({"run": tmp_path / "nowhere"}, "does not exist"),
        ({"output": tmp_path / "file"}, "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            visualize(tiny_pipeline, gaps, **{"output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
