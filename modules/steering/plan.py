"""Plan: everything that decides a story, as an immutable value that fits into one line of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings
from modules.steering.packing import DamagedText, Reader, Writer, compress, decompress, from_text, to_text
from modules.steering.rendering import (
    MAX_PAGES,
    MAX_SLOTS,
    Codes,
    Rendering,
    changed_settings,
    describe_rendering,
    read_codes,
    read_rendering,
    read_settings,
    read_sources,
    read_text,
    write_codes,
)

Origin = Literal["drawn", "set", "encoded"]  # Of a page's codes: by the prior, by hand, from a given text or picture.
ORIGINS: tuple[Origin, ...] = get_args(Origin)
# Settings are left out of the text form where they have their defaults. So these may not change under texts that are
# written already: the text says which row it was written with, and a row gives what was another default then.
DEFAULTS: tuple[dict[str, Any], ...] = ({"scheduler": "ddim", "num_inference_steps": 20}, {})


@dataclass(frozen=True)
class Plan:
    """The plan of a story of T pages: its codes, what was given and what was drawn, and how each page was decoded.

    `text_from` and `picture_from` (T) name, by its place in `renderings`, the rendering that a page's text and picture
    come from, None where they were given; `given_texts` (T) are the given ones. `fingerprint` is that of the weights.
    `log_probs` (T,S), in nats under the prior, are not part of the text form: they follow from the rest.
    """

    prompt: str
    codes: Codes
    codebook_size: int
    fingerprint: str
    settings: GenerationSettings
    renderings: tuple[Rendering, ...]
    origins: tuple[Origin, ...]
    text_from: tuple[int | None, ...]
    picture_from: tuple[int | None, ...]
    given_texts: tuple[str | None, ...]
    log_probs: tuple[tuple[float, ...], ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for codes in (self.codes, *(rendering.codes for rendering in self.renderings)):
            _check_codes(codes, self.num_slots, self.codebook_size)
        for name in ("origins", "text_from", "picture_from", "given_texts"):
            if len(getattr(self, name)) != len(self.codes):
                raise ValueError(f"{name} must have {len(self.codes)} entries, got {len(getattr(self, name))}")
        if not set(self.origins) <= set(ORIGINS):
            raise ValueError(f"origins must be among {ORIGINS}, got {self.origins}")
        for sources in (self.text_from, self.picture_from):
            for page, source in enumerate(sources):
                if source is not None and page not in self.renderings[source].pages:
                    raise ValueError(f"page {page} does not come from rendering {source}")

    @property
    def num_pages(self) -> int:
        return len(self.codes)

    @property
    def num_slots(self) -> int:
        return len(self.codes[0]) if self.codes else 0

    @property
    def given_pictures(self) -> tuple[int, ...]:
        """The pages whose pictures were given: the plan does not contain them."""
        return tuple(page for page, source in enumerate(self.picture_from) if source is None)

    def rendered(self, rendering: Rendering, **changes: Any) -> Plan:
        """Return the plan after one more rendering, from which its pages have their texts, pictures or both.

        `changes` are of other fields. Renderings that no page needs any more are forgotten.
        """
        number = len(self.renderings)
        text_from, picture_from = list(self.text_from), list(self.picture_from)
        given = list(changes.pop("given_texts", self.given_texts))
        for row, page in enumerate(rendering.pages):
            if rendering.parts != "picture" and not (rendering.texts and rendering.texts[row] is not None):
                text_from[page], given[page] = number, None
            if rendering.parts != "text":
                picture_from[page] = number
        plan = replace(
            self,
            renderings=(*self.renderings, rendering),
            text_from=tuple(text_from),
            picture_from=tuple(picture_from),
            given_texts=tuple(given),
            **changes,
        )
        return plan.without_unused()

    def without_unused(self) -> Plan:
        """Return the plan without the renderings that no page comes from."""
        if any(rendering.settings.strength < 1 for rendering in self.renderings):
            return self  # A picture may have started from one that was replaced since.
        used = sorted({source for source in (*self.text_from, *self.picture_from) if source is not None})
        places: dict[int | None, int | None] = {None: None} | {old: new for new, old in enumerate(used)}
        return replace(
            self,
            renderings=tuple(self.renderings[source] for source in used),
            text_from=tuple(places[source] for source in self.text_from),
            picture_from=tuple(places[source] for source in self.picture_from),
        )

    def check_weights(self, fingerprint: str) -> None:
        """Raise UserError if the plan was made with other weights than those with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise UserError(
                f"this plan was made with the weights {self.fingerprint}, and --ckpt has {fingerprint}: give the"
                " checkpoint that it was made with"
            )

    # -- as text

    def to_string(self) -> str:
        """Return the plan as one URL-safe word with a version and a checksum. The pictures given are not in it."""
        writer = Writer()
        writer.block(bytes.fromhex(self.fingerprint))
        writer.number(self.codebook_size)
        writer.number(self.num_slots)
        plans = list(dict.fromkeys([*(rendering.codes for rendering in self.renderings), self.codes]))
        writer.block(compress(json.dumps(self._description(plans), separators=(",", ":"), ensure_ascii=False)))
        before: Codes = ()
        for codes in plans:
            write_codes(writer, codes, before, self.codebook_size)
            before = codes
        return to_text(writer.content())

    def _description(self, plans: list[Codes]) -> dict[str, Any]:
        """Return all but the codes, as short as it can be: what has its usual value is left out."""
        renderings = [describe_rendering(rendering, plans, self.settings) for rendering in self.renderings]
        entries = {
            "p": self.prompt,
            "n": len(plans),
            "c": plans.index(self.codes) - len(plans),
            "v": len(DEFAULTS) - 1,
            "s": changed_settings(self.settings, GenerationSettings()),
            "r": renderings,
            "o": [ORIGINS.index(origin) for origin in self.origins],
            "t": list(self.text_from),
            "i": list(self.picture_from),
            "g": list(self.given_texts),
        }
        usual = _usual(self.num_pages)
        return {name: value for name, value in entries.items() if value != usual.get(name)}

    @classmethod
    def from_string(cls, text: str) -> Plan:
        """Return the plan that `to_string` wrote. Raises UserError if the text is damaged."""
        try:
            return cls._read(Reader(from_text(text)))
        except (DamagedText, ValueError, TypeError, KeyError, IndexError, RecursionError, AttributeError) as error:
            reason = str(error) if isinstance(error, DamagedText) else "it describes no story"
            raise UserError(f"the plan is damaged ({reason}): copy the whole text again") from None

    @classmethod
    def _read(cls, reader: Reader) -> Plan:
        fingerprint, codebook_size, num_slots = reader.block().hex(), reader.number(), reader.number()
        given = json.loads(decompress(reader.block()))
        plans: list[Codes] = []
        for _ in range(int(given.get("n", 1))):
            plans.append(read_codes(reader, plans[-1] if plans else (), num_slots, codebook_size))
        reader.end()
        codes = plans[given.get("c", -1)]
        entries = _usual(len(codes)) | given
        settings = read_settings(replace(GenerationSettings(), **DEFAULTS[entries["v"]]), entries["s"])
        plan = cls(
            prompt=read_text(entries["p"]),
            codes=codes,
            codebook_size=codebook_size,
            fingerprint=fingerprint,
            settings=settings,
            renderings=tuple(read_rendering(entry, plans, settings) for entry in entries["r"]),
            origins=tuple(ORIGINS[index] for index in entries["o"]),
            text_from=read_sources(entries["t"]),
            picture_from=read_sources(entries["i"]),
            given_texts=tuple(text if text is None else read_text(text) for text in entries["g"]),
        )
        if any(text is None and source is None for text, source in zip(plan.given_texts, plan.text_from, strict=True)):
            raise DamagedText("a page has no text")
        return plan


