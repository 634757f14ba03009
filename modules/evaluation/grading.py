"""Decoded pages beside the held-out pages that they correspond to, graded by all page metrics."""

from __future__ import annotations

import numpy as np

from modules.evaluation.decoded import DecodedPages
from modules.evaluation.held_out import HeldOutStories
from modules.evaluation.metrics.pages import GradedPages, Graders, grade_pages
from modules.evaluation.metrics.statistics import Estimate


def grade_decoded(
    decoded: DecodedPages, held_out: HeldOutStories, graders: Graders, seed: int, from_prompt: bool = False
) -> dict[str, Estimate]:
    """Return all metrics of decoded pages, by name; without true attributes, those that need none.

    With `from_prompt` the stories were generated from their prompts alone. Returns {} where no page has both a decoded
    and a true picture.
    """
    pages, stories = decoded.with_pictures(held_out.images), held_out.encoded
    if not pages.rows:
        return {}
    attributes = held_out.attributes
    graded = GradedPages(
        texts=pages.texts,
        images=[image for image in pages.images if image is not None],
        true_texts=[stories.texts[row] for row in pages.rows],
        true_images=[image for image in (held_out.images[row] for row in pages.rows) if image is not None],
        attributes=None if attributes is None else [attributes[row] for row in pages.rows],
        prompts=[stories.prompts[story] for story in np.unique(held_out.story[pages.rows])],
        lengths=pages.lengths,
        from_prompt=from_prompt,
        graders=graders,
        seed=seed,
    )
    return grade_pages(graded)
