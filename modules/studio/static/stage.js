// The middle: the open page, or a story that is being made.
import { h } from "./dom.js";
import { button, icon, picture, seconds } from "./parts.js";
import { activeJobs, candidatesOf, headOf } from "./reducers.js";
import { candidates, film } from "./strip.js";

const isLocked = (head, page, part) => head.locks.includes(`${page + 1}`) || head.locks.includes(`${page + 1}${part}`);

export function stage(state) {
  const draft = draftJob(state);
  if (draft) return drafting(draft);
  if (!state.story) return empty("Your first book is being made. It will be here in a moment.");
  const { ui, story } = state,
    head = headOf(story),
    page = ui.page,
    last = head.texts.length - 1;
  const isPicking = Boolean(candidatesOf(story, page, ui.dismissed));
  return h(
    "section",
    { class: `stage${isPicking ? " picking" : ""}`, "aria-label": `Page ${page + 1} of ${last + 1}` },
    h(
      "div",
      { class: "spread" },
      button(state, "previous", { look: "turn", image: "left", disabled: page === 0 }),
      leaf(state, head, page),
      button(state, "next", { look: "turn", image: "right", disabled: page === last }),
    ),
    candidates(state),
    gestures(state, head, page),
    film(state, head),
  );
}

const empty = (text) => h("section", { class: "stage empty" }, h("p", {}, text));

/** The open page: its picture, or a preview of the next one, its text, and what to look at again. */
function leaf(state, head, page) {
  const { ui, story } = state,
    shown = ui.compare ? story.states[ui.compare] : head;
  const typed = typedText(state),
    isUnsaved = typed !== null && typed.trim() !== head.texts[page];
  const busy = activeJobs(state).find((job) => job.story === story.id && job.page === page && job.kind === "edit");
  return h(
    "article",
    { class: `leaf${busy ? " busy" : ""}`, "data-key": story.id },
    frame(state, head, shown, busy),
    words(state, head, ui.compare ? shown.texts[page] : (typed ?? shown.texts[page])),
    h(
      "div",
      { class: "typed", hidden: !isUnsaved },
      button(state, "drawWords", { look: "main", text: "Redraw to these words" }),
      button(state, "saveWords", { look: "plain", text: "Keep the picture" }),
      h("span", {}, "Esc leaves the text as it was"),
    ),
    warnings(head, page),
  );
}

function frame(state, head, shown, busy) {
  const { page, compare } = state.ui;
  const image = busy?.preview_pages.includes(page)
    ? h("img", { src: preview(busy, page), alt: "The picture while it is drawn" })
    : picture(shown.pictures[page], 768, shown.texts[page]);
  const badges = [
    isLocked(head, page, ".picture") ? h("span", { class: "badge" }, icon("lock"), "Picture") : null,
    compare ? h("span", { class: "badge" }, "Before") : null,
  ];
  const time = busy ? h("span", { class: "time" }, progressOf(busy)) : null;
  return h("div", { class: "frame", "data-drop": "picture" }, image, h("span", { class: "badges" }, badges), time);
}

function progressOf(job) {
  if (job.status === "queued") return "waits";
  return [job.title.split(":")[0], seconds(job.seconds_left)].filter(Boolean).join(" · ");
}

function words({ ui }, head, text) {
  const isFixed = isLocked(head, ui.page, ".text") || ui.compare;
  return h(
    "div",
    {
      class: "words",
      contenteditable: isFixed ? "false" : "plaintext-only",
      role: "textbox",
      "aria-multiline": "true",
      "aria-label": "Text of the page",
      tabindex: "0",
      spellcheck: "false",
      "data-key": `${head.id}-${ui.page}-${ui.compare ?? ""}`,
    },
    text,
  );
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
  return h(
    "section",
    { class: "stage making-of", "aria-label": "The story that is being made" },
    h("h2", {}, job.title),
    h("p", { class: "time-left" }, phaseOf(job)),
    h("progress", { max: String(job.total || 1), value: job.done, "aria-label": "Progress" }),
    h(
      "ol",
      { class: "drafts" },
      texts.map((text, page) => h("li", {}, draftPicture(job, page), h("p", {}, text))),
    ),
  );
}

function phaseOf(job) {
  if (job.status === "queued") return "waits for its turn";
  if (!job.total) return job.draft ? "writing" : "planning";
  return ["drawing", job.seconds_left === null ? "" : `${seconds(job.seconds_left)} left`].filter(Boolean).join(" · ");
}

function draftPicture(job, page) {
  const isThere = job.preview_pages.includes(page);
  return isThere ? h("img", { src: preview(job, page), alt: "" }) : h("span", { class: "blank" });
}

function warnings(head, page) {
  const found = head.checks?.warnings?.[page] ?? [];
  return h(
    "ul",
    { class: "warnings", hidden: !found.length },
    found.map((text) => h("li", {}, text)),
  );
}

function gestures(state, head, page) {
  const lock = (name, part, label) => {
    const on = isLocked(head, page, part);
    return button(state, name, {
      look: `lock${on ? " on" : ""}`,
      image: on ? "lock" : "open",
      text: label,
      "aria-pressed": String(on),
    });
  };
  return h(
    "div",
    { class: "gestures", role: "toolbar", "aria-label": "This page" },
    h(
      "span",
      { class: "set" },
      button(state, "redraw", { image: "redraw", text: "Redraw" }),
      button(state, "rewrite", { image: "pen", text: "Rewrite" }),
      button(state, "replan", { image: "plan", text: "Replan" }),
      button(state, "replanAfter", { text: "Replan from here" }),
    ),
    h(
      "span",
      { class: "set" },
      h("span", { class: "left" }, "Lock"),
      lock("lockPicture", ".picture", "Picture"),
      lock("lockText", ".text", "Text"),
      lock("lockPage", "", "Page"),
    ),
    h(
      "span",
      { class: "set" },
      button(state, "upload", { image: "upload", text: "Upload" }),
      button(state, "branch", { image: "branch", text: "Branch" }),
      button(state, "remove", { image: "trash" }),
    ),
  );
}
