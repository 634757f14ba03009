"""`visualize`: images of a model's predictions and one self-contained HTML page.

predictions.png    pages as they are, from their own codes, predicted from the pages before, and from the prompt alone
denoising.png      one page on its way from noise
timeline.png       a story's codes by slot and step, where the model has codes
curves.png         the training curves of a run
visualize.html     all of it, for every story

The same model, stories and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.files import write_whole
from modules.common.ownership import MARK
from modules.common.progress import track
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.presentation.images import png_uri, write_png
from modules.presentation.plots.curve_files import Curve, read_curves
from modules.presentation.plots.curves import draw_curves
from modules.presentation.story.files import prepare_output
from modules.presentation.templates import render
from modules.presentation.theme import DARK, LIGHT
from modules.presentation.visualize import drawings
from modules.presentation.visualize.denoising import DenoisingTrace, denoise_one
from modules.presentation.visualize.timeline import repeated_codes, run_ties, slot_runs
from modules.presentation.visualize.versions import Comparison, PageView, compare_versions
from modules.story import StoryDataset


def visualize(
    pipeline: StoryPipeline,
    source: StoryDataset,
    output: Path,
    num_stories: int = 3,
    run: Path | None = None,
    num_given: int = 3,
    seed: int = 0,
    num_inference_steps: int = GenerationSettings.num_inference_steps,
) -> list[Path]:
    """Visualise the first `num_stories` stories of a dataset, and with `run` that run's curves; return the files.

    `num_given` true pages precede the predicted ones; a shorter story is given all pages but its last.

    Raises:
        UserError: a number out of range, no training curves in `run`, a checkpoint from before its codebook was
            placed, or `output` cannot be written.
    """
    for name, value in (("num_stories", num_stories), ("num_given", num_given)):
        if value < 1:
            raise UserError(f"{name} must be 1 or more, got {value}")
    curves = None if run is None else read_curves(run)
    prepare_output(output)
    indices = track("generating stories", range(min(num_stories, len(source))))
    comparisons = [compare_versions(pipeline, source[index], num_given, seed, num_inference_steps) for index in indices]
    trace = denoise_one(pipeline, comparisons, seed, num_inference_steps)
    images = {
        "predictions.png": drawings.stack([drawings.draw_predictions(comparison) for comparison in comparisons]),
        "denoising.png": drawings.draw_denoising(trace),
    }
    if comparisons[0].has_codes:
        images["timeline.png"] = drawings.draw_timeline(comparisons[0])
    if curves is not None:
        images["curves.png"] = draw_curves(curves)
    settings = {"seed": seed, "denoising updates": num_inference_steps}
    details = {"stories": source.name, "preset": pipeline.config.preset, **settings}
    page = write_page(output / "visualize.html", comparisons, trace, curves, details)
    return [page, *(write_png(output / name, image, {"Software": MARK}) for name, image in images.items())]


def write_page(
    path: Path,
    comparisons: Sequence[Comparison],
    trace: DenoisingTrace,
    curves: Mapping[str, Curve] | None,
    details: Mapping[str, object],
) -> Path:
    """Write one self-contained page, with a training section if there are `curves`. Raises UserError if that fails."""
    document = render(
        "visualize/visualize.html",
        comparisons=comparisons,
        has_codes=comparisons[0].has_codes,
        trace=trace,
        heads=drawings.trace_heads(trace),
        condition=drawings.condition_caption(trace),
        noisy=drawings.NOISY,
        guesses=drawings.GUESSES,
        caption=drawings.bits_caption,
        timeline=timeline,
        curves=None if curves is None else [png_uri(draw_curves(curves, theme)) for theme in (DARK, LIGHT)],
        details=details,
    )
    return write_whole(path, document.encode())


def timeline(pages: Sequence[PageView]) -> list[list[dict[str, Any]]]:
    """Return the tiles of each slot over the true pages' steps: code, steps, whether it is pale, and its ties."""
    plan = [page.codes for page in pages]
    repeated = repeated_codes(plan)
    slots = []
    for codes in zip(*plan, strict=True):
        runs = slot_runs(codes)
        slots.append(
            [
                {
                    "code": run.code,
                    "steps": run.end - run.start + 1,
                    "is_pale": run.code not in repeated,
                    "ties": run_ties(run, runs),
                }
                for run in runs
            ]
        )
    return slots
