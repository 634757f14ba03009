// The reader: cover, pages and end of the story that is shown, or the ways through its branches.
import { h } from "./dom.js";
import { button, picture } from "./parts.js";
import { captionOf, COVER, headOf } from "./reducers.js";

export function reader(state) {
  const at = state.ui.reader;
  if (!at || !state.story) return null;
  return at.node === undefined ? pages(state, at.page) : ways(state, state.story.branches, at.node);
}

function sheet(state, key, foot, ...content) {
  const { voices, reader: at } = state.ui,
    none = voices === 0;
  const voice = none ? h("span", { class: "no-voice", role: "note" }, "No voice is installed") : null;
  return h(
    "div",
    {
      class: "reader",
      role: "dialog",
      "aria-modal": "true",
      "aria-label": "Reader",
      tabindex: "-1",
      "data-first": true,
    },
    h(
      "div",
      { class: "reader-bar" },
      voice,
      button(state, "speak", {
        look: `quiet${at.speaking ? " on" : ""}`,
        image: at.speaking ? "quiet" : "sound",
        disabled: none,
        "aria-pressed": String(Boolean(at.speaking)),
      }),
      button(state, "fullScreen", { look: "quiet", image: "full" }),
      button(state, "dark", { look: "quiet", image: "moon" }),
      button(state, "close", { look: "quiet", image: "close" }),
    ),
    h(
      "article",
      { class: "sheet" },
      h("div", { class: `turned${at.back ? " back" : ""}`, "data-key": `sheet-${key}` }, content),
      foot,
    ),
  );
}

function pages(state, page) {
  const head = headOf(state.story),
    last = head.texts.length;
  const to = (target, image, label) =>
    button(state, "readerTo", { look: "turn", image, arg: target, label, disabled: target < COVER || target > last });
  const foot = (middle) =>
    h("footer", {}, to(page - 1, "left", "Page before"), middle, to(page + 1, "right", "Page after"));
  if (page === COVER)
    return sheet(
      state,
      page,
      foot(button(state, "readerTo", { look: "main", text: "Begin", arg: 0 })),
      picture(head.pictures[0], 768, ""),
      h("h2", { class: "told cover" }, state.story.title),
    );
  if (page === last)
    return sheet(
      state,
      page,
      foot(button(state, "readerTo", { text: "Read again", arg: COVER })),
      h("p", { class: "told the-end" }, "The end"),
    );
  return sheet(
    state,
    page,
    foot(h("span", { "aria-label": `Page ${page + 1} of ${last}` }, `${page + 1} / ${last}`)),
    picture(head.pictures[page], 768, ""),
    h("p", { class: "told" }, head.texts[page]),
    page + 1 < last
      ? h("img", { src: `/api/pictures/${head.pictures[page + 1]}?size=768`, alt: "", hidden: true })
      : null,
  );
}

function ways(state, branches, id) {
  const node = branches.pages[id],
    [single] = node.next.length === 1 ? node.next : [];
  const choices = node.next.map((next) =>
    button(state, "readerTo", { look: "choice", text: captionOf(branches, next), arg: next }),
  );
  const ending = [
    h("span", {}, branches.dead_ends?.includes(id) ? "A dead end" : "The end"),
    button(state, "readerTo", { text: "Begin again", arg: branches.start[0] }),
    button(state, "takePath", { text: "Make this way a story", arg: id }),
  ];
  const foot = h(
    "footer",
    { class: node.next.length > 1 ? "choices" : "" },
    single ? button(state, "readerTo", { look: "main", text: "Turn the page", arg: single }) : choices,
    node.next.length ? null : ending,
  );
  return sheet(state, `way-${id}`, foot, picture(node.picture, 768, ""), h("p", { class: "told" }, node.text));
}
