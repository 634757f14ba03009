"""Stories as tensors in memory: texts tokenised, pictures encoded once by the frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modules.batch import READ_OF_STEPS, PlanBatch, StoryBatch
from modules.data import epoch_batches
from modules.images import fit_image
from modules.story import Story, StorySource
from modules.story_model import StoryModel
from modules.vocabulary import Vocabulary

ENCODE_BATCH = 64  # Pictures of one call: a fixed shape, so that oneDNN compiles its kernels once.


def to_pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pictures of any shape -> (N,3,H,W) in [-1,1]."""
    arrays = [np.asarray(image if image.size == (size, size) and image.mode == "RGB" else fit_image(image, size)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(N,3,H,W) in [-1,1] -> pictures."""
    arrays = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def pixels_of(images: Sequence[Image.Image | None], size: int) -> Tensor:
    """As `to_pixels`; an absent picture is black."""
    blank = Image.new("RGB", (size, size))
    return to_pixels([image or blank for image in images], size)


def tokenize_steps(texts: Sequence[str | None], model: StoryModel, tokenizer: Vocabulary) -> dict[str, Tensor]:
    """The texts of N steps, None where there is none, as the tokens of all that reads texts: fields of `StoryBatch`, each (N,L)."""
    words = [text or "" for text in texts]
    ids, mask = tokenizer.encode_batch(words, model.config.text_decoder.max_length)
    tokens = {"input_ids": ids, "text_mask": mask & torch.tensor([text is not None for text in texts])[:, None]}
    if model.storyboard is not None and model.config.storyboard.text_encoder.source:
        tokens["encoder_ids"], tokens["encoder_mask"] = model.storyboard.text_encoder.tokenizer.encode_batch(words)
    if model.image_decoder.text_encoder is not None:
        tokens["caption_ids"] = model.image_decoder.tokenize(words)
    return tokens


class Head:
    """The first `count` stories of a source."""

    def __init__(self, source: StorySource, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        return self.source[index]


class EncodedStories:
    """All stories of a source, ready to be cut into batches of what `model` reads; about 10 kB a page.

    `lengths[i]` is the number of steps of story i, `attributes[i]` its steps' ground truth (None where there is none). Where the
    model reads pixels too, they come from the source again for every batch.
    """

    def __init__(
        self, source: StorySource, model: StoryModel, tokenizer: Vocabulary, progress: Callable[[int], None] = lambda done: None
    ) -> None:
        self.source, self.config, self.lengths, self.attributes = source, model.config, [], []
        self.prompts, self.texts = [], []
        latents, masks, waiting = [], [], []
        for index in range(len(source)):
            story = source[index]
            self.lengths.append(len(story.steps))
            self.attributes.append([step.attributes for step in story.steps])
            self.prompts.append(story.prompt)
            self.texts += [step.text for step in story.steps]
            waiting += [step.image for step in story.steps]
            while len(waiting) >= ENCODE_BATCH:
                latents.append(self._encode(waiting[:ENCODE_BATCH], masks, model.autoencoder))
                waiting = waiting[ENCODE_BATCH:]
            progress(index + 1)
        if waiting:
            latents.append(self._encode(waiting, masks, model.autoencoder))
        self.latents, self.image_mask = torch.cat(latents), torch.tensor(masks)
        self.prompt_ids, self.prompt_mask = tokenizer.encode_batch(self.prompts, self.config.max_prompt_length)
        self.tokens = tokenize_steps(self.texts, model, tokenizer)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.codes: Tensor | None = None  # (variants, N, S): both modalities, text only, picture only.

    @property
    def input_ids(self) -> Tensor:
        """(N,L), of all steps."""
        return self.tokens["input_ids"]

    @property
    def text_mask(self) -> Tensor:
        """(N,L) bool, of all steps."""
        return self.tokens["text_mask"]

    def _encode(self, images: list[Image.Image | None], masks: list[bool], autoencoder: nn.Module) -> Tensor:
        """Encode up to ENCODE_BATCH pictures, an absent one as zeros, into float16 latents (N,c,h,w)."""
        masks += [image is not None for image in images]
        size = self.config.autoencoder.image_size
        pixels = pixels_of(images + [None] * (ENCODE_BATCH - len(images)), size)
        latents = autoencoder.encode(pixels.to(autoencoder.latent_mean.device))[: len(images)].cpu()
        latents[~torch.tensor(masks[-len(images) :])] = 0
        return latents.half()

    def steps(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """What the encoder reads of the steps of some row numbers (...): its inputs by name (..., *)."""
        inputs = {"latents": self.latents[rows].float(), "image_mask": self.image_mask[rows]}
        inputs |= {name: value[rows] for name, value in self.tokens.items() if name in READ_OF_STEPS}
        if self.config.storyboard.pictures != "latents":
            inputs["pixels"] = self._pixels(torch.arange(len(self.texts))[rows])
        return inputs

    def _pixels(self, rows: Tensor) -> Tensor:
        """(...) -> (...,3,H,W)."""
        size = self.config.autoencoder.image_size
        stories = np.searchsorted(self.starts, rows.flatten().numpy(), side="right") - 1
        read = {index: self.source[index].steps for index in map(int, np.unique(stories))}
        images = [read[index][row - self.starts[index]].image for index, row in zip(stories, rows.flatten().tolist(), strict=True)]
        return pixels_of(images, size).unflatten(0, rows.shape)

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
        steps = self.steps(rows)
        steps["text_mask"], steps["image_mask"] = steps["text_mask"] & step_mask[..., None], steps["image_mask"] & step_mask
        if "caption_ids" in self.tokens:
            steps["caption_ids"] = self.tokens["caption_ids"][rows]
        codes = None if self.codes is None else self.codes[torch.zeros_like(rows) if variant is None else variant, rows]
        return StoryBatch(
            prompt_ids=self.prompt_ids[list(indices)], prompt_mask=self.prompt_mask[list(indices)], **steps,
            step_mask=step_mask, codes=codes, num_steps=step_mask.sum().float(), num_images=steps["image_mask"].sum().float(),
            num_tokens=steps["text_mask"][..., 1:].sum().float(),
        )  # fmt: skip

    def counts(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """How many steps, tokens after <bos> and pictures the stories of `indices` hold, each () float."""
        rows = torch.tensor([row for index in indices for row in self.rows(index)])
        return torch.tensor(float(len(rows))), self.text_mask[rows, 1:].sum().float(), self.image_mask[rows].sum().float()

    def plans(self, indices: Sequence[int]) -> PlanBatch:
        """The cached codes of the stories of `indices`, from both modalities, for the prior."""
        rows, step_mask = self._padded(indices, None)
        return PlanBatch(
            codes=self.codes[0, rows], prompt_ids=self.prompt_ids[list(indices)], prompt_mask=self.prompt_mask[list(indices)],
            step_mask=step_mask, num_steps=step_mask.sum().float(),
        )  # fmt: skip

    def _padded(self, indices: Sequence[int], num_steps: int | None) -> tuple[Tensor, Tensor]:
        """Row numbers (B,T) of the stories' steps, padded with the first one's, and their step_mask (B,T)."""
        lengths = [self.lengths[index] for index in indices]
        num_steps = num_steps or max(lengths)
        rows = [[*self.rows(index), *[self.starts[index]] * (num_steps - length)] for index, length in zip(indices, lengths, strict=True)]
        return torch.tensor(np.array(rows)), torch.arange(num_steps) < torch.tensor(lengths)[:, None]


class BatchOrder:
    """The order of stories, a pure function of (seed, step): a resumed run needs no state to go on where it was."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.batches_per_epoch = len(epoch_batches(lengths, batch_size, seed, 0))
        self._epoch, self._batches = -1, []

    def __getitem__(self, step: int) -> list[int]:
        """The story indices of the global batch of one update."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, epoch_batches(self.lengths, self.batch_size, self.seed, epoch)
        return self._batches[position]


def iterate_pages(source: StorySource, indices: Sequence[int]) -> Iterator[Image.Image]:
    """The pictures of some stories, in order; steps without one are left out."""
    for index in indices:
        yield from (step.image for step in source[index].steps if step.image is not None)
