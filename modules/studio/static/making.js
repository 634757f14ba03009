// The left panel: prompt, settings, cast, queue and shelf.
import { h } from "./dom.js";
import { button, picture, seconds } from "./parts.js";
import { activeJobs, castOf } from "./reducers.js";

const field = (label, name, value, attributes) =>
  h("label", { class: "field" }, h("span", {}, label), h("input", { "data-field": name, value, ...attributes }));

export function making(state) {
  const { ui } = state;
  return h(
    "aside",
    { class: `making${ui.panel ? " shown" : ""}`, "aria-label": "Prompt and shelf" },
    h(
      "form",
      { class: "make", "data-form": "make" },
      h(
        "label",
        { class: "prompt" },
        h("span", {}, "What is the story about?"),
        h("textarea", {
          "data-field": "prompt",
          rows: "3",
          value: ui.prompt,
          maxlength: "500",
          placeholder: "Rusty the fox wants a kite in the park",
        }),
      ),
      h(
        "div",
        { class: "row" },
        field("Pages", "pages", ui.pages, {
          type: "number",
          min: "1",
          max: String(Math.min(32, state.model?.longest_story ?? 8)),
        }),
        field("Seed", "seed", ui.seed, { type: "number", min: "0" }),
        button(state, "dice", { look: "quiet", image: "dice" }),
      ),
      h(
        "details",
        { class: "fine" },
        h("summary", {}, "Fine control"),
        field(`Variety ${ui.temperature}`, "temperature", ui.temperature, {
          type: "range",
          min: "0",
          max: "1.5",
          step: "0.1",
        }),
        field(`Best of ${ui.bestOf} plans`, "bestOf", ui.bestOf, { type: "range", min: "1", max: "64" }),
      ),
      button(state, "make", { look: "main wide", text: "Make the story" }),
    ),
    queue(state),
    cast(state),
    shelf(state),
    h(
      "div",
      { class: "narrow-only set" },
      button(state, "map", { image: "map", text: "Map" }),
      button(state, "cards", { image: "search", text: "Codes" }),
      button(state, "dark", { image: "moon", label: "Light or dark" }),
      button(state, "help", { image: "help" }),
    ),
  );
}

function queue(state) {
  const jobs = activeJobs(state);
  if (!jobs.length) return h("section", { class: "queue", hidden: true });
  return h(
    "section",
    { class: "queue", "aria-label": "Queue" },
    h("h2", {}, "Queue"),
    h(
      "ul",
      {},
      jobs.map((job) =>
        h(
          "li",
          { "data-key": job.id },
          h("span", { class: "name" }, job.title),
          h("span", { class: "left" }, job.status === "queued" ? "waits" : seconds(job.seconds_left)),
          button(state, "cancel", { look: "quiet small", image: "close", arg: job.id, label: `Cancel ${job.title}` }),
          h("progress", { max: String(job.total || 1), value: job.done, "aria-label": `Progress of ${job.title}` }),
        ),
      ),
    ),
  );
}

function cast(state) {
  const members = state.story ? castOf(state.story) : [];
  if (!members.length) return h("section", { class: "cast", hidden: true });
  const list = h(
    "ul",
    {},
    members.map((one) => member(state, one)),
  );
  return h("section", { class: "cast", "aria-label": "Cast" }, h("h2", {}, "Cast"), list);
}

function member(state, { kind, name, color, pages, lock }) {
  const who = name ? `${name} the ${kind}` : `the ${kind}`;
  const where = pages === 1 ? "1 page" : pages ? `${pages} pages` : "not in the story now";
  return h(
    "li",
    { "data-key": kind },
    h("span", { class: `coat coat-${color}`, "aria-hidden": "true" }),
    h(
      "span",
      { class: "who" },
      h("span", { class: "name" }, who),
      h("span", { class: "left" }, `in ${color} · ${where}`),
    ),
    button(state, "lockCast", {
      look: `quiet small pin${lock ? " on" : ""}`,
      image: lock ? "lock" : "open",
      label: `Lock the ${kind} in ${color}`,
      arg: lock ?? `cast.${kind}.${color}`,
      "aria-pressed": String(Boolean(lock)),
    }),
    button(state, "keepHero", {
      look: "quiet small",
      image: "hero",
      label: `Keep this hero: a new story with the ${kind}`,
      arg: `${name} the ${kind} in a ${color} coat`.trim(),
    }),
  );
}

function shelf(state) {
  return h(
    "section",
    { class: "shelf", "aria-label": "Shelf" },
    h(
      "h2",
      {},
      "Shelf",
      h(
        "span",
        { class: "tools" },
        button(state, "duplicate", { look: "quiet small", image: "copy" }),
        button(state, "removeStory", { look: "quiet small", image: "trash" }),
      ),
    ),
    h(
      "ul",
      {},
      [...state.stories].reverse().map((story) =>
        h(
          "li",
          { "data-key": story.id },
          h(
            "button",
            {
              type: "button",
              "data-do": "openStory",
              "data-arg": story.id,
              "aria-current": state.story?.id === story.id ? "true" : null,
            },
            picture(story.cover, 96, ""),
            h("span", {}, story.title),
          ),
        ),
      ),
    ),
  );
}
