// Puts the page together: state, events of the server, keys, clicks, drops.
import { api, follow } from "./api.js";
import { codeView } from "./codes.js";
import { COMMANDS, commandFor, keyName } from "./commands.js";
import { h, morph } from "./dom.js";
import { inspector } from "./inspector.js";
import { dialog, map } from "./layers.js";
import { making } from "./making.js";
import { button } from "./parts.js";
import { reader } from "./reader.js";
import { EMPTY, headOf, reduce } from "./reducers.js";
import { draftJob, stage } from "./stage.js";
import { onSwipe } from "./swipe.js";
import { say as tell, watchVoices } from "./voice.js";

let state = EMPTY, root = document.getElementById("studio"), planned = false, opener = null;

function dispatch(action) {
  const before = state;
  state = reduce(state, action);
  if (state !== before && !planned) {
    planned = true;
    requestAnimationFrame(draw);
  }
}

const ui = (change) => dispatch({ type: "ui", change });

function say(text) {
  ui({ toast: text });
  document.getElementById("live").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ui({ toast: null }), 6000);
}

function draw() {
  planned = false;
  const covered = Boolean(state.ui.reader || state.ui.dialog);
  const fresh = h("div", { id: "studio" },
    h("div", { class: "editor", inert: covered },
      h("header", { class: "bar" }, button(state, "panel", { look: "quiet narrow-only", image: "panel" }), h("h1", {}, draftJob(state)?.title ?? state.story?.title ?? "Studio"),
        h("span", { class: "set" }, button(state, "undo", { look: "quiet", image: "undo" }), button(state, "redo", { look: "quiet", image: "redo" })),
        h("span", { class: "set end" }, state.online ? null : h("span", { class: "offline" }, "connecting"), button(state, "map", { look: "quiet", image: "map", "aria-pressed": String(state.ui.view === "map") }), button(state, "cards", { look: "quiet", image: "search", "aria-pressed": String(state.ui.view === "codes") }), button(state, "share", { look: "quiet", image: "share" }), button(state, "dark", { look: "quiet", image: "moon" }), button(state, "help", { look: "quiet", image: "help" }), button(state, "read", { look: "main", image: "read", text: "Read" }))),
      h("main", { class: "desk" }, making(state), state.ui.view === "map" ? map(state) : state.ui.view === "codes" ? codeView(state) : [stage(state), inspector(state)])),
    h("div", { class: "layer" }, reader(state)), h("div", { class: "layer" }, dialog(state)),
    h("div", { class: "toast", hidden: !state.ui.toast }, state.ui.toast ?? ""));
  morph(root, fresh);
  root = document.getElementById("studio");
  const wanted = covered && !document.querySelector(".layer").parentNode.querySelector(".layer :focus") && document.querySelector(".layer [data-first]");
  if (wanted) { opener ??= document.activeElement?.dataset?.do; wanted.focus(); }
  if (!covered && opener) { document.querySelector(`[data-do=${opener}]`)?.focus(); opener = null; }
  readAloud();
  document.title = state.story ? `${state.story.title} · Studio` : "Studio";
}

async function open(id) {
  dispatch({ type: "story", data: await api.story(id) });
  ui({ view: "edit", reader: null, panel: false });
}

async function run(name, more = {}) {
  const command = COMMANDS[name];
  if (command.when && !command.when(state)) return;
  try {
    await command.run({ state, ui, open, words, choose, say, ...more });
  } catch (error) {
    say(error.message);
  }
}

async function words(operation) {
  const box = document.querySelector(".words"), page = state.ui.page, text = box.textContent.replace(/\s+/g, " ").trim();
  box.blur();
  if (text === headOf(state.story).texts[page]) return;
  await api.edit(state.story.id, { operation, page, text });
}

function choose(purpose) {
  const input = document.createElement("input"), take = purpose === "codes" ? seekPicture : replacePicture;
  Object.assign(input, { type: "file", accept: "image/*", onchange: () => take(input.files[0]).catch((error) => say(error.message)) });
  input.click();
}

async function seekPicture(file) {
  const { picture } = await api.upload(file);
  await api.codesOf(picture);
}

async function replacePicture(file) {
  const { picture } = await api.upload(file);
  await api.edit(state.story.id, { operation: "picture", page: state.ui.page, picture });
}

/** Read what the reader shows, and turn the page at its end, as long as the voice is on. */
let spoken = null, hush = null;
function readAloud() {
  const told = state.ui.reader?.speaking ? document.querySelector(".told") : null;
  const key = told && `${told.closest("[data-key]").dataset.key} ${told.textContent}`;
  if (key === spoken) return;
  hush?.();
  spoken = key;
  hush = told && tell(told.textContent, () => {
    const next = document.querySelector(".reader footer .turn:last-child:enabled, .reader footer > .main");
    if (next) next.click();
    else ui({ reader: { ...state.ui.reader, speaking: false } });
  });
}

async function restore(text) {
  const job = await api.restore(text.trim());
  ui({ waiting: job.id, dialog: null });
}

