"""The codebook page's content, section by section, from the analysis's report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from modules.evaluation.codebook.interventions import Swaps
from modules.presentation.codebook.plots import Matrix, Scatter, Tree, dendrogram, matrix, scatter
from modules.presentation.codebook.tables import (
    Column,
    Estimate,
    HeatCell,
    HeatTable,
    confidence,
    number,
    percent,
    scaled_column,
    share_cell,
    share_column,
    text_cell,
)
from modules.presentation.images import jpeg_uri
from modules.presentation.theme import LIGHT

PALETTE = len(LIGHT.palette)
PAGE_QUALITY = 88
NUM_EXAMPLES = 4
Report = Mapping[str, Any]


class Tile(NamedTuple):
    """A number to remember, with its meaning and a note."""

    value: str
    meaning: str
    note: str


class SwappedPage(NamedTuple):
    """A page drawn from swapped codes: the parts of its text, each with whether the original lacks it."""

    picture: str
    parts: list[tuple[str, bool]]
    is_same: bool  # Both pages have this code.


def slot_names(report: Report) -> list[str]:
    """Return "slot 1" and so on."""
    return [f"slot {slot + 1}" for slot in range(report["num_slots"])]


def tiles(report: Report) -> list[Tile]:
    """Return the most important numbers."""
    usage, special = report["usage"], report["disentanglement"]["disentanglement"]
    alike, nats = usage["divergence"]["train_held_out"], report["removal"]["text_nats"][-1]
    perplexity, used = usage["perplexity"]["held_out"], percent(usage["used"]["held_out"])
    halves = f"{number(alike['floor'], 3)} between halves of training"
    at_random = f"{confidence(special)}; with codes dealt to slots at random {number(special['floor'])}"
    return [
        Tile(f"{used} %", "of the codes are in use", f"{len(usage['dead'])} are never used in training either"),
        Tile(number(perplexity["value"], 0), "perplexity of the codes", confidence(perplexity, 0)),
        Tile(number(alike["value"], 3), "bits of divergence between training and held-out use", halves),
        Tile(number(special["value"]), "disentanglement of the slots", at_random),
        Tile(number(nats["value"], 1), "more nats for a page's text without its codes", confidence(nats, 1)),
    ]


def information_table(report: Report) -> HeatTable:
    """Return the share of each attribute's entropy that each slot explains beyond chance."""
    columns = []
    for name, attribute in report["information"].items():
        cells = []
        for slot in attribute["slots"]:
            bits, by_chance, entropy = map(number, (slot["bits"], slot["null_bits"], attribute["entropy_bits"]))
            title = f"{bits} bits, {by_chance} by chance, of {entropy}; p {number(slot['p_value'], 3)}; "
            cells.append(share_cell(slot["share"], title, slot["p_value"] > 0.05))
        columns.append(Column(name, cells))
    return HeatTable(slot_names(report), columns)


def information_widths(report: Report) -> tuple[str, str] | None:
    """Return the median and largest half width of the information table's intervals."""
    return _half_widths(slot["share"] for attribute in report["information"].values() for slot in attribute["slots"])


def roles(report: Report) -> list[tuple[str, str, str]]:
    """Return each attribute with the slot that is most informative and the slot that changes it most in texts."""
    rows = []
    for name, attribute in report["information"].items():
        shares = [slot["share"]["value"] or 0.0 for slot in attribute["slots"]]
        swaps = report["swaps"]["text"]["attributes"].get(name, [])[:-1]
        rows.append((name, _largest(shares), _largest([change["value"] or 0.0 for change in swaps])))
    return rows


def _largest(shares: Sequence[float]) -> str:
    """Name the slot with the largest share."""
    slot = max(range(len(shares)), key=shares.__getitem__, default=None)
    return "" if slot is None else f"slot {slot + 1} ({percent(shares[slot])} %)"


def probe_table(report: Report) -> HeatTable:
    """Return the accuracies of probes on each slot and on all slots."""
    columns = []
    for name, probe in report["probes"].items():
        floor = HeatCell(percent(probe["all"]["floor"]), probe["all"]["floor"] or 0.0)
        columns.append(Column(name, [*map(share_cell, probe["slots"]), share_cell(probe["all"]), floor]))
    return HeatTable([*slot_names(report), "all", "floor"], columns)


def probe_widths(report: Report) -> tuple[str, str] | None:
    """Return the median and largest half width of the probe table's intervals."""
    return _half_widths(share for probe in report["probes"].values() for share in (*probe["slots"], probe["all"]))


