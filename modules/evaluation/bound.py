"""The bound on -log p(text, picture | prompt), honestly: its terms are likelihoods or bounds on them, none is the
training loss.

    -log p(s, x | c)  <=  sum_t  -log p(s_t | z_t)  - log p(z_t | z_<t, c)  +  VLB(x_t | z_t)        where z = q(s, x)

q is one-hot, so KL(q || p) = -log p(z): the codes are charged in full, the first step's among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.batch import draw_noise
from modules.common.errors import UserError
from modules.common.progress import track
from modules.encoded.stories import EncodedStories
from modules.evaluation.metrics.statistics import bootstrap_mean
from modules.image_decoder.image_decoder import ImageDecoder
from modules.pipeline import StoryPipeline
from modules.training.reliance import codes_or_null, swap_rows

MIN_TIMESTEPS = 8
ROWS_PER_BATCH = 64
CONDITIONS = ("own", "swapped", "null")
Conditions = dict[
    str, tuple[Tensor, bool]
]  # By name: code_embeds (N,S,d), and whether the null codes take their place.
Mean = Callable[..., dict[str, Any]]  # Of sums and counts (N,): a figure.
PerStep = dict[str, np.ndarray]  # By name: nats or counts of every step (N,) float64, 0 where a step does not count.


@torch.no_grad()
def measure_bound(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    codes: Tensor,
    seed: int = 0,
    num_timesteps: int = 64,
    max_vlb_steps: int = 96,
) -> dict[str, dict[str, Any]]:
    """What text, codes and pictures cost, given the true codes (N,S) of all steps; each a `Figure` as a dict, with its
    number of steps.

    A baseline has vectors (N,S,d) in the place of codes (`condition_steps`). They are functions of what came before, so
    they cost
    nothing: no figure of the prior is reported, it is 0 in the others, and `bound_nats_per_step` is a bound as it is
    with codes.

    `own`, `swapped` and `null` are the same term with a step's own codes, with those of a step half the data away, and
    with the learned null codes; all three share their noise, so the gaps between them are paired. Text is in nats a
    token (<eos> counts), codes in bits with p(z_1) included, pictures in bits a latent dimension: `latent_bits_per_dim`
    bounds the density of the autoencoder's standardised latents, not of pixels, so it may be negative and compares only
    between models with the same autoencoder; its ceiling is what the same latents cost under a unit Gaussian. It is
    measured on up to `max_vlb_steps` pages, drawn evenly over the stories, each with one timestep out of each of
    `num_timesteps` strata.

    `code_charged_nats_per_token` adds the codes' cost to the text's (its ceiling: the text without codes),
    `net_code_value_*` is NLL(null) - NLL(own) - prior NLL in nats a step: below 0 the codes do not pay in likelihood.
    `bound_nats_per_step` is the whole bound on the drawn pages. `velocity_mse`, or `noise_mse` where that is what the
    UNet predicts, is the training loss's term, at one random timestep a page: no likelihood. A picture that is drawn to
    its text too has the true one in all of them. Raises UserError on fewer than 8 timesteps, a negative `max_vlb_steps`
    or a noise schedule that has no bound.
    """
    for name, value, least in (("num_timesteps", num_timesteps, MIN_TIMESTEPS), ("max_vlb_steps", max_vlb_steps, 0)):
        if value < least:
            raise UserError(f"{name} must be {least} or more, got {value}")
    own, has_plans = pipeline.embed(codes), not codes.is_floating_point()
    conditions = {"own": (own, False), "swapped": (own[swap_rows(len(own))], False), "null": (own, True)}
    plans = _score_plans(pipeline, stories, codes) if has_plans else {"prior": np.zeros(len(codes))}
    steps = {
        **_score_decoders(pipeline, stories, conditions, seed),
        **plans,
        **_score_pages(pipeline, stories, conditions, choose_pages(stories, max_vlb_steps, seed), seed, num_timesteps),
    }
    mean, config = partial(_mean_over_stories, stories.starts, seed), pipeline.config
    latent_figures = _latent_figures(mean, steps, math.prod(config.autoencoder.latent_shape))
    num_timesteps = min(num_timesteps, config.image_decoder.num_train_timesteps)
    return {
        **_compared(
            mean, steps, "text_nats_per_token", "text", "tokens", floor=0.0, ceiling=math.log(pipeline.model.vocab_size)
        ),
        **(_prior_figures(mean, steps, codes.shape[1], config.storyboard.codebook_size) if has_plans else {}),
        **{name: {**figure, "num_timesteps": num_timesteps} for name, figure in latent_figures.items()},
        **_code_value(mean, steps),
        **_compared(mean, steps, error_name(pipeline.model.image_decoder), "error", "pictures", floor=0.0),
    }


def error_name(decoder: ImageDecoder) -> str:
    """What the diffusion loss of a decoder is: the mean squared error of the noise or of the velocity."""
    return "noise_mse" if decoder.prediction_type == "epsilon" else "velocity_mse"


# The diffusion term


@dataclass(frozen=True)
class TimestepSample:
    """M `timesteps` (M,), the `weights` (M,) of the strata that they stand for, and `noise` (M,c,h,w)."""

    timesteps: Tensor
    weights: Tensor
    noise: Tensor


def vlb_weights(alphas_cumprod: Tensor, prediction_type: str) -> tuple[Tensor, float]:
    """The bound in nats a dimension is sum_t weights_t * (loss)_t + constant + `end_nats`: weights (T,) float64, and
    the constant.

    With SNR = abar / (1 - abar) and the posterior's variance in every reverse step, L_{t-1} = (SNR(t-1) - SNR(t)) / 2 *
    |x_0 - x0_hat|^2 (arXiv 2107.00630). With x0_hat = sqrt(abar) x_t - sqrt(1 - abar) v_hat, |x_0 - x0_hat|^2 = (1 -
    abar) |v - v_hat|^2 (arXiv 2202.00512); with x0_hat = (x_t - sqrt(1 - abar) eps_hat) / sqrt(abar) it is (1 - abar) /
    abar |eps - eps_hat|^2 (arXiv 2006.11239). L_0 is the Gaussian p(x_0 | x_1) = N(x0_hat, 1 / SNR(1)): what x_1 alone
    says of x_0 has that variance. Nothing is
    discretised: latents are continuous. Raises UserError where the noise is predicted of what is noise alone: it gives
    no x0_hat.
    """
    alphas = alphas_cumprod.detach().cpu().double()
    snr = alphas / (1 - alphas)
    steps = torch.cat([snr[:1], snr[:-1] - snr[1:]])
    squares = 1 - alphas  # |x_0 - x0_hat|^2 for each unit of the loss.
    if prediction_type == "epsilon":
        if not (alphas > 0).all():
            raise UserError(
                "this UNet predicts noise and its schedule ends at zero signal-to-noise: its pictures have no likelihood bound"
            )
        squares = squares / alphas
    return steps / 2 * squares, 0.5 * math.log(2 * math.pi / snr[0].item())


def end_nats(alphas_cumprod: Tensor, latents: Tensor) -> float:
    """L_T = KL(q(x_T | x_0) || N(0, 1)) of one page's latents (c,h,w), in nats: 0 where the schedule ends at zero
    signal-to-noise.
    """
    alpha = alphas_cumprod[-1].item()
    return 0.5 * (alpha * (latents.double().square() - 1).sum().item() - latents.numel() * math.log1p(-alpha))


def sample_timesteps(
    weights: Tensor, num_timesteps: int, latent_shape: tuple[int, int, int], generator: torch.Generator
) -> TimestepSample:
    """One timestep out of each of M = `num_timesteps` strata that share `weights` (T,) about equally, or all T when M
    >= T.

    Within its stratum a timestep is drawn in proportion to its weight, so that sum_m weights_m * error_m estimates
    sum_t weights_t * error_t without bias. A timestep that weighs more than a share is a stratum by itself: the
    smallest ones, which hold most of the bound, are always taken.
    """
    total = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    edges = _strata(total, min(num_timesteps, len(weights)))
    low, high = total[edges[:-1]], total[edges[1:]]
    places = low + torch.rand(len(low), generator=generator, dtype=weights.dtype) * (high - low)
    timesteps = (torch.searchsorted(total, places, right=True) - 1).clamp(edges[:-1], edges[1:] - 1)
    return TimestepSample(timesteps, high - low, torch.randn(len(timesteps), *latent_shape, generator=generator))


def _strata(total: Tensor, count: int) -> Tensor:
    """Edges (count + 1,) of strata of timesteps, given what all timesteps below each weigh (T + 1,): none is empty."""
    num_timesteps, edges = len(total) - 1, [0]
    for left in range(count, 1, -1):
        share = (total[-1] - total[edges[-1]]) / left
        edge = int(torch.searchsorted(total, total[edges[-1]] + share))
        edges.append(min(max(edge, edges[-1] + 1), num_timesteps - left + 1))
    return torch.tensor([*edges, num_timesteps])


def diffusion_vlb(
    decoder: ImageDecoder,
    code_embeds: Tensor,
    latents: Tensor,
    sample: TimestepSample,
    null: bool = False,
    text: Tensor | None = None,
) -> float:
    """An upper bound on -log p(x | z) of one page's latents (c,h,w) given code_embeds (S,d), in nats; in expectation
    over the sample.

    With `text` (1,L,D), on -log p(x | z, s).
    """
    errors, device = [], code_embeds.device
    for timesteps, noise in zip(
        sample.timesteps.split(ROWS_PER_BATCH), sample.noise.split(ROWS_PER_BATCH), strict=True
    ):
        embeds, pages = (value.to(device).expand(len(timesteps), *value.shape) for value in (code_embeds, latents))
        embeds, captions = (
            codes_or_null(decoder, embeds, null),
            None if text is None else text.expand(len(timesteps), -1, -1),
        )
        image = decoder(embeds, pages, timesteps.to(device), noise.to(device), encoder_hidden_states=captions)
        errors.append(image.loss.double().cpu())
    _, constant = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    nats = latents.numel() * ((sample.weights * torch.cat(errors)).sum().item() + constant)
    return nats + end_nats(decoder.alphas_cumprod, latents)


def choose_pages(stories: EncodedStories, count: int, seed: int = 0) -> list[int]:
    """Row numbers of up to `count` pages with a picture, spread over the stories: no story gives a second one before
    all gave one.
    """
    rng, pages = np.random.default_rng(seed), []
    for index in range(len(stories)):
        rows = rng.permutation([row for row in stories.rows(index) if stories.image_mask[row]])
        pages += [(turn, rng.random(), int(row)) for turn, row in enumerate(rows)]
    return sorted(row for _, _, row in sorted(pages)[:count])


# Every step's nats


def _score_decoders(pipeline: StoryPipeline, stories: EncodedStories, conditions: Conditions, seed: int) -> PerStep:
    """`text_*`: nats of a step's text; `error_*`: its picture's loss, a squared error a dimension; and their numbers."""
    model, device, generator = pipeline.model, pipeline.device, torch.Generator().manual_seed(seed)
    scores: dict[str, list[Tensor]] = {f"{term}_{name}": [] for term in ("text", "error") for name in CONDITIONS}
    for rows in track("texts and pictures' errors", torch.arange(len(stories.texts)).split(ROWS_PER_BATCH)):
        input_ids, text_mask = stories.input_ids[rows].to(device), stories.text_mask[rows].to(device)
        latents, image_mask = stories.latents[rows].float().to(device), stories.image_mask[rows].to(device)
        noise = draw_noise(len(rows), latents.shape[1:], model.config.image_decoder.num_train_timesteps, generator).to(
            device
        )
        captions = stories.captions(rows, model.image_decoder)
        for name, (embeds, null) in conditions.items():
            part, is_null = embeds[rows.to(device)], torch.full((len(rows),), null, device=device)
            scores[f"text_{name}"].append(model.text_decoder(part, input_ids, text_mask, is_null).nll.sum(1).cpu())
            shown = codes_or_null(model.image_decoder, part, null)
            image = model.image_decoder(shown, latents, noise.timesteps, noise.noise, encoder_hidden_states=captions)
            scores[f"error_{name}"].append((image.loss * image_mask).cpu())
    counts = {"tokens": stories.text_mask[:, 1:].sum(1), "pictures": stories.image_mask}
    return {
        name: value.double().numpy()
        for name, value in ({name: torch.cat(parts) for name, parts in scores.items()} | counts).items()
    }


def _score_plans(pipeline: StoryPipeline, stories: EncodedStories, codes: Tensor) -> PerStep:
    """`prior`: nats of a step's codes, given the prompt and the codes before them; `first`: 1 where a story begins."""
    indices, first = range(len(stories)), np.zeros(len(codes))
    first[stories.starts] = 1
    nats = [
        plan_nats(pipeline, stories, index, codes[None, list(stories.rows(index))])[0]
        for index in track("codes", indices)
    ]
    return {"prior": torch.cat(nats).numpy(), "first": first}


