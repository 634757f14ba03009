"""Stories as tensors in memory: texts tokenised, pictures encoded once by the frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modules.batch import FEATURES, STEP_FIELDS, PlanBatch, StepInputs, StoryBatch
from modules.data.pixels import pixels_of
from modules.data.read_ahead import ReadAhead
from modules.encoded.rows import ShardedRows
from modules.image_decoder.image_decoder import ImageDecoder
from modules.story import Story, StoryDataset
from modules.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary

ENCODE_BATCH = 64  # Pictures of one call: a fixed shape, so that oneDNN compiles its kernels once.
READ_AHEAD = 16  # Stories, while all of them are encoded.


def encode_pictures(images: Sequence[Image.Image | None], autoencoder: nn.Module, size: int) -> Tensor:
    """Up to ENCODE_BATCH pictures, None where one is absent -> latents (N,c,h,w) float16 on the CPU, zeros where there
    is none.
    """
    pixels = pixels_of([*images, *[None] * (ENCODE_BATCH - len(images))], size)
    latents = autoencoder.encode(pixels.to(autoencoder.latent_mean.device))[: len(images)].cpu()
    latents[torch.tensor([image is None for image in images])] = 0
    return latents.half().contiguous()  # As a cache gives them: kernels round otherwise by how numbers lie.


def tokenize_steps(texts: Sequence[str | None], model: StoryModel, tokenizer: Vocabulary) -> dict[str, Tensor]:
    """The texts of N steps, None where there is none, as the tokens of all that reads texts: fields of `StoryBatch`,
    each (N,L).
    """
    words = [text or "" for text in texts]
    ids, mask = tokenizer.encode_batch(words, model.config.text_decoder.max_length)
    tokens = {"input_ids": ids, "text_mask": mask & torch.tensor([text is not None for text in texts])[:, None]}
    tokens |= model.tokenize(words)
    if model.image_decoder.text_encoder is not None:
        tokens["caption_ids"] = model.image_decoder.tokenize(words)
    return tokens


class EncodedStories:
    """All stories of a source, ready to be cut into batches of what `model` reads; about 10 kB a page.

    `lengths[i]` is the number of steps of story i, `attributes[i]` its steps' ground truth (None where there is none).
    Where the model reads pixels too, they come from the source again for every batch: `workers` threads read what
    `expect` names. With what `EncodedCache` gives as `cached` no picture is opened at all.
    """

    def __init__(
        self,
        source: StoryDataset,
        model: StoryModel,
        tokenizer: Vocabulary,
        progress: Callable[[int], None] = lambda done: None,
        workers: int = 0,
        cached: Mapping[str, ShardedRows] | None = None,
    ) -> None:
        self.config, self.lengths, self.attributes = model.config, [], []
        self.source = ReadAhead(source, self.config.autoencoder.image_size, workers)
        self.prompts, self.texts, self._cached = [], [], cached or {}
        self._has_pixels = model.reads_pixels
        self.latents, self.image_mask = (
            self._read_cached(progress) if cached else self._read(model.autoencoder, progress)
        )
        self.prompt_ids, self.prompt_mask = tokenizer.encode_batch(self.prompts, self.config.max_prompt_length)
        self.tokens = tokenize_steps(self.texts, model, tokenizer)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.codes: Tensor | None = None  # (variants, N, S): both modalities, text only, picture only.

    def _read_cached(self, progress: Callable[[int], None]) -> tuple[ShardedRows, Tensor]:
        for index in range(len(self.source)):
            self._take(self.source.outline(index))
            progress(index + 1)
        return self._cached["latents"], self._cached["image_mask"][:]

    def _read(self, autoencoder: nn.Module, progress: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        latents, masks, waiting = [], [], []
        for index in range(len(self.source)):
            self.source.expect(range(index, min(len(self.source), index + READ_AHEAD)))
            story = self.source[index]
            self._take(story)
            waiting += [step.image for step in story.steps]
            masks += [step.image is not None for step in story.steps]
            while len(waiting) >= ENCODE_BATCH or (waiting and index == len(self.source) - 1):
                latents.append(encode_pictures(waiting[:ENCODE_BATCH], autoencoder, self.config.autoencoder.image_size))
                waiting = waiting[ENCODE_BATCH:]
            progress(index + 1)
        return torch.cat(latents), torch.tensor(masks)

    def _take(self, story: Story) -> None:
        """Keep all of a story but its pictures."""
        self.lengths.append(len(story.steps))
        self.attributes.append([step.attributes for step in story.steps])
        self.prompts.append(story.prompt)
        self.texts += [step.text for step in story.steps]

    @property
    def input_ids(self) -> Tensor:
        """(N,L), of all steps."""
        return self.tokens["input_ids"]

    @property
    def text_mask(self) -> Tensor:
        """(N,L) bool, of all steps."""
        return self.tokens["text_mask"]

    def steps(self, rows: Tensor | slice) -> StepInputs:
        """Return the encoder's inputs for the steps of row numbers (n,)."""
        return StepInputs(**self._inputs(rows))

    def _inputs(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """Return the fields of `StepInputs` for row numbers (...), each (..., *)."""
        inputs = self._decoded(rows) | {name: value[rows] for name, value in self.tokens.items() if name in STEP_FIELDS}
        inputs |= {name: self._cached[name][rows].float() for name in FEATURES if name in self._cached}
        if self._has_pixels and "image_features" not in inputs:
            inputs["pixels"] = self._pixels(torch.arange(len(self.texts))[rows])
        return inputs

    def _decoded(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """What the decoders learn to give, of the same rows."""
        masks = {"image_mask": self.image_mask[rows], "text_mask": self.text_mask[rows]}
        return {"latents": self.latents[rows].float(), "input_ids": self.input_ids[rows], **masks}

    def expect(self, indices: Iterable[int]) -> None:
        """Let the pictures of these stories be read, if batches need them: they are asked for soon."""
        if self.reads_pixels:
            self.source.expect(indices)

    @property
    def reads_pixels(self) -> bool:
        """Whether batches open pictures: not when these, or codes in the place of all that the encoder reads, are
        cached.
        """
        return self._has_pixels and self.codes is None and not self._cached

    def _pixels(self, rows: Tensor) -> Tensor:
        """(...) -> (...,3,H,W)."""
        if "pixels" in self._cached:
            return self._cached["pixels"][rows].float() / 127.5 - 1
        size = self.config.autoencoder.image_size
        stories = np.searchsorted(self.starts, rows.flatten().numpy(), side="right") - 1
        read = {index: self.source[index].steps for index in map(int, np.unique(stories))}
        images = [
            read[index][row - self.starts[index]].image
            for index, row in zip(stories, rows.flatten().tolist(), strict=True)
        ]
        return pixels_of(images, size).unflatten(0, rows.shape)

    def captions(self, rows: Tensor | Sequence[int], decoder: ImageDecoder) -> Tensor | None:
        """What an image decoder reads of the texts of some row numbers (n,): (n,L,D); None where it reads the codes
        alone.
        """
        return decoder.encode_text(self.tokens["caption_ids"][rows]) if "caption_ids" in self.tokens else None

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: int) -> range:
        """The flat row numbers of one story's steps."""
        return range(self.starts[index], self.starts[index] + self.lengths[index])

    def batch(self, indices: Sequence[int], num_steps: int | None = None, variant: Tensor | None = None) -> StoryBatch:
        """The stories of `indices`, padded to `num_steps` steps (default: the longest of them).

        Where codes are cached they are given too; `variant` (B,T) says which of them, default 0: from both modalities.
        """
        rows, step_mask = self._padded(indices, num_steps)
        steps = self._inputs(rows) if self.codes is None else self._decoded(rows)
        steps["text_mask"], steps["image_mask"] = (
            steps["text_mask"] & step_mask[..., None],
            steps["image_mask"] & step_mask,
        )
        if "caption_ids" in self.tokens:
            steps["caption_ids"] = self.tokens["caption_ids"][rows]
        codes = None if self.codes is None else self.codes[torch.zeros_like(rows) if variant is None else variant, rows]
        return StoryBatch(
            prompt_ids=self.prompt_ids[list(indices)],
            prompt_mask=self.prompt_mask[list(indices)],
            **steps,
            step_mask=step_mask,
            codes=codes,
            num_steps=step_mask.sum().float(),
            num_images=steps["image_mask"].sum().float(),
            num_tokens=steps["text_mask"][..., 1:].sum().float(),
        )

    def counts(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """How many steps, tokens after <bos> and pictures the stories of `indices` hold, each () float."""
        rows = torch.tensor([row for index in indices for row in self.rows(index)])
        return (
            torch.tensor(float(len(rows))),
            self.text_mask[rows, 1:].sum().float(),
            self.image_mask[rows].sum().float(),
        )

    def plans(self, indices: Sequence[int]) -> PlanBatch:
        """The cached codes of the stories of `indices`, from both modalities, for the prior."""
        rows, step_mask = self._padded(indices, None)
        return PlanBatch(
            codes=self.codes[0, rows],
            prompt_ids=self.prompt_ids[list(indices)],
            prompt_mask=self.prompt_mask[list(indices)],
            step_mask=step_mask,
            num_steps=step_mask.sum().float(),
        )

    def _padded(self, indices: Sequence[int], num_steps: int | None) -> tuple[Tensor, Tensor]:
        """Row numbers (B,T) of the stories' steps, padded with the first one's, and their step_mask (B,T)."""
        lengths = [self.lengths[index] for index in indices]
        num_steps = num_steps or max(lengths)
        rows = [
            [*self.rows(index), *[self.starts[index]] * (num_steps - length)]
            for index, length in zip(indices, lengths, strict=True)
        ]
        return torch.tensor(np.array(rows)), torch.arange(num_steps) < torch.tensor(lengths)[:, None]
