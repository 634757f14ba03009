"""The factors on their own: storyboard q(z|s,x), prior p(z|c), text p(s|z), picture p(x|z) and the autoencoder."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from modules.autoencoder import PictureAutoencoder
from modules.encoders import LatentPatchEncoder
from modules.image_decoder import SCHEDULERS, ImageDecoder
from modules.prior import Prior, PriorConfig
from modules.text_decoder import TextDecoder, TextDecoderConfig

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by far more than rounding."""
    return (first - second).abs().max().item() > 1e-2


# --- q(z | s, x)


@pytest.fixture
def storyboard(tiny_model):
    return tiny_model.storyboard


@pytest.fixture
def steps(story_batch) -> dict[str, Tensor]:
    """The six steps of the batch, flat: three have both modalities, one each lacks text, picture and both."""
    flat = {name: story_batch[name].flatten(0, 1) for name in ("latents", "input_ids", "text_mask")}
    return {**flat, "image_mask": story_batch.image_mask.flatten()}


def test_storyboard_shapes(storyboard, steps, tiny_config):
    out = storyboard(**steps)
    board = tiny_config.storyboard
    assert out.slots.shape == out.code_embeds.shape == (6, board.num_slots, board.codebook_dim)
    assert out.codes.shape == out.commitment_loss.shape == (6, board.num_slots)
    torch.testing.assert_close(storyboard.embed(out.codes).code_embeds, out.code_embeds)
    assert out.codes[:5].unique().numel() > 8


def test_storyboard_never_looks_under_a_mask(storyboard, steps):
    garbage = 100 * torch.randn(6, 4, 4, 4, generator=generator())
    latents = torch.where(steps["image_mask"][:, None, None, None], steps["latents"], garbage)
    input_ids = torch.where(steps["text_mask"], steps["input_ids"], 7)
    assert torch.equal(storyboard.encode(**{**steps, "latents": latents, "input_ids": input_ids}), storyboard.encode(**steps))


def test_storyboard_does_not_see_how_long_the_padding_is(storyboard, steps):
    short = {name: steps[name][3:] for name in steps}  # Without the text that fills its row.
    cropped = {**short, "input_ids": short["input_ids"][:, :12], "text_mask": short["text_mask"][:, :12]}
    torch.testing.assert_close(storyboard.encode(**cropped), storyboard.encode(**short), **CLOSE)


def test_storyboard_reads_every_token_and_every_patch(storyboard, steps):
    tokens = []
    handle = storyboard.text_encoder.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    latents = steps["latents"].clone().requires_grad_()
    slots = storyboard.encode(**{**steps, "latents": latents})
    handle.remove()
    to_latents, to_tokens = torch.autograd.grad(slots.square().sum(), [latents, tokens[0]])
    assert torch.equal(to_tokens.abs().amax(-1) > 0, steps["text_mask"])
    assert torch.equal(to_latents.abs().amax((1, 2, 3)) > 0, steps["image_mask"]) and (to_latents[0] != 0).all()


def test_each_modality_alone_gives_other_slots(storyboard, steps):
    both = storyboard.encode(**steps)
    text_only = storyboard.encode(**{**steps, "image_mask": torch.zeros(6, dtype=torch.bool)})
    image_only = storyboard.encode(**{**steps, "text_mask": torch.zeros_like(steps["text_mask"])})
    assert differ(both[0], text_only[0]) and differ(both[0], image_only[0]) and differ(text_only[0], image_only[0])
    assert torch.equal(text_only[3], both[3]) and torch.equal(image_only[1], both[1])  # What was absent cannot be dropped.


def test_a_step_is_encoded_for_itself(storyboard, steps):
    together = storyboard.encode(**steps)
    alone = torch.cat([storyboard.encode(**{name: value[row : row + 1] for name, value in steps.items()}) for row in range(6)])
    torch.testing.assert_close(alone, together, **CLOSE)


def test_patch_size_must_divide_the_latent(tiny_config):
    with pytest.raises(ValueError, match="patch_size 3 .* 4x4"):
        LatentPatchEncoder((4, 4, 4), 3, 8)


# --- p(z | c)


@pytest.fixture
def prior(tiny_model) -> Prior:
    return tiny_model.prior


