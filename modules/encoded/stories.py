"""Stories as tensors in memory: texts tokenised, images encoded once by the frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.batch import FEATURES, STEP_FIELDS, PlanBatch, StepInputs, StoryBatch
from modules.data.pixels import pixels_of
from modules.data.read_ahead import ReadAhead
from modules.encoded.rows import ShardedRows
from modules.image_decoder.autoencoder import PictureAutoencoder, PretrainedAutoencoder
from modules.image_decoder.image_decoder import ImageDecoder
from modules.story import Story, StoryDataset, StoryStep
from modules.story_model.story_model import StoryModel
from modules.storyboard.text_encoders import EncoderTokenizer
from modules.text_decoder.tokenizers import Vocabulary

ENCODE_BATCH = 64  # Images of one call: a fixed shape, so that oneDNN compiles its kernels once.
READ_AHEAD = 16  # Stories, while all of them are encoded.
Autoencoder = PictureAutoencoder | PretrainedAutoencoder


def no_progress(_done: int) -> None:
    """Report nothing."""


def encode_batch(autoencoder: Autoencoder) -> int:
    """Return the number of images of one call: more on a GPU, where the autoencoder is small."""
    on_cpu = autoencoder.latent_mean.device.type == "cpu"
    return ENCODE_BATCH if on_cpu or isinstance(autoencoder, PretrainedAutoencoder) else 8 * ENCODE_BATCH


def encode_pictures(images: Sequence[Image.Image | None], autoencoder: Autoencoder, size: int) -> Tensor:
    """Encode up to `encode_batch` images, None where one is absent -> latents (N,c,h,w) float16 on the CPU, zeros for
    absent ones.
    """
    pixels = pixels_of([*images, *[None] * (encode_batch(autoencoder) - len(images))], size)
    latents = autoencoder.encode(pixels.to(autoencoder.latent_mean.device))[: len(images)].cpu()
    latents[torch.tensor([image is None for image in images])] = 0
    return latents.half().contiguous()  # As in a cache: rounding depends on the memory layout.


def tokenize_steps(texts: Sequence[str | None], model: StoryModel, tokenizer: Vocabulary) -> dict[str, Tensor]:
    """Tokenise the texts of N steps, None where absent, for every part that reads texts: fields of `StoryBatch`, each
    (N,L).
    """
    words = [text or "" for text in texts]
    ids, mask = tokenizer.encode_batch(words, model.config.text_decoder.max_length)
    tokens = {"input_ids": ids, "text_mask": mask & torch.tensor([text is not None for text in texts])[:, None]}
    tokens |= model.tokenize(words)
    if model.image_decoder.text_encoder is not None:
        tokens["caption_ids"] = model.image_decoder.tokenize(words)
    return tokens


def batch_of_steps(steps: Sequence[StoryStep], model: StoryModel, tokenizer: Vocabulary) -> StoryBatch:
    """Return T given steps as a batch of one story, on the model's device."""
    images = [step.image for step in steps]
    has_image = torch.tensor([image is not None for image in images])
    pixels = pixels_of(images, model.config.autoencoder.image_size)
    latents = torch.zeros(len(steps), *model.config.autoencoder.latent_shape)
    if has_image.any():
        latents[has_image] = model.autoencoder.encode(pixels[has_image].to(model.device)).cpu()
    tokens = tokenize_steps([step.text for step in steps], model, tokenizer)
    return _one_story(tokens, latents, has_image, pixels if model.reads_pixels else None).to(model.device)


def batch_of_latents(latents: Tensor, model: StoryModel, tokenizer: Vocabulary) -> StoryBatch:
    """Return pictures by their latents (T,c,h,w), without texts, as a batch of one story, on the model's device."""
    pixels = model.autoencoder.decode(latents.to(model.device)) if model.reads_pixels else None
    tokens = tokenize_steps([None] * len(latents), model, tokenizer)
    is_there = torch.ones(len(latents), dtype=torch.bool)
    return _one_story(tokens, latents, is_there, pixels).to(model.device)


