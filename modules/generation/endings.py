"""Whether given pages already end their story, so that what follows is another episode.

The prior is told how many steps are left, so the same page has a likelihood as a last page and one with more to come.
Given pages end their story if their last page is likelier as a last page than as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modules.prior.prior import Prior

if TYPE_CHECKING:
    from modules.config import StoryConfig

ENDED = "the given pages end their story: the new pages begin another episode"


@torch.no_grad()
def ends_story(prior: Prior, codes: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, max_steps: int) -> bool:
    """Return whether the last of given steps, codes (T,S), is likelier with none left than with 1 to max_steps - 1.

    All of these numbers of steps left are taken as equally probable. `max_steps` is the longest story in training.
    """
    device, given = prompt_ids.device, len(codes)
    lengths = given + torch.arange(max(2, max_steps), device=device)  # Of the whole story, the steps left included.
    step_mask = torch.arange(int(lengths[-1]), device=device) < lengths[:, None]
    history = codes.to(device).expand(len(lengths), -1, -1)
    ids, mask = prompt_ids.expand(len(lengths), -1), prompt_mask.expand(len(lengths), -1)
    log_probs = -prior.score(history, ids, mask, step_mask).nll[:, -1].sum(-1)
    return bool(log_probs[0] > log_probs[1:].logsumexp(0) - torch.tensor(len(lengths) - 1.0).log())


def room_for_history(config: StoryConfig, num_steps: int) -> int:
    """Return how many past steps the prior reads before another episode.

    It has seen a second episode only in stories as long as those of its training; the last page is always read.
    """
    return max(1, config.max_steps - num_steps)
