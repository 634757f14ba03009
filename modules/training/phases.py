"""The training phases on stories: the parts that each one trains, its batches, and the work around its updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modules.batch import PlanBatch, StepNoise, StoryBatch, draw_noise
from modules.config import StoryConfig, TrainingConfig
from modules.data.order import BatchOrder, rows_of_part
from modules.encoded.codes import cache_codes
from modules.encoded.stories import EncodedStories
from modules.layers.seeding import derive_seed
from modules.prior.given import draw_given
from modules.prior.teacher_forcing import draw_mixing
from modules.story_model.story_model import PARTS, StoryModel, StoryModelOutput
from modules.storyboard.quantizer import VectorQuantizer
from modules.training.optimizer import linear_ramp
from modules.training.phase import Phase

KMEANS_VECTORS_PER_CODE = 40
PLANS_PER_STORY = 4  # Cached codes are cheap: the prior reads this many times as many stories as the decoders.
VISUAL_WORD_PICTURES = 4096


def training_noise(model: StoryModel, num_rows: int, generator: torch.Generator) -> StepNoise:
    """Draw the noise of one training pass over `num_rows` steps, by the model's config."""
    training, config = model.config.training, model.config
    return draw_noise(
        num_rows,
        config.autoencoder.latent_shape,
        config.image_decoder.num_train_timesteps,
        generator,
        training.modality_dropout,
        training.null_text,
        training.null_image,
        training.page_dropout if model.reads_plan else 0.0,
        training.word_dropout,
        config.text_decoder.max_length,
    )


def hide_prompts(plans: PlanBatch, hidden: Tensor) -> None:
    """Hide the prompts of the stories where `hidden` (P,) is True."""
    plans.prompt_mask = plans.prompt_mask & ~hidden[:, None]


class StoryPhase(Phase):
    """Base class of the phases after the autoencoder's: updates on batches of stories.

    `trains` are the names of the model's parts that the phase trains.
    """

    trains: tuple[str, ...]

    def __init__(self, model: StoryModel, encode_stories: Callable[[], EncodedStories], **options: Any) -> None:
        super().__init__(model, **options)
        self.module, self._encode_stories = model, encode_stories

    def start(self) -> None:
        self.stories = self._encode_stories()
        self.order = BatchOrder(self.stories.lengths, self.global_batch, derive_seed(self.seed, "order", self.name))
        self.model.text_decoder.kept_states.fit_words(self.stories.input_ids, self.stories.text_mask)

    def expect(self, step: int, parts: Sequence[int], num_parts: int) -> None:
        self.stories.expect(self.order.stories(range(step, min(step + 2, self.num_steps)), parts, num_parts))

    def loss(self, module: Callable[..., Any], step: int, part: int, num_parts: int) -> StoryModelOutput:
        order = self.order[step]
        num_steps = max(self.stories.lengths[index] for index in order)
        noise = self._noise(step, len(order) * num_steps)
        size = len(order) // num_parts * num_steps
        noise = noise.rows(part * size, (part + 1) * size)
        batch = self._batch(step, part, num_parts, num_steps, noise)
        batch.num_steps, batch.num_tokens, batch.num_images = (
            count / num_parts for count in self.stories.counts(order)
        )
        self.images_seen += int(batch.image_mask.sum())
        self.tokens_seen += int(batch.text_mask[..., 1:].sum())
        return module(batch.to(self.device), noise.to(self.device), self.trained_parts(self.training))

    def _noise(self, step: int, num_rows: int) -> StepNoise:
        # On the device: a CPU would take as long to draw it as a GPU to train on it.
        return training_noise(self.model, num_rows, self.generator("noise", step, self.device))

    def _batch(self, step: int, part: int, num_parts: int, num_steps: int, _noise: StepNoise) -> StoryBatch:
        """Return one part of the global batch, padded to the whole batch's number of steps; `_noise` is the part's."""
        return self.stories.batch(rows_of_part(self.order[step], part, num_parts), num_steps)

    def after_update(self, _step: int, outputs: Sequence[StoryModelOutput], gather: Callable[[Tensor], Tensor]) -> None:
        loads = [output.loads for output in outputs if output.loads is not None]
        if loads:
            self.model.prior.update(gather(torch.stack(loads).sum(0)[None]).sum(0))

    def set_modes(self) -> None:
        self.select(self.model)

    @classmethod
    def select(cls, model: StoryModel) -> None:
        """Train what the phase trains, and freeze all else."""
        model.train_parts(cls.trained_parts(model.config.training))

    @classmethod
    def trained_parts(cls, _training: TrainingConfig) -> tuple[str, ...]:
        """Return what the phase trains under a config's settings."""
        return cls.trains


