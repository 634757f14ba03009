// The map of branches, and the dialogs.
import { COMMANDS } from "./commands.js";
import { h } from "./dom.js";
import { button, picture, seconds } from "./parts.js";
import { activeJobs, captionOf, headOf } from "./reducers.js";

const LONGEST_QR = 2953; // Characters.

export function map(state) {
  const found = state.story?.branches;
  const close = button(state, "map", { look: "quiet", image: "close", label: "Close the map" });
  const growing = activeJobs(state).find((job) => job.kind === "branch" && job.story === state.story?.id);
  if (growing)
    return h(
      "section",
      { class: "map" },
      h("h2", {}, "Map of branches", close),
      h(
        "p",
        { class: "hint", role: "status" },
        ["The branches are planned and drawn", growing.seconds_left && `${seconds(growing.seconds_left)} left`]
          .filter(Boolean)
          .join(" · "),
      ),
      h("progress", { max: String(growing.total || 1), value: growing.done, "aria-label": "Progress of the branches" }),
    );
  if (!found)
    return h(
      "section",
      { class: "map" },
      h("h2", {}, "Map of branches", close),
      h("p", { class: "hint" }, "This story does not fork yet. Open the page at which it should, and branch there."),
      button(state, "branch", { look: "main", text: `Branch at page ${state.ui.page + 1}` }),
    );
  const columns = [];
  for (const [id, node] of Object.entries(found.pages)) (columns[node.page] ??= []).push([id, node]);
  const choices = new Set(
    Object.values(found.pages)
      .filter((node) => node.next.length > 1)
      .flatMap((node) => node.next),
  );
  return h(
    "section",
    { class: "map", "aria-label": "Map of branches" },
    h("h2", {}, "Map of branches", close),
    h(
      "ol",
      { class: "columns", tabindex: "0", "aria-label": "Pages by their number" },
      columns.map((column, page) =>
        h(
          "li",
          {},
          h("h3", {}, `Page ${page + 1}`),
          column.map(([id, node]) => mapCard(found, id, node, choices.has(id))),
        ),
      ),
    ),
  );
}

function mapCard(found, id, node, isChoice) {
  const kind = node.next.length > 1 ? " fork" : found.dead_ends?.includes(id) ? " dead" : "";
  return h(
    "article",
    { class: `card${kind}`, "data-key": id },
    isChoice
      ? h(
          "label",
          { class: "field" },
          h("span", {}, "The choice is called"),
          h("input", {
            "data-caption": id,
            value: found.captions?.[id] ?? "",
            placeholder: captionOf(found, id),
            maxlength: "160",
          }),
        )
      : null,
    h(
      "button",
      { type: "button", "data-do": "play", "data-arg": id, "aria-label": `Play from page ${id}: ${node.text}` },
      picture(node.picture, 192, ""),
    ),
    h("p", {}, h("b", {}, id), ` ${node.text}`),
    goesOn(found, node, kind),
  );
}

function goesOn(found, node, kind) {
  if (kind === " dead") return h("p", { class: "goes" }, h("b", {}, "Dead end: "), "the story is not over here");
  if (node.next.length < 2)
    return h("p", { class: "goes" }, node.next.length ? `goes on with ${node.next[0]}` : "an ending");
  return h(
    "ul",
    { class: "goes" },
    node.next.map((next) => h("li", {}, h("b", {}, next), ` ${captionOf(found, next)}`)),
  );
}

export function dialog(state) {
  const { dialog: name } = state.ui;
  if (!name) return null;
  return h(
    "div",
    { class: "veil", "data-do": "close" },
    h(
      "div",
      {
        class: "dialog",
        role: "dialog",
        "aria-modal": "true",
        "aria-label": name === "help" ? "Keys" : "Export and share",
        "data-stop": true,
      },
      button(state, "close", { look: "quiet corner", image: "close", "data-first": true }),
      name === "help" ? help() : share(state),
    ),
  );
}

function help() {
  const groups = {};
  for (const command of Object.values(COMMANDS)) if (command.keys) (groups[command.group] ??= []).push(command);
  return [
    h("h2", {}, "Keys"),
    h(
      "div",
      { class: "keys", tabindex: "0", role: "group", "aria-label": "List of keys" },
      Object.entries(groups).map(([group, commands]) =>
        h(
          "section",
          {},
          h("h3", {}, group),
          h(
            "dl",
            {},
            commands.map((one) =>
              h(
                "div",
                {},
                h(
                  "dt",
                  {},
                  one.keys.map((key) => h("kbd", {}, key.replace("Arrow", ""))),
                ),
                h("dd", {}, one.title),
              ),
            ),
          ),
        ),
      ),
    ),
  ];
}

function share(state) {
  const story = state.story,
    head = headOf(story),
    base = `/api/stories/${story.id}/export`;
  const link = (name, text, more = "") => h("li", {}, h("a", { href: `${base}/${name}${more}`, download: true }, text));
  return [
    h("h2", {}, "Export and share"),
    h(
      "ul",
      { class: "formats" },
      state.formats.map((one) => link(one.name, one.summary)),
      h(
        "li",
        {},
        h(
          "a",
          { href: `/api/stories/${story.id}/states/${head.id}/pages/${state.ui.page}.png`, download: true },
          "This page as a PNG that carries the story",
        ),
      ),
    ),
    story.branches
      ? [
          h("h3", {}, "With its branches"),
          h(
            "ul",
            { class: "formats" },
            link("html", "One HTML file in which the reader chooses", "?branches=true"),
            link("twee", "Twee 3 for Twine", "?branches=true"),
          ),
        ]
      : null,
    h(
      "div",
      { class: "string" },
      code(state, base, head),
      h(
        "label",
        { class: "recipe" },
        h("span", {}, "Story string: whoever drops it on a studio with these weights gets the same book"),
        h("textarea", { readonly: true, rows: "4" }, head.plan),
      ),
      button(state, "copyPlan", { look: "plain", image: "copy", text: "Copy" }),
    ),
    h(
      "form",
      { class: "restore", "data-form": "restore" },
      h("label", {}, h("span", {}, "Restore a story"), h("input", { name: "plan", placeholder: "plan1.…" })),
      h("button", { class: "plain" }, "Restore"),
    ),
  ];
}

/** The story string as a QR code, where it fits into one. */
function code(state, base, head) {
  if (!state.formats.some((one) => one.name === "qr")) return null;
  if (head.plan.length > LONGEST_QR) return h("p", { class: "hint" }, "This story is too long for a QR code.");
  return h("img", { class: "qr", src: `${base}/qr?of=${head.id}`, alt: "The story string as a QR code" });
}