def plan_nats(pipeline: StoryPipeline, stories: EncodedStories, index: int, plans: Tensor) -> Tensor:
    """-log p(z_t | z_<t, c) in nats of every step of R plans (R,t,S) for the prompt of story `index`: (R,t) float64.

    A plan may stop before its story does. The prior knows how many steps are left; it is told the story's true length
    all the same.
    """
    device, length = pipeline.device, stories.lengths[index]
    prompt_ids = stories.prompt_ids[index][stories.prompt_mask[index]].to(device)
    nats = []
    for part in plans.to(device).split(ROWS_PER_BATCH):
        prompts = prompt_ids.expand(len(part), -1)
        step_mask = torch.ones(len(part), length, dtype=torch.bool, device=device)
        nats.append(
            pipeline.model.prior(part, prompts, torch.ones_like(prompts, dtype=torch.bool), step_mask)
            .nll.double()
            .sum(-1)
            .cpu()
        )
    return torch.cat(nats)


def _score_pages(
    pipeline: StoryPipeline,
    stories: EncodedStories,
    conditions: Conditions,
    pages: Sequence[int],
    seed: int,
    num_timesteps: int,
) -> PerStep:
    """`vlb_*`: nats of the pictures of the chosen pages (row numbers); `gaussian`: under a unit Gaussian; `pages`: 1
    where chosen.
    """
    decoder, generator = pipeline.model.image_decoder, torch.Generator().manual_seed(seed)
    weights, _ = vlb_weights(decoder.alphas_cumprod, decoder.prediction_type)
    scores = {
        name: np.zeros(len(stories.texts)) for name in (*(f"vlb_{name}" for name in CONDITIONS), "gaussian", "pages")
    }
    for row in track("diffusion bound", pages):
        latents, text = stories.latents[row].float(), stories.captions([row], decoder)
        sample = sample_timesteps(weights, num_timesteps, latents.shape, generator)
        for name, (embeds, null) in conditions.items():
            scores[f"vlb_{name}"][row] = diffusion_vlb(decoder, embeds[row], latents, sample, null, text)
        scores["gaussian"][row] = 0.5 * (latents.double().square() + math.log(2 * math.pi)).sum().item()
        scores["pages"][row] = 1
    return scores


