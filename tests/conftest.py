"""What the tests of the model share: the real classes at tiny size, and a batch with every kind of gap."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from modules.batch import StepNoise, StoryBatch, draw_noise
from modules.config import StoryConfig
from modules.evaluation.judge.judge import Judge, JudgeConfig
from modules.evaluation.judge.train_judge import train_judge
from modules.generation.pipeline import StoryPipeline
from modules.presets import PRESETS
from modules.saving.model_folder import save_model
from modules.story_model.story_model import StoryModel
from modules.storyworld import StoryWorld
from modules.text_decoder.tokenizers import StoryTokenizer
from tests.support.runs import END, trace, train
from tests.support.shared import make_once

# One thread a worker: workers do not starve each other, and sums are the same on every machine.
os.environ["OMP_NUM_THREADS"] = "1"  # For the programs that tests start.
torch.set_num_threads(1)

# Files that train models or start programs for seconds, the longest first. A test run begins with them, so that no
# worker is left alone with a long one; `make test-fast` leaves them out. Two that need `reference` do not follow each
# other at the start, where one worker would wait for the other's.
LONG_FILES = (
    "test_notebooks.py",
    "training/test_fsdp_training.py",
    "training/test_training.py",
    "prior/test_baselines.py",
    "test_presets.py",
    "training/test_phases.py",
    "training/test_warm_start.py",
    "training/test_non_finite.py",
    "test_captioner_failures.py",
    "commands/test_train_command.py",
    "commands/test_help.py",
    "commands/test_generate.py",
    "commands/test_bad_input.py",
    "commands/test_steering_commands.py",
    "test_preset_errors.py",
    "data/test_data_path.py",
    "commands/test_study_commands.py",
    "pretrained/test_libraries.py",
    "training/test_distributed.py",
    "presentation/test_visualize.py",
    "studio/test_studio_api.py",
    "evaluation/test_evaluation.py",
    "benchmarks/test_cast_probe.py",
    "benchmarks/test_pictures.py",
    "evaluation/test_evaluate_presets.py",
    "presentation/test_codebook_page.py",
    "evaluation/test_ablation.py",
    "evaluation/test_sweep.py",
    "evaluation/test_interventions.py",
    "evaluation/test_judge.py",
    "training/test_dry_run.py",
    "downloads/test_hub_library.py",
    "downloads/test_hub_sources.py",
    "data/test_hf_datasets.py",
    "pretrained/test_hub.py",
    "saving/test_checkpoint_faults.py",
    "evaluation/test_ranking.py",
)
# Of the slow tests, the files that take over half a minute, the longest first.
SLOW_FILES = (
    "test_notebooks.py",
    "test_real_words.py",
    "benchmarks/test_gpu_kit.py",
    "faults/test_machine.py",
    "training/test_fsdp_training.py",
    "test_set_up.py",
    "damaged/test_damaged_inputs.py",
    "benchmarks/test_record_studio.py",
    "test_documentation.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `LONG_FILES` as trainings, and put long files first."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONG_FILES)}
    slow_places = {root / name: place - len(SLOW_FILES) for place, name in enumerate(SLOW_FILES)}
    for item in items:
        if item.path in places:
            item.add_marker(pytest.mark.training)

    def place(item: pytest.Item) -> int:
        usual = places.get(item.path, len(places))
        return slow_places.get(item.path, usual) if item.get_closest_marker("slow") else usual

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let garbage collections pass over what the imports made: each would take .3 s, and a training makes six."""
    gc.collect()
    gc.freeze()


TEXT_LENGTHS = ((9, 0, 40), (5, 12, 0))  # Story 0 has no text at step 1, story 1 has two steps.
HAS_IMAGE = ((True, True, True), (False, True, False))
IS_STEP = ((True, True, True), (True, True, False))
PROMPT_LENGTHS = (6, 11)


@pytest.fixture(scope="session")
def tiny_config() -> StoryConfig:
    return PRESETS["tiny"]


