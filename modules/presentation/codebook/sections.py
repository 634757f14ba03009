"""The sections of the codebook page, each from the analysis's report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modules.evaluation.codebook.interventions import Swaps
from modules.presentation.codebook.figures import (
    PALETTE,
    Cell,
    Column,
    Figure,
    dendrogram,
    escape,
    heat_table,
    interval,
    jpeg,
    matrix,
    number,
    percent,
    scaled_cells,
    scatter,
    share_cell,
    spread,
)
from modules.presentation.markup import clean

PAGE_QUALITY = 88
NUM_EXAMPLES = 4
_CHOICE = (
    '<div class="controls"><label><input type="radio" name="by" checked> coloured by what a code tells most of</label>'
    '<label><input type="radio" name="by" id="by-slot"> by the slot it stands in</label></div>'
)


def about(report: Mapping[str, Any]) -> str:
    stories, data = report["num_stories"]["held_out"], report["data"]["held_out"]
    return (
        f"{stories:,} held-out stories of {escape(data)}, {report['num_steps']:,} steps; each step is {report['num_slots']} codes "
        f"out of {report['codebook_size']:,}."
    )


def tiles(report: Mapping[str, Any]) -> str:
    """The figures to remember."""
    usage, special = report["usage"], report["disentanglement"]["disentanglement"]
    alike, nats = usage["divergence"]["train_held_out"], report["removal"]["text_nats"][-1]
    tiles = [
        (
            f"{percent(usage['used']['held_out'])} %",
            "of the codes are in use",
            f"{len(usage['dead'])} are dead in training too",
        ),
        (
            number(usage["perplexity"]["held_out"]["value"], 0),
            "perplexity of the codes",
            spread(usage["perplexity"]["held_out"], 0),
        ),
        (
            number(alike["value"], 3),
            "bits between training and held-out use",
            f"{number(alike['floor'], 3)} between halves of training",
        ),
        (
            number(special["value"]),
            "disentanglement of the slots",
            f"{spread(special)}; dealt at random {number(special['floor'])}",
        ),
        (number(nats["value"], 1), "nats of a step’s text are lost with its codes", spread(nats, 1)),
    ]
    return "".join(
        f"<div><b>{value}</b><span>{escape(what)}</span><small>{escape(note)}</small></div>"
        for value, what, note in tiles
    )


def legend(names: Iterable[str]) -> str:
    items = "".join(
        f'<li style="--c:var(--c{index % PALETTE})">{escape(name)}</li>' for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def usage_table(report: Mapping[str, Any], slots: Sequence[str]) -> str:
    """Each slot's codes in numbers."""
    usage = report["usage"]["slots"]
    used = Column("codes", [Cell(str(slot["used"])) for slot in usage])
    spread = Column(
        "perplexity",
        [Cell(number(slot["perplexity"]["value"], 0), 0, interval(slot["perplexity"], 0)) for slot in usage],
    )
    stays = Column("stays", [share_cell(slot["persistence"]) for slot in usage])
    chance = Column("by chance", [Cell(percent(slot["persistence"]["floor"])) for slot in usage])
    apart = [
        Column(
            name,
            [
                Cell(number(slot["divergence"][key]["value"], 3), 0, interval(slot["divergence"][key], 3))
                for slot in usage
            ],
            "divergence, bits",
        )
        for name, key in (("train to held out", "train_held_out"), ("held out to prior", "held_out_prior"))
    ]
    floor = Column(
        "halves of train",
        [Cell(number(slot["divergence"]["train_held_out"]["floor"], 3)) for slot in usage],
        "divergence, bits",
    )
    return heat_table(slots, [used, spread, stays, chance, *apart, floor])


def information_table(report: Mapping[str, Any], slots: Sequence[str]) -> str:
    """Share of each attribute's entropy that each slot tells beyond chance; what may be chance is faint."""
    columns = []
    for name, told in report["information"].items():
        cells = [
            share_cell(
                slot["share"],
                f"{number(slot['bits'])} bits, {number(slot['null_bits'])} by chance, of {number(told['entropy_bits'])}; "
                f"p {number(slot['p_value'], 3)}; ",
                slot["p_value"] > 0.05,
            )
            for slot in told["slots"]
        ]
        columns.append(Column(name, cells))
    return heat_table(slots, columns) + _widths(
        slot["share"] for told in report["information"].values() for slot in told["slots"]
    )


def roles_table(report: Mapping[str, Any]) -> str:
    """For each attribute the slot that tells most of it, and the one that changes it most in texts."""
    rows = []
    for name, told in report["information"].items():
        best = max(range(report["num_slots"]), key=lambda slot: told["slots"][slot]["share"]["value"] or 0.0)
        changes = [figure["value"] or 0.0 for figure in report["swaps"]["text"]["attributes"].get(name, [])[:-1]]
        most = max(range(len(changes)), key=changes.__getitem__, default=None)
        does = "" if most is None else f"slot {most + 1} ({percent(changes[most])} %)"
        rows.append(
            f"<tr><th>{escape(name)}</th><td>slot {best + 1} ({percent(told['slots'][best]['share']['value'])} %)</td><td>{does}</td></tr>"
        )
    heads = "<th>attribute</th><th>told most by</th><th>changed most by</th>"
    return f'<table class="roles"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def probe_table(report: Mapping[str, Any], slots: Sequence[str]) -> str:
    columns = []
    for name, probe in report["probes"].items():
        floor = Cell(percent(probe["all"]["floor"]), probe["all"]["floor"] or 0.0)
        columns.append(Column(name, [*map(share_cell, probe["slots"]), share_cell(probe["all"]), floor]))
    figures = (figure for probe in report["probes"].values() for figure in (*probe["slots"], probe["all"]))
    return heat_table([*slots, "all", "floor"], columns) + _widths(figures)