def _one_story(tokens: dict[str, Tensor], latents: Tensor, has_image: Tensor, pixels: Tensor | None) -> StoryBatch:
    fields: dict[str, Any] = {name: ids[None] for name, ids in tokens.items()}
    return StoryBatch(
        **fields,
        latents=latents[None],
        image_mask=has_image[None],
        step_mask=torch.ones_like(has_image)[None],
        pixels=None if pixels is None else pixels[None],
    )


class EncodedStories:
    """All stories of a data set as the inputs of `model`, to be cut into batches; about 10 kB a step.

    `lengths[i]` is the number of steps of story i, `attributes[i]` the ground truth of its steps (None if unknown). If
    the model reads pixels, they are read from the data set again for every batch: `workers` threads read the stories
    given to `expect`. With the rows of an `EncodedCache` as `cached`, no image is opened.
    """

    def __init__(
        self,
        source: StoryDataset,
        model: StoryModel,
        tokenizer: Vocabulary,
        progress: Callable[[int], None] = no_progress,
        workers: int = 0,
        cached: Mapping[str, ShardedRows] | None = None,
    ) -> None:
        self.config, self._cached, self._has_pixels = model.config, cached or {}, model.reads_pixels
        self.source = ReadAhead(source, self.config.autoencoder.image_size, workers)
        self.lengths: list[int] = []
        self.attributes: list[list[Mapping[str, Any] | None]] = []
        self.prompts: list[str] = []
        self.texts: list[str | None] = []
        self.latents: Tensor | ShardedRows
        self.latents, self.image_mask = (
            self._read_cached(progress) if cached else self._read(model.autoencoder, progress)
        )
        self.prompt_ids, self.prompt_mask = model.tokenize_prompts(self.prompts, tokenizer)
        self.tokens = tokenize_steps(self.texts, model, tokenizer)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.codes: Tensor | None = None  # (variants, N, S): both modalities, text only, picture only.

    def count_cut(self, tokenizer: Vocabulary, of_prompts: EncoderTokenizer | None = None) -> tuple[int, int]:
        """Return how many texts of steps, and how many prompts, are longer than the model reads and lose their ends.

        `of_prompts` is the tokenizer of prompts, if a text encoder reads them.
        """
        cut = []
        for texts, mask, own in ((self.texts, self.text_mask, None), (self.prompts, self.prompt_mask, of_prompts)):
            full = [text for text, is_full in zip(texts, mask.all(-1).tolist(), strict=True) if is_full and text]
            length = mask.shape[-1]
            counts = (own.count(text) if own else len(tokenizer.encode(text, length + 1)) for text in full)
            cut.append(sum(count > length for count in counts))
        return cut[0], cut[1]

    def _read_cached(self, progress: Callable[[int], None]) -> tuple[ShardedRows, Tensor]:
        for index in range(len(self.source)):
            self._append(self.source.outline(index))
            progress(index + 1)
        return self._cached["latents"], self._cached["image_mask"][:]

    def _read(self, autoencoder: Autoencoder, progress: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        latents: list[Tensor] = []
        masks: list[bool] = []
        queue: list[Image.Image | None] = []
        count = encode_batch(autoencoder)
        for index in range(len(self.source)):
            self.source.expect(range(index, min(len(self.source), index + READ_AHEAD)))
            story = self.source[index]
            self._append(story)
            queue += [step.image for step in story.steps]
            masks += [step.image is not None for step in story.steps]
            while len(queue) >= count or (queue and index == len(self.source) - 1):
                latents.append(encode_pictures(queue[:count], autoencoder, self.config.autoencoder.image_size))
                queue = queue[count:]
            progress(index + 1)
        return torch.cat(latents), torch.tensor(masks)

    def _append(self, story: Story) -> None:
        """Append a story without its images."""
        self.lengths.append(len(story.steps))
        self.attributes.append([step.attributes for step in story.steps])
        self.prompts.append(story.prompt)
        self.texts += [step.text for step in story.steps]

    @property
    def input_ids(self) -> Tensor:
        """The tokens (N,L) of all steps."""
        return self.tokens["input_ids"]

    @property
    def text_mask(self) -> Tensor:
        """Their mask (N,L) bool."""
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
        """Return the decoders' targets for row numbers (...), each (..., *)."""
        masks = {"image_mask": self.image_mask[rows], "text_mask": self.text_mask[rows]}
        return {"latents": self.latents[rows].float(), "input_ids": self.input_ids[rows], **masks}

    def expect(self, indices: Iterable[int]) -> None:
        """Start reading the images of these stories, which are needed soon, if batches contain pixels."""
        if self.reads_pixels:
            self.source.expect(indices)

    @property
    def reads_pixels(self) -> bool:
        """Whether batches open images: not if these, or codes in place of all the encoder's inputs, are cached."""
        return self._has_pixels and self.codes is None and not self._cached

    def _pixels(self, rows: Tensor) -> Tensor:
        """Return the pixels (...,3,H,W) of row numbers (...)."""
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
        """Return the texts of row numbers (n,) as an image decoder reads them (n,L,D); None if it reads codes alone."""
        return decoder.encode_text(self.tokens["caption_ids"][rows]) if "caption_ids" in self.tokens else None

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: int) -> range:
        """Return the flat row numbers of one story's steps."""
        return range(self.starts[index], self.starts[index] + self.lengths[index])

    def batch(self, indices: Sequence[int], num_steps: int | None = None, variant: Tensor | None = None) -> StoryBatch:
        """Return the stories of `indices`, padded to `num_steps` steps (default: those of the longest).

        Cached codes are included; `variant` (B,T) chooses among them, by default 0: from both modalities.
        """
        rows, step_mask = self._padded(indices, num_steps)
        steps = self._inputs(rows) if self.codes is None else self._decoded(rows)
        steps["text_mask"] = steps["text_mask"] & step_mask[..., None]
        steps["image_mask"] = steps["image_mask"] & step_mask
        if "caption_ids" in self.tokens:
            steps["caption_ids"] = self.tokens["caption_ids"][rows]
        codes = None if self.codes is None else self.codes[torch.zeros_like(rows) if variant is None else variant, rows]
        return StoryBatch(
            **steps,
            prompt_ids=self.prompt_ids[list(indices)],
            prompt_mask=self.prompt_mask[list(indices)],
            step_mask=step_mask,
            codes=codes,
            plans=None,
            num_steps=step_mask.sum().float(),
            num_images=steps["image_mask"].sum().float(),
            num_tokens=steps["text_mask"][..., 1:].sum().float(),
        )

    def counts(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the numbers of steps, tokens after <bos> and images of the stories of `indices`, each () float."""
        rows = torch.tensor([row for index in indices for row in self.rows(index)])
        return (
            torch.tensor(float(len(rows))),
            self.text_mask[rows, 1:].sum().float(),
            self.image_mask[rows].sum().float(),
        )

    def plans(self, indices: Sequence[int]) -> PlanBatch:
        """Return the cached codes of the stories of `indices`, from both modalities, for the prior."""
        assert self.codes is not None
        rows, step_mask = self._padded(indices, None)
        return PlanBatch(
            codes=self.codes[0, rows],
            prompt_ids=self.prompt_ids[list(indices)],
            prompt_mask=self.prompt_mask[list(indices)],
            step_mask=step_mask,
            num_steps=step_mask.sum().float(),
        )

    def _padded(self, indices: Sequence[int], num_steps: int | None) -> tuple[Tensor, Tensor]:
        """Return row numbers (B,T) of the stories' steps, padded with the first step's, and their step_mask (B,T)."""
        lengths = [self.lengths[index] for index in indices]
        num_steps = num_steps or max(lengths)
        rows = [
            [*self.rows(index), *[self.starts[index]] * (num_steps - length)]
            for index, length in zip(indices, lengths, strict=True)
        ]
        return torch.tensor(np.array(rows)), torch.arange(num_steps) < torch.tensor(lengths)[:, None]
