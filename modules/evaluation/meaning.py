"""What decoded texts mean, by the pretrained sentence encoder that the model has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.evaluation.decoded import decode_texts, plan_stories
from modules.evaluation.held_out import HeldOutStories
from modules.evaluation.metrics.statistics import Estimate, bootstrap_mean, mean_over_rows, rows_of_other_stories
from modules.generation.pipeline import StoryPipeline
from modules.storyboard.text_encoders import PretrainedTextEncoder

CHOICES, NUM_DRAWS = 4, 20


def sentence_encoder(pipeline: StoryPipeline) -> PretrainedTextEncoder | None:
    """Return the model's sentence encoder; None if it has none: the mean of a BERT's vectors tells little."""
    if not pipeline.model.reads_steps or not pipeline.config.storyboard.text_encoder.shortcuts:
        return None
    encoder = pipeline.model.storyboard.text_encoder
    return encoder if isinstance(encoder, PretrainedTextEncoder) else None


def measure_meaning(
    pipeline: StoryPipeline, held_out: HeldOutStories, decoded: Sequence[str], seed: int = 0
) -> dict[str, Estimate]:
    """Return, for N texts `decoded` from each step's codes, `cosine`: that of their meaning and the true text's (floor:
    of another story's true text).

    `own_prompt_of_4` is how often, among four prompts, a story's own is nearest to the texts that the model writes for
    it (ceiling: to the true texts). Stories with equal prompts are not held against each other. Nothing is returned for
    a model without a sentence encoder, or without codes.
    """
    encoder = sentence_encoder(pipeline)
    if encoder is None or not pipeline.model.has_codes:
        return {}
    stories, true = held_out.encoded, encoder.sentences(held_out.true_texts)
    others = rows_of_other_stories(held_out.story, seed)
    has_text = np.array([text is not None for text in stories.texts])
    own = np.where(has_text, F.cosine_similarity(encoder.sentences(decoded), true).numpy(), np.nan)
    floor = None if others is None else float(F.cosine_similarity(true[others], true).numpy()[has_text].mean())
    measured = {"cosine": mean_over_rows(own, held_out.story, seed, floor, 1.0)}
    codes = plan_stories(pipeline, stories, len(stories), seed)
    told = encoder.sentences(decode_texts(pipeline, codes, stories.lengths, "prompts"))
    prompts, lengths = encoder.sentences(stories.prompts), stories.lengths
    ceiling = _own_prompts(prompts, stories.prompts, true, lengths, seed)
    found = _own_prompts(prompts, stories.prompts, told, lengths, seed)
    if len(found):
        ones = np.ones_like(found)
        measured["own_prompt_of_4"] = bootstrap_mean(found, ones, seed, 1 / CHOICES, float(ceiling.mean()))
    return measured


def _own_prompts(
    vectors: Tensor, prompts: Sequence[str], texts: Tensor, lengths: Sequence[int], seed: int
) -> np.ndarray:
    """Return how often each story (B,) is nearer to its own prompt than to three drawn ones, if there are as many.

    `vectors` (B,D) are those of the prompts, `texts` (N,D) those of the stories' texts.
    """
    story = F.normalize(torch.stack([part.mean(0) for part in texts.split(list(lengths))]), dim=-1)
    likeness, shares = (story @ vectors.t()).numpy(), list[float]()
    for index, prompt in enumerate(prompts):
        rivals = [other for other, words in enumerate(prompts) if words != prompt]
        if len(rivals) < CHOICES - 1:
            continue
        rng = np.random.default_rng([seed, index])
        draws = [rng.choice(rivals, CHOICES - 1, replace=False) for _ in range(NUM_DRAWS)]
        shares.append(float(np.mean([likeness[index, index] > likeness[index, drawn].max() for drawn in draws])))
    return np.array(shares)
