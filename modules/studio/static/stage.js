// The middle: the open page, the candidates that wait, and the pages in a row.
import { h } from "./dom.js";
import { button, icon, picture, seconds } from "./parts.js";
import { activeJobs, candidatesOf, headOf, versionsOf } from "./reducers.js";

const isLocked = (head, page, part) => head.locks.includes(`${page + 1}`) || head.locks.includes(`${page + 1}${part}`);

export function stage(state) {
  const draft = draftJob(state);
  if (draft) return drafting(draft);
  if (!state.story) return h("section", { class: "stage empty" }, h("p", {}, "Your first book is being made. It will be here in a moment."));
  const { ui, story } = state, head = headOf(story), page = ui.page;
  const shown = ui.compare ? story.states[ui.compare] : head;
  const typed = typedText(state), unsaved = typed !== null && typed.trim() !== head.texts[page];
  const busy = activeJobs(state).find((job) => job.story === story.id && job.page === page && job.kind === "edit");
  const waits = candidatesOf(story, page, ui.dismissed);
  return h("section", { class: `stage${waits ? " picking" : ""}`, "aria-label": `Page ${page + 1} of ${head.texts.length}` },
    h("div", { class: "spread" },
      button(state, "previous", { look: "turn", image: "left", disabled: page === 0 }),
      h("article", { class: `leaf${busy ? " busy" : ""}`, "data-key": story.id },
        h("div", { class: "frame", "data-drop": "picture" },
          busy?.preview_pages.includes(page) ? h("img", { src: preview(busy, page), alt: "The picture while it is drawn" }) : picture(shown.pictures[page], 768, shown.texts[page]),
          h("span", { class: "badges" }, isLocked(head, page, ".picture") ? h("span", { class: "badge" }, icon("lock"), "Picture") : null, ui.compare ? h("span", { class: "badge" }, "Before") : null),
          busy ? h("span", { class: "time" }, busy.status === "queued" ? "waits" : [busy.title.split(":")[0], seconds(busy.seconds_left)].filter(Boolean).join(" · ")) : null),
        h("div", { class: "words", contenteditable: isLocked(head, page, ".text") || ui.compare ? "false" : "plaintext-only", role: "textbox", "aria-multiline": "true", "aria-label": "Text of the page", tabindex: "0", spellcheck: "false", "data-key": `${head.id}-${page}-${ui.compare ?? ""}` }, ui.compare ? shown.texts[page] : typed ?? shown.texts[page]),
        h("div", { class: "typed", hidden: !unsaved }, button(state, "drawWords", { look: "main", text: "Redraw to these words" }), button(state, "saveWords", { text: "Keep the picture" }), h("span", {}, "Esc leaves the text as it was")),
        warnings(head, page)),
      button(state, "next", { look: "turn", image: "right", disabled: page === head.texts.length - 1 })),
    candidates(state), gestures(state, head, page), film(state, head));
}

/** What a person has typed on the open page and not yet kept; null: nothing. */
export function typedText({ story, ui }) {
  return ui.typed?.of === `${story.id}-${ui.page}` ? ui.typed.text : null;
}

const preview = (job, page) => `/api/jobs/${job.id}/previews/${page}?v=${job.preview_version}`;

export function draftJob(state) {
  const job = state.jobs[state.ui.waiting];
  return job && ["queued", "running"].includes(job.status) ? job : null;
}

function drafting(job) {
  const texts = job.draft?.texts ?? [];
  return h("section", { class: "stage making-of", "aria-label": "The story that is being made" },
    h("h2", {}, job.title), h("p", { class: "time-left" }, job.status === "queued" ? "waits for its turn" : texts.length ? job.seconds_left === null ? "drawing" : `drawing · ${seconds(job.seconds_left)} left` : "writing"),
    h("progress", { max: String(job.total || 1), value: job.done, "aria-label": "Progress" }),
    h("ol", { class: "drafts" }, texts.map((text, page) => h("li", {}, job.preview_pages.includes(page) ? h("img", { src: preview(job, page), alt: "" }) : h("span", { class: "blank" }), h("p", {}, text)))));
}

