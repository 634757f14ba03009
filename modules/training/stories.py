"""The encoded stories of a run: those of all phases, and more for the planning phase."""

from __future__ import annotations

import sys

from accelerate import Accelerator

from modules.common.progress import progress_line
from modules.encoded.cache import EncodedCache
from modules.encoded.stories import EncodedStories
from modules.story import StoryDataset
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary
from modules.training.plan_stories import PlanStories
from modules.training.settings import TrainSettings


class TrainingStories:
    """Stories that are encoded when a phase first asks for them."""

    def __init__(
        self,
        model: StoryModel,
        tokenizer: Vocabulary,
        dataset: StoryDataset,
        plan_dataset: StoryDataset | None,
        settings: TrainSettings,
        accelerator: Accelerator,
    ) -> None:
        """Raises UserError if the settings name a cache that does not fit."""
        self.model, self.tokenizer, self.dataset, self.settings = model, tokenizer, dataset, settings
        self.accelerator = accelerator
        self._cached = None if settings.cache is None else EncodedCache(settings.cache, model, dataset).rows
        self._encoded: EncodedStories | None = None
        self._more: PlanStories | None = None
        if plan_dataset is not None:
            self._more = PlanStories(plan_dataset, settings.output_dir, settings.seed)

    def encode_ahead(self) -> None:
        """Let the first process encode the stories of the planning phase in the background, once the autoencoder is
        trained.
        """
        if self._more is not None and self.accelerator.is_main_process and self._more.process is None:
            self._more.start(self.model, self.tokenizer)

    def encoded(self, phase: str) -> EncodedStories:
        """Return the encoded stories of a phase. Raises UserError if encoding in the background failed."""
        visible = self.accelerator.is_main_process
        if phase == "planning" and self._more is not None:
            if visible:
                self._more.wait()
            self.accelerator.wait_for_everyone()
            return self._more.encoded(self.model, self.tokenizer, self.accelerator.autocast, visible)
        if self._encoded is None:
            with progress_line("encoding stories", len(self.dataset), visible) as progress:
                self._encoded = EncodedStories(
                    self.dataset, self.model, self.tokenizer, progress.update, self.settings.num_workers, self._cached
                )
            if visible:
                self._print_cut(self._encoded)
        return self._encoded

    def _print_cut(self, stories: EncodedStories) -> None:
        config, encoder = self.model.config, self.model.prompt_encoder
        num_texts, num_prompts = stories.count_cut(self.tokenizer, None if encoder is None else encoder.tokenizer)
        longest, of_prompts = config.max_prompt_length, "max_prompt_length"
        if encoder is not None:
            longest, of_prompts = config.storyboard.text_encoder.max_length, "storyboard.text_encoder.max_length"
        total = sum(text is not None for text in stories.texts)
        for count, of, what, length, setting in (
            (num_texts, total, "texts", config.text_decoder.max_length, "text_decoder.max_length"),
            (num_prompts, len(stories), "prompts", longest, of_prompts),
        ):
            if count:
                print(
                    f"note: {count:,} of {of:,} {what} are cut: they are longer than {length} tokens ({setting})",
                    file=sys.stderr,
                )

    def close(self) -> None:
        """Stop encoding in the background."""
        if self._more is not None:
            self._more.stop()
