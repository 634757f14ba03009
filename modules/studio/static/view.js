// All that is on the screen, from the state: the bar, the desk with its three parts, and what lies over them.
import { codeView } from "./codes.js";
import { h } from "./dom.js";
import { inspector } from "./inspector.js";
import { dialog, map } from "./layers.js";
import { making } from "./making.js";
import { button } from "./parts.js";
import { reader } from "./reader.js";
import { draftJob, stage } from "./stage.js";

export function view(state) {
  const isCovered = Boolean(state.ui.reader || state.ui.dialog);
  return h(
    "div",
    { id: "studio" },
    h(
      "div",
      { class: "editor", inert: isCovered },
      bar(state),
      h("main", { class: "desk" }, making(state), desk(state)),
    ),
    h("div", { class: "layer" }, reader(state)),
    h("div", { class: "layer" }, dialog(state)),
    h("div", { class: "toast", hidden: !state.ui.toast }, state.ui.toast ?? ""),
  );
}

function desk(state) {
  if (state.ui.view === "map") return map(state);
  if (state.ui.view === "codes") return codeView(state);
  return [stage(state), inspector(state)];
}

function bar(state) {
  const isOpen = (name) => String(state.ui.view === name);
  return h(
    "header",
    { class: "bar" },
    button(state, "panel", { look: "quiet narrow-only", image: "panel" }),
    h("h1", {}, draftJob(state)?.title ?? state.story?.title ?? "Studio"),
    h(
      "span",
      { class: "set" },
      button(state, "undo", { look: "quiet", image: "undo" }),
      button(state, "redo", { look: "quiet", image: "redo" }),
    ),
    h(
      "span",
      { class: "set end" },
      state.online ? null : h("span", { class: "offline" }, "connecting"),
      button(state, "map", { look: "quiet", image: "map", "aria-pressed": isOpen("map") }),
      button(state, "cards", { look: "quiet", image: "search", "aria-pressed": isOpen("codes") }),
      button(state, "share", { look: "quiet", image: "share" }),
      button(state, "dark", { look: "quiet", image: "moon" }),
      button(state, "help", { look: "quiet", image: "help" }),
      button(state, "read", { look: "main", image: "read", text: "Read" }),
    ),
  );
}
