"""Train the shipped weights further on one GPU in minutes: more latent channels, then the decoders and the prior.

    python benchmarks/gpu_weights.py autoencoder --ckpt A --channels 24 --length 90s --output B
    python benchmarks/gpu_weights.py decoders --ckpt B --parts image_decoder=280s prior=30s text_decoder=30s --output C

The first command adds channels to the latents and trains the autoencoder. The channels that there were stay close to
what they were, so the storyboard's encoder, which ignores the new ones, gives nearly the same codes, and text decoder
and prior stay good. The second command trains parts of the model one after the other on cached codes, as `train` does
in its last phases, but with all data on the GPU: stories are drawn by all cores, encoded once and never leave it. Both
write a model folder. A length is a number of seconds, 90s, or of updates, 1349. Without a GPU they run on the CPU,
slowly.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import environment
from drawer import Drawer
from torch import Tensor, nn

from modules.batch import StepInputs, StepNoise, StoryBatch, draw_noise
from modules.common.arguments import Parser, a_path, positive_int
from modules.image_decoder.autoencoder import PictureAutoencoder
from modules.layers.seeding import derive_seed, make_generator
from modules.prior.given import draw_given
from modules.saving.model_folder import load_model, save_model
from modules.story_model.story_model import StoryModel
from modules.text_decoder.tokenizers import Vocabulary
from modules.training.optimizer import WeightAverage, cosine_with_warmup, parameter_groups

ENCODE_ROWS = 2048
HELD_OUT = 40  # Stories of the split "tune".
WARM_UP, SURVEY = 10, 20  # Updates before the seconds of one are measured, and updates measured.
LOG_EVERY = 100
EMA_DECAY = 0.998
MIN_WARM_UP, RATE_FLOOR = 200, 0.02
PARTS = ("image_decoder", "text_decoder", "prior")
started = time.perf_counter()


def say(text: str) -> None:
    print(f"== {time.perf_counter() - started:.0f} s: {text}", flush=True)


def as_images(pixels: Tensor) -> Tensor:
    """Return pixels (N,H,W,3) uint8 as images (N,3,H,W) in [-1,1]."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


# -- training


@dataclasses.dataclass(frozen=True)
class Length:
    """How long to train: a number of updates, or of seconds, from which that number is found by timing a few."""

    amount: float
    in_seconds: bool = False

    @classmethod
    def parse(cls, text: str) -> Length:
        """Return "90s" as seconds and "1349" as updates."""
        return cls(float(text.removesuffix("s")), text.endswith("s"))

    def updates(self, done: int, elapsed: float, seconds_each: float) -> int:
        """Return the number of updates in all, of which `done` took `elapsed` seconds."""
        if not self.in_seconds:
            return int(self.amount)
        return done + int(0.98 * (self.amount - elapsed) / seconds_each)