async function onEvent(event, source) {
  if (event.type === "reset") {
    source.close();
    return start();
  }
  dispatch(event);
  const job = event.type === "job" ? event.job : null;
  if (job?.status === "failed") say(job.error);
  if (job?.status === "done" && job.kind === "find") {
    ui({ found: { ...(await api.codes({ codes: job.result.codes.join() })), of: "read from the picture, by slot" } });
  }
  const isNew = job?.status === "done" && (job.kind === "generate" || job.kind === "import");
  if (isNew && (state.ui.waiting === job.id || !state.story)) await open(job.result.story);
}

async function start() {
  const data = await api.project();
  dispatch({ type: "overview", data });
  follow(data.event, onEvent, (value) => dispatch({ type: "online", value }));
  const wanted = state.story?.id ?? data.stories[data.stories.length - 1]?.id;
  const drawn = data.jobs.find((job) => job.kind === "generate" && job.status === "running");
  if (drawn && !data.stories.length) ui({ waiting: drawn.id });
  if (wanted && data.stories.some((one) => one.id === wanted)) await open(wanted);
  ui({ found: await api.codes({ count: 24 }) });
}

let seeking = null;
const isTyping = (node) => node.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(node.tagName);

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-do]");
  if (!target || target.disabled || (target.classList.contains("veil") && event.target.closest("[data-stop]"))) return;
  run(target.dataset.do, { arg: target.dataset.arg });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.classList.contains("words")) {
    event.target.textContent = headOf(state.story).texts[state.ui.page];
    ui({ typed: null });
  }
  if (event.key === "Tab" && (state.ui.dialog || state.ui.reader)) return;
  if (state.ui.reader && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    event.preventDefault();
    return turnTo(event.key === "ArrowRight");
  }
  if (event.key === " " && (event.target.tagName === "BUTTON" || event.target.tagName === "SUMMARY")) return;
  const name = commandFor(keyName(event), isTyping(event.target));
  if (!name || (state.ui.reader || state.ui.dialog) && !["close", "speak", "dark", "help", "fullScreen"].includes(name)) return;
  event.preventDefault();
  run(name, { key: event.key });
});
document.addEventListener("input", (event) => {
  if (event.target.classList.contains("words")) ui({ typed: { of: `${state.story.id}-${state.ui.page}`, text: event.target.textContent } });
  const name = event.target.dataset.field;
  if (name) ui({ [name]: ["number", "range"].includes(event.target.type) ? Number(event.target.value) : event.target.value });
  if (name === "codeWords") {
    clearTimeout(seeking);
    seeking = setTimeout(() => run("seek"), 200);
  }
});
document.addEventListener("change", (event) => {
  const page = event.target.dataset.caption;
  if (page) run("nameChoice", { arg: page, text: event.target.value });
});
onSwipe((forwards) => state.ui.reader && turnTo(forwards));
watchVoices((voices) => ui({ voices }));

/** Turn the reader's page; where there is a choice, the page stays. */
function turnTo(forwards) {
  const turns = document.querySelectorAll(".reader footer .turn");
  (turns.length ? turns[forwards ? 1 : 0] : forwards && document.querySelector(".reader footer > .main"))?.click?.();
}
document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.dataset.form === "make") run("make");
  if (event.target.dataset.form === "seek") run("seek");
  if (event.target.dataset.form === "restore") restore(new FormData(event.target).get("plan")).catch((error) => say(error.message));
});

let dragged = null;
document.addEventListener("dragstart", (event) => { dragged = event.target.closest?.("[data-page]")?.dataset.page ?? null; });
document.addEventListener("dragend", () => { dragged = null; });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  const target = event.target.closest?.("[data-page]")?.dataset.page, from = dragged;
  const file = event.dataTransfer.files[0], text = event.dataTransfer.getData("text");
  try {
    if (from !== null && target !== undefined && from !== target) {
      await api.edit(state.story.id, { operation: "move", page: Number(from), to: Number(target) });
      ui({ page: Number(target) });
    } else if (file) await takeFile(file, Boolean(event.target.closest?.("[data-drop=picture]")));
    else if (/^plan[12]\./.test(text)) await restore(text);
  } catch (error) {
    say(error.message);
  }
});
document.addEventListener("paste", async (event) => {
  const file = event.clipboardData.files[0], text = event.clipboardData.getData("text");
  if (isTyping(event.target)) return;
  try {
    if (file && state.story) await replacePicture(file);
    else if (/^plan[12]\./.test(text)) await restore(text);
  } catch (error) {
    say(error.message);
  }
});

async function takeFile(file, onPicture) {
  if (state.ui.view === "codes" && file.type.startsWith("image/")) return seekPicture(file);
  if (!file.type.startsWith("image/")) return restore(await file.text());
  if (onPicture && state.story) {
    const job = await api.restorePicture(file).catch(() => null);
    return job ? ui({ waiting: job.id }) : replacePicture(file);
  }
  const job = await api.restorePicture(file);
  ui({ waiting: job.id });
}

draw();
start().catch((error) => say(error.message));