# From steps to figures


def _mean_over_stories(
    starts: np.ndarray,
    seed: int,
    sums: np.ndarray,
    counts: np.ndarray,
    floor: float | None = None,
    ceiling: float | None = None,
) -> dict[str, Any]:
    """sum(sums) / sum(counts) over steps (N,), with an interval over the stories that begin at `starts`."""
    by_story = (np.add.reduceat(values, starts) for values in (sums, counts))
    return {
        **bootstrap_mean(*by_story, seed=seed, floor=floor, ceiling=ceiling).to_dict(),
        "num_steps": int((counts > 0).sum()),
    }


def _compared(
    mean: Mean,
    steps: PerStep,
    title: str,
    term: str,
    count: str,
    unit: float = 1.0,
    floor: float | None = None,
    ceiling: float | None = None,
) -> dict[str, dict[str, Any]]:
    """One term with own, swapped and null codes, in `unit`s for each of what is counted, and how much the last two
    lose: paired.
    """
    counts, own = steps[count] * unit, steps[f"{term}_own"]
    figures = {f"{title}_{name}": mean(steps[f"{term}_{name}"], counts, floor, ceiling) for name in CONDITIONS}
    gaps = {"swap_gap": steps[f"{term}_swapped"] - own, "null_gap": steps[f"{term}_null"] - own}
    return figures | {f"{title}_{name}": mean(gap, counts, 0.0) for name, gap in gaps.items()}


