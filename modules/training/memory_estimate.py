"""Estimate of the memory of a training: parameters by arithmetic, activations by a pass on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from modules.batch import PlanBatch, StepNoise, StoryBatch, draw_noise
from modules.config import StoryConfig
from modules.story_model.story_model import StoryModel, build_model
from modules.training.phases import PLANS_PER_STORY, ConsolidationPhase, story_phase

STRATEGIES = ("ddp", "fsdp2")
CAPTION_LENGTH = 77  # Of the text encoder of Stable Diffusion.


def training_bytes(
    trainable: int,
    frozen: int,
    activations: int,
    *,
    mixed: bool = False,
    strategy: str = "ddp",
    num_processes: int = 1,
    root: int = 0,
    block: int = 0,
) -> dict[str, int]:
    """Return the bytes that one process of n needs at the peak of an update, by purpose.

    With P = `trainable` and F = `frozen` parameters, in float32 of 4 bytes whatever the precision of the computation:
    weights 4 (P + F), gradients 4 P, Adam's two moments 8 P, averaged weights 4 P. FSDP2 divides these by n
    (arXiv 1910.02054, stage 3). `activations` are the bytes that a part of a batch keeps for its backward pass; no
    strategy divides them. To these are added casts of the weights under autocast, 2 (P + F) if `mixed`, and, on n > 1,

    - ddp: buckets of gradients, 4 P;
    - fsdp2: weights and gradients of what is gathered, the `root`, which is in no block, and the largest `block`: 8
    (root + block).

    Under FSDP2 the peak may be elsewhere: between updates, when samples are drawn and at the ends of phases, a process
    has the whole weights, 4 (P + F), beside the pieces of weights, moments and averages. `total` is the larger one.

    Not counted are temporary buffers of operations, the allocator's unused blocks, a GPU's libraries (about 1 GiB), and
    what a language model that does not train yet has read on a CPU (`text_decoder/kept_states.py`, 0.5 GiB).
    """
    everything, casts = trainable + frozen, 2 * (trainable + frozen) if mixed else 0
    cut = strategy == "fsdp2" and num_processes > 1
    pieces = num_processes if cut else 1
    gathered = 8 * (root + block) if cut else 4 * trainable if num_processes > 1 else 0
    parts = {"weights": 4 * everything, "gradients": 4 * trainable, "adam": 8 * trainable, "averages": 4 * trainable}
    parts = {name: -(-count // pieces) for name, count in parts.items()}
    parts |= {"gathered and cast": gathered + casts, "activations": activations}
    between = 4 * everything + parts["weights"] + parts["adam"] + parts["averages"] if cut else 0
    return parts | {"total": max(sum(parts.values()), between)}


@cache
def story_activations(config: StoryConfig, mixed: bool, phase: str = "joint") -> int:
    """Return the bytes kept for the backward pass of the loss of a phase on stories.

    The batch has the longest stories, and every step has a full text and a picture. After the joint phase the encoder's
    codes are cached.
    """
    model, phase_class = build_on_meta(config), story_phase(phase, config)
    batch, noise = full_batch(config)
    if issubclass(phase_class, ConsolidationPhase) and model.has_codes:
        batch = _with_codes(batch, config)
    has_experts = config.prior.experts.num_experts > 0
    with pretended(model):
        phase_class.select(model)
        if phase != "opening":
            model.assume_ready()
        parts = phase_class.trained_parts(config.training)
        saved = saved_bytes(model, lambda: model(batch, noise, parts).loss, mixed or has_experts)
    # torch infers the shapes of the experts' products in bfloat16 only.
    return saved if mixed or not has_experts else 2 * saved


@cache
def trained_parameters(config: StoryConfig, phase: str) -> tuple[int, int]:
    """Return the numbers of parameters that a phase on stories trains, and that are frozen in it."""
    model = build_on_meta(config)
    story_phase(phase, config).select(model)
    return count_parameters(model)


@cache
def autoencoder_activations(config: StoryConfig, mixed: bool) -> int:
    """Return the bytes kept for the backward pass of the autoencoder phase's loss, with a picture on every step."""
    count, size = config.training.batch_size * config.max_steps, config.autoencoder.image_size
    autoencoder = build_on_meta(config).autoencoder.requires_grad_(True)
    with pretended(autoencoder):
        pixels, noise = torch.zeros(count, 3, size, size), torch.zeros(count, *config.autoencoder.latent_shape)
        return saved_bytes(autoencoder, lambda: autoencoder(pixels, noise).loss, mixed)