@pytest.fixture
def told(story_batch) -> dict[str, Tensor]:
    """What the prior is given; the last step of story 1 is padding."""
    codes = torch.randint(0, 32, (2, 3, 8), generator=generator(4))
    return {"codes": codes, **{name: story_batch[name] for name in ("prompt_ids", "prompt_mask", "step_mask")}}


def test_prior_is_causal_by_gradient(prior, told):
    inputs = []
    handle = prior.code_embed.register_forward_hook(lambda module, args, output: inputs.append(output))
    logits = prior(**told).logits.flatten(1, 2)
    handle.remove()
    assert inputs[0].shape[1] == 25 and logits.shape[1] == 24  # BOS and 24 codes, the last of which predicts nothing.
    for position in range(24):
        (gradient,) = torch.autograd.grad(logits[0, position].square().sum(), inputs[0], retain_graph=True)
        reached = gradient.abs().amax(-1)
        assert (reached[0, : position + 1] > 0).all(), position  # BOS and all codes before `position`.
        assert (reached[0, position + 1 :] == 0).all() and (reached[1] == 0).all(), position


def test_prior_nll_is_that_of_its_logits(prior, told):
    out = prior(**told)
    assert out.logits.shape == (2, 3, 8, 32)
    expected = -out.logits.log_softmax(-1).gather(-1, told["codes"][..., None])[..., 0]
    torch.testing.assert_close(out.nll, expected)


def test_prior_does_not_see_the_future(prior, told):
    other = {**told, "codes": told["codes"].clone()}
    other["codes"][:, 1, 3:] = (told["codes"][:, 1, 3:] + 5) % 32
    other["codes"][:, 2] = 0
    before, after = prior(**told).logits.flatten(1, 2), prior(**other).logits.flatten(1, 2)
    assert torch.equal(before[:, :12], after[:, :12])  # The first code that changed is predicted from those before it.
    assert differ(before[:, 12], after[:, 12])


@pytest.mark.parametrize("where", ["longer", "cropped", "garbage", "left"])
def test_padding_of_the_prompt_changes_nothing(prior, told, where):
    ids, mask = told["prompt_ids"], told["prompt_mask"]
    if where == "longer":
        ids, mask = torch.nn.functional.pad(ids, (0, 9), value=5), torch.nn.functional.pad(mask, (0, 9))
    elif where == "cropped":
        ids, mask = ids[:, :11], mask[:, :11]
    elif where == "garbage":
        ids = torch.where(mask, ids, 9)
    else:
        ids, mask = ids.roll(3, dims=1), mask.roll(3, dims=1)
    torch.testing.assert_close(prior(**{**told, "prompt_ids": ids, "prompt_mask": mask}).nll, prior(**told).nll, **CLOSE)


def test_padded_steps_change_nothing(prior, told):
    other = {**told, "codes": told["codes"].clone()}
    other["codes"][1, 2] = 3
    cropped = {name: value[1:] for name, value in told.items()}
    cropped["codes"], cropped["step_mask"] = told["codes"][1:, :2], told["step_mask"][1:, :2]
    expected = prior(**told).nll
    assert torch.equal(prior(**other).nll[told["step_mask"]], expected[told["step_mask"]])
    torch.testing.assert_close(prior(**cropped).nll[0], expected[1, :2], **CLOSE)


def test_an_empty_prompt_is_a_prompt(prior, told):
    nothing = torch.zeros_like(told["prompt_mask"])
    masked = prior(**{**told, "prompt_mask": nothing}).nll
    cropped = prior(**{**told, "prompt_ids": told["prompt_ids"][:, :0], "prompt_mask": nothing[:, :0]}).nll
    assert masked.isfinite().all()
    torch.testing.assert_close(masked, cropped, **CLOSE)


def test_prompt_its_order_and_the_steps_left_matter(prior, told):
    first = prior(**told).logits[0, 0]
    other = {**told, "prompt_ids": told["prompt_ids"].clone()}
    other["prompt_ids"][0, 2] += 1
    assert differ(prior(**other).logits[0, 0], first)
    other["prompt_ids"] = torch.cat([told["prompt_ids"][:, :6].flip(1), told["prompt_ids"][:, 6:]], dim=1)
    assert differ(prior(**other).logits[0, 0], first)
    shorter = {**told, "step_mask": told["step_mask"].clone()}
    shorter["step_mask"][0, 2] = False
    assert differ(prior(**shorter).logits[0, 0], first)