def _prior_figures(mean: Mean, steps: PerStep, num_slots: int, codebook_size: int) -> dict[str, dict[str, Any]]:
    """Bits of codes; their ceiling is what a uniform guess costs."""
    bit, ones, first, bits = math.log(2), np.ones_like(steps["prior"]), steps["first"], math.log2(codebook_size)
    return {
        "prior_bits_per_code": mean(steps["prior"], ones * num_slots * bit, 0.0, bits),
        "prior_bits_per_step": mean(steps["prior"], ones * bit, 0.0, num_slots * bits),
        "prior_bits_first_step": mean(steps["prior"] * first, first * bit, 0.0, num_slots * bits),
        "prior_bits_later_steps": mean(steps["prior"] * (1 - first), (1 - first) * bit, 0.0, num_slots * bits),
    }


def _latent_figures(mean: Mean, steps: PerStep, num_dims: int) -> dict[str, dict[str, Any]]:
    bits = num_dims * math.log(2)
    unit_gaussian = mean(steps["gaussian"], steps["pages"] * bits)["value"]
    return _compared(mean, steps, "latent_bits_per_dim", "vlb", "pages", bits, ceiling=unit_gaussian)


def _code_value(mean: Mean, steps: PerStep) -> dict[str, dict[str, Any]]:
    """What codes cost and save; of the text alone over the steps that have one, with the picture over the drawn pages."""
    prior, pages, has_text = steps["prior"], steps["pages"], (steps["tokens"] > 0).astype(float)
    text_saved = steps["text_null"] - steps["text_own"]
    saved = text_saved + steps["vlb_null"] - steps["vlb_own"]
    text_without_codes = mean(steps["text_null"], steps["tokens"])["value"]
    return {
        "code_charged_nats_per_token": mean(
            steps["text_own"] + prior * has_text, steps["tokens"], 0.0, text_without_codes
        ),
        "net_code_value_text": mean(text_saved - prior * has_text, has_text, 0.0),
        "net_code_value_text_and_picture": mean((saved - prior) * pages, pages, 0.0),
        "bound_nats_per_step": mean((steps["text_own"] + prior + steps["vlb_own"]) * pages, pages),
    }