def drawn_plan(
    prompt: str, codes: Codes, codebook_size: int, fingerprint: str, settings: GenerationSettings, **changes: Any
) -> Plan:
    """Return the plan of a story whose pages were all drawn by the prior and decoded together."""
    origin: Origin = "drawn"
    count = len(codes)
    plan = Plan(
        prompt=prompt,
        codes=codes,
        codebook_size=codebook_size,
        fingerprint=fingerprint,
        settings=settings,
        renderings=(Rendering(codes, tuple(range(count)), settings),),
        origins=(origin,) * count,
        text_from=(0,) * count,
        picture_from=(0,) * count,
        given_texts=(None,) * count,
    )
    return replace(plan, **changes)


def with_given_texts(plan: Plan, texts: Mapping[int, str]) -> Plan:
    """Return a plan from `drawn_plan` in which the texts of some pages, by number, are given."""
    if not texts:
        return plan
    given = tuple(texts.get(page) for page in range(plan.num_pages))
    encoded: Origin = "encoded"
    return replace(
        plan,
        renderings=(replace(plan.renderings[0], texts=given),),
        origins=tuple(encoded if page in texts else origin for page, origin in enumerate(plan.origins)),
        text_from=tuple(None if page in texts else source for page, source in enumerate(plan.text_from)),
        given_texts=given,
    )


def _check_codes(codes: Codes, num_slots: int, codebook_size: int) -> None:
    if not 1 <= len(codes) <= MAX_PAGES or not 1 <= num_slots <= MAX_SLOTS:
        raise ValueError(f"a plan has 1 to {MAX_PAGES} pages of 1 to {MAX_SLOTS} codes")
    for row in codes:
        if len(row) != num_slots or not all(0 <= code < codebook_size for code in row):
            raise ValueError(f"a page must have {num_slots} codes from 0 to {codebook_size - 1}, got {row}")


def _usual(num_pages: int) -> dict[str, Any]:
    """Return the description of a story that was drawn in one go."""
    zeros, nothing = [0] * num_pages, [None] * num_pages
    return {"n": 1, "c": -1, "v": 0, "s": {}, "r": [{}], "o": zeros, "t": zeros, "i": zeros, "g": nothing}
