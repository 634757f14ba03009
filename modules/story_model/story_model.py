"""The latent-storyboard story model: four factors, one loss.

p(s, x, z | c) = prod_t  p(z_t | z_<t, c)  p(s_t | z_t, z)  p(x_t | z_t, z)        q(z_t | s_t, x_t) one-hot

loss = text_nll + beta * prior_nll + commitment_loss + lambda * diffusion_loss
       (+ agreement_loss + the encoder's auxiliary losses + alpha * contrastive_loss + gamma * the router's losses)

Two baselines have no z: a predictor takes the prior's place and guesses the decoders' input from prompt and past steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.batch import StepNoise, StoryBatch
from modules.common.errors import UserError
from modules.common.outputs import REQUIRED
from modules.common.versions import version_problem
from modules.config import StoryConfig
from modules.layers.losses import cosine_distance, masked_mean, weighted_sum
from modules.layers.plan_window import PlanWindow
from modules.pretrained.source import PretrainedSource
from modules.prior.given import written_steps
from modules.prior.predictor import Predictor
from modules.prior.prior import Prior
from modules.story_model.parts import PARTS, StoryParts
from modules.storyboard.aids import IMAGE_AIDS
from modules.storyboard.contrastive import pool_slots, text_ids
from modules.storyboard.storyboard import StoryboardOutput


@dataclass
class StoryModelOutput(ModelOutput):
    """`loss` () and its named terms `losses`, each (); `slots` (N,S,d) before quantising and their `step_mask` (N,);
    `codes` (B,T,S), None while the quantiser is inactive; `vectors` (N,V,d) and `vector_mask` (N,V) as in
    `StoryboardOutput`; `loads` (layers,E) of the prior's experts, if it has any.
    """

    loss: Tensor
    losses: dict[str, Tensor] = REQUIRED
    slots: Tensor | None = None
    step_mask: Tensor | None = None
    codes: Tensor | None = None
    vectors: Tensor | None = None
    vector_mask: Tensor | None = None
    loads: Tensor | None = None


class StoryModel(StoryParts):
    """The four factors, and the frozen autoencoder that pictures enter and leave by.

    `StoryModel(config)` is the model of `config.plan`: this class plans in codes, its subclasses are the baselines.
    """

    def __new__(cls, config: StoryConfig | None = None, **_: Any) -> StoryModel:
        """Choose the class of the config's plan; a copy, which has no config yet, keeps its class."""
        return super().__new__(MODELS[config.plan] if config is not None and cls is StoryModel else cls)

    def _build_plan(self, config: StoryConfig) -> None:
        """Build the parts that differ between plans: here the storyboard and its prior."""
        self._build_storyboard(config)
        board, reads = config.storyboard, self.prompt_encoder
        vocab_size = self.vocab_size if reads is None else reads.vocab_size
        self.prior = Prior(config.prior, vocab_size, board.codebook_size, board.num_slots, self.storyboard)

    def forward(self, batch: StoryBatch, noise: StepNoise, parts: Collection[str] = PARTS) -> StoryModelOutput:
        """Return the training loss of a batch: a pure function of weights, batch and noise (but for dropout). N = B*T.

        The terms of parts that are not in `parts` are left out.
        """
        batch = self.with_features(batch)
        board = self.condition(batch, noise)  # z ~ q(z | s, x)
        window = self.batch_window(board, batch, noise)  # What a step's decoders see of the other steps' codes.
        losses: dict[str, Tensor] = {}
        loads = None
        if "text_decoder" in parts:
            losses["text_nll"] = self.text_nll(board, batch, noise, window)  # -log p(s | z)
        if "image_decoder" in parts:
            losses["diffusion_loss"] = self.diffusion_loss(board, batch, noise, window)  # A bound on -log p(x | z).
        losses |= self.encoder_losses(board, batch, parts)  # Terms of q alone.
        if "prior" in parts:
            prior_losses, loads = self.prior_losses(board, batch)  # -log p(z | c)
            losses |= prior_losses
        return StoryModelOutput(
            loss=weighted_sum(losses, asdict(self.config.loss_weights)),
            losses=losses,
            slots=board.slots,
            step_mask=batch.step_mask.flatten(),
            codes=None if board.codes is None else board.codes.unflatten(0, batch.step_mask.shape),
            vectors=board.vectors,
            vector_mask=board.vector_mask,
            loads=loads,
        )

    def condition(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """Return what the decoders read of N = B*T steps, as `code_embeds`: here z."""
        return self.encode(batch, noise)

    def encode(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """Encode N = B*T steps, q(z | s, x), or embed cached codes; with noise, under its modality dropout."""
        if batch.codes is not None:
            return self.storyboard.embed(batch.codes.flatten(0, 1))
        steps = batch.steps()
        return self.storyboard(steps if noise is None else steps.dropped(noise))

    def window(self, code_embeds: Tensor, lengths: Sequence[int]) -> PlanWindow | None:
        """Return what the decoders of N steps (N,S,d) read beside their own codes: the plans of their stories, of
        `lengths` steps (sum N); None for decoders that read their own step alone.
        """
        return PlanWindow.of_stories(code_embeds, lengths) if self.reads_plan else None

    def batch_window(
        self, board: StoryboardOutput, batch: StoryBatch, noise: StepNoise | None = None
    ) -> PlanWindow | None:
        """Return the window of the N = B*T steps of a batch, without padding and the pages that `noise` hides."""
        if not self.reads_plan:
            return None
        num_stories, num_steps = batch.step_mask.shape
        window = PlanWindow.of_stories(board.code_embeds, [num_steps] * num_stories, batch.step_mask.flatten())
        return window if noise is None else window.hide_others(noise.hidden_pages)

    def text_nll(
        self, board: StoryboardOutput, batch: StoryBatch, noise: StepNoise, window: PlanWindow | None = None
    ) -> Tensor:
        """Return -log p(s | z) (), in nats a token."""
        steps = batch.steps()
        text = self.text_decoder(
            board.code_embeds, steps.input_ids, steps.text_mask, noise.null_text, window, noise.hidden_words
        )
        return masked_mean(text.nll, text.mask, batch.num_tokens)

    def diffusion_loss(
        self, board: StoryboardOutput, batch: StoryBatch, noise: StepNoise, window: PlanWindow | None = None
    ) -> Tensor:
        """Return a bound on -log p(x | z) (), up to its weighting over noise levels; on -log p(x | z, s) where Stable
        Diffusion reads the text too.
        """
        latents, captions = batch.latents.flatten(0, 1), self.captions(batch)
        image = self.image_decoder(
            board.code_embeds, latents, noise.timesteps, noise.noise, noise.null_image, captions, window
        )
        return masked_mean(image.loss, batch.image_mask.flatten(), batch.num_images)

    def captions(self, batch: StoryBatch) -> Tensor | None:
        """Return the texts of N = B*T steps as the image decoder reads them (N,L,D); None if it reads codes alone."""
        return None if batch.caption_ids is None else self.image_decoder.encode_text(batch.caption_ids.flatten(0, 1))

    def encoder_losses(self, board: StoryboardOutput, batch: StoryBatch, parts: Collection[str]) -> dict[str, Tensor]:
        """Return q's own terms: slots stay near their codes, encode by themselves the content of their step, agree
        under modality dropout, and match image with text.
        """
        step_mask, image_mask = batch.step_mask.flatten(), batch.image_mask.flatten()
        losses = {}
        if board.commitment_loss is not None and "storyboard" in parts:
            losses["commitment_loss"] = masked_mean(board.commitment_loss.mean(1), step_mask, batch.num_steps)
        if batch.codes is None and "aids" in parts:
            for name, values in self.aids(board.code_embeds, batch).items():
                mask, count = (image_mask, batch.num_images) if name in IMAGE_AIDS else (step_mask, batch.num_steps)
                losses[name] = masked_mean(values, mask, count)
        if board.slots is not None and "storyboard" in parts:
            distances = self.disagreement(board.slots, batch).mean(1)
            losses["agreement_loss"] = masked_mean(distances, step_mask, batch.num_steps)
            if self.contrastive is not None and "contrastive" in parts:
                losses["contrastive_loss"] = self.contrast(batch)
        return losses

    def disagreement(self, slots: Tensor, batch: StoryBatch) -> Tensor:
        """Return cosine distances (N,S) of slots (N,S,d), under modality dropout, to those with nothing dropped, which
        get no gradient.

        Call it after the pass that computed the slots: autocast keeps the casts of weights that it made first.
        """
        with torch.no_grad():
            whole = self.encode(batch).slots
        assert whole is not None
        return cosine_distance(slots, whole)

    def contrast(self, batch: StoryBatch) -> Tensor:
        """Return the contrastive loss () of slots from images alone and texts alone, a mean over steps with both."""
        assert self.contrastive is not None
        steps = batch.steps()
        has_both = steps.text_mask.any(1) & steps.image_mask
        image_slots = self.storyboard.encode(steps.without_text())
        text_slots = self.storyboard.encode(steps.without_image())
        groups = text_ids(steps.input_ids, steps.text_mask)
        return self.contrastive(pool_slots(image_slots), pool_slots(text_slots), has_both, groups).loss

    def prior_losses(self, board: StoryboardOutput, batch: StoryBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return -log p(z | c), in nats a code, with the router's losses, and the experts' loads (layers,E) if it has
        some; no terms before there are codes. Codes are integers, so the prior cannot reach the encoder.
        """
        if board.codes is None:
            return {}, None
        plans = batch.own_plans(board.codes.unflatten(0, batch.step_mask.shape))
        own, written = (plans.own_share or 0.0, plans.own_draws), written_steps(plans.step_mask, plans.given)
        prior = self.prior(plans.codes, plans.prompt_ids, plans.prompt_mask, plans.step_mask, *own, plans.given)
        losses = {"prior_nll": masked_mean(prior.nll.mean(-1), written, plans.num_steps)}
        if prior.loads is not None:
            losses |= {"load_balancing_loss": prior.load_balancing_loss, "router_z_loss": prior.router_z_loss}
        return losses, prior.loads

    @property
    def is_ready(self) -> bool:
        """Whether the model can generate: a storyboard's codebook must have been fitted."""
        return self.storyboard.quantizer.is_active

    def assume_ready(self) -> None:
        """Quantise although the codebook was not fitted, to measure a pass of the later phases."""
        self.storyboard.quantizer.is_active = True


class NextStepModel(StoryModel):
    """Baseline without codes: a predictor guesses the decoders' input from the prompt and past steps' slots."""

    has_codes = False

    def _build_plan(self, config: StoryConfig) -> None:
        """Build the storyboard, whose codes are not used, and the predictor."""
        self._build_storyboard(config)
        self._build_predictor(config)

    def _build_predictor(self, config: StoryConfig) -> None:
        board = config.storyboard
        self.predictor = Predictor(
            config.predictor, self.vocab_size, board.num_slots, board.codebook_dim, self.reads_steps
        )

    def condition(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """Return the predictor's guesses for N = B*T steps, each from the prompt and the true steps before it."""
        board = self.encode(batch, noise)
        slots = board.code_embeds.unflatten(0, batch.step_mask.shape)
        guesses = self.predictor(batch.prompt_ids, batch.prompt_mask, batch.step_mask, slots)
        return StoryboardOutput(code_embeds=guesses.flatten(0, 1), slots=board.slots)

    def prior_losses(self, _board: StoryboardOutput, _batch: StoryBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return no terms: nothing is drawn, so nothing has a likelihood."""
        return {}, None

    @property
    def is_ready(self) -> bool:
        """Whether the model can generate: always, for there is no codebook."""
        return True

    def assume_ready(self) -> None:
        """Do nothing: there is no codebook."""


class PromptModel(NextStepModel):
    """Baseline without a storyboard: a predictor guesses the decoders' input from the prompt alone."""

    reads_steps = False

    def _build_plan(self, config: StoryConfig) -> None:
        """Build the predictor."""
        self._build_predictor(config)

    def condition(self, batch: StoryBatch, _noise: StepNoise | None = None) -> StoryboardOutput:
        """Return the predictor's guesses for N = B*T steps, from the prompt."""
        guesses = self.predictor(batch.prompt_ids, batch.prompt_mask, batch.step_mask)
        return StoryboardOutput(code_embeds=guesses.flatten(0, 1))

    @property
    def pictures(self) -> None:
        """None: the model reads no steps."""

    def frozen_encoders(self) -> dict[str, nn.Module]:
        """Return none: the model reads no steps."""
        return {}

    def tokenize(self, _texts: Sequence[str]) -> dict[str, Tensor]:
        """Return nothing: the model reads no steps."""
        return {}


MODELS: dict[str, type[StoryModel]] = {"codes": StoryModel, "predicted": NextStepModel, "prompt": PromptModel}


def build_model(
    config: StoryConfig,
    where: str,
    *,
    offline: bool = False,
    random: bool = False,
    sources: Mapping[str, PretrainedSource] | None = None,
) -> StoryModel:
    """Return a model with fresh weights. Raises UserError where none can be built; `where` names the config."""
    try:
        return StoryModel(config, offline=offline, random=random, sources=sources)
    except (ArithmeticError, AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            version_problem(error) or f"{where} describes no model that can be built ({reason})"
        ) from error  # Any library may have raised it.
