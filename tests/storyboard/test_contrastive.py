"""The sigmoid contrastive loss: equal to its naive form, blind to what is masked, fair to steps that share a text."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from modules.storyboard.contrastive import ContrastiveLoss, pool_slots, text_ids


@pytest.fixture
def embeds() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(6, 5, generator=generator, requires_grad=True) for _ in range(2))


def naive(images, texts, scale=10.0, bias=-10.0, left_out=()):
    """Pair by pair, as the paper writes it."""
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            if (i, j) not in left_out:
                logit = scale * F.cosine_similarity(image, text, dim=0) + bias
                total = total - F.logsigmoid(logit if i == j else -logit)
    return total / len(images)


def test_it_is_the_papers_loss(embeds):
    torch.testing.assert_close(ContrastiveLoss()(*embeds).loss, naive(*embeds))
    torch.testing.assert_close(ContrastiveLoss(scale=3.0, bias=-1.0)(*embeds).loss, naive(*embeds, 3.0, -1.0))


def test_known_value():
    """Orthogonal steps whose picture and text are alike: n logits of scale + bias and n (n - 1) of bias, by the
    formula.
    """
    loss = ContrastiveLoss(scale=10.0, bias=-10.0)(torch.eye(4), 3 * torch.eye(4)).loss
    assert loss.item() == pytest.approx(math.log(2) + 3 * math.log1p(math.exp(-10)), rel=1e-5)


def test_masked_rows_do_not_occur(embeds):
    images, texts = embeds
    mask = torch.tensor([True, False, True, True, False, True])
    loss = ContrastiveLoss()(images, texts, mask)
    torch.testing.assert_close(loss.loss, naive(images[mask], texts[mask]))
    loss.loss.backward()
    assert (images.grad[~mask] == 0).all() and (texts.grad[~mask] == 0).all()
    assert (images.grad[mask] != 0).any(1).all() and (texts.grad[mask] != 0).any(1).all()


def test_a_batch_without_pairs_costs_nothing(embeds):
    loss = ContrastiveLoss()(*embeds, torch.zeros(6, dtype=torch.bool)).loss
    loss.backward()
    assert loss == 0 and all((tensor.grad == 0).all() for tensor in embeds)


def test_steps_that_share_a_text_are_not_told_apart(embeds):
    groups = torch.tensor([7, 3, 7, 5, 7, 4])
    left_out = {(i, j) for i in (0, 2, 4) for j in (0, 2, 4) if i != j}
    torch.testing.assert_close(ContrastiveLoss()(*embeds, group_ids=groups).loss, naive(*embeds, left_out=left_out))
    torch.testing.assert_close(ContrastiveLoss()(*embeds, group_ids=torch.arange(6)).loss, naive(*embeds))


def test_order_does_not_matter(embeds):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = ContrastiveLoss()
    torch.testing.assert_close(loss(*embeds).loss, loss(*(tensor[order] for tensor in embeds)).loss)


def test_it_is_taken_in_float32_under_autocast(embeds):
    with torch.autocast("cpu", torch.bfloat16):
        output = ContrastiveLoss()(*(tensor.bfloat16() for tensor in embeds))
    assert output.loss.dtype == output.logits.dtype == torch.float32
    torch.testing.assert_close(output.loss, naive(*(tensor.bfloat16().float() for tensor in embeds)))


def test_temperature_and_bias_learn_and_pairs_are_found():
    """From random vectors, a few hundred steps: every picture's own text is the nearest, and is said to be the pair."""
    torch.manual_seed(0)
    loss, images, texts = (
        ContrastiveLoss(),
        torch.randn(16, 8, requires_grad=True),
        torch.randn(16, 8, requires_grad=True),
    )
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    optimizer = torch.optim.Adam([*loss.parameters(), images, texts], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(images, texts).loss.backward()
        optimizer.step()
    output = loss(images, texts)
    assert output.logits.argmax(1).tolist() == list(range(16))
    assert torch.equal(output.logits > 0, torch.eye(16, dtype=torch.bool))
    assert all(not torch.equal(*pair) for pair in zip(before, loss.parameters(), strict=True))


def test_pooled_slots_compare_slot_by_slot():
    first, second = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(1))
    cosines = F.cosine_similarity(pool_slots(first), pool_slots(second))
    torch.testing.assert_close(cosines, F.cosine_similarity(first, second, dim=-1).mean(1))


def test_equal_texts_have_equal_numbers_whatever_the_padding():
    ids = torch.tensor(
        [[1, 5, 6, 2, 0], [1, 5, 6, 2, 9], [1, 6, 5, 2, 0], [1, 5, 6, 0, 2], [1, 0, 0, 0, 0], [1, 5, 6, 2, 2]]
    )
    mask = torch.tensor(
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1] * 5]
    ).bool()
    numbers = text_ids(ids, mask).tolist()
    assert numbers[0] == numbers[1] and len(set(numbers)) == 5
    assert text_ids(ids[:, :4], mask[:, :4]).tolist()[:3] == numbers[:3]


def test_random_texts_do_not_collide():
    ids = torch.randint(3, 400, (20_000, 40), generator=torch.Generator().manual_seed(2))
    ids = torch.unique(ids, dim=0)
    assert text_ids(ids, torch.ones_like(ids, dtype=torch.bool)).unique().numel() == len(ids)
