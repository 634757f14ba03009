"""StoryPipeline: from a prompt to an illustrated story.

Plans all steps first, then decodes texts and pictures in one batch each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modules.batch import StoryBatch
from modules.common.errors import UserError
from modules.data.pixels import pixels_of, to_pictures
from modules.encoded.stories import tokenize_steps
from modules.generation import (
    MAX_LONG_STORY,
    MAX_NUM_STEPS,
    TEMPERATURE,
    TOP_P,
    check_sampling,
    check_settings,
    check_story,
)
from modules.image_decoder.autoencoder import PretrainedAutoencoder
from modules.image_decoder.config import SchedulerName
from modules.image_decoder.stable_diffusion import offload
from modules.saving.export import push_to_hub, save_lora, save_pretrained
from modules.saving.model_folder import load_model
from modules.story import StoryStep
from modules.story_model import StoryModel
from modules.text_decoder.config import Decoding
from modules.text_decoder.tokenizers import Vocabulary

RENDER_BATCH = 32  # Pages decoded at once: longer stories need no more memory.


@dataclass(frozen=True)
class StoryPipelineOutput:
    """T pages: `images` (96 x 96 RGB, or the preset's size), `texts`, `codes` (T, S) and their `log_probs` (T, S) in
    nats.

    A baseline without a storyboard has no codes.
    """

    prompt: str
    images: list[Image.Image]
    texts: list[str]
    codes: Tensor | None
    log_probs: Tensor | None

    @property
    def bits(self) -> list[float] | None:
        """What each step's codes cost under the prior, in bits."""
        return None if self.log_probs is None else (-self.log_probs.sum(-1) / torch.log(torch.tensor(2.0))).tolist()


class StoryPipeline:
    """A trained model with the verbs of a storyteller: call it, `continue_story`, `caption`, `illustrate`."""

    def __init__(self, model: StoryModel, tokenizer: Vocabulary) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, model.config

    @classmethod
    def from_pretrained(cls, path: str | Path, *, offline: bool = False) -> StoryPipeline:
        """Load a model folder, a step's folder or a run's folder; pretrained parts come from their sources, with
        `offline` from the local cache. Raises UserError where one of them is not there.
        """
        return cls(*load_model(path, offline=offline))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model folder that `from_pretrained` reads, as `export.save_pretrained` does, and return it."""
        return save_pretrained(self.model, self.tokenizer, Path(folder))

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload what `save_pretrained` writes and return its address. Raises UserError where the Hub refuses it."""
        return push_to_hub(self.model, self.tokenizer, repo_id, private)

    def save_lora(self, folder: str | Path) -> list[Path]:
        """Write the low-rank updates alone, as `export.save_lora` does; return their folders."""
        return save_lora(self.model, Path(folder))

    @property
    def device(self) -> torch.device:
        return self.model.autoencoder.latent_mean.device

    @property
    def longest_story(self) -> int:
        """The most pages that are told at once."""
        return MAX_LONG_STORY if self.model.has_codes and self.config.prior.attention_window else MAX_NUM_STEPS

    def to(self, device: str | torch.device) -> StoryPipeline:
        self.model.to(device)
        return self

    def place(self, device: str | None = None, save_memory: bool = False) -> StoryPipeline:
        """Move to a device, by default the accelerator that is there. To save memory a pretrained autoencoder works
        picture by picture and, beside an accelerator, the large parts of a pretrained model wait in main memory for
        their turn: the same result, slower.

        Raises UserError where there is no such device.
        """
        try:
            target = torch.device(device) if device else torch.accelerator.current_accelerator() or torch.device("cpu")
            torch.empty(1, device=target).item()
        except (AssertionError, NotImplementedError, RuntimeError):
            here = ", ".join(["cpu", *([found.type] if (found := torch.accelerator.current_accelerator()) else [])])
            raise UserError(f"--device {device} is not to be had here: leave it out, or choose of {here}") from None
        self.to(target)
        if save_memory and isinstance(self.model.autoencoder, PretrainedAutoencoder):
            self.model.autoencoder.save_memory()
            if target.type != "cpu":
                decoders = (self.model.text_decoder.language_model, self.model.image_decoder.unet)
                offload([*decoders, self.model.autoencoder.vae], target)
        return self

    def __call__(
        self,
        prompt: str,
        num_steps: int = 5,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        steps: Sequence[StoryStep] = (),
        **options: Any,
    ) -> StoryPipelineOutput:
        """Tell a story of `num_steps` pages; the same arguments give the same bytes. `temperature` and `top_p` are the
        plan's (and the text's, when `decoding` is "top_p"). With `steps`, those come first and the new pages continue
        them. `options` as for `render`.

        Raises UserError on an empty prompt or a number out of range.
        """
        options |= {"temperature": temperature, "top_p": top_p}
        check_settings(seed, **options)
        if not self.model.has_codes:
            return self._tell_without_plan(prompt, num_steps, seed, steps, options)
        given = self.encode(steps) if steps else None
        plan = self.plan(prompt, num_steps, seed, temperature, top_p, given)
        texts, images = self.render(plan.codes[0], seed, previous=steps[-1].image if steps else None, **options)
        return StoryPipelineOutput(prompt, images, texts, plan.codes[0].cpu(), plan.log_probs[0].cpu())

    def plan(
        self,
        prompt: str,
        num_steps: int,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        codes: Tensor | None = None,
        num_plans: int = 1,
    ):
        """Draw plans from the prior: codes (num_plans, num_steps, S) and log-probabilities of the same shape.

        `codes` (T0, S) are those of given pages. Raises UserError on an empty prompt or a number out of range.
        """
        check_story(prompt, num_steps, self.longest_story)
        check_sampling(seed, temperature, top_p)
        self.check_codebook()
        generator = torch.Generator(self.device).manual_seed(seed)
        history = None if codes is None else codes[None]
        return self.model.prior.sample(
            *self._prompt(prompt), num_steps, temperature, top_p, generator, history, num_plans
        )

    @torch.no_grad()
    def render(
        self,
        codes: Tensor,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        guidance_scale: float = 2.0,
        num_inference_steps: int = 20,
        scheduler: SchedulerName = "ddim",
        decoding: Decoding = "greedy",
        text_guidance_scale: float = 1.0,
        penalty_alpha: float = 0.0,
        strength: float = 1.0,
        texts: Sequence[str | None] = (),
        previous: Image.Image | None = None,
    ) -> tuple[list[str], list[Image.Image]]:
        """Codes (T, S), or vectors (T, S, d) in their place -> T texts and T pictures, decoded in batches of
        RENDER_BATCH.

        Of `texts` those that are there stay as they are, and pictures are drawn to them. `text_guidance_scale` and
        `penalty_alpha` as in `TextDecoder.generate`. With a `strength` below 1 a picture is drawn over the one before
        it (of the first, over `previous`, if there is one), by that share of the inference steps.
        """
        check_settings(
            seed,
            temperature,
            top_p,
            guidance_scale,
            num_inference_steps,
            scheduler,
            decoding,
            text_guidance_scale,
            penalty_alpha,
            strength,
        )
        if decoding == "top_p" and temperature == 0:
            decoding = "greedy"  # The limit of sampling as the temperature falls; dividing by 0 is not.
        batches, told = self.embed(codes).split(RENDER_BATCH), []
        for batch in batches:
            ids = self.model.text_decoder.generate(
                batch,
                decoding,
                temperature,
                top_p,
                seed=seed,
                guidance_scale=text_guidance_scale,
                penalty_alpha=penalty_alpha,
            )
            told += [self.tokenizer.decode(row) for row in ids]
        texts = [new if known is None else known for known, new in zip(texts or [None] * len(told), told, strict=True)]
        generator, images = torch.Generator().manual_seed(seed), [] if previous is None else [previous]
        options = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "generator": generator,
        }
        size = 1 if strength < 1 else RENDER_BATCH
        for start, batch in zip(range(0, len(texts), size), self.embed(codes).split(size), strict=True):
            if strength < 1 and images:
                options |= {"init_latents": self._latents(images[-1:]), "strength": strength}
            latents = self.model.image_decoder.sample(
                batch, encoder_hidden_states=self.captions(texts[start : start + size]), **options
            )
            images += to_pictures(self.model.autoencoder.decode(latents))
        return texts, images[-len(texts) :]

    def _latents(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any shape -> latents (N,c,h,w)."""
        return self.model.autoencoder.encode(pixels_of(images, self.config.autoencoder.image_size).to(self.device))

    @torch.no_grad()
    def captions(self, texts: Sequence[str | None]) -> Tensor | None:
        """What the image decoder reads of T texts (T, L, D); None where it reads the codes alone."""
        decoder = self.model.image_decoder
        return (
            None
            if decoder.text_encoder is None
            else decoder.encode_text(decoder.tokenize([text or "" for text in texts]))
        )

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (T, S) -> what the decoders read (T, S, d); vectors are that already."""
        codes = codes.to(self.device)
        return codes if codes.is_floating_point() else self.model.storyboard.embed(codes).code_embeds

    @torch.no_grad()
    def encode(self, steps: Sequence[StoryStep]) -> Tensor:
        """Steps, each with a text, a picture or both -> their codes (T, S)."""
        self.check_codebook()
        return self.model.encode(self._batch(steps)).codes

    def check_codebook(self) -> None:
        """Raise UserError where there are no codes: before the codebook is placed, and in a model whose plan has none."""
        if not self.model.has_codes:
            raise UserError(
                f'this model has no storyboard (its plan is "{self.config.plan}"): it tells and continues stories, and no more'
            )
        if not self.model.is_ready:
            raise UserError("this checkpoint is from before its codebook was placed: train on, or take a later one")

    def continue_story(self, prompt: str, steps: Sequence[StoryStep], num_steps: int, **options) -> StoryPipelineOutput:
        """The next `num_steps` pages after the given ones."""
        return self(prompt, num_steps=num_steps, steps=steps, **options)

    def caption(self, image: Image.Image, decoding: Decoding = "greedy") -> tuple[str, Tensor]:
        """The text of a picture, and its codes (S,)."""
        codes = self.encode([StoryStep(text=None, image=image)])
        ids = self.model.text_decoder.generate(self.embed(codes), decoding)
        return self.tokenizer.decode(ids[0]), codes[0].cpu()

    def illustrate(self, texts: Sequence[str], seed: int = 0, **options) -> StoryPipelineOutput:
        """A picture for each text; options as for `render`."""
        return self.complete(" ".join(texts), [StoryStep(text=text) for text in texts], seed, **options)

    def complete(self, prompt: str, steps: Sequence[StoryStep], seed: int = 0, **options) -> StoryPipelineOutput:
        """Given pages as whole pages: what a step lacks is told or drawn from its codes; options as for `render`."""
        texts, images = [step.text for step in steps], [step.image for step in steps]
        rows = [row for row, step in enumerate(steps) if step.text is None or step.image is None]
        codes = self.encode(steps) if rows or self.model.has_codes else None
        if rows:
            known = [texts[row] for row in rows]
            for row, text, image in zip(rows, *self.render(codes[rows], seed, texts=known, **options), strict=True):
                texts[row] = text if texts[row] is None else texts[row]
                images[row] = images[row] or image
        return StoryPipelineOutput(prompt, images, texts, None if codes is None else codes.cpu(), None)

    @torch.no_grad()
    def predict(self, prompt: str, num_steps: int, steps: Sequence[StoryStep] = ()) -> Tensor:
        """What a baseline has for a plan: the vectors (M, S, d) that the next pages after the given ones are decoded
        from.

        `num_steps` pages are to come. Where the prompt alone decides, M is all of them; else one, because each needs
        the page before. Raises UserError on an empty prompt or a number out of range.
        """
        check_story(prompt, num_steps)
        given, total, board = len(steps), len(steps) + num_steps, self.config.storyboard
        story = (*self._prompt(prompt), torch.ones(1, total, dtype=torch.bool, device=self.device))
        if not self.model.reads_steps:
            return self.model.predictor(*story)[0, given:]
        slots = torch.zeros(1, total, board.num_slots, board.codebook_dim, device=self.device)
        if steps:
            slots[0, :given] = self.model.encode(self._batch(steps)).code_embeds
        return self.model.predictor(*story, slots)[0, given : given + 1]

    def _tell_without_plan(
        self, prompt: str, num_steps: int, seed: int, steps: Sequence[StoryStep], options: dict
    ) -> StoryPipelineOutput:
        """A baseline's story: a page is read again before the next one is told. `options` as for `render`."""
        check_story(prompt, num_steps)
        pages, seeds = [], random.Random(seed)
        while len(pages) < num_steps:
            before = [*steps, *pages]
            vectors = self.predict(prompt, num_steps - len(pages), before)
            pages += map(
                StoryStep,
                *self.render(vectors, seeds.getrandbits(62), previous=before[-1].image if before else None, **options),
            )
        return StoryPipelineOutput(prompt, [page.image for page in pages], [page.text for page in pages], None, None)

    def _prompt(self, prompt: str) -> tuple[Tensor, Tensor]:
        """The prompt's tokens (1, Lp) and their mask, on the model's device."""
        ids, mask = self.tokenizer.encode_batch([prompt], self.config.max_prompt_length)
        return ids[:, : mask.sum()].to(self.device), mask[:, : mask.sum()].to(self.device)

    def _batch(self, steps: Sequence[StoryStep]) -> StoryBatch:
        """One story of T given steps as a batch of one, on the model's device."""
        images = [step.image for step in steps]
        has_image = torch.tensor([image is not None for image in images])
        pixels = pixels_of(images, self.config.autoencoder.image_size)
        latents = torch.zeros(len(steps), *self.config.autoencoder.latent_shape)
        if has_image.any():
            latents[has_image] = self.model.autoencoder.encode(pixels[has_image].to(self.device)).cpu()
        tokens = {
            name: ids[None]
            for name, ids in tokenize_steps([step.text for step in steps], self.model, self.tokenizer).items()
        }
        return StoryBatch(
            **tokens,
            latents=latents[None],
            image_mask=has_image[None],
            step_mask=torch.ones_like(has_image)[None],
            pixels=None if self.config.storyboard.pictures == "latents" else pixels[None],
        ).to(self.device)