def _half_widths(estimates: Iterable[Estimate]) -> tuple[str, str] | None:
    intervals = ((estimate["low"], estimate["high"]) for estimate in estimates)
    halves = sorted((high - low) / 2 for low, high in intervals if low is not None and high is not None)
    return (percent(halves[len(halves) // 2]), percent(halves[-1])) if halves else None


def swapped_pages(report: Report, drawn: Swaps | None) -> list[list[SwappedPage]]:
    """Return rows of pages: from a page's own codes, with each slot's code replaced, and from the other page's codes.

    Stories without pictures have none.
    """
    if drawn is None:
        return []
    rows = []
    for index, example in enumerate(report["swaps"]["examples"][:NUM_EXAMPLES]):
        own = set(_words(example["texts"][0]))
        changed = [True, *drawn.replaced[:, index].tolist()]
        variants = zip(drawn.images, example["texts"], changed, strict=True)
        rows.append(
            [
                SwappedPage(jpeg_uri(images[index], PAGE_QUALITY), _mark_new(text, own), not is_changed)
                for images, text, is_changed in variants
            ]
        )
    return rows


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _mark_new(text: str, own: set[str]) -> list[tuple[str, bool]]:
    """Split a text into parts, each with whether it is a word that `own` lacks."""
    return [(part, bool(_words(part)) and part.lower() not in own) for part in re.split(r"(\w+)", text)]


def effect_table(report: Report) -> HeatTable:
    """Return the changes in texts, pictures and losses when a slot's code is replaced."""
    text, pictures, removal = report["swaps"]["text"], report["swaps"].get("pictures"), report["removal"]
    columns = [share_column("words", text["words"], "text, %")]
    columns += [share_column(name, changes, "text, %") for name, changes in text["attributes"].items()]
    if pictures is not None:
        columns += [share_column(name, changes, "picture, %") for name, changes in pictures["attributes"].items()]
        columns.append(scaled_column("pixels", pictures["pixels"], 3, "picture"))
    columns.append(scaled_column("text, nats", removal["text_nats"], 1, "cost"))
    columns.append(scaled_column("picture, error", removal["diffusion_loss"], 3, "cost"))
    return HeatTable([*slot_names(report), "all"], columns)


def usage_table(report: Report) -> HeatTable:
    """Return each slot's number of codes, perplexity, persistence and divergences."""
    usage, group = report["usage"]["slots"], "divergence, bits"
    columns = [
        Column("codes", [HeatCell(str(slot["used"])) for slot in usage]),
        Column("perplexity", [text_cell(slot["perplexity"], 0) for slot in usage]),
        share_column("stays", [slot["persistence"] for slot in usage]),
        Column("by chance", [HeatCell(percent(slot["persistence"]["floor"])) for slot in usage]),
    ]
    for name, key in (("train to held out", "train_held_out"), ("held out to prior", "held_out_prior")):
        columns.append(Column(name, [text_cell(slot["divergence"][key], 3) for slot in usage], group))
    floors = [number(slot["divergence"]["train_held_out"]["floor"], 3) for slot in usage]
    columns.append(Column("halves of train", [HeatCell(floor) for floor in floors], group))
    return HeatTable(slot_names(report), columns)


def code_colors(report: Report) -> dict[int, tuple[int, int]]:
    """Return each code's colours: by the attribute it is most informative about, and by its most frequent slot."""
    attributes = list(report["information"])
    return {
        card["code"]: (
            attributes.index(card["tells"]["attribute"]) % PALETTE,
            card["slots"].index(max(card["slots"])) % PALETTE,
        )
        for card in report["cards"]
    }


def code_tree(report: Report) -> Tree | None:
    """Return the clustering of the most used codes; too few codes have none."""
    return None if report["clusters"] is None else dendrogram(report["clusters"], code_colors(report))


def code_map(report: Report) -> Scatter:
    """Return the codes on their first two principal components."""
    uses = {card["code"]: card["uses"] for card in report["cards"]}
    return scatter(report["map"]["points"], uses, code_colors(report))


def code_pairs(report: Report) -> tuple[Matrix, Matrix]:
    """Return which codes share a page, full colour at 3 bits, and which follow each other, full colour at .5."""
    matrices, colors = report["matrices"], code_colors(report)
    codes, slots = matrices["codes"], [colors[code][1] for code in matrices["codes"]]
    return (
        matrix(codes, matrices["co_occurrence_bits"], 3.0, "with", slots),
        matrix(codes, matrices["transitions"], 0.5, "then", slots),
    )