class OpeningPhase(StoryPhase):
    """Trains q, its auxiliary losses and p(s|z) with continuous slots.

    The slots learn the content of text and image at half the cost of an update with the UNet. Beside a pretrained
    language model only the side reader trains.
    """

    name = "opening"
    trains = ("storyboard", "predictor", "text_decoder", "aids")

    @classmethod
    def select(cls, model: StoryModel) -> None:
        super().select(model)
        model.text_decoder.train_side_reader()

    def begin(self) -> None:
        self.model.aids.fit_words(self.stories.input_ids.to(self.device), self.stories.text_mask.to(self.device))
        rows = self.stories.image_mask.nonzero()[:VISUAL_WORD_PICTURES, 0]
        if len(rows):
            self.model.aids.fit_visual_words(
                self.stories.latents[rows].to(self.device), derive_seed(self.seed, "visual words")
            )


class JointPhase(StoryPhase):
    """Trains q, p(z), p(s|z) and p(x|z) together: continuous slots first, then codes by k-means and an EMA codebook.

    A model without a prior has no codebook: its slots stay continuous.
    """

    name = "joint"
    trains = PARTS

    @classmethod
    def select(cls, model: StoryModel) -> None:
        super().select(model)
        if cls.name == "joint" and model.config.training.language_model_from != "joint":
            model.text_decoder.train_side_reader()

    @classmethod
    def trained_parts(cls, training: TrainingConfig) -> tuple[str, ...]:
        """Return all parts, without the image decoder if it begins later."""
        is_later = cls.name == "joint" and training.image_decoder_from != "joint"
        return tuple(part for part in cls.trains if not (is_later and part == "image_decoder"))

    @property
    def quantize_step(self) -> int:
        return int(self.training.quantize_at * self.num_steps)

    @property
    def quantizer(self) -> VectorQuantizer:
        assert self.model.storyboard is not None
        return self.model.storyboard.quantizer

    def before_update(self, step: int) -> None:
        if step >= self.quantize_step and not self.model.is_ready:
            with self.whole():
                vectors = self._collect_vectors(step)
            self.quantizer.fit(vectors, derive_seed(self.seed, "codebook", step))

    @torch.no_grad()
    def _collect_vectors(self, step: int) -> Tensor:
        """Encode enough steps for k-means, (M, d).

        They are recomputed from the weights, so a resumed run needs nothing stored.
        """
        config, order, vectors, count = self.model.config.storyboard, self.order[step], list[Tensor](), 0
        in_batch = config.num_slots * sum(self.stories.lengths[index] for index in order)
        fewest, wanted = (-(-each * config.codebook_size // in_batch) for each in (2, KMEANS_VECTORS_PER_CODE))
        batches = max(fewest, min(wanted, self.num_steps))  # No more than the phase reads: a short run waits less.
        for offset in range(1, batches + config.codebook_size):
            if offset > batches + 1 and count >= config.codebook_size:
                break
            batch = self.stories.batch(self.order[step + offset]).to(self.device)
            noise = self._noise(step + offset, batch.step_mask.numel())
            board = self.model.encode(batch, noise.to(self.device))
            assert board.vectors is not None and board.vector_mask is not None
            vectors.append(board.vectors[board.vector_mask & batch.step_mask.flatten()[:, None]].float())
            count += len(vectors[-1])
        return torch.cat(vectors)

    def after_update(self, step: int, outputs: Sequence[StoryModelOutput], gather: Callable[[Tensor], Tensor]) -> None:
        super().after_update(step, outputs, gather)
        if outputs[0].codes is None:
            return
        vectors, masks = [], []
        for output in outputs:
            assert output.vectors is not None and output.vector_mask is not None and output.step_mask is not None
            vectors.append(output.vectors.detach())
            masks.append(output.vector_mask & output.step_mask[:, None])
        used = gather(torch.cat(vectors)).float()[gather(torch.cat(masks))]
        revive = step < self.training.revive_until * self.num_steps
        self.quantizer.update(used, derive_seed(self.seed, "codebook", step), revive)


class SettlingPhase(JointPhase):
    """Consolidation of a model without codes: nothing can be cached, so all factors train on, at the lower rate."""

    name = "consolidation"


class ConsolidationPhase(StoryPhase):
    """Trains p(z), p(s|z) and p(x|z) on the cached codes of the frozen q: the same bound."""

    name = "consolidation"
    trains: tuple[str, ...] = ("prior", "text_decoder", "image_decoder")

    def start(self) -> None:
        super().start()
        if self.model.has_codes and self.stories.codes is None:
            with self.autocast():  # The precision that it was trained in, and up to five times as fast.
                self.stories.codes = cache_codes(self.model.eval(), self.stories, self.visible)
        self.plan_order = BatchOrder(
            self.stories.lengths,
            self.global_batch * PLANS_PER_STORY,
            derive_seed(self.seed, "order", self.name, "plans"),
        )

    def _batch(self, step: int, part: int, num_parts: int, num_steps: int, noise: StepNoise) -> StoryBatch:
        if self.stories.codes is None:
            return super()._batch(step, part, num_parts, num_steps, noise)
        variant = ((~noise.keep_image).long() + 2 * (~noise.keep_text).long()).view(-1, num_steps).cpu()
        batch = self.stories.batch(rows_of_part(self.order[step], part, num_parts), num_steps, variant)
        if "prior" not in self.trains:
            return batch
        batch.plans = self._plans(step, part, num_parts)
        return batch

    def _plans(self, step: int, part: int, num_parts: int) -> PlanBatch:
        order = self.plan_order[step]
        plans = self.stories.plans(rows_of_part(order, part, num_parts))
        lengths = [self.stories.lengths[index] for index in order]
        rows = rows_of_part(list(range(len(order))), part, num_parts)
        plans.num_steps = sum(lengths) / torch.tensor(float(num_parts))
        if share := self.model.config.prior.given_share:
            given = draw_given(lengths, share, self.generator("given pages", step))
            plans.given, plans.num_steps = given[rows], plans.num_steps - (given >= 0).sum() / num_parts
        if share := self.model.config.prior.null_prompt:
            hidden = torch.rand(len(order), generator=self.generator("null prompts", step)) < share
            hide_prompts(plans, hidden[rows])
        if self.training.own_codes:
            plans.own_share = self.training.own_codes * linear_ramp(step, self.num_steps)
            draws = draw_mixing((len(order), max(lengths), plans.codes.shape[2]), self.generator("own codes", step))
            plans.own_draws = draws[:, rows, : plans.codes.shape[1]]
        return plans


class WritingPhase(ConsolidationPhase):
    """Trains p(s|z) alone: 3,000 more updates of the shipped weights halved the nats of texts (`assets/notes.md`)."""

    name = "writing"
    trains = ("text_decoder",)


class IllustrationPhase(ConsolidationPhase):
    """Trains p(x|z) alone: the UNet needs more updates than text and prior, and one costs half as much without them."""

    name = "illustration"
    trains = ("image_decoder",)


class PlanningPhase(ConsolidationPhase):
    """Trains p(z) alone: thousands of codes take many passes over the plans, and a pass is cheap."""

    name = "planning"
    trains = ("prior",)

    def relative_size(self, step: int) -> float:
        return self.plan_order.relative_size(step)

    def _batch(self, step: int, part: int, num_parts: int, num_steps: int, _noise: StepNoise) -> StoryBatch:
        """Return a part with its plans. Its own codes, which no decoder reads, are those of both modalities."""
        batch = self.stories.batch(rows_of_part(self.order[step], part, num_parts), num_steps)
        batch.plans = self._plans(step, part, num_parts)
        return batch


PHASES = (OpeningPhase, JointPhase, ConsolidationPhase, WritingPhase, IllustrationPhase, PlanningPhase)
PHASES_WITHOUT_CODES = (OpeningPhase, JointPhase, SettlingPhase, WritingPhase, IllustrationPhase)  # Nothing to plan.


def story_phase(name: str, config: StoryConfig) -> type[StoryPhase]:
    """Return the class of a phase of `plan.trained_phases`, other than the autoencoder's."""
    phases = PHASES if config.plan == "codes" else PHASES_WITHOUT_CODES
    return next(phase for phase in phases if phase.name == name)
