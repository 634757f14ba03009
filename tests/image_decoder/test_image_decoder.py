"""p(x | z): the image decoder on its own."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor

from modules.image_decoder.config import SchedulerName
from modules.image_decoder.image_decoder import ImageDecoder
from modules.layers.plan_window import PlanWindow
from tests.support.tensors import CLOSE, differ, generator


class Oracle(ImageDecoder):
    """Knows the picture: its velocity is the exact one. Remembers the timesteps and the noise that it was shown."""

    def know(self, latents: Tensor) -> Oracle:
        self.latents, self.asked, self.spread = latents, [], []
        return self

    def predict(self, noisy: Tensor, timesteps: Tensor, *_: Tensor | None, **__: None) -> Tensor:
        """v = alpha * noise - sigma * x0, with the noise that x_t and x0 imply."""
        self.asked.append(timesteps)
        signal = self.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1).double()
        latents = self.latents.repeat(len(noisy) // len(self.latents), 1, 1, 1).double()
        noise = (noisy - signal.sqrt() * latents) / (1 - signal).sqrt()
        self.spread.append(noise.std().item())
        return (signal.sqrt() * noise - (1 - signal).sqrt() * latents).float()


@pytest.fixture
def painter(tiny_model) -> ImageDecoder:
    return tiny_model.image_decoder


@pytest.fixture
def oracle(tiny_config) -> Oracle:
    board = tiny_config.storyboard
    return Oracle(tiny_config.image_decoder, tiny_config.autoencoder.latent_shape, board.num_slots, board.codebook_dim)


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(3, 8, 8, generator=generator(7))


def latents_like(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 4, 4, generator=generator(seed))


def test_noise_schedule_reaches_pure_noise(painter):
    signal = painter.alphas_cumprod
    assert signal.shape == (1000,) and signal[-1] == 0 and signal[0] > 0.99 and (signal.diff() < 0).all()


def test_a_perfect_velocity_has_no_loss(oracle, codes):
    latents, noise = latents_like(16), latents_like(16, seed=1)
    timesteps = torch.linspace(0, 999, 16).long()
    loss = oracle.know(latents)(codes[:1].expand(16, -1, -1), latents, timesteps, noise).loss
    assert loss.shape == (16,) and loss.max() < 1e-6
    assert oracle.know(latents + 0.1)(codes[:1].expand(16, -1, -1), latents, timesteps, noise).loss.min() > 1e-6


def test_diffusion_loss_is_the_error_of_the_velocity(painter, codes):
    latents, noise, timesteps = latents_like(3), latents_like(3, seed=1), torch.tensor([0, 500, 999])
    out = painter(codes, latents, timesteps, noise)
    for row, timestep in enumerate(timesteps):
        alpha, sigma = painter.alphas_cumprod[timestep].sqrt(), (1 - painter.alphas_cumprod[timestep]).sqrt()
        noisy = alpha * latents[row] + sigma * noise[row]
        velocity = painter.predict(noisy[None], timestep[None], painter.context(codes[row : row + 1]))[0]
        torch.testing.assert_close(
            out.loss[row], (velocity - alpha * noise[row] + sigma * latents[row]).square().mean(), **CLOSE
        )


def test_pictures_depend_on_every_code_and_on_the_time(painter, codes):
    codes = codes.clone().requires_grad_()
    velocity = painter.predict(latents_like(3), torch.tensor([100, 500, 900]), painter.context(codes))
    velocity.square().sum().backward()
    assert (codes.grad != 0).all()
    later = painter.predict(latents_like(3), torch.tensor([900, 900, 900]), painter.context(codes))
    assert (later[2] - velocity[2]).abs().max() < 1e-5 < (later[0] - velocity[0]).abs().max()


def test_null_rows_of_the_picture_do_not_depend_on_the_codes(painter, codes):
    null = torch.tensor([True, False, True])
    noisy, timesteps = latents_like(3), torch.tensor([10, 500, 990])
    codes = codes.clone().requires_grad_()
    velocity = painter.predict(noisy, timesteps, painter.context(codes, null))
    velocity.square().sum().backward()
    assert (codes.grad[null] == 0).all() and (codes.grad[1] != 0).any() and painter.null_codes.grad.abs().sum() > 0
    plain = painter.predict(noisy, timesteps, painter.context(codes))
    torch.testing.assert_close(velocity[1], plain[1], **CLOSE)
    assert (velocity[0] - plain[0]).abs().max() > 1e-4


@pytest.mark.parametrize("num_inference_steps", [1, 4, 20])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_every_scheduler_finds_the_picture_that_the_model_knows(
    oracle, codes, scheduler, guidance_scale, num_inference_steps
):
    latents = latents_like(3)
    sampled = oracle.know(latents).sample(codes, num_inference_steps, guidance_scale, scheduler, generator(5))
    torch.testing.assert_close(sampled, latents, atol=2e-3, rtol=0)
    asked = torch.stack(oracle.asked).tolist()
    assert len(asked) == num_inference_steps and asked[0] == 999  # Zero terminal SNR: the start is pure noise.
    assert asked == sorted(asked, reverse=True) and len(set(asked)) == len(asked)
    assert oracle.spread == pytest.approx(
        [1] * num_inference_steps, abs=0.2
    )  # At every timestep, as much noise as in training.


def test_samples_follow_their_generator_alone(painter, codes):
    state = torch.random.get_rng_state()
    runs = [painter.sample(codes, 3, generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and differ(runs[0], runs[2])
    assert runs[0].shape == (3, 4, 4, 4) and torch.equal(torch.random.get_rng_state(), state)


def test_guidance_scale_one_is_the_conditional_path_alone(painter, codes):
    plain = painter.sample(codes, 3, 1.0, generator=generator())
    other = copy.deepcopy(painter)
    other.null_codes.data.add_(5)
    assert torch.equal(other.sample(codes, 3, 1.0, generator=generator()), plain)
    guided = painter.sample(codes, 3, 3.0, generator=generator())
    assert not torch.equal(guided, plain) and not torch.equal(
        other.sample(codes, 3, 3.0, generator=generator()), guided
    )
    almost = painter.sample(codes, 3, 1.0 + 1e-6, generator=generator())
    torch.testing.assert_close(almost, plain, atol=1e-3, rtol=1e-3)


def test_guidance_scale_zero_is_the_null_path_alone(painter, codes):
    ignored = painter.sample(codes, 3, 0.0, generator=generator())
    null = painter.null_codes.detach().expand(3, -1, -1)
    nothing = PlanWindow.alone(null).hide_own()
    expected = painter.sample(null, 3, 1.0, generator=generator(), window=nothing)
    torch.testing.assert_close(ignored, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_strength_one_is_a_picture_from_noise_alone(painter, codes, scheduler):
    """The schedule ends at pure noise (zero terminal SNR): nothing of the first picture is left."""
    plain = painter.sample(codes, 6, 2.0, scheduler, generator(5))
    again = painter.sample(codes, 6, 2.0, scheduler, generator(5), init_latents=latents_like(3, seed=9), strength=1.0)
    torch.testing.assert_close(again, plain, atol=1e-2, rtol=0)


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_strength_is_the_share_of_steps_and_one_at_least(painter, codes, scheduler):
    start, far = latents_like(3, seed=9), []
    for strength, count in ((0.01, 1), (0.35, 3), (1.0, 10)):
        seen: list[Tensor] = []
        keep = lambda latents, _, seen=seen: seen.append(latents)  # noqa: E731
        drawn = painter.sample(codes, 10, 2.0, scheduler, generator(5), start, strength, keep)
        assert len(seen) == count and torch.equal(seen[-1], drawn)
        far.append((drawn - start).square().mean().item())
    assert far == sorted(far)
