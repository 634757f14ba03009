"""The latent-storyboard story model: four factors, one loss.

p(s, x, z | c) = prod_t  p(z_t | z_<t, c)  p(s_t | z_t)  p(x_t | z_t)        q(z_t | s_t, x_t) one-hot

loss = text_nll + beta * prior_nll + commitment_loss + lambda * diffusion_loss
       (+ agreement_loss + the losses of the encoder's aids)

Two baselines have no z: a predictor takes the prior's place, and guesses what the decoders read from what came before (`condition`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.aids import OF_PICTURES, EncoderAids
from modules.autoencoder import PictureAutoencoder
from modules.batch import PlanBatch, StepNoise, StoryBatch
from modules.config import StoryConfig
from modules.image_decoder import ImageDecoder
from modules.losses import cosine_distance, masked_mean, weighted_sum
from modules.majority_vote import MajorityVoteStoryboard
from modules.predictor import Predictor
from modules.prior import Prior
from modules.story import UserError
from modules.storyboard import Storyboard, StoryboardOutput
from modules.text_decoder import TextDecoder

PARTS = ("storyboard", "prior", "predictor", "text_decoder", "image_decoder", "aids")  # All that is trained jointly.
SPECIAL_IDS = (0, 1, 2)  # <pad>, <bos>, <eos> of every tokenizer trained here.


@dataclass
class StoryModelOutput(ModelOutput):
    """`loss` (); `losses` its named terms, each (); `slots` (N,S,d) before quantising and their `step_mask` (N,);
    `codes` (B,T,S) or None while continuous; `vectors` (N,V,d) and `vector_mask` (N,V) as in `StoryboardOutput`.
    """

    loss: Tensor = None
    losses: dict[str, Tensor] = None
    slots: Tensor | None = None
    step_mask: Tensor | None = None
    codes: Tensor | None = None
    vectors: Tensor | None = None
    vector_mask: Tensor | None = None


class StoryModel(nn.Module):
    """The four factors, and the frozen autoencoder that pictures enter and leave by."""

    def __init__(self, config: StoryConfig) -> None:
        super().__init__()
        self.config = config
        board, latent_shape = config.storyboard, config.autoencoder.latent_shape
        self.storyboard = self.prior = self.predictor = None  # All plans but "codes" do without some of them.
        if config.plan != "prompt":
            storyboard = Storyboard if board.pooling == "queries" else MajorityVoteStoryboard
            self.storyboard = storyboard(board, config.vocab_size, config.text_decoder.max_length, latent_shape)
        if config.plan == "codes":
            self.prior = Prior(config.prior, config.vocab_size, board.codebook_size, board.num_slots)
        else:
            reads_steps = config.plan == "predicted"
            self.predictor = Predictor(config.predictor, config.vocab_size, board.num_slots, board.codebook_dim, reads_steps)
        self.text_decoder = TextDecoder(config.text_decoder, config.vocab_size, board.num_slots, board.codebook_dim, SPECIAL_IDS)
        self.image_decoder = ImageDecoder(config.image_decoder, latent_shape, board.num_slots, board.codebook_dim)
        self.aids = EncoderAids(config.aids, config.vocab_size, latent_shape, board.num_slots, board.codebook_dim)
        self.autoencoder = PictureAutoencoder(config.autoencoder).requires_grad_(False)

    def forward(self, batch: StoryBatch, noise: StepNoise, parts: Collection[str] = PARTS) -> StoryModelOutput:
        """The training loss of a batch; a pure function of weights, batch and noise (but for dropout). N = B*T rows.

        Terms of `parts` that are not named are left out.
        """
        input_ids, text_mask, step_mask = batch.input_ids.flatten(0, 1), batch.text_mask.flatten(0, 1), batch.step_mask.flatten()
        latents, image_mask = batch.latents.flatten(0, 1), batch.image_mask.flatten()

        # z ~ q(z | s, x): encode and quantise, or take the codes cached when q was frozen.
        board = self.condition(batch, noise)

        # -log p(s | z)
        losses = {}
        if "text_decoder" in parts:
            text = self.text_decoder(board.code_embeds, input_ids, text_mask, noise.null_text)
            losses["text_nll"] = masked_mean(text.nll, text.mask, batch.num_tokens)

        # A bound on -log p(x | z), up to its weighting over noise levels.
        if "image_decoder" in parts:
            image = self.image_decoder(board.code_embeds, latents, noise.timesteps, noise.noise, noise.null_image)
            losses["diffusion_loss"] = masked_mean(image.loss, image_mask, batch.num_images)

        # q's own terms: slots stay near their codes, say by themselves what the step holds, and agree under modality dropout.
        if board.commitment_loss is not None and "storyboard" in parts:
            losses["commitment_loss"] = masked_mean(board.commitment_loss.mean(1), step_mask, batch.num_steps)
        if batch.codes is None and "aids" in parts:
            for name, values in self.aids(board.code_embeds, batch).items():
                mask, count = (image_mask, batch.num_images) if name in OF_PICTURES else (step_mask, batch.num_steps)
                losses[name] = masked_mean(values, mask, count)
        if board.slots is not None and "storyboard" in parts:
            losses["agreement_loss"] = masked_mean(self.disagreement(board.slots, batch).mean(1), step_mask, batch.num_steps)

        # -log p(z | c), in nats a code. Codes are integers: the prior cannot reach the encoder.
        codes = None if board.codes is None else board.codes.unflatten(0, batch.step_mask.shape)
        if codes is not None and "prior" in parts:
            plans = batch.plans or PlanBatch(codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask, batch.num_steps)
            prior = self.prior(plans.codes, plans.prompt_ids, plans.prompt_mask, plans.step_mask)
            losses["prior_nll"] = masked_mean(prior.nll.mean(-1), plans.step_mask, plans.num_steps)
        return StoryModelOutput(
            loss=weighted_sum(losses, asdict(self.config.loss_weights)),
            losses=losses, slots=board.slots, step_mask=step_mask, codes=codes,
            vectors=board.vectors, vector_mask=board.vector_mask,
        )  # fmt: skip

    def condition(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """What the decoders read of N = B*T steps, as `code_embeds`: z or, in the baselines, a guess from what came before."""
        if self.predictor is None:
            return self.encode(batch, noise)
        story = (batch.prompt_ids, batch.prompt_mask, batch.step_mask)
        if self.storyboard is None:
            return StoryboardOutput(code_embeds=self.predictor(*story).flatten(0, 1))
        board = self.encode(batch, noise)
        guesses = self.predictor(*story, board.code_embeds.unflatten(0, batch.step_mask.shape))
        return StoryboardOutput(code_embeds=guesses.flatten(0, 1), slots=board.slots)

    def encode(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """q(z | s, x) for N = B*T steps; with noise, under its modality dropout."""
        if batch.codes is not None:
            return self.storyboard.embed(batch.codes.flatten(0, 1))
        text_mask, image_mask = batch.text_mask.flatten(0, 1), batch.image_mask.flatten()
        if noise is not None:  # A modality is dropped only where the other one is there.
            has_text = text_mask.any(1)
            text_mask = text_mask & (noise.keep_text | ~image_mask)[:, None]
            image_mask = image_mask & (noise.keep_image | ~has_text)
        return self.storyboard(batch.latents.flatten(0, 1), image_mask, batch.input_ids.flatten(0, 1), text_mask)

    def disagreement(self, slots: Tensor, batch: StoryBatch) -> Tensor:
        """Cosine distances (N,S) of slots (N,S,d), under modality dropout, to those with nothing dropped; these get no gradient.

        To be called after the pass that gave the slots: autocast keeps the casts of weights that it made first.
        """
        with torch.no_grad():
            whole = self.encode(batch).slots
        return cosine_distance(slots, whole)

    @property
    def factors(self) -> dict[str, nn.Module]:
        """The trainable parts by name, the aids aside."""
        names = ("storyboard", "prior", "predictor", "text_decoder", "image_decoder")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def can_tell(self) -> bool:
        """Whether there is something to tell stories by: not before the codebook is placed, in a model that plans in codes."""
        return self.prior is None or self.storyboard.quantizer.is_active


def build_model(config: StoryConfig, where: str) -> StoryModel:
    """A model with fresh weights. Raises UserError where none can be built; `where` says whose config it is."""
    try:
        return StoryModel(config)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:  # From whichever library builds the part.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} describes no model that can be built ({reason})") from error