function warnings(head, page) {
  const found = head.checks?.warnings?.[page] ?? [];
  return h("ul", { class: "warnings", hidden: !found.length }, found.map((text) => h("li", {}, text)));
}

function gestures(state, head, page) {
  const lock = (name, part, label) => {
    const on = isLocked(head, page, part);
    return button(state, name, { look: `lock${on ? " on" : ""}`, image: on ? "lock" : "open", text: label, "aria-pressed": String(on) });
  };
  return h("div", { class: "gestures", role: "toolbar", "aria-label": "This page" },
    h("span", { class: "set" }, button(state, "redraw", { image: "redraw", text: "Redraw" }), button(state, "rewrite", { image: "pen", text: "Rewrite" }), button(state, "replan", { image: "plan", text: "Replan" }), button(state, "replanAfter", { text: "Replan from here" })),
    h("span", { class: "set" }, h("span", { class: "left" }, "Lock"), lock("lockPicture", ".picture", "Picture"), lock("lockText", ".text", "Text"), lock("lockPage", "", "Page")),
    h("span", { class: "set" }, button(state, "upload", { image: "upload", text: "Upload" }), button(state, "branch", { image: "branch", text: "Branch" }), button(state, "remove", { image: "trash" })));
}

function candidates(state) {
  const { story, ui } = state, found = candidatesOf(story, ui.page, ui.dismissed);
  if (!found) return h("div", { class: "candidates", hidden: true });
  const head = headOf(story);
  const options = [found.base, ...found.states];
  return h("section", { class: "candidates", "aria-label": "Candidates" },
    h("h2", {}, `${found.states[0].label}: pick one`, h("span", { class: "tools" }, button(state, "compare", { look: "quiet small", image: "compare", text: ui.compare ? "Show mine" : "Compare" }), button(state, "dismiss", { look: "quiet small", image: "close" }))),
    h("ol", {}, options.map((one, index) => h("li", {}, h("button", { type: "button", "data-do": "pick", "data-arg": index + 1, "aria-pressed": String(one.id === head.id) },
      picture(one.pictures[ui.page], 256, ""), h("span", { class: "number" }, index + 1), h("span", { class: "words-of" }, caption(found, one, index, ui.page)))))));
}

/** What tells a candidate from the others: its words, where they differ. */
function caption(found, one, index, page) {
  const same = found.states.every((other) => other.texts[page] === found.base.texts[page]);
  const words = same ? (index ? "" : "As it was") : index ? one.texts[page] : `As it was: ${one.texts[page]}`;
  return index && one.changes ? `Changes who is locked. ${words}` : words;
}

function film(state, head) {
  const insert = (place) => h("li", { class: "gap" }, button(state, "insert", { look: "quiet small", image: "plus", arg: place, label: place === head.texts.length ? "Add a page at the end" : `Insert a page before page ${place + 1}` }));
  const pages = head.texts.map((text, page) => [insert(page), h("li", { class: "cell", draggable: "true", "data-page": page },
    h("button", { type: "button", "data-do": "toPage", "data-arg": page, "aria-current": page === state.ui.page ? "page" : null, "aria-label": `Page ${page + 1}: ${text}` },
      picture(head.pictures[page], 192, ""), h("span", { class: "number" }, page + 1),
      head.locks.some((lock) => lock.split(".")[0] === String(page + 1)) ? icon("lock") : null,
      head.checks?.warnings?.[page]?.length ? h("span", { class: "dot", title: head.checks.warnings[page].join(" ") }) : null))]);
  return h("nav", { class: "film", "aria-label": "Pages" }, h("ol", {}, pages, insert(head.texts.length)));
}

export function versions(state) {
  const found = versionsOf(state.story, state.ui.page);
  if (!found.length) return null;
  return h("section", { class: "versions", "aria-label": "Earlier versions of this page" }, h("h2", {}, "Earlier versions"),
    h("ul", {}, found.slice(0, 6).map((one) => h("li", {}, h("button", { type: "button", "data-do": "restore", "data-arg": one.id, title: one.texts[state.ui.page], "aria-label": `Take back: ${one.label}` }, picture(one.pictures[state.ui.page], 96, ""))))));
}
