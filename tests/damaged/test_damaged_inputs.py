"""Hundreds of damaged inputs of every kind: each works or is refused in one line, within a time.

A fifth of each kind is in `make test-slow`, all of them are in `make test-exhaustive`. `pytest -s` prints what became
of each kind.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.damaged import data_inputs, flag_inputs, model_inputs, table_inputs
from tests.damaged.base import make_base
from tests.damaged.harness import Case, Counts, remove_links, run_all

pytestmark = pytest.mark.slow
SEED = 16
# One in so many of the inputs is run. A step of 5 meets every value of the lists that a kind goes through.
STEPS = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["sample", "all"])
DATA_KINDS = {
    data_inputs.pictures: 300,
    data_inputs.story_lines: 150,
    table_inputs.json_tables: 120,
    table_inputs.csv_tables: 120,
    table_inputs.parquet_tables: 120,
    table_inputs.web_datasets: 40,
    data_inputs.folders: 120,
    data_inputs.clones: 40,
    table_inputs.other_kinds_as_data: 51,
}
MODEL_KINDS = {
    model_inputs.models: 100,
    model_inputs.runs: 40,
    model_inputs.shards: 60,
    model_inputs.stories: 80,
    model_inputs.plans: 120,
    model_inputs.plan_chunks: 60,
    model_inputs.configs: 150,
    model_inputs.pictures_to_caption: 40,
    flag_inputs.odd_paths: 161,
    flag_inputs.broken_words: 50,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_checkpoint, reference):
    return make_base(tmp_path_factory.mktemp("base"), tiny_checkpoint, reference)


def check(name: str, counts: Counts) -> None:
    seconds, slowest = counts.slowest
    print(f"\n{name}: {counts.worked} worked, {counts.refused} refused, {len(counts.wrong)} wrong")
    print(f"  the slowest took {seconds:.1f} s: {slowest[:100]!r}")
    assert counts.wrong == []
    assert counts.refused > 0 or name == "pictures"  # A broken picture is left out, and the others are kept.


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder without the links and special files that pytest's own cleaning would follow."""
    yield tmp_path
    remove_links(tmp_path)
    shutil.rmtree(tmp_path)


def every(step: int, cases: Iterator[Case]) -> Iterator[Case]:
    return islice(cases, 0, None, step)


@STEPS
@pytest.mark.parametrize("kind", DATA_KINDS, ids=lambda kind: kind.__name__)
def test_damaged_data(folder, kind, step):
    cases = kind(folder, DATA_KINDS[kind], random.Random(f"{SEED} {kind.__name__}"))
    check(kind.__name__, run_all(every(step, cases)))


@STEPS
@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_damaged_models_and_stories(folder, base, kind, step):
    cases = kind(folder, MODEL_KINDS[kind], random.Random(f"{SEED} {kind.__name__}"), base)
    check(kind.__name__, run_all(every(step, cases)))
