"""Rules of the house that no linter checks: sizes of files and functions, docstrings, names of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES, TEST_NAME_LENGTH = 300, 35, 60

# What is still beyond the limits. These lists only get shorter.
LONG_FILES: set[str] = {
    "tests/image_decoder/test_image_decoder_pretrained.py",
    "tests/presentation/test_visualize.py",
    "tests/prior/test_predictor.py",
    "tests/saving/test_checkpoint.py",
    "tests/story_model/test_story_model.py",
    "tests/text_decoder/test_text_decoder_pretrained.py",
}
LONG_FUNCTIONS: set[str] = {
    "modules/presentation/plots/architecture.py::model",
    "tests/downloads/test_hub_sources.py::told",
    "tests/saving/test_export.py::test_push_to_hub_uploads_the_folder",
    "tests/support/hub_folders.py::write_stable_diffusion",
    "tests/support/tiny_presets.py::tiny_preset",
}
LONG_TEST_NAMES: set[str] = {
    "tests/data/test_data_path.py::test_training_with_a_cache_opens_no_picture_and_has_the_same_losses",
    "tests/data/test_report.py::test_the_page_shows_pictures_and_texts_and_needs_nothing_else",
    "tests/downloads/test_hub_sources.py::test_a_run_that_was_cut_off_goes_on_without_a_gap_or_a_duplicate",
    "tests/downloads/test_sources.py::test_african_storybook_pairs_pages_with_the_pictures_after_the_cover",
    "tests/presentation/test_codebook_page.py::test_every_used_code_has_a_card_and_every_page_of_it_holds_the_code",
    "tests/presentation/test_codebook_page.py::test_same_stories_and_seed_give_the_same_bytes_in_place_of_the_old",
    "tests/presentation/test_codebook_page.py::test_what_cannot_be_analysed_or_written_is_told_before_any_work",
    "tests/presentation/test_visualize.py::test_bits_of_the_true_pages_are_those_of_a_plan_that_draws_them",
    "tests/presentation/test_visualize.py::test_drawing_leaves_matplotlib_as_it_was_and_heeds_none_of_its_settings",
    "tests/prior/test_predictor.py::test_a_step_is_predicted_from_every_slot_before_it_and_from_no_other",
    "tests/prior/test_prior.py::test_temperature_zero_takes_the_best_and_ignores_the_generator",
    "tests/prior/test_sinks.py::test_a_plan_of_hundreds_of_steps_costs_the_same_at_every_step",
    "tests/prior/test_sinks.py::test_experts_losses_and_loads_leave_the_prior_without_padding",
    "tests/prior/test_sinks.py::test_prompt_first_step_and_window_are_seen_and_nothing_between",
    "tests/prior/test_sinks.py::test_what_is_read_with_sinks_is_what_stands_in_the_cache_and_nowhere_else",
    "tests/storyboard/test_aids.py::test_visual_words_depend_on_the_seed_alone_and_on_no_order_of_cells",
    "tests/storyboard/test_image_encoders.py::test_a_folder_without_a_preprocessor_is_normalised_as_its_kind_was_trained",
    "tests/storyboard/test_image_encoders.py::test_checkpointing_computes_layers_twice_and_the_same_gradients",
    "tests/storyboard/test_image_encoders.py::test_from_scratch_every_token_sees_the_whole_picture_and_no_other",
    "tests/storyboard/test_image_encoders.py::test_from_scratch_with_checkpointing_gives_the_same_gradients",
    "tests/storyboard/test_image_encoders.py::test_pictures_are_resized_and_normalised_as_the_processor_of_the_folder_does",
    "tests/storyboard/test_image_encoders.py::test_the_frozen_layers_below_build_no_graph_and_have_no_dropout",
    "tests/storyboard/test_quantizer.py::test_codes_are_the_nearest_and_their_embeddings_are_what_leaves",
    "tests/storyboard/test_text_encoders.py::test_what_trains_gets_gradients_and_the_rest_stays_in_eval_mode",
    "tests/story_model/test_story_model.py::test_continuous_model_trains_encoder_and_decoders_without_codes",
}


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of all Python files of the given folders by path; by default of the whole repository."""
    paths = [path for folder in folders or ("modules", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    paths += [] if folders else ROOT.glob("*.py")
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in sources(*folders).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}::{node.name}", node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, signature and docstring left out."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_are_short():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {path for path, length in lengths.items() if length > FILE_LINES} <= LONG_FILES


def test_functions_are_short():
    lengths = {name: body_lines(node) for name, node in functions()}
    assert {name for name, length in lengths.items() if length > FUNCTION_LINES} <= LONG_FUNCTIONS


def test_every_file_has_a_docstring():
    assert [path for path, tree in sources().items() if tree.body and not ast.get_docstring(tree)] == []


def test_the_formatter_is_never_turned_off():
    marks = [f"# fmt: {word}" for word in ("skip", "off")]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in sources()}
    assert [path for path, text in texts.items() if any(mark in text for mark in marks)] == []


def test_names_of_tests_are_short():
    names = {name for name, node in functions("tests") if node.name.startswith("test_")}
    assert {name for name in names if len(name.partition("::")[2]) > TEST_NAME_LENGTH} <= LONG_TEST_NAMES
