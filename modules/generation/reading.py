"""StoryReader: the codes of given pages, and the vectors that the decoders read in place of codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.common.threads import one_at_a_time
from modules.encoded.stories import batch_of_steps
from modules.generation.loaded_model import LoadedModel
from modules.story import StoryStep


class StoryReader(LoadedModel):
    """A trained model that reads pages."""

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes (T,S) -> the decoders' vectors (T,S,d); vectors are returned as they are."""
        codes = codes.to(self.device)
        return codes if codes.is_floating_point() else self.model.storyboard.embed(codes).code_embeds

    @one_at_a_time
    @torch.no_grad()
    def encode(self, steps: Sequence[StoryStep]) -> Tensor:
        """Encode pages, each with a text, an image or both -> their codes (T,S). Nothing is drawn at random.

        Raises UserError if there is no page, or one without both.

        >>> from modules.story import StoryStep
        >>> codes = pipeline.encode([StoryStep("A fox wants a kite."), StoryStep(None, story.images[1])])
        >>> codes.shape
        torch.Size([2, 8])
        """
        self.check_codebook()
        if not steps or any(step.text is None and step.image is None for step in steps):
            raise UserError("give one or more pages to encode, each with a text, an image or both")
        codes = self.model.encode(batch_of_steps(steps, self.model, self.tokenizer)).codes
        assert codes is not None  # The codebook is ready.
        return codes

    def check_codebook(self) -> None:
        """Raise UserError if the model has no codes: its codebook is not initialised yet, or it is a baseline."""
        if not self.model.is_ready:
            raise UserError(
                "this checkpoint was saved before its codebook was initialised: train further or use a later one"
            )
