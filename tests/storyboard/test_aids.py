"""The encoder's aids: what the guesses are guesses of."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from modules.batch import StoryBatch
from modules.storyboard.aids import AidsOutput, EncoderAids, of_other_pages
from modules.storyboard.config import AidsConfig

SHAPE = (4, 6, 6)


@pytest.fixture
def aids() -> EncoderAids:
    torch.manual_seed(0)
    return EncoderAids(
        AidsConfig(num_visual_words=24, draft_dim=16), vocab_size=30, latent_shape=SHAPE, num_slots=8, code_dim=4
    )


def mosaics(count: int, seed: int = 0) -> torch.Tensor:
    """Latents of flat halves: the patches within a half are one of three colours, those across are mixtures."""
    generator = torch.Generator().manual_seed(seed)
    colors = torch.eye(4)[torch.randint(3, (count, 2), generator=generator)] * 10
    halves = colors[:, :, :, None].expand(-1, -1, -1, 3)  # (N, halves, c, columns)
    return torch.cat([halves[:, 0], halves[:, 1]], dim=-1)[:, :, None].expand(-1, -1, 6, -1).contiguous()


def story(latents: torch.Tensor, ids: torch.Tensor, text_mask: torch.Tensor) -> StoryBatch:
    """One story of N pages, all with a picture."""
    pages = torch.ones(1, len(latents), dtype=torch.bool)
    return StoryBatch(
        input_ids=ids[None], text_mask=text_mask[None], latents=latents[None], image_mask=pages, step_mask=pages
    )


def fit(aids: EncoderAids, codes: torch.Tensor, batch: StoryBatch, *names: str) -> AidsOutput:
    optimizer = torch.optim.Adam(aids.parameters(), lr=0.03)
    for _ in range(200):
        out = aids(codes, batch)
        optimizer.zero_grad()
        sum(out[name].mean() for name in names).backward()
        optimizer.step()
    return out


def test_bag_of_words_is_whether_each_word_occurs(aids):
    generator = torch.Generator().manual_seed(1)
    codes, ids = torch.randn(3, 8, 4, generator=generator), torch.randint(3, 30, (3, 12), generator=generator)
    mask = torch.arange(12) < torch.tensor([12, 5, 0])[:, None]
    loss = aids(codes, story(torch.zeros(3, *SHAPE), ids, mask)).bag_of_words_loss
    logits = aids.bag_of_words(codes.flatten(1))
    for row, length in enumerate((12, 5)):
        words = set(ids[row, 1:length].tolist())
        signs = torch.tensor([1.0 if word in words else -1.0 for word in range(30)])
        torch.testing.assert_close(loss[row], -F.logsigmoid(signs * logits[row]).sum())
    assert loss[2] == 0


def test_words_begin_with_the_share_of_texts_that_contain_them(aids):
    ids = torch.tensor([[1, 5, 5, 7], [1, 7, 9, 2], [1, 7, 0, 0], [1, 8, 8, 8]])  # 5 twice in one text; 8 in none.
    aids.fit_words(ids, torch.arange(4) < torch.tensor([4, 4, 2, 1])[:, None])
    for predictor in (aids.bag_of_words, aids.other_words):
        share = predictor.bias.sigmoid()
        torch.testing.assert_close(share[[5, 7, 9, 2]], torch.tensor([1, 3, 1, 1]) / 4, atol=0.01, rtol=0)
        assert (share[[0, 1, 8, 29]] < 0.01).all()


def test_visual_words_are_found_and_a_bag_tells_where_none_is(aids):
    latents = mosaics(64)
    aids.fit_visual_words(latents, seed=0)
    flat = {
        tuple(word.view(4, 2, 2)[:, 0, 0].round().tolist())
        for word in aids.visual_words
        if word.view(4, -1).std(1).max() < 1e-4
    }
    assert flat == {(10.0, 0.0, 0.0, 0.0), (0.0, 10.0, 0.0, 0.0), (0.0, 0.0, 10.0, 0.0)}
    bag = aids.visual_bag(latents)
    same = torch.stack([(row.flatten(1).std(1) == 0).all() for row in latents])
    assert bool(same.any()) and torch.equal(bag.sum(1) == 1, same)
    share = bag.mean(0).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(aids.bag_of_visual_words.bias.sigmoid(), share)


def test_visual_words_depend_on_the_seed_not_on_cell_order(aids):
    latents = mosaics(32) + torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(2))
    aids.fit_visual_words(latents, seed=3)
    first = aids.visual_words.clone()
    torch.rand(5)
    aids.fit_visual_words(latents, seed=3)
    assert torch.equal(first, aids.visual_words)
    moved = torch.cat([mosaics(1)[..., 3:], mosaics(1)[..., :3]], dim=-1)  # Both halves change places.
    flat = aids.visual_bag(mosaics(1)).bool() & aids.visual_bag(moved).bool()
    assert flat.sum() >= 1


def test_the_loss_falls_to_what_the_codes_do_not_tell(aids):
    """Codes that name the picture: the bag and the draft become certain."""
    latents = mosaics(6)
    aids.fit_visual_words(latents, seed=0)
    codes = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(4))
    batch = story(latents, torch.zeros(6, 12, dtype=torch.long), torch.zeros(6, 12, dtype=torch.bool))
    out = fit(aids, codes, batch, "bag_of_visual_words_loss", "draft_loss")
    assert out.bag_of_visual_words_loss.max() < 0.1 and out.draft_loss.max() < 0.1


def test_other_pages_are_the_mean_of_those_that_are_there():
    bags = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 0.0], [9.0, 9.0]]])
    present = torch.tensor([[True, True, True], [False, True, False]])
    others, some = of_other_pages(bags, present)
    assert some.tolist() == [[True, True, True], [True, False, True]]
    assert others[0].tolist() == [[0.5, 1.0], [0.5, 0.5], [1.0, 0.5]]
    assert others[1, 0].tolist() == [1.0, 0.0] and others[1, 1].tolist() == [0.0, 0.0]


def test_what_pages_do_not_share_cannot_be_guessed_of_the_others(aids):
    """Codes that name the page: two pages that share a word and differ in one leave its own bag certain, and the
    others' not.
    """
    ids = torch.tensor([[1, 5, 7], [1, 5, 8], [1, 5, 9]])
    batch = story(torch.zeros(3, *SHAPE), ids, torch.ones(3, 3, dtype=torch.bool))
    codes = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(4))
    out = fit(aids, codes, batch, "bag_of_words_loss", "other_words_loss")
    assert out.bag_of_words_loss.max() < 0.1
    torch.testing.assert_close(
        out.other_words_loss, torch.full((3,), 2 * math.log(2)), atol=0.1, rtol=0
    )  # Two words, each in half.
