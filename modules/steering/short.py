"""The short text of a plan: its codes are arithmetic-coded by the prior, its prompt by the text decoder.

It exists for a story as it was drawn: default settings but for the seed, no edit. The models are computed in float64
and their probabilities are made whole numbers, so that another machine finds the same ones. Each text is read again
before it is given out, and its checksum is that of the plan's long text: what is read otherwise is reported.
"""

from __future__ import annotations

import copy
import string
import zlib

import torch
from torch import Tensor

from modules.common.errors import UserError
from modules.generation.pipeline import StoryPipeline
from modules.generation.settings import GenerationSettings
from modules.steering.arithmetic import Coder, Decoder, Encoder, frequencies
from modules.steering.plan import Plan, drawn_plan
from modules.steering.rendering import Codes

SHORT_PREFIX = "plan2."
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
LONGEST = 1000  # Characters.
MAX_SHORT_PAGES, SEED_BITS = 64, 63
MARK_BITS, CHECK_BITS = 20, 20  # Of the weights' fingerprint and of the checksum.
ANY_TOKEN = 0.05  # Of the probability of a prompt's next token that all of them share alike.


class ShortTexts:
    """Writes and reads the short texts of plans that were made with the weights of `pipeline`."""

    def __init__(self, pipeline: StoryPipeline) -> None:
        self.pipeline, model = pipeline, pipeline.model
        self.fingerprint, self.num_codes = pipeline.fingerprint(), pipeline.config.storyboard.codebook_size
        self.has_any = model.has_codes and not pipeline.config.text_decoder.source
        if self.has_any:  # A pretrained language model is too large to be copied.
            self._prior = copy.deepcopy(model.prior).cpu().double()
            self._words = copy.deepcopy(model.text_decoder).cpu().double()
            self.longest = self._words.config.max_length

    def write(self, plan: Plan) -> str | None:
        """Return the short text of a plan, None where it has none."""
        usual = self._plan(plan.prompt, plan.codes, plan.settings.seed)
        if not self.has_any or plan != usual or plan.num_pages > MAX_SHORT_PAGES:
            return None
        coder = Encoder()
        coder.number(_mark_of(self.fingerprint), 1 << MARK_BITS)
        coder.number(_check_of(plan), 1 << CHECK_BITS)
        self._content(coder, plan)
        text = SHORT_PREFIX + "".join(LETTERS[digit] for digit in coder.digits(len(LETTERS)))
        try:
            return text if self.read(text) == plan else None
        except UserError:
            return None

    def read(self, text: str) -> Plan:
        """Return the plan of a short text. Raises UserError if it is damaged, or of other weights."""
        text = text.strip()
        letters = text[len(SHORT_PREFIX) :]
        if not is_short(text) or len(text) > LONGEST or not set(letters) <= set(LETTERS):
            raise UserError("the short plan is damaged: copy the whole text again")
        if not self.has_any:
            raise UserError("short plans are read by a model with codes and a text decoder of its own: give its --ckpt")
        coder = Decoder([LETTERS.index(letter) for letter in letters], len(LETTERS))
        mark, check = coder.number(0, 1 << MARK_BITS), coder.number(0, 1 << CHECK_BITS)
        if mark != _mark_of(self.fingerprint):
            raise UserError(
                f"this plan was made with weights whose fingerprint begins with {mark:05x}, and --ckpt has"
                f" {self.fingerprint}: give the checkpoint that it was made with, or copy the whole text again"
            )
        plan = self._plan(*self._content(coder))
        if check != _check_of(plan):
            raise UserError(
                "the short plan is damaged, or this machine computes different numbers: use the plan in story.json"
            )
        return plan

    def _plan(self, prompt: str, codes: Codes, seed: int) -> Plan:
        return drawn_plan(prompt, codes, self.num_codes, self.fingerprint, GenerationSettings(seed=seed))

    @torch.no_grad()
    def _content(self, coder: Coder, known: Plan | None = None) -> tuple[str, Codes, int]:
        """Write the `known` plan, or read one: its prompt, codes and seed."""
        seed = 0 if known is None else known.settings.seed
        num_bits = coder.number(seed.bit_length(), SEED_BITS + 1)
        high = 1 << num_bits >> 1  # The highest bit is known.
        seed = high + coder.number(seed - high, max(1, high))
        num_pages = 1 + coder.number(0 if known is None else known.num_pages - 1, MAX_SHORT_PAGES)
        prompt = self._prompt(coder, None if known is None else known.prompt)
        codes = [code for row in known.codes for code in row] if known else []
        ids, mask = self.pipeline.prompt_tokens(prompt)
        reading = self._prior.read_on(ids.cpu(), mask.cpu(), num_pages)
        logits, found = next(reading), list[int]()
        while len(found) < num_pages * self._prior.num_slots:
            found.append(coder.symbol(codes[len(found)] if codes else 0, frequencies(logits.softmax(-1))))
            logits = reading.send(found[-1])
        rows = range(0, len(found), self._prior.num_slots)
        return prompt, tuple(tuple(found[row : row + self._prior.num_slots]) for row in rows), seed

    def _prompt(self, coder: Coder, known: str | None) -> str:
        """Write the `known` prompt, or read one."""
        tokenizer, tokens, found = self.pipeline.tokenizer, list[int](), [self._words.bos_id]
        if known is not None:
            tokens = tokenizer.encode(known, self.longest)
        while len(found) < self.longest and (found[-1] != self._words.eos_id):
            counts = frequencies(self._next_token(found))
            found.append(coder.symbol(tokens[len(found)] if tokens else 0, counts))
        return tokenizer.decode(found[1:])

    def _next_token(self, ids: list[int]) -> Tensor:
        """Return the probability (V,) of every token after some, of a text with no plan."""
        codes, null = torch.zeros(1, *self._words.null_codes.shape, dtype=torch.float64), torch.tensor([True])
        logits = self._words.logits(codes, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), null)
        probabilities = logits[0, -1].softmax(-1)
        return (1 - ANY_TOKEN) * probabilities + ANY_TOKEN / len(probabilities)


def is_short(text: str) -> bool:
    """Return whether a text is, by its beginning, the short text of a plan."""
    return text.strip().startswith(SHORT_PREFIX)


def _mark_of(fingerprint: str) -> int:
    return int(fingerprint, 16) >> 4 * len(fingerprint) - MARK_BITS


def _check_of(plan: Plan) -> int:
    return zlib.crc32(plan.to_string().encode()) % (1 << CHECK_BITS)