@pytest.mark.parametrize(("num_steps", "counts"), [(1, 1), (3, 3), (34, 32)])
def test_prior_counts_the_steps_that_are_left(prior, told, num_steps, counts):
    """Each step of a story uses the embedding of its own count; counts beyond `max_steps` share the last one."""
    codes, there = torch.zeros(2, num_steps, 8, dtype=torch.long), torch.ones(2, num_steps, dtype=torch.bool)
    logits = prior(codes, told["prompt_ids"], told["prompt_mask"], there).logits
    (gradient,) = torch.autograd.grad(logits[:, -1].square().sum(), prior.steps_left_embed.weight, retain_graph=True)
    assert (gradient.abs().amax(1) > 0).tolist() == [count < counts for count in range(32)]
    (gradient,) = torch.autograd.grad(logits[:, 0].square().sum(), prior.steps_left_embed.weight)
    assert (gradient.abs().amax(1) > 0).nonzero()[:, 0].tolist() == [counts - 1]


def test_prior_starts_from_a_token_of_its_own(prior, told):
    (gradient,) = torch.autograd.grad(prior(**told).logits[:, 0, 0].square().sum(), prior.code_embed.weight)
    assert (gradient.abs().amax(1) > 0).nonzero()[:, 0].tolist() == [32]


