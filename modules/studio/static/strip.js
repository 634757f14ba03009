// Under the open page: the candidates that wait, the pages in a row, and earlier versions of the open one.
import { h } from "./dom.js";
import { button, icon, picture } from "./parts.js";
import { candidatesOf, headOf, versionsOf } from "./reducers.js";

export function candidates(state) {
  const { story, ui } = state,
    found = candidatesOf(story, ui.page, ui.dismissed);
  if (!found) return h("div", { class: "candidates", hidden: true });
  const head = headOf(story);
  const options = [found.base, ...found.states];
  return h(
    "section",
    { class: "candidates", "aria-label": "Candidates" },
    h(
      "h2",
      {},
      `${found.states[0].label}: pick one`,
      h(
        "span",
        { class: "tools" },
        button(state, "compare", { look: "quiet small", image: "compare", text: ui.compare ? "Show mine" : "Compare" }),
        button(state, "dismiss", { look: "quiet small", image: "close" }),
      ),
    ),
    h(
      "ol",
      {},
      options.map((one, index) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", "data-do": "pick", "data-arg": index + 1, "aria-pressed": String(one.id === head.id) },
            picture(one.pictures[ui.page], 256, ""),
            h("span", { class: "number" }, index + 1),
            h("span", { class: "words-of" }, caption(found, one, index, ui.page)),
          ),
        ),
      ),
    ),
  );
}

/** What tells a candidate from the others: its words, where they differ. */
function caption(found, one, index, page) {
  const same = found.states.every((other) => other.texts[page] === found.base.texts[page]);
  const words = same ? (index ? "" : "As it was") : index ? one.texts[page] : `As it was: ${one.texts[page]}`;
  return index && one.changes ? `Changes a locked character. ${words}` : words;
}

export function film(state, head) {
  const count = head.texts.length,
    cells = head.texts.map((_, page) => [gap(state, page, count), cell(state, head, page)]);
  return h("nav", { class: "film", "aria-label": "Pages" }, h("ol", {}, cells, gap(state, count, count)));
}

/** The button between two pages, by which another one comes there. */
function gap(state, place, count) {
  const label = place === count ? "Add a page at the end" : `Insert a page before page ${place + 1}`;
  return h("li", { class: "gap" }, button(state, "insert", { look: "quiet small", image: "plus", arg: place, label }));
}

function cell(state, head, page) {
  const warnings = head.checks?.warnings?.[page] ?? [],
    isLocked = head.locks.some((lock) => lock.split(".")[0] === String(page + 1));
  const marks = [
    isLocked ? icon("lock") : null,
    warnings.length ? h("span", { class: "dot", title: warnings.join(" ") }) : null,
    forksAt(state.story, page) ? h("span", { class: "forks", title: "The story forks here" }, icon("branch")) : null,
  ];
  const open = {
    type: "button",
    "data-do": "toPage",
    "data-arg": page,
    "aria-current": page === state.ui.page ? "page" : null,
    "aria-label": `Page ${page + 1}: ${head.texts[page]}`,
  };
  return h(
    "li",
    { class: "cell", draggable: "true", "data-page": page },
    h("button", open, picture(head.pictures[page], 192, ""), h("span", { class: "number" }, page + 1), marks),
  );
}

/** Whether the branches have a choice of what this page is. */
function forksAt({ branches }, page) {
  if (!branches) return false;
  const ways = [branches.start, ...Object.values(branches.pages).map((node) => node.next)];
  const choices = ways.filter((next) => next.length > 1).flat();
  return choices.some((id) => branches.pages[id].page === page);
}

export function versions(state) {
  const found = versionsOf(state.story, state.ui.page);
  if (!found.length) return null;
  return h(
    "section",
    { class: "versions", "aria-label": "Earlier versions of this page" },
    h("h2", {}, "Earlier versions"),
    h(
      "ul",
      {},
      found.slice(0, 6).map((one) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              "data-do": "restore",
              "data-arg": one.id,
              title: one.texts[state.ui.page],
              "aria-label": `Take back: ${one.label}`,
            },
            picture(one.pictures[state.ui.page], 96, ""),
          ),
        ),
      ),
    ),
  );
}
