// What lies over the editor: reader, map of branches, dialogs.
import { COMMANDS } from "./commands.js";
import { h } from "./dom.js";
import { button, picture } from "./parts.js";
import { headOf } from "./reducers.js";

export function reader(state) {
  const at = state.ui.reader;
  if (!at || !state.story) return null;
  const branches = state.story.branches;
  return at.node === undefined ? pages(state, at.page) : ways(state, branches, at.node);
}

function sheet(state, image, text, foot) {
  return h("div", { class: "reader", role: "dialog", "aria-modal": "true", "aria-label": "Reader" },
    h("div", { class: "reader-bar" }, button(state, "speak", { look: "quiet", image: "sound" }), button(state, "dark", { look: "quiet", image: "moon" }), button(state, "close", { look: "quiet", image: "close", "data-first": true })),
    h("article", { class: "sheet" }, image, h("p", { class: "told" }, text), foot));
}

function pages(state, page) {
  const head = headOf(state.story), last = head.texts.length;
  const to = (target, image, label) => button(state, "readerTo", { look: "turn", image, arg: target, label, disabled: target < 0 || target > last });
  if (page === last) return sheet(state, null, "The end", h("footer", {}, to(last - 1, "left", "Page before"), button(state, "readerTo", { text: "Read again", arg: 0 })));
  return sheet(state, picture(head.pictures[page], 768, ""), head.texts[page],
    h("footer", {}, to(page - 1, "left", "Page before"), h("span", { "aria-label": `Page ${page + 1} of ${last}` }, `${page + 1} / ${last}`), to(page + 1, "right", "Page after")));
}

function ways(state, branches, id) {
  const node = branches.pages[id];
  const choices = node.next.map((next) => h("button", { type: "button", class: "choice", "data-do": "readerTo", "data-arg": next }, branches.pages[next].text));
  const single = node.next.length === 1;
  const foot = h("footer", { class: single || !node.next.length ? "" : "choices" },
    single ? button(state, "readerTo", { look: "main", text: "Turn the page", arg: node.next[0] }) : choices,
    node.next.length ? null : [h("span", {}, "The end"), button(state, "readerTo", { text: "Begin again", arg: branches.start[0] }), button(state, "takePath", { text: "Make this way a story", arg: id })]);
  return sheet(state, picture(node.picture, 768, ""), node.text, foot);
}

export function map(state) {
  const found = state.story?.branches;
  const close = button(state, "map", { look: "quiet", image: "close", label: "Close the map" });
  if (!found) return h("section", { class: "map" }, h("h2", {}, "Map of branches", close), h("p", { class: "hint" }, "This story does not fork yet. Open the page at which it should, and branch there."), button(state, "branch", { look: "main", text: `Branch at page ${state.ui.page + 1}` }));
  const columns = [];
  for (const [id, node] of Object.entries(found.pages)) (columns[node.page] ??= []).push([id, node]);
  return h("section", { class: "map", "aria-label": "Map of branches" }, h("h2", {}, "Map of branches", close),
    h("ol", { class: "columns", tabindex: "0", "aria-label": "Pages by their number" }, columns.map((column, page) => h("li", {}, h("h3", {}, `Page ${page + 1}`), column.map(([id, node]) =>
      h("article", { class: `card${node.next.length > 1 ? " fork" : ""}`, "data-key": id }, h("button", { type: "button", "data-do": "play", "data-arg": id, "aria-label": `Play from page ${id}: ${node.text}` }, picture(node.picture, 192, "")),
        h("p", {}, h("b", {}, id), ` ${node.text}`), h("p", { class: "goes" }, node.next.length ? `goes on with ${node.next.join(" or ")}` : "an ending")))))));
}

export function dialog(state) {
  const { dialog: name } = state.ui;
  if (!name) return null;
  return h("div", { class: "veil", "data-do": "close" }, h("div", { class: "dialog", role: "dialog", "aria-modal": "true", "aria-label": name === "help" ? "Keys" : "Export and share", "data-stop": true },
    button(state, "close", { look: "quiet corner", image: "close", "data-first": true }), name === "help" ? help() : share(state)));
}

function help() {
  const groups = {};
  for (const command of Object.values(COMMANDS)) if (command.keys) (groups[command.group] ??= []).push(command);
  return [h("h2", {}, "Keys"), h("div", { class: "keys", tabindex: "0", role: "group", "aria-label": "List of keys" }, Object.entries(groups).map(([group, commands]) => h("section", {}, h("h3", {}, group),
    h("dl", {}, commands.map((one) => h("div", {}, h("dt", {}, one.keys.map((key) => h("kbd", {}, key.replace("Arrow", "")))), h("dd", {}, one.title)))))))];
}

function share(state) {
  const story = state.story, head = headOf(story);
  return [h("h2", {}, "Export and share"),
    h("ul", { class: "formats" }, state.formats.map((one) => h("li", {}, h("a", { href: `/api/stories/${story.id}/export/${one.name}`, download: true }, one.summary))),
      h("li", {}, h("a", { href: `/api/stories/${story.id}/states/${head.id}/pages/${state.ui.page}.png`, download: true }, "This page as a PNG that carries the story"))),
    h("label", { class: "recipe" }, h("span", {}, "Story string: whoever drops it on a studio with these weights has the same book"), h("textarea", { readonly: true, rows: "4" }, head.plan)),
    h("form", { class: "restore", "data-form": "restore" }, h("label", {}, h("span", {}, "Restore a story"), h("input", { name: "plan", placeholder: "plan1.…" })), h("button", { class: "plain" }, "Restore"))];
}