@pytest.mark.parametrize("given", [0, 1, 2])
def test_sampled_log_probs_are_those_of_forward(prior, told, given):
    history = told["codes"][:, :given] if given else None
    plan = prior.sample(told["prompt_ids"], told["prompt_mask"], 3, temperature=0.7, top_p=0.9, generator=generator(), codes=history)
    assert plan.codes.shape == plan.log_probs.shape == (2, 3, 8)
    whole = torch.cat([told["codes"][:, :given], plan.codes], dim=1)
    out = prior(whole, told["prompt_ids"], told["prompt_mask"], torch.ones(whole.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(plan.log_probs, -out.nll[:, given:].detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("given", [0, 2])
def test_many_plans_of_one_prompt(prior, told, given):
    ids, mask = told["prompt_ids"][:1], told["prompt_mask"][:1]
    history = told["codes"][:1, :given] if given else None
    plan = prior.sample(ids, mask, 2, generator=generator(), codes=history, num_samples=5)
    assert plan.codes.shape == (5, 2, 8) and len(plan.codes.flatten(1).unique(dim=0)) == 5
    whole = torch.cat([told["codes"][:1, :given].expand(5, -1, -1), plan.codes], dim=1)
    out = prior(whole, ids.expand(5, -1), mask.expand(5, -1), torch.ones(whole.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(plan.log_probs, -out.nll[:, given:].detach(), atol=1e-4, rtol=1e-5)


def test_temperature_zero_takes_the_best_and_ignores_the_generator(prior, told):
    prompt = told["prompt_ids"], told["prompt_mask"]
    plan = prior.sample(*prompt, 2, temperature=0, generator=generator(1))
    assert torch.equal(plan.codes, prior.sample(*prompt, 2, temperature=0, generator=generator(2)).codes)
    out = prior(plan.codes, *prompt, torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(out.logits.argmax(-1), plan.codes)


def test_same_seed_same_plan_and_global_randomness_plays_no_part(prior, told):
    prompt, state = (told["prompt_ids"], told["prompt_mask"]), torch.random.get_rng_state()
    plans = [prior.sample(*prompt, 3, generator=generator(seed)).codes for seed in (1, 1, 2)]
    assert torch.equal(plans[0], plans[1]) and not torch.equal(plans[0], plans[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_probabilities_of_all_stories_sum_to_one():
    torch.manual_seed(0)
    toy = Prior(PriorConfig(dim=16, num_layers=2, num_heads=2, dropout=0.0), vocab_size=5, codebook_size=3, num_slots=2).eval()
    for parameter in toy.parameters():
        parameter.data.mul_(10 if parameter.ndim == 2 else 1)
    codes = torch.tensor(list(product(range(3), repeat=4))).view(81, 2, 2)
    prompt = torch.tensor([[3, 4]]).expand(81, 2)
    nll = toy(codes, prompt, torch.ones(81, 2, dtype=torch.bool), torch.ones(81, 2, dtype=torch.bool)).nll.sum((1, 2))
    assert nll.std() > 0.1 and abs((-nll).exp().sum().item() - 1) < 1e-4


def test_sampling_follows_the_model():
    torch.manual_seed(0)
    toy = Prior(PriorConfig(dim=16, num_layers=1, num_heads=2, dropout=0.0), vocab_size=5, codebook_size=3, num_slots=1).eval()
    for parameter in toy.parameters():
        parameter.data.mul_(10 if parameter.ndim == 2 else 1)
    prompt = torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool)
    drawn = toy.sample(*prompt, 2, generator=generator(), num_samples=4000).codes[:, :, 0]
    codes = torch.tensor(list(product(range(3), repeat=2)))
    expected = (-toy(codes[..., None], *(part.expand(9, -1) for part in prompt), torch.ones(9, 2, dtype=torch.bool)).nll.sum((1, 2))).exp()
    shares = (drawn[:, None] == codes).all(-1).float().mean(0)
    torch.testing.assert_close(shares, expected.detach(), atol=0.04, rtol=0)


# --- p(s | z)


@pytest.fixture
def decoder(tiny_model) -> TextDecoder:
    return tiny_model.text_decoder


@pytest.fixture
def text(story_batch, tiny_model) -> dict[str, Tensor]:
    codes = tiny_model.encode(story_batch).code_embeds.detach()
    return {"code_embeds": codes, "input_ids": story_batch.input_ids.flatten(0, 1), "text_mask": story_batch.text_mask.flatten(0, 1)}


def nll_by_hand(decoder: TextDecoder, codes: Tensor, ids: Tensor) -> Tensor:
    """One text without padding through the whole language model: (L - 1)."""
    words = decoder.language_model.transformer.wte(ids)
    embeds = torch.cat([decoder.to_prefix(codes), words])[None]
    log_probs = decoder.language_model(inputs_embeds=embeds).logits[0, decoder.num_slots : -1].log_softmax(-1)
    return -log_probs.gather(1, ids[1:, None])[:, 0]


def test_text_nll_is_what_the_language_model_says_without_padding(decoder, text):
    out = decoder(**text)
    for row, length in enumerate(text["text_mask"].sum(1).tolist()):
        assert out.mask[row].sum() == max(0, length - 1) and (out.nll[row][~out.mask[row]] == 0).all()
        if length:
            by_hand = nll_by_hand(decoder, text["code_embeds"][row], text["input_ids"][row, :length])
            torch.testing.assert_close(out.nll[row, : length - 1], by_hand, **CLOSE)


def test_eos_counts_and_bos_does_not(decoder, text):
    counted = text["input_ids"][:, 1:][decoder(**text).mask]
    assert (counted == 2).sum() == 4 and not (counted == 1).any() and not (counted == 0).any()
    longer = {**text, "text_mask": text["text_mask"].clone()}
    longer["text_mask"][0, 8] = False  # Without its <eos>.
    assert decoder(**text).nll[0].sum() > decoder(**longer).nll[0].sum() + 1e-2


def test_padding_of_texts_changes_nothing(decoder, text):
    expected = decoder(**text).nll
    garbage = {**text, "input_ids": torch.where(text["text_mask"], text["input_ids"], 11)}
    assert torch.equal(decoder(**garbage).nll, expected)
    rows = {name: value[3:5] for name, value in text.items()}
    rows["input_ids"], rows["text_mask"] = rows["input_ids"][:, :12], rows["text_mask"][:, :12]
    torch.testing.assert_close(decoder(**rows).nll, expected[3:5, :11], **CLOSE)


def test_text_is_causal_by_gradient(decoder, text):
    ids = text["input_ids"][:1, :9]
    words = []
    handle = decoder.language_model.transformer.wte.register_forward_hook(lambda module, args, output: words.append(output))
    nll = decoder(text["code_embeds"][:1].requires_grad_(), ids, text["text_mask"][:1, :9]).nll[0]
    handle.remove()
    for position in range(8):  # nll[position] is that of token position + 1, from tokens 0..position.
        (gradient,) = torch.autograd.grad(nll[position], words[0], retain_graph=True)
        reached = gradient[0].abs().amax(-1) > 0
        assert reached.tolist() == [index <= position for index in range(8)]


def test_text_depends_on_every_code(decoder, text):
    codes = text["code_embeds"].clone().requires_grad_()
    decoder(**{**text, "code_embeds": codes}).nll[:, :1].sum().backward()
    reached = codes.grad.abs().amax(-1) > 0
    assert torch.equal(reached, text["text_mask"].any(1)[:, None].expand(-1, 8))


def test_null_rows_of_the_text_do_not_depend_on_the_codes(decoder, text):
    null = torch.tensor([True, True, False, True, False, True])
    codes = text["code_embeds"].clone().requires_grad_()
    nll = decoder(**{**text, "code_embeds": codes}, null=null).nll
    nll.sum().backward()
    assert (codes.grad[null] == 0).all() and (codes.grad[2] != 0).any() and (codes.grad[4] != 0).any()
    assert differ(nll[0], decoder(**text).nll[0]) and torch.equal(nll[2], decoder(**text).nll[2])
    assert decoder.null_codes.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def reciter() -> tuple[TextDecoder, Tensor, list[list[int]]]:
    """A text decoder that knows four texts by heart, their codes, and the texts with <eos>."""
    torch.manual_seed(0)
    config = TextDecoderConfig(dim=32, num_layers=2, num_heads=2, max_length=12)
    decoder = TextDecoder(config, vocab_size=30, num_slots=2, code_dim=4, special_ids=(0, 1, 2))
    codes, texts = torch.randn(4, 2, 4), [[5, 6, 7, 2], [5, 8, 2], [9, 6, 10, 11, 12, 13, 2]]
    texts.append([20, *range(14, 24)])  # So long that no <eos> fits.
    ids, mask = torch.zeros(4, 12, dtype=torch.long), torch.zeros(4, 12, dtype=torch.bool)
    for row, words in enumerate(texts):
        ids[row, : len(words) + 1], mask[row, : len(words) + 1] = torch.tensor([1, *words]), True
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(80):
        loss = decoder(codes, ids, mask).nll.sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder.eval(), codes, texts


def rows_of(ids: Tensor) -> list[list[int]]:
    """Rows up to and with <eos>; what follows must be padding."""
    rows = []
    for row in ids.tolist():
        end = row.index(2) + 1 if 2 in row else len(row)
        assert set(row[end:]) <= {0}
        rows.append(row[:end])
    return rows


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_generate_recites_what_was_learnt(reciter, decoding):
    decoder, codes, texts = reciter
    ids = decoder.generate(codes, decoding)
    assert ids.shape == (4, 11) and rows_of(ids) == texts


def test_beam_search_finds_no_worse_than_greedy(decoder, text):
    def nll(ids: Tensor) -> Tensor:
        whole = torch.cat([torch.ones(len(ids), 1, dtype=torch.long), ids], dim=1)
        return decoder(codes, whole, torch.ones_like(whole, dtype=torch.bool)).nll.sum(1)

    codes = text["code_embeds"]
    greedy, beam = decoder.generate(codes), decoder.generate(codes, "beam", num_beams=6)
    assert greedy.shape == beam.shape == (6, 39)  # This untrained model never ends a text, so both are equally long.
    assert (nll(beam) <= nll(greedy) + 1e-3).all() and (nll(beam) < nll(greedy) - 0.1).any()


def test_greedy_ignores_the_seed_and_one_by_one_is_the_same(decoder, text):
    decoder, codes = decoder.double(), text["code_embeds"].double()  # The untrained model's words are nearly equally likely.
    together = decoder.generate(codes, seed=1)
    assert torch.equal(together, decoder.generate(codes, seed=2))
    assert len(together.unique(dim=0)) > 3  # Other codes, other texts.
    for row in range(6):
        assert rows_of(decoder.generate(codes[row : row + 1])) == rows_of(together[row : row + 1])


def test_one_by_one_is_the_same_where_texts_end(reciter):
    decoder, codes, texts = reciter
    assert [rows_of(decoder.generate(codes[row : row + 1]))[0] for row in range(4)] == texts


def test_top_p_follows_its_seed_alone(reciter):
    decoder, codes, texts = reciter
    state = torch.random.get_rng_state()
    runs = [decoder.generate(codes, "top_p", temperature=2.0, top_p=0.99, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1]) and rows_of(runs[0]) != rows_of(runs[2])
    assert all(len(row) <= 11 for row in rows_of(runs[0]))
    assert rows_of(decoder.generate(codes, "top_p", top_p=0.01, seed=3)) == texts  # A nucleus of one is greedy.
    assert rows_of(decoder.generate(codes, "top_p", temperature=0.01, top_p=1.0, seed=3)) == texts


# --- pictures and latents


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Eight smooth pictures (8,3,32,32) in [-1,1], no two alike."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    phase = torch.arange(24.0).view(8, 3, 1, 1)
    return torch.sin(phase + x * (1 + phase % 3) + 2 * y)


@pytest.fixture
def autoencoder(tiny_config) -> PictureAutoencoder:
    torch.manual_seed(0)
    return PictureAutoencoder(tiny_config.autoencoder)


def test_autoencoder_shapes_and_statistics(autoencoder, pictures, tiny_config):
    assert not torch.allclose(autoencoder.encode(pictures).std((0, 2, 3)), torch.ones(4), atol=0.1)
    autoencoder.fit_statistics(pictures)
    latents = autoencoder.encode(pictures)
    assert latents.shape[1:] == tiny_config.autoencoder.latent_shape == (4, 4, 4)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_autoencoder_starts_as_principal_components(autoencoder, pictures, tiny_config):
    autoencoder.fit_shortcut(pictures)
    latents = autoencoder.encode(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.cov(correction=0), torch.eye(4), atol=1e-2, rtol=0)
    patches = torch.nn.functional.pixel_unshuffle(pictures, tiny_config.autoencoder.downsampling).transpose(0, 1).flatten(1)
    left_over = torch.linalg.svdvals(patches - patches.mean(1, keepdim=True))[4:].square().sum() / pictures.numel()
    error = (autoencoder.decode(autoencoder.encode(pictures)) - pictures).square().mean()
    assert 0.5 * left_over < error < 1.001 * left_over < 0.5 * pictures.var()  # Below it where decoding stays in range.


def test_statistics_cancel_between_encode_and_decode(autoencoder, pictures):
    before = autoencoder.decode(autoencoder.encode(pictures))
    autoencoder.fit_statistics(pictures)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(pictures)), before, atol=1e-4, rtol=0)


def test_decoded_pictures_stay_in_range(autoencoder):
    decoded = autoencoder.decode(100 * torch.randn(2, 4, 4, 4, generator=generator()))
    assert decoded.shape == (2, 3, 32, 32) and decoded.min() == -1 and decoded.max() == 1


def test_autoencoder_loss_names_its_terms(autoencoder, pictures, tiny_config):
    noise = torch.randn(8, 4, 4, 4, generator=generator())
    out = autoencoder(pictures, noise)
    terms, config = out.losses, tiny_config.autoencoder
    expected = terms["reconstruction_loss"] + config.edge_weight * terms["edge_loss"] + config.kl_weight * 3 * 32 * 32 * terms["kl_loss"]
    torch.testing.assert_close(out.loss, expected)
    assert all(value > 0 for value in terms.values())
    assert torch.equal(autoencoder(pictures, noise).loss, out.loss) and not torch.equal(autoencoder(pictures, -noise).loss, out.loss)


def test_posterior_is_as_wide_as_the_latent_noise(autoencoder, pictures, tiny_config):
    posterior = autoencoder._posterior(pictures)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.mean, tiny_config.autoencoder.latent_noise))


@pytest.mark.parametrize("latent_noise", [0.0, -0.1])
def test_latent_noise_must_be_positive(tiny_config, latent_noise):
    with pytest.raises(ValueError, match="latent_noise must be above 0"):
        PictureAutoencoder(replace(tiny_config.autoencoder, latent_noise=latent_noise))


def test_autoencoder_learns_a_batch_and_decodes_it(autoencoder, pictures):
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        out = autoencoder(pictures, torch.randn(8, 4, 4, 4, generator=generator(step)))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < 0.6 * losses[0]
    autoencoder.fit_statistics(pictures)
    latents, noise = autoencoder.encode(pictures), torch.randn(8, 4, 4, 4, generator=generator(99))
    error = (autoencoder.decode(latents) - pictures).abs().mean()
    assert error < 0.8 * (pictures - pictures.mean((0, 2, 3), keepdim=True)).abs().mean()
    shaken = latents + autoencoder.config.latent_noise * noise / autoencoder.latent_std
    assert (autoencoder.decode(shaken) - pictures).abs().mean() < 1.08 * error  # Learnt without that noise, 1.14.


# --- p(x | z)


class Oracle(ImageDecoder):
    """Knows the picture: its velocity is the exact one. Remembers the timesteps and the noise that it was shown."""

    def know(self, latents: Tensor) -> Oracle:
        self.latents, self.asked, self.spread = latents, [], []
        return self

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, code_embeds: Tensor, null: Tensor | None = None) -> Tensor:
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
        velocity = painter.predict_velocity(noisy[None], timestep[None], codes[row : row + 1])[0]
        torch.testing.assert_close(out.loss[row], (velocity - alpha * noise[row] + sigma * latents[row]).square().mean(), **CLOSE)


def test_pictures_depend_on_every_code_and_on_the_time(painter, codes):
    codes = codes.clone().requires_grad_()
    velocity = painter.predict_velocity(latents_like(3), torch.tensor([100, 500, 900]), codes)
    velocity.square().sum().backward()
    assert (codes.grad != 0).all()
    later = painter.predict_velocity(latents_like(3), torch.tensor([900, 900, 900]), codes)
    assert (later[2] - velocity[2]).abs().max() < 1e-5 < (later[0] - velocity[0]).abs().max()


def test_null_rows_of_the_picture_do_not_depend_on_the_codes(painter, codes):
    null = torch.tensor([True, False, True])
    noisy, timesteps = latents_like(3), torch.tensor([10, 500, 990])
    codes = codes.clone().requires_grad_()
    velocity = painter.predict_velocity(noisy, timesteps, codes, null)
    velocity.square().sum().backward()
    assert (codes.grad[null] == 0).all() and (codes.grad[1] != 0).any() and painter.null_codes.grad.abs().sum() > 0
    plain = painter.predict_velocity(noisy, timesteps, codes)
    torch.testing.assert_close(velocity[1], plain[1], **CLOSE)
    assert (velocity[0] - plain[0]).abs().max() > 1e-4


@pytest.mark.parametrize("num_inference_steps", [1, 4, 20])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_finds_the_picture_that_the_model_knows(oracle, codes, scheduler, guidance_scale, num_inference_steps):
    latents = latents_like(3)
    sampled = oracle.know(latents).sample(codes, num_inference_steps, guidance_scale, scheduler, generator(5))
    torch.testing.assert_close(sampled, latents, atol=2e-3, rtol=0)
    asked = torch.stack(oracle.asked).tolist()
    assert len(asked) == num_inference_steps and asked[0] == 999  # Zero terminal SNR: the start is pure noise.
    assert asked == sorted(asked, reverse=True) and len(set(asked)) == len(asked)
    assert oracle.spread == pytest.approx([1] * num_inference_steps, abs=0.2)  # At every timestep, as much noise as in training.


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
    assert not torch.equal(guided, plain) and not torch.equal(other.sample(codes, 3, 3.0, generator=generator()), guided)
    almost = painter.sample(codes, 3, 1.0 + 1e-6, generator=generator())
    torch.testing.assert_close(almost, plain, atol=1e-3, rtol=1e-3)


def test_guidance_scale_zero_is_the_null_path_alone(painter, codes):
    ignored = painter.sample(codes, 3, 0.0, generator=generator())
    null = painter.null_codes.detach().expand(3, -1, -1)
    torch.testing.assert_close(ignored, painter.sample(null, 3, 1.0, generator=generator()), atol=1e-4, rtol=1e-4)