@pytest.fixture
def story_batch(tiny_config: StoryConfig) -> StoryBatch:
    """2 stories x 3 steps: ragged texts and prompts, a step without text, one without picture, a padded one.

    Masked places hold noise.
    """
    generator = torch.Generator().manual_seed(1)
    text_mask = torch.arange(tiny_config.text_decoder.max_length) < torch.tensor(TEXT_LENGTHS)[..., None]
    prompt_mask = torch.arange(14) < torch.tensor(PROMPT_LENGTHS)[:, None]
    input_ids = torch.randint(3, tiny_config.vocab_size, text_mask.shape, generator=generator)
    input_ids[..., 0] = 1
    for story, step in text_mask.any(-1).nonzero().tolist():
        input_ids[story, step, TEXT_LENGTHS[story][step] - 1] = 2
    image_mask, step_mask = torch.tensor(HAS_IMAGE), torch.tensor(IS_STEP)
    return StoryBatch(
        prompt_ids=torch.randint(3, tiny_config.vocab_size, prompt_mask.shape, generator=generator),
        prompt_mask=prompt_mask,
        input_ids=input_ids,
        text_mask=text_mask,
        latents=torch.randn(2, 3, *tiny_config.autoencoder.latent_shape, generator=generator),
        image_mask=image_mask,
        step_mask=step_mask,
        num_steps=step_mask.sum().float(),
        num_images=image_mask.sum().float(),
        num_tokens=text_mask[..., 1:].sum().float(),
    )


@pytest.fixture
def story_noise(tiny_config: StoryConfig) -> StepNoise:
    """The noise of one pass over `story_batch`: both modalities are seen, and no codes are dropped."""
    return draw_noise(6, tiny_config.autoencoder.latent_shape, 1000, torch.Generator().manual_seed(2))


@pytest.fixture
def tiny_model(tiny_config: StoryConfig, story_batch: StoryBatch) -> StoryModel:
    """Quantising, and with weights larger than at the start of training, so that whatever leaks is seen."""
    torch.manual_seed(0)
    model = StoryModel(tiny_config).eval()
    with torch.no_grad():
        for factor in (model.storyboard, model.prior, model.text_decoder):
            for parameter in factor.parameters():
                parameter.mul_(4 if parameter.ndim == 2 else 1)
        for module in (model.text_decoder, model.image_decoder):
            module.null_codes.normal_()
        slots = model.encode(story_batch).slots[story_batch.step_mask.flatten()]
    model.storyboard.quantizer.fit(slots.flatten(0, 1), seed=0)
    return model


def write_tiny_checkpoint(folder: Path) -> None:
    """Save a model that generates nonsense: no weight was trained, but the codes are in use."""
    config = PRESETS["tiny"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = StoryModel(config)
        vectors = torch.randn(20 * config.storyboard.codebook_size, config.storyboard.codebook_dim)
    model.storyboard.quantizer.fit(vectors, seed=0)
    with torch.no_grad():  # Larger weights than at the start of training, so that other codes give other texts.
        for parameter in (*model.prior.parameters(), *model.text_decoder.parameters()):
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    tokenizer = StoryTokenizer.train(StoryWorld(20, image_size=32).texts(), config.vocab_size)
    save_model(folder / "model", config, model.state_dict(), tokenizer)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that generates nonsense."""
    return make_once(tmp_path_factory, "tiny", write_tiny_checkpoint) / "model"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the presets name, by their ids, at toy size."""
    from tests.support.tiny_presets import write_hub  # Here, for it imports the classes of ten models.

    return make_once(tmp_path_factory, "hub", write_hub)


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_checkpoint: Path) -> StoryPipeline:
    return StoryPipeline.from_pretrained(tiny_checkpoint)


def train_reference(folder: Path) -> None:
    assert train(folder, "--sample_every", 4, "--keep_last", 0) == 0


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training from start to end, with samples on the way; every checkpoint is kept."""
    folder = make_once(tmp_path_factory, "reference", train_reference)
    assert [line["global_step"] for line in trace(folder)] == list(range(END))
    return folder


def train_tiny_judge(folder: Path) -> None:
    config = JudgeConfig(image_size=32, hidden_sizes=(8, 16), blocks=1, embed_dim=16)
    train_judge(config, num_stories=30, num_steps=30).save(folder)


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """A judge of 32 pixels, trained for a moment: better than chance, no more."""
    return Judge.from_pretrained(make_once(tmp_path_factory, "judge", train_tiny_judge))
