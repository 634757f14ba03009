"""The window of a plan: which pages a page sees, that others change nothing, and the layer that reads them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from modules.layers.plan_window import MAX_SEEN, NUM_FIRST, RADIUS, PlanReader, PlanWindow
from tests.support.tensors import CLOSE, differ, generator

SLOTS, DIM = 3, 4


def numbered(num_pages: int) -> Tensor:
    """Codes (N,1,1) that are the page numbers."""
    return torch.arange(num_pages, dtype=torch.float)[:, None, None]


def random_codes(num_pages: int, seed: int = 0) -> Tensor:
    return torch.randn(num_pages, SLOTS, DIM, generator=generator(seed))


def seen(window: PlanWindow, page: int) -> dict[int, int]:
    """The page numbers that a page sees, with their distances; its codes are page numbers."""
    pages, distances = window.code_embeds[page, :, 0, 0].int().tolist(), window.distances[page].tolist()
    pairs = zip(pages, distances, window.mask[page].tolist(), strict=True)
    return {number: distance for number, distance, is_seen in pairs if is_seen}


@pytest.fixture
def reader() -> PlanReader:
    """Its weights are larger than at the start of training, so that whatever leaks is seen."""
    torch.manual_seed(0)
    reader = PlanReader(SLOTS, DIM, out_dim=6, dim=16, num_heads=2)
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
        reader.distance.weight.normal_(generator=generator(1))
    return reader.eval()


# --- which pages are in a window


@pytest.mark.parametrize("length", [1, 2, RADIUS, RADIUS + 1])
def test_a_short_story_is_seen_whole_from_every_page(length):
    window = PlanWindow.of_stories(numbered(length), [length])
    assert window.code_embeds.shape == (length, length, 1, 1)
    assert window.distances.shape == window.mask.shape == (length, length)
    for page in range(length):
        assert seen(window, page) == {other: other - page for other in range(length)}


@pytest.mark.parametrize("length", [RADIUS + 2, 2 * RADIUS + 2, 40, 1000])
def test_a_long_story_is_seen_near_the_page_and_at_its_start(length):
    window = PlanWindow.of_stories(numbered(length), [length])
    assert window.code_embeds.shape[:2] == window.mask.shape == (length, min(length, MAX_SEEN))
    assert window.mask.sum(1).max() <= MAX_SEEN
    for page in (0, 1, RADIUS, RADIUS + 1, length // 2, length - 1):
        near = set(range(max(0, page - RADIUS), min(length, page + RADIUS + 1)))
        assert seen(window, page) == {other: other - page for other in near | set(range(NUM_FIRST))}


def test_stories_see_nothing_of_each_other():
    lengths = [3, 1, 30, 8]
    window, start = PlanWindow.of_stories(numbered(42), lengths), 0
    for length in lengths:
        alone = PlanWindow.of_stories(numbered(length), [length])
        for page in range(length):
            expected = {start + other: distance for other, distance in seen(alone, page).items()}
            assert seen(window, start + page) == expected
        start += length


def test_padding_is_read_by_no_page():
    page_mask = torch.tensor([True, True, False, True, False, False])
    window = PlanWindow.of_stories(numbered(6), [3, 3], page_mask)
    assert [set(seen(window, page)) for page in range(6)] == [{0, 1}] * 3 + [{3}] * 3
    shorter = PlanWindow.of_stories(numbered(2), [2])
    assert [seen(window, page) for page in (0, 1)] == [seen(shorter, page) for page in (0, 1)]


def test_a_page_alone_is_a_story_of_one_page():
    codes = random_codes(5)
    alone, stories = PlanWindow.alone(codes), PlanWindow.of_stories(codes, [1] * 5)
    assert torch.equal(alone.code_embeds, stories.code_embeds) and torch.equal(alone.mask, stories.mask)
    assert torch.equal(alone.distances, stories.distances) and alone.mask.all() and not alone.distances.any()


# --- variants of a window


def test_own_codes_are_replaced_and_no_others():
    window = PlanWindow.of_stories(numbered(20), [12, 8])
    changed = window.with_own(100 + numbered(20))
    for page in range(20):
        expected = {100 + page if other == page else other: far for other, far in seen(window, page).items()}
        assert seen(changed, page) == expected
    assert torch.equal(changed.mask, window.mask)


def test_own_codes_are_replaced_only_where_they_are_seen():
    """The padding of a shorter story has a distance of 0, too."""
    window = PlanWindow.of_stories(numbered(4), [1, 3])
    changed = window.with_own(100 + numbered(4))
    assert seen(changed, 0) == {100: 0} and (changed.code_embeds[0, 1:] == window.code_embeds[0, 1:]).all()


def test_pages_are_hidden():
    window = PlanWindow.of_stories(numbered(5), [3, 2])
    assert [set(seen(window.hide_own(), page)) for page in range(5)] == [{1, 2}, {0, 2}, {0, 1}, {4}, {3}]
    assert [set(seen(window.hide_others(), page)) for page in range(5)] == [{0}, {1}, {2}, {3}, {4}]
    everything = torch.ones(5, MAX_SEEN, dtype=torch.bool)
    assert torch.equal(window.hide_others(everything).mask, window.hide_others().mask)
    second = torch.zeros(5, MAX_SEEN, dtype=torch.bool)
    second[:, 1] = True  # The page itself stays, wherever it is in the window.
    hidden = window.hide_others(second)
    assert [set(seen(hidden, page)) for page in range(5)] == [{0, 2}, {1, 0, 2}, {0, 2}, {3}, {4, 3}]
    assert not window.hide(torch.tensor([[True], [False], [False], [False], [False]])).mask[0].any()


def test_rows_are_selected_and_repeated():
    window = PlanWindow.of_stories(random_codes(6), [4, 2])
    for rows in (slice(1, 4), [3, 0], torch.tensor([5, 5])):
        part = window[rows]
        for name in ("code_embeds", "distances", "mask"):
            assert torch.equal(getattr(part, name), getattr(window, name)[rows])
    twice = window.repeat_interleave(2)
    assert torch.equal(twice.code_embeds[::2], window.code_embeds)
    assert torch.equal(twice.code_embeds[1::2], window.code_embeds) and twice.mask.shape[0] == 12


# --- the layer that reads it


def test_a_vector_for_each_code_of_the_window(reader):
    window = PlanWindow.of_stories(random_codes(7), [5, 2])
    vectors, mask = reader(window)
    assert vectors.shape == (7, 5 * SLOTS, 6) and mask.shape == (7, 5 * SLOTS)
    assert torch.equal(mask, window.mask.repeat_interleave(SLOTS, dim=1))


def test_a_story_reads_the_same_beside_other_stories(reader):
    lengths, codes = [3, 20, 1, 6], random_codes(30)
    vectors, mask = reader(PlanWindow.of_stories(codes, lengths))
    start = 0
    for length in lengths:
        alone, alone_mask = reader(PlanWindow.of_stories(codes[start : start + length], [length]))
        rows = slice(start, start + length)
        torch.testing.assert_close(vectors[rows][mask[rows]], alone[alone_mask], **CLOSE)
        start += length


def test_padding_and_other_stories_change_nothing(reader):
    """Neither values nor gradients."""
    page_mask = torch.tensor([True, True, False, True, True, True])
    codes = random_codes(6).requires_grad_()
    garbage = torch.where(page_mask[:, None, None], codes.detach(), 50.0)
    garbage[3:] += 3
    vectors, mask = reader(PlanWindow.of_stories(codes, [3, 3], page_mask))
    others, _ = reader(PlanWindow.of_stories(garbage, [3, 3], page_mask))
    assert torch.equal(vectors[:2][mask[:2]], others[:2][mask[:2]]) and differ(vectors[3:], others[3:])
    vectors[0][mask[0]].square().sum().backward()
    assert (codes.grad.abs().amax((1, 2)) > 0).tolist() == [True, True, False, False, False, False]


def test_hidden_pages_change_nothing(reader):
    codes, hidden = random_codes(4).requires_grad_(), torch.zeros(4, MAX_SEEN, dtype=torch.bool)
    hidden[:, 2] = True
    window = PlanWindow.of_stories(codes, [4]).hide_others(hidden)
    vectors, mask = reader(window)
    changed = codes.detach().clone()
    changed[2] = 50.0
    others, _ = reader(PlanWindow.of_stories(changed, [4]).hide_others(hidden))
    for page in (0, 1, 3):
        assert torch.equal(vectors[page][mask[page]], others[page][mask[page]])
    vectors[1][mask[1]].square().sum().backward()
    assert (codes.grad.abs().amax((1, 2)) > 0).tolist() == [True, True, False, True]


def test_a_window_without_visible_pages_is_finite(reader):
    codes = random_codes(3).requires_grad_()
    vectors, mask = reader(PlanWindow.of_stories(codes, [3]).hide(torch.tensor([[True], [False], [False]])))
    assert vectors.isfinite().all() and not mask[0].any() and mask[1:].all()
    vectors[mask].square().sum().backward()
    assert codes.grad.isfinite().all() and (codes.grad != 0).any()
    assert all(parameter.grad.isfinite().all() for parameter in reader.parameters())


def test_every_slot_of_every_page_matters(reader):
    codes = random_codes(8).requires_grad_()
    vectors, _ = reader(PlanWindow.of_stories(codes, [8]))
    (gradient,) = torch.autograd.grad(vectors[3, :SLOTS].square().sum(), codes)
    assert (gradient != 0).all()


def test_distance_tells_pages_apart(reader):
    """The same pages in another order read differently, and so does the same page at another distance."""
    codes = random_codes(3)
    middle = reader(PlanWindow.of_stories(codes, [3]))[0][1].view(3, SLOTS, -1)
    turned = reader(PlanWindow.of_stories(codes.flip(0), [3]))[0][1].view(3, SLOTS, -1)
    assert differ(middle[1], turned[1])
    same = reader(PlanWindow.of_stories(codes[:1].expand(3, -1, -1), [3]))[0][1].view(3, SLOTS, -1)
    assert differ(same[0], same[2])


def test_slots_of_a_page_are_told_apart(reader):
    codes = random_codes(1)[:, :1].expand(-1, SLOTS, -1)
    with torch.no_grad():
        reader.slot_position.normal_(generator=generator(2))
    vectors = reader(PlanWindow.alone(codes))[0][0]
    assert differ(vectors[0], vectors[1])


def test_the_start_of_a_long_story_is_read_from_its_end(reader):
    codes = random_codes(40).requires_grad_()
    vectors, mask = reader(PlanWindow.of_stories(codes, [40]))
    vectors[39][mask[39]].square().sum().backward()
    near = set(range(39 - RADIUS, 40))
    assert set(codes.grad.abs().amax((1, 2)).nonzero()[:, 0].tolist()) == near | set(range(NUM_FIRST))


def test_windows_of_pretended_tensors_leave_nothing_pretended():
    with FakeTensorMode():
        PlanWindow.of_stories(torch.zeros(13, 8, 8), [13])
    window = PlanWindow.of_stories(torch.zeros(13, 8, 8), [13])
    assert not isinstance(window.mask, FakeTensor) and window.mask.any(1).all()
