// The code view: cards of codes, found by words, by a picture, or by the codes of the open page.
import { h } from "./dom.js";
import { button, codeColor } from "./parts.js";
import { activeJobs, headOf } from "./reducers.js";

export function codeView(state) {
  const { ui } = state,
    found = ui.found,
    busy = activeJobs(state).some((job) => job.kind === "find");
  return h(
    "section",
    { class: "map cards", "aria-label": "Codes", "aria-busy": String(busy) },
    h(
      "h2",
      {},
      "What the codes mean",
      button(state, "cards", { look: "quiet", image: "close", label: "Close the cards" }),
    ),
    h(
      "form",
      { class: "seek", role: "search", "data-form": "seek" },
      h(
        "label",
        { class: "field" },
        h("span", {}, "Words, or a code's number"),
        h("input", {
          type: "search",
          "data-field": "codeWords",
          value: ui.codeWords,
          placeholder: "castle, balloon, rain …",
          maxlength: "200",
        }),
      ),
      button(state, "seekPicture", { look: "plain", image: "upload", text: "By a picture" }),
      button(state, "seekPage", { look: "plain", text: `Codes of page ${ui.page + 1}` }),
    ),
    found?.hint ? hint(found.hint) : null,
    h(
      "p",
      { class: "hint", role: "status", hidden: Boolean(found?.hint) },
      busy ? "Reading the picture" : summary(found),
    ),
    h(
      "ol",
      { class: "code-cards" },
      (found?.cards ?? []).map((card) => h("li", { "data-key": `card-${card.code}` }, codeCard(state, card))),
    ),
  );
}

/** What is missing, and on a line of its own the command that makes it. */
function hint(text) {
  const place = text.indexOf(": python ");
  return h(
    "div",
    { class: "no-report", role: "status" },
    h("p", {}, place < 0 ? text : `${text.slice(0, place)}. Run this, and search again:`),
    place < 0 ? null : h("code", {}, text.slice(place + 2)),
  );
}

function summary(found) {
  if (!found) return "";
  if (!found.cards.length) return "No code is known by these words.";
  const count = `${found.cards.length} ${found.cards.length === 1 ? "code" : "codes"}`;
  return found.of ? `${count} ${found.of}` : found.words ? `${count} that fit best` : `${count} that are used most`;
}

function codeCard(state, card) {
  const { tells } = card;
  return h(
    "article",
    { class: "card code-card" },
    h(
      "header",
      {},
      h("b", { class: `chip ${codeColor(card.code)}` }, card.code),
      h(
        "span",
        {},
        card.uses
          ? `slot ${card.slot + 1} · ${card.uses} ${card.uses === 1 ? "page" : "pages"}`
          : "no page of the analysis has it",
      ),
    ),
    tells
      ? h(
          "p",
          {},
          h("b", {}, `${tells.attribute}: ${tells.value}`),
          h("span", { class: "of-all" }, ` ${percent(tells.share)} of its pages, ${percent(tells.base)} of all`),
        )
      : null,
    card.words.length ? h("p", { class: "its-words" }, card.words.slice(0, 6).join(", ")) : null,
    h(
      "div",
      { class: "examples" },
      card.pages
        .filter((page) => page.pictured)
        .map((page) =>
          h("img", { src: `/api/codes/pages/${page.row}`, alt: page.text, title: page.text, loading: "lazy" }),
        ),
    ),
    card.near.length
      ? h(
          "p",
          { class: "near" },
          "near ",
          card.near.map((code) =>
            button(state, "seekCode", { look: "small", arg: code, text: String(code), label: `Show code ${code}` }),
          ),
        )
      : null,
    card.slot === null ? null : put(state, card),
  );
}

function put(state, card) {
  if (!state.story) return null;
  const codes = headOf(state.story).codes[state.ui.page];
  if (codes?.[card.slot] === card.code) return h("p", { class: "hint" }, `Page ${state.ui.page + 1} has this code.`);
  return button(state, "putCode", {
    look: "plain",
    arg: `${card.slot}:${card.code}`,
    text: `Put into page ${state.ui.page + 1}`,
    label: `Put code ${card.code} into page ${state.ui.page + 1}, slot ${card.slot + 1}`,
  });
}

const percent = (share) => `${Math.round(share * 100)} %`;

/** What a slot is most informative about, if the analysis is there. */
export const slotMeaning = (state, slot) =>
  state.ui.found?.slots?.[slot] ? h("p", { class: "hint" }, `This slot explains ${state.ui.found.slots[slot]}.`) : null;

/** The button that opens the card of the code that stands in a slot. */
export const cardOf = (state, code) =>
  button(state, "seekCode", { look: "quiet small", image: "search", arg: code, text: `What ${code} means` });
