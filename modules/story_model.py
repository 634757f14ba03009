"""The latent-storyboard story model: four factors, one loss.

p(s, x, z | c) = prod_t  p(z_t | z_<t, c)  p(s_t | z_t)  p(x_t | z_t)        q(z_t | s_t, x_t) one-hot

loss = text_nll + beta * prior_nll + commitment_loss + lambda * diffusion_loss
       (+ agreement_loss + the losses of the encoder's aids + alpha * contrastive_loss + gamma * the router's losses)

Two baselines have no z: a predictor takes the prior's place, and guesses what the decoders read from what came before
(`condition`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.batch import PlanBatch, StepNoise, StoryBatch
from modules.common.errors import UserError
from modules.common.versions import version_problem
from modules.config import StoryConfig
from modules.image_decoder.autoencoder import PictureAutoencoder, PretrainedAutoencoder
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.losses import cosine_distance, masked_mean, weighted_sum
from modules.layers.transformer import Transformer
from modules.pretrained.freezing import enable_checkpointing
from modules.pretrained.part import gate_names, pretrained_names
from modules.pretrained.source import PretrainedSource
from modules.prior.predictor import Predictor
from modules.prior.prior import Prior
from modules.storyboard.aids import OF_PICTURES, EncoderAids
from modules.storyboard.contrastive import ContrastiveLoss, pool_slots, text_ids
from modules.storyboard.pooling import MajorityVoteStoryboard, MeanStoryboard, QFormerStoryboard
from modules.storyboard.storyboard import Storyboard, StoryboardOutput
from modules.text_decoder.language_model import vocabulary_of
from modules.text_decoder.text_decoder import TextDecoder

PARTS = (
    "storyboard",
    "prior",
    "predictor",
    "text_decoder",
    "image_decoder",
    "aids",
    "contrastive",
)  # All that is trained jointly.
STORYBOARDS = {
    "queries": Storyboard,
    "majority_vote": MajorityVoteStoryboard,
    "qformer": QFormerStoryboard,
    "mean": MeanStoryboard,
}
SPECIAL_IDS = (0, 1, 2)  # <pad>, <bos>, <eos> of every tokenizer trained here.


@dataclass
class StoryModelOutput(ModelOutput):
    """`loss` (); `losses` its named terms, each (); `slots` (N,S,d) before quantising and their `step_mask` (N,);
    `codes` (B,T,S) or None while continuous; `vectors` (N,V,d) and `vector_mask` (N,V) as in `StoryboardOutput`;
    `loads` (layers,E) of the prior's experts, where it has some.
    """

    loss: Tensor = None
    losses: dict[str, Tensor] = None
    slots: Tensor | None = None
    step_mask: Tensor | None = None
    codes: Tensor | None = None
    vectors: Tensor | None = None
    vector_mask: Tensor | None = None
    loads: Tensor | None = None


class StoryModel(nn.Module):
    """The four factors, and the frozen autoencoder that pictures enter and leave by."""

    def __init__(
        self,
        config: StoryConfig,
        *,
        offline: bool = False,
        random: bool = False,
        sources: Mapping[str, PretrainedSource] | None = None,
    ) -> None:
        """Build the model with fresh weights; parts with a `source` are pretrained.

        With `offline` they are read from the local cache only; with `random` they get random weights. `sources` replace
        those that the config names, by the part's name. Raises UserError where a source cannot be loaded.
        """
        super().__init__()
        self.config = config
        self.sources = pretrained_sources(config, offline, random) | dict(sources or {})
        board, latent_shape = config.storyboard, config.autoencoder.latent_shape
        slots, language_model = (board.num_slots, board.codebook_dim), self.sources.get("text_decoder")
        self.vocab_size = config.vocab_size if language_model is None else vocabulary_of(language_model)
        self.storyboard = self.prior = self.predictor = None  # Every plan but "codes" lacks some of them.
        if config.plan != "prompt":
            self.storyboard = STORYBOARDS[board.pooling](
                board, self.vocab_size, config.text_decoder.max_length, latent_shape, self.sources
            )
        if config.plan == "codes":
            self.prior = Prior(config.prior, self.vocab_size, board.codebook_size, board.num_slots)
        else:
            self.predictor = Predictor(config.predictor, self.vocab_size, *slots, config.plan == "predicted")
        special_ids = SPECIAL_IDS if language_model is None or random else None
        self.text_decoder = TextDecoder(config.text_decoder, self.vocab_size, *slots, special_ids, language_model)
        self.image_decoder = ImageDecoder(config.image_decoder, latent_shape, *slots, self.sources.get("image_decoder"))
        self.aids = EncoderAids(config.aids, self.vocab_size, latent_shape, *slots)
        contrasts = config.loss_weights.contrastive_loss > 0 and self.storyboard is not None
        self.contrastive = ContrastiveLoss() if contrasts else None
        if config.autoencoder.source:
            self.autoencoder = PretrainedAutoencoder(config.autoencoder, self.sources["autoencoder"])
        else:
            self.autoencoder = PictureAutoencoder(config.autoencoder).requires_grad_(False)
        if config.training.gradient_checkpointing:
            self._keep_less()
        self.pretrained, self.gates = pretrained_names(self), gate_names(self)
        parameters = dict(self.named_parameters(remove_duplicate=False))
        self.frozen = frozenset(name for name in self.pretrained if not parameters[name].requires_grad)

    def _keep_less(self) -> None:
        """Checkpoint the blocks of all transformers and of the UNet. Pretrained encoders have settings of their own."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.gradient_checkpointing = True
        self.image_decoder.enable_gradient_checkpointing()
        enable_checkpointing(self.text_decoder.language_model)

    def forward(self, batch: StoryBatch, noise: StepNoise, parts: Collection[str] = PARTS) -> StoryModelOutput:
        """The training loss of a batch; a pure function of weights, batch and noise (but for dropout). N = B*T rows.

        Terms of `parts` that are not named are left out.
        """
        steps, step_mask, image_mask = batch.steps(), batch.step_mask.flatten(), batch.image_mask.flatten()

        # z ~ q(z | s, x): encode and quantise, or take the codes cached when q was frozen.
        board = self.condition(batch, noise)

        # -log p(s | z)
        losses = {}
        if "text_decoder" in parts:
            text = self.text_decoder(board.code_embeds, steps["input_ids"], steps["text_mask"], noise.null_text)
            losses["text_nll"] = masked_mean(text.nll, text.mask, batch.num_tokens)

        # A bound on -log p(x | z), or -log p(x | z, s) where Stable Diffusion reads the text too, up to its weighting
        # over noise levels.
        if "image_decoder" in parts:
            conditions = noise.null_image, self.captions(batch)
            image = self.image_decoder(board.code_embeds, steps["latents"], noise.timesteps, noise.noise, *conditions)
            losses["diffusion_loss"] = masked_mean(image.loss, image_mask, batch.num_images)

        # q's own terms: slots stay near their codes, say by themselves what the step holds, and agree under modality
        # dropout.
        if board.commitment_loss is not None and "storyboard" in parts:
            losses["commitment_loss"] = masked_mean(board.commitment_loss.mean(1), step_mask, batch.num_steps)
        if batch.codes is None and "aids" in parts:
            for name, values in self.aids(board.code_embeds, batch).items():
                mask, count = (image_mask, batch.num_images) if name in OF_PICTURES else (step_mask, batch.num_steps)
                losses[name] = masked_mean(values, mask, count)
        if board.slots is not None and "storyboard" in parts:
            losses["agreement_loss"] = masked_mean(
                self.disagreement(board.slots, batch).mean(1), step_mask, batch.num_steps
            )
            if self.contrastive is not None and "contrastive" in parts:
                losses["contrastive_loss"] = self.contrast(batch)

        # -log p(z | c), in nats a code. Codes are integers: the prior cannot reach the encoder.
        codes, loads = None if board.codes is None else board.codes.unflatten(0, batch.step_mask.shape), None
        if codes is not None and "prior" in parts:
            plans = batch.plans or PlanBatch(
                codes, batch.prompt_ids, batch.prompt_mask, batch.step_mask, batch.num_steps
            )
            prior = self.prior(
                plans.codes,
                plans.prompt_ids,
                plans.prompt_mask,
                plans.step_mask,
                plans.own_share or 0.0,
                plans.own_draws,
            )
            losses["prior_nll"] = masked_mean(prior.nll.mean(-1), plans.step_mask, plans.num_steps)
            if prior.loads is not None:
                losses |= {"load_balancing_loss": prior.load_balancing_loss, "router_z_loss": prior.router_z_loss}
                loads = prior.loads
        return StoryModelOutput(
            loss=weighted_sum(losses, asdict(self.config.loss_weights)),
            losses=losses,
            slots=board.slots,
            step_mask=step_mask,
            codes=codes,
            vectors=board.vectors,
            vector_mask=board.vector_mask,
            loads=loads,
        )

    def condition(self, batch: StoryBatch, noise: StepNoise | None = None) -> StoryboardOutput:
        """What the decoders read of N = B*T steps, as `code_embeds`: z or, in the baselines, a guess from what came
        before.
        """
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
        steps = batch.steps()
        if noise is not None:  # A modality is dropped only where the other one is there.
            has_text, has_image = steps["text_mask"].any(1), steps["image_mask"]
            steps["text_mask"] = steps["text_mask"] & (noise.keep_text | ~has_image)[:, None]
            steps["image_mask"] = has_image & (noise.keep_image | ~has_text)
        return self.storyboard(**steps)

    def captions(self, batch: StoryBatch) -> Tensor | None:
        """What the image decoder reads of the texts of N = B*T steps (N,L,D); None where it reads the codes alone."""
        return None if batch.caption_ids is None else self.image_decoder.encode_text(batch.caption_ids.flatten(0, 1))

    def contrast(self, batch: StoryBatch) -> Tensor:
        """How well the slots of each picture alone and of each text alone find each other: a loss (), a mean over the
        steps with both.
        """
        steps = batch.steps()
        both = steps["text_mask"].any(1) & steps["image_mask"]
        of_images = self.storyboard.encode(**{**steps, "text_mask": torch.zeros_like(steps["text_mask"])})
        of_texts = self.storyboard.encode(**{**steps, "image_mask": torch.zeros_like(steps["image_mask"])})
        groups = text_ids(steps["input_ids"], steps["text_mask"])
        return self.contrastive(pool_slots(of_images), pool_slots(of_texts), both, groups).loss

    def disagreement(self, slots: Tensor, batch: StoryBatch) -> Tensor:
        """Cosine distances (N,S) of slots (N,S,d), under modality dropout, to those with nothing dropped; these get no
        gradient.

        To be called after the pass that gave the slots: autocast keeps the casts of weights that it made first.
        """
        with torch.no_grad():
            whole = self.encode(batch).slots
        return cosine_distance(slots, whole)

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without what a source keeps for us: the frozen weights."""
        return {name: value for name, value in self.state_dict().items() if name not in self.frozen}

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `own_state` gave. Raises RuntimeError where it is another model's."""
        self.load_state_dict(
            {name: value for name, value in self.state_dict().items() if name in self.frozen} | dict(state)
        )

    @property
    def factors(self) -> dict[str, nn.Module]:
        """The trainable parts by name, the aids aside."""
        names = ("storyboard", "prior", "predictor", "text_decoder", "image_decoder")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def is_ready(self) -> bool:
        """Whether there is something to tell stories by: not before the codebook is placed, in a model that plans in
        codes.
        """
        return self.prior is None or self.storyboard.quantizer.is_active


def pretrained_sources(config: StoryConfig, offline: bool = False, random: bool = False) -> dict[str, PretrainedSource]:
    """Return the source of every pretrained part, by the part's name in a config."""
    board = config.storyboard
    ids = {
        "storyboard.image_encoder": board.image_encoder.source if board.pictures == "pretrained" else "",
        "storyboard.text_encoder": board.text_encoder.source,
        "text_decoder": config.text_decoder.source,
        "image_decoder": config.image_decoder.source,
        "autoencoder": config.autoencoder.source,
    }
    return {
        part: PretrainedSource(source, f"{part}.source", offline=offline, random=random)
        for part, source in ids.items()
        if source
    }


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