def _widths(figures: Iterable[Figure]) -> str:
    """How exact the figures of a table are, in one line."""
    halves = sorted((figure["high"] - figure["low"]) / 2 for figure in figures if figure["low"] is not None)
    if not halves:
        return ""
    return (
        f'<p class="note">Per cent. The 95 % intervals reach {percent(halves[len(halves) // 2])} to either side (median; '
        f"at most {percent(halves[-1])}); each is shown under the pointer.</p>"
    )


def effect_table(report: Mapping[str, Any], slots: Sequence[str]) -> str:
    """What changes when a slot's code is replaced: in texts, in pictures, and in the losses."""
    swaps, removal = report["swaps"], report["removal"]
    text, pictures = swaps["text"], swaps.get("pictures")
    columns = [Column("words", [share_cell(figure) for figure in text["words"]], "text, %")]
    columns += [
        Column(name, [share_cell(figure) for figure in figures], "text, %")
        for name, figures in text["attributes"].items()
    ]
    if pictures is not None:
        for name, figures in pictures["attributes"].items():
            columns.append(Column(name, [share_cell(figure) for figure in figures], "picture, %"))
        columns.append(
            Column("pixels", scaled_cells(pictures["pixels"], 3), "picture, %" if pictures["attributes"] else "picture")
        )
    columns.append(Column("text, nats", scaled_cells(removal["text_nats"], 1), "cost"))
    columns.append(Column("picture, error", scaled_cells(removal["diffusion_loss"], 3), "cost"))
    told = f"{text['num_steps']} steps told" + (f", {pictures['num_steps']} drawn" if pictures else "")
    return (
        heat_table([*slots, "all"], columns)
        + f'<p class="note">{told}, {removal["num_steps"]} scored; intervals under the pointer.</p>'
    )


def swap_table(report: Mapping[str, Any], drawn: Swaps | None) -> str:
    """Rows of pages: from a step's own codes, with each slot's code replaced, and from the other step's codes."""
    if drawn is None:
        return '<p class="note">These stories have no pictures.</p>'
    names = ["own codes", *(f"slot {slot + 1}" for slot in range(report["num_slots"])), "other step"]
    heads = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for index, example in enumerate(report["swaps"]["examples"][:NUM_EXAMPLES]):
        own = set(_words(example["texts"][0]))
        changed = [True, *drawn.replaced[:, index].tolist()]
        cells = [
            f'<td{"" if change else " class=faint"}><img src="{jpeg(images[index], PAGE_QUALITY)}" alt=""><p>{_marked(text, own)}</p></td>'
            for images, text, change in zip(drawn.images, example["texts"], changed, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="swaps"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        + (
            '<p class="note">Steps were drawn at random. Marked: words that the page did not have. Faded: both steps have this code.</p>'
        )
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _marked(text: str, own: set[str]) -> str:
    """The text with the words marked that the page's own text has not."""
    parts = re.split(r"(\w+)", clean(text))
    return "".join(
        f"<mark>{escape(part)}</mark>" if _words(part) and part.lower() not in own else escape(part) for part in parts
    )


def code_looks(report: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Each code's colours, by the attribute that it tells most of and by the slot that it stands in most often."""
    attributes = list(report["information"])
    return {
        card["code"]: (
            attributes.index(card["tells"]["attribute"]) % PALETTE,
            card["slots"].index(max(card["slots"])) % PALETTE,
        )
        for card in report["cards"]
    }


def code_map(report: Mapping[str, Any]) -> str:
    looks, uses = code_looks(report), {card["code"]: card["uses"] for card in report["cards"]}
    tree, explained = report["clusters"], report["map"]["explained_variance"]
    drawn = (
        ""
        if tree is None
        else (
            f"<figure>{dendrogram(tree, looks)}<figcaption>Average linkage of cosine distances between the {len(tree['codes']):,} most "
            f"used codes; cophenetic correlation {number(tree['cophenetic_correlation'])}.</figcaption></figure>"
        )
    )
    return (
        f"{drawn}<figure>{_CHOICE}{scatter(report['map']['points'], uses, looks)}<figcaption>Two principal components of the codebook, "
        f"which hold {percent(explained)} % of its variance; dots are as large as their codes are often used.</figcaption></figure>"
    )


def code_matrices(report: Mapping[str, Any]) -> str:
    matrices, looks = report["matrices"], code_looks(report)
    slots = [looks[code][1] for code in matrices["codes"]]
    pairs = matrix(matrices["codes"], matrices["co_occurrence_bits"], 3.0, "with", slots)
    follows = matrix(matrices["codes"], matrices["transitions"], 0.5, "then", slots)
    return (
        f"<figure>{pairs}<figcaption>In one step: pointwise mutual information above 0, full colour at 3 bits.</figcaption></figure>"
        f"<figure>{follows}<figcaption>From step to step: how often the row’s code is followed by the column’s in its slot, full colour "
        "at half of the times.</figcaption></figure>"
    )
