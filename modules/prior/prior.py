"""p(z_t | z_<t, c): a causal transformer over the flattened codes, with the prompt as its prefix."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from modules.common.outputs import REQUIRED
from modules.layers.losses import token_nats
from modules.layers.prefix import padding_left, prefix_attention
from modules.layers.temporal import TemporalTransformer
from modules.layers.transformer import Transformer, TransformerOutput
from modules.prior.config import PriorConfig, check_heads
from modules.prior.given import flatten_given, given_among
from modules.prior.reading import PlanReading
from modules.prior.sampling import beside_null, guide, sample_logits
from modules.prior.slot_cache import Reader, SlotCache
from modules.prior.teacher_forcing import two_pass_nll


@dataclass
class PriorOutput(ModelOutput):
    """`nll` (B,T,S) in nats a code; `logits` (B,T,S,K); with experts, their losses and loads as in
    `TransformerOutput`.
    """

    nll: Tensor
    logits: Tensor = REQUIRED
    load_balancing_loss: Tensor | None = None
    router_z_loss: Tensor | None = None
    loads: Tensor | None = None


@dataclass
class PriorSample(ModelOutput):
    """`codes` (B,T,S) and their log-probabilities under the model at temperature 1, `log_probs` (B,T,S), in nats."""

    codes: Tensor
    log_probs: Tensor = REQUIRED


class Prior(nn.Module):
    """One sequence: [given pages, prompt tokens | BOS, z_1 ... z_T]. Tokens of the prefix see each other; a code sees
    the prefix and all codes before it. Given pages (`given.py`), of any place in the story, stand in both.

    Every position is also given the slot that it predicts and the number of steps left, so that a story of any
    requested length comes to its end. The prefix lies left of position 0 (padding leftmost), so padding moves nothing.
    Codes are read and written by the same vectors (arXiv 1608.05859), narrower than the transformer (arXiv 1909.11942):
    thousands of codes stay a small part of the weights.
    """

    def __init__(
        self, config: PriorConfig, vocab_size: int, codebook_size: int, num_slots: int, storyboard: Reader | None = None
    ) -> None:
        """A `config.cache` reads the codebook of the `storyboard`, and the prompt by it."""
        super().__init__()
        check_heads(config.dim, config.num_heads)
        if config.attention_window % num_slots:
            raise ValueError(
                f"attention_window must be a multiple of the {num_slots} codes of a step, got {config.attention_window}"
            )
        self.config, self.num_slots = config, num_slots
        dim, num_heads, dropout = config.dim, config.num_heads, config.dropout
        self.prompt_embed = nn.Embedding(vocab_size, dim)
        self.code_embed = nn.Embedding(codebook_size + 1, config.code_dim)  # The last one is BOS.
        self.from_code = nn.Linear(config.code_dim, dim, bias=False)
        self.to_code = nn.Linear(dim, config.code_dim, bias=False)
        self.slot_embed = nn.Embedding(num_slots, dim)
        self.steps_left_embed = nn.Embedding(config.max_steps, dim)
        experts = asdict(config.experts) if config.experts.num_experts else None
        num_kv_heads = config.num_kv_heads or None
        self.transformer = Transformer(dim, config.num_layers, num_heads, dropout, num_kv_heads, experts)
        # Zeros: weights that were trained without given pages start as they were.
        self.given_pages = nn.Parameter(torch.zeros(dim)) if config.given_share else None
        self.cache = SlotCache(num_slots, storyboard) if config.cache else None
        self.temporal: TemporalTransformer | None = None
        self.temporal_scale: nn.Parameter | None = None
        if config.temporal_layers:
            width = num_slots * config.code_dim
            self.temporal = TemporalTransformer(width, dim, config.temporal_layers, num_heads, dropout)
            # As small as the embeddings that it is added to: at the scale of a norm's output it would drown them.
            self.temporal_scale = nn.Parameter(torch.full((dim,), 0.02))
        for embedding in (self.prompt_embed, self.slot_embed, self.steps_left_embed):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.code_embed.weight, std=0.05)

    def forward(
        self,
        codes: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        step_mask: Tensor,
        own_share: float = 0.0,
        own_draws: Tensor | None = None,
        given: Tensor | None = None,
    ) -> PriorOutput:
        """Score codes (B,T,S) after prompts (B,Lp), with step_mask (B,T): nll of every code, p(z_1) included; values of
        padded steps mean nothing.

        A share `own_share` of the past codes is drawn from the prior itself: see `two_pass_nll`, which takes
        `own_draws`. `given` (B,G) are the numbers of pages that are known from the start, -1 for none; the nll of their
        codes means nothing.
        """
        prefix, prefix_mask = self._prefix(prompt_ids, prompt_mask, self._given(codes, given, step_mask.sum(1)))
        asked = self._asked(prompt_ids, prompt_mask)
        passes: list[TransformerOutput] = []

        def predict(history: Tensor) -> Tensor:
            passes.append(self._transform(history, prefix, prefix_mask, step_mask))
            return self._logits(passes[-1].hidden, history, asked)

        scored = two_pass_nll(predict, codes, own_share, own_draws)
        last = passes[-1]
        return PriorOutput(
            nll=scored.nll,
            logits=scored.logits,
            load_balancing_loss=last.load_balancing_loss,
            router_z_loss=last.router_z_loss,
            loads=last.loads,
        )

    def _transform(self, codes: Tensor, prefix: Tensor, prefix_mask: Tensor, step_mask: Tensor) -> TransformerOutput:
        """Return the transformer's output at each of the codes (B,T,S): `hidden` (B,T*S,D)."""
        x = self._sequence(codes, prefix, step_mask)
        mask, positions = prefix_attention(prefix_mask, x.shape[1])
        is_step = step_mask[:, : codes.shape[1]]  # It may be longer than the codes: its sum is the story's length.
        token_mask = torch.cat([prefix_mask, is_step.repeat_interleave(self.num_slots, dim=1)], dim=1)
        out = self.transformer.forward_with_losses(x, mask, positions, token_mask=token_mask)
        out.hidden = out.hidden[:, prefix_mask.shape[1] :]
        return out

    def _sequence(self, codes: Tensor, prefix: Tensor, step_mask: Tensor) -> Tensor:
        """Return the transformer's input for codes (B,T,S) after a prefix (B,Lp,D): (B,Lp+T*S,D)."""
        return torch.cat([prefix, self.code_inputs(codes.flatten(1), step_mask.sum(1))[:, :-1]], dim=1)

    @torch.no_grad()
    def score(
        self, codes: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, step_mask: Tensor, given: Tensor | None = None
    ) -> PriorOutput:
        """Score as `forward` does, under the attention of `sample`: with an `attention_window`, time and memory a step
        are constant in the story's length.
        """
        lengths = step_mask.sum(1)
        prefix, prefix_mask = self._prefix(prompt_ids, prompt_mask, self._given(codes, given, lengths))
        hidden = PlanReading(self, prefix, prefix_mask, lengths, codes.shape[1]).read(codes.flatten(1)[:, :-1])
        logits = self._logits(hidden[:, prefix_mask.shape[1] :], codes, self._asked(prompt_ids, prompt_mask))
        return PriorOutput(nll=token_nats(logits, codes), logits=logits)

    def update(self, loads: Tensor) -> None:
        """Balance the experts by a batch's `loads` (layers,E), after the weights' update: see
        `MixtureOfExperts.update`.
        """
        self.transformer.update(loads)

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        num_steps: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        codes: Tensor | None = None,
        num_samples: int = 1,
        fixed: Tensor | None = None,
        guidance_scale: float = 1.0,
        num_drawn: int | None = None,
    ) -> PriorSample:
        """Draw `num_steps` steps after the given ones: prompt (B,Lp), codes (B,T0,S) or None -> new codes
        (B,num_steps,S), or the first `num_drawn` of these steps alone.

        With `num_samples` > 1 that many plans of each story are returned, one after the other; its prompt is read once.
        Codes of `fixed` (num_steps,S) that are not negative are taken instead of drawn ones, in every plan; a prior
        with `given_share` knows the pages among them from the start, and writes towards them. With a `guidance_scale`
        above 1 codes are drawn that the prompt makes likelier; it needs a prior with `null_prompt`.
        """
        num_stories, num_given = len(prompt_ids) * num_samples, 0 if codes is None else codes.shape[1]
        if is_guided := guidance_scale != 1:
            prompt_ids, prompt_mask, codes = beside_null(self.config, prompt_ids, prompt_mask, codes)
        flat = prompt_ids.new_zeros(len(prompt_ids), 0) if codes is None else codes.flatten(1)
        total = prompt_ids.new_full((len(prompt_ids),), num_given + num_steps)
        known = given_among(fixed, num_given, len(total)) if self.given_pages is not None else None
        prefix = self._prefix(prompt_ids, prompt_mask, None if known is None else self._given(*known, total))
        reading = PlanReading(self, *prefix, total, num_given + num_steps)
        hidden = reading.read(flat)[:, -1:].repeat_interleave(num_samples, dim=0)
        reading.repeat_interleave(num_samples)
        asked = self._asked(prompt_ids, prompt_mask, num_samples)
        flat = flat.repeat_interleave(num_samples, dim=0)
        log_probs: list[Tensor] = []
        for place in range((num_drawn or num_steps) * self.num_slots):
            hidden = reading.read_next(flat) if place else hidden
            own = logits = self._next_logits(hidden, flat, asked).float()
            if is_guided:
                logits, own = guide(logits, guidance_scale)
            drawn = sample_logits(logits, temperature, top_p, generator)[:, None]
            if fixed is not None:
                wanted = fixed.flatten()[place]
                drawn = torch.where(wanted >= 0, wanted, drawn)
            log_probs.append(own.log_softmax(-1).gather(-1, drawn))
            flat = torch.cat([flat, drawn.repeat(len(flat) // num_stories, 1)], dim=1)
        steps, new = (-1, self.num_slots), flat[:num_stories, num_given * self.num_slots :]
        return PriorSample(
            codes=new.unflatten(1, steps).contiguous(), log_probs=torch.cat(log_probs, dim=1).unflatten(1, steps)
        )

    @torch.no_grad()
    def read_on(self, prompt_ids: Tensor, prompt_mask: Tensor, num_steps: int) -> Generator[Tensor, int, None]:
        """Yield the logits (K,) of the first code of a story of `num_steps` steps after a prompt (1,Lp), and then those
        of the code after each that is sent; zeros after the last.
        """
        flat, total = prompt_ids.new_zeros(1, 0), prompt_ids.new_tensor([num_steps])
        reading = PlanReading(self, *self._prefix(prompt_ids, prompt_mask), total, num_steps)
        hidden, asked = reading.read(flat)[:, -1:], self._asked(prompt_ids, prompt_mask)
        for place in range(num_steps * self.num_slots):
            hidden = reading.read_next(flat) if place else hidden
            code = yield self._next_logits(hidden, flat, asked)[0]
            flat = torch.cat([flat, flat.new_tensor([[code]])], dim=1)
        yield self.code_embed.weight.new_zeros(self.code_embed.num_embeddings - 1)

    def _prefix(
        self, prompt_ids: Tensor, prompt_mask: Tensor, given: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed the prompt after `given` inputs (B,M,D) with their mask (B,M), all padding moved to the left: (B,Lp,D)
        and the mask (B,Lp).
        """
        if given is None:
            ids, mask = padding_left(prompt_ids, prompt_mask)
            return self.prompt_embed(ids), mask
        inputs = torch.cat([given[0], self.prompt_embed(prompt_ids)], dim=1)
        return padding_left(inputs, torch.cat([given[1], prompt_mask], dim=1))

    def _given(self, codes: Tensor, given: Tensor | None, num_steps: Tensor) -> tuple[Tensor, Tensor] | None:
        """Embed the `given` pages (B,G) of codes (B,T,S) in stories of `num_steps` (B,): (B,G*S,D) and their mask."""
        if given is None or not given.shape[1]:
            return None
        if self.given_pages is None:
            raise ValueError("this prior was not trained with given pages: its given_share is 0")
        flat, index, mask = flatten_given(codes, given)
        return self.given_pages + self.code_input(flat, index, num_steps), mask

    def _asked(self, prompt_ids: Tensor, prompt_mask: Tensor, num_samples: int = 1) -> Tensor | None:
        """Return what prompts (B,Lp) ask for, (B*num_samples,S,d) as the cache reads it; None without one."""
        return (
            None if self.cache is None else self.cache.read(prompt_ids, prompt_mask).repeat_interleave(num_samples, 0)
        )

    def _logits(self, hidden: Tensor, codes: Tensor, asked: Tensor | None) -> Tensor:
        """Return the logits (B,T,S,K) of codes (B,T,S) by the transformer's output before each (B,T*S,D)."""
        logits = F.linear(self.to_code(hidden), self.code_embed.weight[:-1]).unflatten(1, codes.shape[1:])
        return logits if self.cache is None or asked is None else logits + self.cache(codes, asked)

    def _next_logits(self, hidden: Tensor, flat: Tensor, asked: Tensor | None) -> Tensor:
        """Return the logits (B,K) of the code after M flattened ones (B,M), by the output there (B,1,D)."""
        logits = F.linear(self.to_code(hidden[:, 0]), self.code_embed.weight[:-1])
        return logits if self.cache is None or asked is None else logits + self.cache.next(flat, asked)

    def code_inputs(self, flat: Tensor, num_steps: Tensor) -> Tensor:
        """Return the inputs at BOS and after each of M flattened codes (B,M): (B,M+1,D).

        `num_steps` (B,) is each story's length.
        """
        bos = flat.new_full((len(flat), 1), self.code_embed.num_embeddings - 1)
        index = torch.arange(flat.shape[1] + 1, device=flat.device)
        so_far = self.story_so_far(flat)[:, index // self.num_slots if self.temporal is not None else slice(None)]
        return self.code_input(torch.cat([bos, flat], dim=1), index, num_steps) + so_far

    def story_so_far(self, flat: Tensor) -> Tensor:
        """Summarise the whole steps among M flattened codes (B,M) for each next step: (B,M//S+1,D), zeros for the
        first.

        Without a temporal transformer, return zeros (1,1,1).
        """
        if self.temporal is None or self.temporal_scale is None:
            return self.slot_embed.weight.new_zeros(1, 1, 1)
        steps = (
            self.code_embed(flat[:, : flat.shape[1] // self.num_slots * self.num_slots])
            .unflatten(1, (-1, self.num_slots))
            .flatten(2)
        )
        read = self.temporal(steps, torch.ones_like(steps[..., 0], dtype=torch.bool))
        return F.pad(self.temporal_scale * read, (0, 0, 1, 0))

    def code_input(self, previous: Tensor, index: Tensor, num_steps: Tensor) -> Tensor:
        """Embed codes `previous` (B,M) with flat positions `index`, (M,) or (B,M): of the code that each
        predicts or, for given pages, its own.
        """
        steps_left = (num_steps[:, None] - 1 - index // self.num_slots).clamp(0, self.config.max_steps - 1)
        return (
            self.from_code(self.code_embed(previous))
            + self.slot_embed(index % self.num_slots)
            + self.steps_left_embed(steps_left)
        )
