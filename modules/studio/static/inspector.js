// The right side: the codes of the open page, what else could stand there, and earlier versions.
import { cardOf, slotMeaning } from "./codes.js";
import { h } from "./dom.js";
import { button, codeColor, icon, picture } from "./parts.js";
import { headOf, optionsOf } from "./reducers.js";
import { draftJob } from "./stage.js";
import { versions } from "./strip.js";

export function inspector(state) {
  if (!state.story || draftJob(state) || !headOf(state.story).codes[state.ui.page])
    return h("aside", { class: "inspector", "aria-label": "Codes" });
  const head = headOf(state.story),
    page = state.ui.page,
    bits = head.bits[page];
  return h(
    "aside",
    { class: "inspector", "aria-label": "Codes" },
    h("h2", {}, "Codes of this page"),
    h("p", { class: "hint" }, "The page is decoded from these. Choose one to see what else could stand there."),
    h(
      "ul",
      { class: "chips" },
      head.codes[page].map((code, slot) => chip(state, head, page, slot, code)),
    ),
    h(
      "p",
      { class: "bits" },
      bits === undefined
        ? ""
        : `${bits.toFixed(1)} bits; the whole plan ${head.bits.reduce((a, b) => a + b, 0).toFixed(0)}`,
    ),
    options(state, page),
    versions(state),
    notes(head),
  );
}

function chip(state, head, page, slot, code) {
  const name = `${page + 1}.${slot + 1}`,
    on = head.locks.includes(name) || head.locks.includes(`${page + 1}`);
  return h(
    "li",
    { class: state.ui.slot === slot ? "open" : "" },
    h(
      "button",
      {
        type: "button",
        class: `chip ${codeColor(code)}`,
        "data-do": "slot",
        "data-arg": slot,
        "aria-expanded": String(state.ui.slot === slot),
        "aria-label": `Slot ${slot + 1}, code ${code}`,
      },
      code,
    ),
    h(
      "button",
      {
        type: "button",
        class: "pin",
        "data-do": "lockCode",
        "data-arg": name,
        "aria-pressed": String(on),
        "aria-label": `Lock slot ${slot + 1}`,
      },
      icon(on ? "lock" : "open"),
    ),
  );
}

function options(state, page) {
  const { slot } = state.ui;
  if (slot === null) return h("section", { class: "options", hidden: true });
  const { busy, options: found } = optionsOf(state, page, slot);
  return h(
    "section",
    { class: "options", "aria-label": `Other codes of slot ${slot + 1}`, "aria-busy": String(Boolean(busy)) },
    h("h2", {}, `Slot ${slot + 1}`, cardOf(state, headOf(state.story).codes[page][slot])),
    slotMeaning(state, slot),
    busy ? h("p", { class: "hint" }, "Drawing what each would give") : null,
    h(
      "ol",
      {},
      (found ?? []).map((one, index) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              "data-do": "setCode",
              "data-arg": one.code,
              disabled: index === 0,
              "aria-label": `Code ${one.code}, ${percent(one.probability)}: ${one.text}`,
            },
            picture(one.picture, 192, ""),
            h(
              "span",
              { class: "likely" },
              h("b", {}, index ? percent(one.probability) : `now · ${percent(one.probability)}`),
              h("meter", { max: "1", value: one.probability, "aria-label": "Probability" }),
            ),
            h("span", { class: "words-of" }, one.text),
          ),
        ),
      ),
    ),
    found || busy ? null : button(state, "slot", { text: "Look again", arg: slot }),
  );
}

const percent = (value) => (value < 0.001 ? "under .1 %" : `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`);

function notes(head) {
  return h(
    "ul",
    { class: "notes", hidden: !head.notes.length },
    head.notes.map((note) => h("li", {}, `${note[0].toUpperCase()}${note.slice(1)}.`)),
  );
}