def build_on_meta(config: StoryConfig) -> StoryModel:
    """Return the model without data, on the meta device; pretrained parts may have any size."""
    with torch.device("meta"):
        return build_model(config, "this config", random=True)


@contextmanager
def pretended(module: nn.Module) -> Iterator[None]:
    """Inside, a module on the meta device computes shapes as if it were on the CPU."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes: dict[int, Tensor] = {}
        for owner in module.modules():
            for name, value in [*owner._parameters.items(), *owner._buffers.items()]:
                if value is None or not value.is_meta:
                    continue
                if id(value) not in fakes:  # Tied weights stay tied.
                    fake = FakeTensor(mode, torch.empty_like(value), torch.device("cpu"))
                    fakes[id(value)] = (
                        nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake
                    )
                setattr(owner, name, fakes[id(value)])
        yield


def saved_bytes(module: nn.Module, loss: Callable[[], Tensor], mixed: bool) -> int:
    """Return the bytes of all storages that `loss` keeps for its backward pass, without those of `module` itself."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
        loss()
    return sum(storage.nbytes() for storage in kept.values())


def full_batch(config: StoryConfig) -> tuple[StoryBatch, StepNoise]:
    """Return a batch of the config's size without padding, and its noise; the values are arbitrary."""
    stories, steps, tokens = config.training.batch_size, config.max_steps, config.text_decoder.max_length
    ids, mask = (
        torch.ones(stories, steps, tokens, dtype=torch.long),
        torch.ones(stories, steps, tokens, dtype=torch.bool),
    )
    count = torch.tensor(float(stories * steps))
    batch = StoryBatch(
        prompt_ids=torch.ones(stories, config.max_prompt_length, dtype=torch.long),
        prompt_mask=torch.ones(stories, config.max_prompt_length, dtype=torch.bool),
        input_ids=ids,
        text_mask=mask,
        latents=torch.zeros(stories, steps, *config.autoencoder.latent_shape),
        image_mask=mask[..., 0],
        step_mask=mask[..., 0],
        num_steps=count,
        num_images=count,
        num_tokens=count * (tokens - 1),
        **_for_encoders(config),
    )
    timesteps = config.image_decoder.num_train_timesteps
    return batch, draw_noise(
        stories * steps, config.autoencoder.latent_shape, timesteps, torch.Generator().manual_seed(0)
    )


def _with_codes(batch: StoryBatch, config: StoryConfig) -> StoryBatch:
    """Return the batch with cached codes, and with the plans of several times as many stories for the prior."""
    stories, steps, slots = config.training.batch_size, config.max_steps, config.storyboard.num_slots
    many = PLANS_PER_STORY * stories
    plans = PlanBatch(
        codes=torch.zeros(many, steps, slots, dtype=torch.long),
        prompt_ids=batch.prompt_ids.repeat(PLANS_PER_STORY, 1),
        prompt_mask=batch.prompt_mask.repeat(PLANS_PER_STORY, 1),
        step_mask=torch.ones(many, steps, dtype=torch.bool),
        num_steps=torch.tensor(float(many * steps)),
    )
    return replace(batch, codes=torch.zeros(stories, steps, slots, dtype=torch.long), plans=plans)


def _for_encoders(config: StoryConfig) -> dict[str, Any]:
    """Return the fields of a batch that only some presets read."""
    fields: dict[str, Any] = {}
    steps, size = (config.training.batch_size, config.max_steps), config.autoencoder.image_size
    if config.storyboard.pictures != "latents":
        fields["pixels"] = torch.zeros(*steps, 3, size, size)
    if config.storyboard.text_encoder.source:
        fields["encoder_ids"] = torch.ones(*steps, config.storyboard.text_encoder.max_length, dtype=torch.long)
        fields["encoder_mask"] = torch.ones_like(fields["encoder_ids"], dtype=torch.bool)
    if config.image_decoder.condition == "codes_and_text":
        fields["caption_ids"] = torch.ones(*steps, CAPTION_LENGTH, dtype=torch.long)
    return fields


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the number of trainable and of frozen parameters."""
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in module.parameters()) - trainable