class Fit:
    """Updates of some parameters: AdamW, a cosine that begins slowly, and weight averages, which are kept at the end.

    Nothing waits for the device but once in `LOG_EVERY` updates.
    """

    def __init__(self, groups: list[dict[str, Any]], peak: float, betas: tuple[float, float], length: Length) -> None:
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.device, self.peak, self.length = self.parameters[0].device, peak, length
        self.optimizer = torch.optim.AdamW(groups, lr=peak, betas=betas, fused=self.device.type == "cuda")
        self.average = WeightAverage(self.parameters, EMA_DECAY)
        self.step, self.num_updates = 0, 0
        self.trace: list[float] = []

    def run(self, loss: Callable[[], Tensor]) -> dict[str, Any]:
        """Train on the losses () that `loss` returns; return the number of updates, seconds and mean losses."""
        began, timed, total = time.perf_counter(), 0.0, torch.zeros((), device=self.device)
        self.sound = self._averages()
        while not self.num_updates or self.step < self.num_updates:
            total += self._update(loss())
            if self.step == WARM_UP:
                timed = self._now()
            elif self.step == WARM_UP + SURVEY:
                each = (self._now() - timed) / SURVEY
                self.num_updates = max(self.step, self.length.updates(self.step, self._now() - began, each))
                say(f"{each * 1000:.1f} ms an update, {self.num_updates} updates")
            if self.step % LOG_EVERY == 0 and not self._log(total.item() / LOG_EVERY, began):
                break
            if self.step % LOG_EVERY == 0:
                total.zero_()
        self.average.copy_to_parameters()
        return {"updates": self.step, "seconds": self._now() - began, "losses": self.trace}

    def _update(self, loss: Tensor) -> Tensor:
        """Make one update and return the loss () without its graph."""
        # As slow as the warm-up of a useful run, before the number of updates is known too.
        factor = min(1.0, (self.step + 1) / MIN_WARM_UP)
        if self.num_updates:
            warmup = max(WARM_UP + SURVEY, round(0.05 * self.num_updates))
            factor = min(factor, cosine_with_warmup(self.step, self.num_updates, warmup, RATE_FLOOR))
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * factor * group["share"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return loss.detach()

    def _log(self, mean: float, began: float) -> bool:
        """Note a mean loss; where it is not finite, go back to the last sound averages and return False."""
        self.trace.append(mean)
        if not np.isfinite(mean):
            self.average.load_state_dict(self.sound)
            say(f"the loss is {mean} after {self.step} updates: back to the last sound averages")
            return False
        self.sound = self._averages()
        if self.step % (10 * LOG_EVERY) == 0:
            each = (time.perf_counter() - began) / self.step
            left = each * (self.num_updates - self.step)
            say(f"update {self.step} of {self.num_updates}, loss {mean:.4f}, {left:.0f} s left")
        return True

    def _averages(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.average.state_dict().items()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


# -- the autoencoder


def widen(old: StoryModel, channels: int) -> StoryModel:
    """Return the model with more channels of the latents, which nothing reads or writes yet."""
    config = dataclasses.replace(
        old.config, autoencoder=dataclasses.replace(old.config.autoencoder, latent_channels=channels)
    )
    new, before = StoryModel(config), old.config.autoencoder.latent_channels
    own, given = new.state_dict(), old.state_dict()
    kept = torch.arange(before)
    moments = torch.cat([kept, channels + kept])  # Means, then log variances.
    for name, value in given.items():
        if name.startswith("aids."):
            continue  # For training the encoder alone.
        if own[name].shape == value.shape:
            own[name] = value
        elif name.startswith("autoencoder.vae.quant_conv"):
            own[name] = torch.zeros_like(own[name])
            rows = (moments[:, None], moments) if value.ndim > 1 else (moments,)
            own[name][rows] = value
        elif name.startswith("autoencoder.vae.encoder.conv_out"):
            own[name] = own[name].clone()
            own[name][moments] = value
        elif name.startswith("autoencoder.vae.post_quant_conv"):
            own[name] = torch.eye(channels)[..., None, None] if value.ndim > 1 else torch.zeros(channels)
            own[name][(slice(before), slice(before)) if value.ndim > 1 else slice(before)] = value
        elif name.startswith("storyboard.image_encoder.embed"):  # Channels are the slowest axis of a patch, see below.
            own[name] = torch.zeros_like(own[name])
            own[name][:, : value.shape[1]] = value
        else:  # Only one axis differs.
            axis = next(i for i in range(value.ndim) if own[name].shape[i] != value.shape[i])
            filled = torch.ones_like(own[name]) if name.endswith("latent_std") else torch.zeros_like(own[name])
            filled.narrow(axis, 0, before).copy_(value)
            own[name] = filled
    new.load_state_dict(own)
    return new.eval()


@torch.no_grad()
def add_components(autoencoder: PictureAutoencoder, images: Tensor, before: int) -> None:
    """Let the new channels begin as the images' components, at unit variance, along the axes on which the old channels
    lose most. The decoder does not read them yet.
    """
    size, count = autoencoder.config.downsampling, autoencoder.config.latent_channels - before
    whole, lost = (
        F.pixel_unshuffle(values, size).permute(0, 2, 3, 1).flatten(0, 2)
        for values in (images, images - autoencoder.decode(autoencoder.encode(images)))
    )
    axes = torch.linalg.eigh(lost.T @ lost)[1][:, -count:]
    found = whole @ axes
    mean, scale = found.mean(0), found.std(0).clamp(min=1e-4)
    autoencoder.to_latent.weight[before:] = (axes / scale).T[:, :, None, None]
    assert autoencoder.to_latent.bias is not None
    autoencoder.to_latent.bias[before:] = -mean / scale


def psnr(autoencoder: PictureAutoencoder, images: Tensor, noise: float = 0.0) -> float:
    """Return the mean PSNR of reconstructions in dB."""
    values = []
    for part in images.split(512):
        latents = autoencoder.encode(part)
        decoded = autoencoder.decode(latents + noise * torch.randn_like(latents))
        values.append((decoded - part).square().mean((1, 2, 3)) / 4)
    return -10 * torch.cat(values).log10().mean().item()


def train_autoencoder(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    drawn = Drawer(args.ckpt, args.num_stories, "train", args.processes, with_texts=False)
    tuning = Drawer(args.ckpt, HELD_OUT, "tune", 1, with_texts=False)
    pixels = torch.cat([chunk["pixels"].to(device) for chunk in drawn])
    held_out = as_images(torch.cat([chunk["pixels"].to(device) for chunk in tuning]))
    say(f"{len(pixels):,} pictures drawn")
    old, tokenizer = load_model(args.ckpt, offline=True)
    before = old.config.autoencoder.latent_channels
    model = widen(old, args.channels) if args.channels > before else copy.deepcopy(old)
    autoencoder, teacher = model.autoencoder.to(device), old.autoencoder.to(device).requires_grad_(False)
    assert isinstance(autoencoder, PictureAutoencoder)
    say(f"PSNR before: {psnr(teacher, held_out):.2f} dB; widened {psnr(autoencoder, held_out):.2f} dB")
    if args.channels > before:
        add_components(autoencoder, as_images(pixels[:: max(1, len(pixels) // 2000)][:2000]), before)
    autoencoder.requires_grad_(True).train()
    if args.channels == before:
        autoencoder.train_decoder_only()
    generator = make_generator(args.seed, device)
    shape = model.config.autoencoder.latent_shape

    def loss() -> Tensor:
        rows = torch.randint(len(pixels), (args.rows,), generator=generator, device=device)
        images = as_images(pixels[rows])
        noise = torch.randn(args.rows, *shape, generator=generator, device=device)
        with autocast(device):
            posterior = autoencoder.posterior(images)
            value = autoencoder.losses(images, posterior, noise).loss
            if args.channels > before:
                with torch.no_grad():
                    wanted = teacher.posterior(images).mean
                moved = (posterior.mean[:, :before] - wanted) / teacher.latent_std
                value = value + args.anchor * moved.square().mean()
        return value

    groups = parameter_groups(autoencoder.named_parameters(), (), (), model.config.training)
    done = Fit(groups, args.learning_rate, model.config.training.adam_betas, args.length).run(loss)
    autoencoder.requires_grad_(False).eval()
    with torch.no_grad():
        sample = as_images(pixels[:: max(1, len(pixels) // 4000)][:4000])
        mean, std = autoencoder.latent_mean.clone(), autoencoder.latent_std.clone()
        autoencoder.fit_statistics(sample)
        autoencoder.latent_mean[:before], autoencoder.latent_std[:before] = mean[:before], std[:before]
        shift = (autoencoder.encode(held_out)[:, :before] - teacher.encode(held_out)).square().mean().sqrt().item()
    found = {f"psnr_{noise}": psnr(autoencoder, held_out, noise) for noise in (0.0, 0.1, 0.2)}
    say(f"PSNR {found}; old channels moved by {shift:.3f} standard deviations")
    model.cpu()
    write_part(args.output, model, tokenizer, "autoencoder")
    return {**done, **found, "shift": shift}


# -- decoders and prior


class Stories:
    """Encoded stories on the device: latents, tokens and codes of all pages, and batches of equally long stories."""

    def __init__(self, chunks: Iterable[dict[str, Tensor]], model: StoryModel, device: torch.device) -> None:
        self.device, parts = device, []
        for chunk in chunks:
            moved = {name: value.to(device) for name, value in chunk.items() if name != "lengths"}
            pixels = moved.pop("pixels")
            with torch.no_grad():
                moved["latents"] = torch.cat(
                    [model.autoencoder.encode(as_images(part)).half() for part in pixels.split(ENCODE_ROWS)]
                )
            parts.append({**moved, "lengths": chunk["lengths"]})
        whole = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
        self.lengths = whole.pop("lengths")
        self.starts = (self.lengths.cumsum(0) - self.lengths).to(device)
        self.tensors = whole
        self.by_length = {n: (self.lengths == n).nonzero()[:, 0] for n in self.lengths.unique().tolist()}
        self.codes = self._codes(model)

    @torch.no_grad()
    def _codes(self, model: StoryModel) -> Tensor:
        """Return the codes (3,N,S) from both modalities, text alone and picture alone."""
        found = []
        for image, text in ((True, True), (False, True), (True, False)):
            rows = torch.arange(len(self.tensors["latents"]), device=self.device).split(ENCODE_ROWS)
            slots = torch.cat([model.storyboard.encode(self._steps(part).keep(text, image)) for part in rows])
            torch.backends.cuda.matmul.allow_tf32 = False  # Of the nearest codes one in a hundred would be another.
            found.append(torch.cat([model.storyboard.quantizer(part).codes for part in slots.split(ENCODE_ROWS)]))
            torch.backends.cuda.matmul.allow_tf32 = True
        return torch.stack(found)

    def _steps(self, rows: Tensor) -> StepInputs:
        tensors = self.tensors
        return StepInputs(
            latents=tensors["latents"][rows].float(),
            image_mask=torch.ones(len(rows), dtype=torch.bool, device=self.device),
            input_ids=tensors["text_ids"][rows].long(),
            text_mask=tensors["text_mask"][rows],
        )

    def draw(self, num_rows: int, rng: np.random.Generator) -> Tensor:
        """Draw stories of one length, about `num_rows` pages in all; every page is as likely."""
        weights = np.array([length * len(members) for length, members in self.by_length.items()], float)
        length = list(self.by_length)[rng.choice(len(weights), p=weights / weights.sum())]
        members = self.by_length[length]
        return members[torch.from_numpy(rng.integers(len(members), size=max(1, num_rows // length)))]

    def batch(self, stories: Tensor, variant: Tensor | None = None) -> StoryBatch:
        """Return stories of one length as a batch; `variant` (N,) chooses the codes."""
        length = int(self.lengths[stories[0]])
        stories = stories.to(self.device)
        rows = self.starts[stories][:, None] + torch.arange(length, device=self.device)
        flat, tensors = rows.flatten(), self.tensors
        ones = torch.ones(rows.shape, dtype=torch.bool, device=self.device)
        codes = self.codes[torch.zeros_like(flat) if variant is None else variant, flat]
        mask = tensors["text_mask"][rows]
        return StoryBatch(
            prompt_ids=tensors["prompt_ids"][stories].long(),
            prompt_mask=tensors["prompt_mask"][stories],
            input_ids=tensors["text_ids"][rows].long(),
            text_mask=mask,
            latents=tensors["latents"][rows].float(),
            image_mask=ones,
            step_mask=ones,
            codes=codes.view(*rows.shape, -1),
            num_steps=torch.tensor(float(len(flat)), device=self.device),
            num_tokens=mask[..., 1:].sum().float(),
            num_images=torch.tensor(float(len(flat)), device=self.device),
        )


class PartTrainer:
    """Trains single parts of a model on encoded stories."""

    def __init__(self, model: StoryModel, stories: Stories, held_out: Stories, args: argparse.Namespace) -> None:
        self.model, self.stories, self.held_out, self.args = model, stories, held_out, args
        self.config, self.device = model.config, stories.device

    def train(self, part: str, length: Length) -> dict[str, Any]:
        """Train one part; returns updates, losses, and held-out losses before and after."""
        before = self.measure(part)
        say(f"{part}: held-out loss {before:.4f}")
        model, training, rng = self.model, self.config.training, np.random.default_rng(self.args.seed)
        generator = make_generator(derive_seed(self.args.seed, part), self.device)
        model.train_parts((part,))
        on_cpu = make_generator(derive_seed(self.args.seed, part, "given"))
        rows = self.args.plan_rows if part == "prior" else self.args.rows

        def loss() -> Tensor:
            drawn = self.stories.draw(rows, rng)
            count = len(drawn) * int(self.stories.lengths[drawn[0]])
            noise = self.noise(count, generator, training)
            variant = (~noise.keep_image).long() + 2 * (~noise.keep_text).long()
            batch = self.stories.batch(drawn, None if part == "prior" else variant)
            if part == "prior":
                self.give_pages(batch, on_cpu)
            with autocast(self.device):
                return model(batch, noise, (part,)).loss

        groups = parameter_groups(model.parts((part,))[part].named_parameters(), (), (), training)
        peak = getattr(self.args, f"{part}_rate")
        done = Fit(groups, peak, training.adam_betas, length).run(loss)
        model.requires_grad_(False).eval()
        after = self.measure(part)
        say(f"{part}: held-out loss {before:.4f} -> {after:.4f}, {done['updates']} updates, {done['seconds']:.0f} s")
        return {**done, "held_out_before": before, "held_out": after, "rows": rows}

    def noise(self, count: int, generator: torch.Generator, training: Any = None) -> StepNoise:
        """Draw the noise of `count` rows; without `training` nothing is dropped."""
        drops = (training.modality_dropout, training.null_text, training.null_image) if training else (0.0, 0.0, 0.0)
        hidden = training.page_dropout if training and self.model.reads_plan else 0.0
        words = training.word_dropout if training else 0.0
        shape, steps = self.config.autoencoder.latent_shape, self.config.image_decoder.num_train_timesteps
        length = self.config.text_decoder.max_length
        return draw_noise(count, shape, steps, generator, *drops, hidden, words, length)

    def give_pages(self, batch: StoryBatch, generator: torch.Generator) -> None:
        """Let the prior see some pages of some stories of a batch from the start."""
        count, length = batch.step_mask.shape
        plans = batch.own_plans(batch.codes)
        if share := self.config.prior.given_share:
            given = draw_given([length] * count, share, generator)
            plans.given = given.to(self.device)
            plans.num_steps = batch.num_steps - (given >= 0).sum().to(self.device)
        batch.plans = plans

    @torch.no_grad()
    def measure(self, part: str) -> float:
        """Return the loss of a part on held-out stories, without dropout and given pages."""
        self.model.eval()
        losses, weights = [], []
        for length, members in self.held_out.by_length.items():
            batch = self.held_out.batch(members)
            noise = self.noise(len(members) * length, make_generator(0, self.device))
            with autocast(self.device):
                losses.append(self.model(batch, noise, (part,)).loss.item())
            weights.append(len(members) * length)
        return float(np.average(losses, weights=weights))


def train_decoders(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    drawn = Drawer(args.ckpt, args.num_stories, "train", args.processes)
    tuning = Drawer(args.ckpt, args.held_out, "tune", 1)
    model, tokenizer = load_model(args.ckpt, offline=True)
    model = with_given_pages(model) if any(name == "prior" for name, _ in args.parts) else model
    model.to(device)
    stories, held_out = Stories(drawn, model, device), Stories(tuning, model, device)
    say(f"{len(stories.lengths):,} stories, {stories.codes.shape[1]:,} pages encoded")
    trainer, found = PartTrainer(model, stories, held_out, args), {}
    for part, length in args.parts:
        found[part] = trainer.train(part, length)
        write_part(args.output, copy.deepcopy(model).cpu(), tokenizer, part)
        say(f"{part}: written")
    return found


def with_given_pages(model: StoryModel) -> StoryModel:
    """Return the model with a prior that can be given pages."""
    if model.config.prior.given_share:
        return model
    prior = dataclasses.replace(model.config.prior, given_share=0.5)
    new = StoryModel(dataclasses.replace(model.config, prior=prior))
    new.load_state_dict(new.state_dict() | model.state_dict())
    return new.eval()


def write_part(folder: Path, model: StoryModel, tokenizer: Vocabulary, part: str) -> None:
    """Write the model folder, and the weights of one part alone beside it, in files of at most 15 MB."""
    from safetensors.torch import save_file

    save_model(folder, model.config, model.own_state(), tokenizer)
    files: list[dict[str, Tensor]] = [{}]
    for name, value in model.own_state().items():
        if not name.startswith((part, *(("storyboard.image_encoder",) if part == "autoencoder" else ()))):
            continue
        if sum(tensor.nbytes for tensor in files[-1].values()) + value.numel() * 2 > 15_000_000:
            files.append({})
        files[-1][name] = value.half().contiguous().clone()
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    for number, tensors in enumerate(files):
        save_file(tensors, parts / f"{part}.{number}.safetensors")


def join(args: argparse.Namespace, _: torch.device) -> dict[str, Any]:
    """Write the model of a folder with the parts of others in place of its own."""
    from safetensors.torch import load_file

    model, tokenizer = load_model(args.ckpt, offline=True)
    given = {name: value for path in args.parts for name, value in load_file(path).items()}
    channels = given.get("autoencoder.latent_mean", model.autoencoder.latent_mean).shape[0]
    if channels != model.config.autoencoder.latent_channels:
        model = widen(model, channels)
    if "prior.given_pages" in given:
        model = with_given_pages(model)
    model.load_state_dict(model.state_dict() | {name: value.float() for name, value in given.items()})
    save_model(args.output, model.config, model.own_state(), tokenizer)
    return {"parts": [str(path) for path in args.parts]}


def a_part(text: str) -> tuple[str, Length]:
    """Parse "prior=30s" or "prior=496"."""
    name, _, length = text.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {name!r}: one of {', '.join(PARTS)}")
    return name, Length.parse(length)


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("autoencoder", "decoders", "join"):
        command = commands.add_parser(name)
        command.add_argument("--ckpt", type=a_path, required=True)
        command.add_argument("--output", type=a_path, required=True)
        command.add_argument("--json", type=a_path)
        command.add_argument("--seed", type=int, default=0)
        if name == "join":
            command.add_argument("--parts", type=a_path, nargs="+", required=True)
            continue
        command.add_argument("--num_stories", type=positive_int, default=40_000)
        command.add_argument("--processes", type=positive_int, default=os.cpu_count())
        command.add_argument("--rows", type=positive_int, default=1680 if name == "decoders" else 768)
        if name == "autoencoder":
            command.add_argument("--channels", type=positive_int, default=24)
            command.add_argument("--length", type=Length.parse, default=Length(1349), help="updates, or seconds: 90s")
            command.add_argument("--anchor", type=float, default=2.0)
            command.add_argument("--learning_rate", type=float, default=1e-3)
        else:
            command.add_argument("--parts", type=a_part, nargs="+", required=True)
            command.add_argument("--held_out", type=positive_int, default=200)
            command.add_argument("--plan_rows", type=positive_int, default=3360)
            command.add_argument("--image_decoder_rate", type=float, default=1e-3)
            command.add_argument("--text_decoder_rate", type=float, default=8e-4)
            command.add_argument("--prior_rate", type=float, default=8e-4)
    return parser


def main() -> int:
    args = make_flags().parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # Every part has batches of one shape.
    torch.manual_seed(args.seed)
    commands = {"autoencoder": train_autoencoder, "decoders": train_decoders, "join": join}
    found = commands[args.command](args, device)
    if args.json:
        args.json.write_text(json.dumps({"command": sys.argv, "environment": environment(), **found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
