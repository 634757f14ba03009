// What a person does with keys, mouse, fingers and the clipboard, as calls of `app`: see main.js.
import { api } from "./api.js";
import { commandFor, keyName } from "./commands.js";
import { headOf } from "./reducers.js";
import { onSwipe } from "./swipe.js";

const LAYER_COMMANDS = ["close", "speak", "dark", "help", "fullScreen"]; // Keys that work in the reader and in dialogs.
const SEARCH_DELAY = 200; // Milliseconds without typing until the codes are searched.
const isTyping = (node) => node.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(node.tagName);

export function listen(app) {
  const events = { click, keydown, input, change, submit };
  for (const [name, handle] of Object.entries(events)) document.addEventListener(name, (event) => handle(app, event));
  onSwipe((forwards) => app.state.ui.reader && turnReader(forwards));
  listenToDrops(app);
  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData,
      text = event.clipboardData.getData("text");
    if (!isTyping(event.target)) app.attempt(() => paste(app, files[0], text));
  });
}

function click(app, event) {
  const target = event.target.closest("[data-do]");
  const isInsideDialog = target?.classList.contains("veil") && event.target.closest("[data-stop]");
  if (target && !target.disabled && !isInsideDialog) app.run(target.dataset.do, { arg: target.dataset.arg });
}

function keydown(app, event) {
  const { state } = app,
    { reader, dialog } = state.ui,
    node = event.target;
  if (event.key === "Escape" && node.classList.contains("words")) {
    node.textContent = headOf(state.story).texts[state.ui.page];
    app.ui({ typed: null });
  }
  if (reader && !dialog && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    event.preventDefault();
    return turnReader(event.key === "ArrowRight");
  }
  if (event.key === " " && ["BUTTON", "SUMMARY"].includes(node.tagName)) return;
  const name = commandFor(keyName(event), isTyping(node));
  if (!name || ((reader || dialog) && !LAYER_COMMANDS.includes(name))) return;
  event.preventDefault();
  app.run(name, { key: event.key });
}

/** Turn the reader's page; where there is a choice, the page stays. */
function turnReader(forwards) {
  const turns = document.querySelectorAll(".reader footer .turn");
  const target = turns.length ? turns[forwards ? 1 : 0] : forwards && document.querySelector(".reader footer > .main");
  if (target) target.click();
}

let seeking = null;
function input(app, event) {
  const node = event.target,
    name = node.dataset.field,
    { state } = app;
  if (node.classList.contains("words"))
    app.ui({ typed: { of: `${state.story.id}-${state.ui.page}`, text: node.textContent } });
  if (name) app.ui({ [name]: ["number", "range"].includes(node.type) ? Number(node.value) : node.value });
  if (name === "codeWords") {
    clearTimeout(seeking);
    seeking = setTimeout(() => app.run("seek"), SEARCH_DELAY);
  }
}

function change(app, event) {
  const page = event.target.dataset.caption;
  if (page) app.run("nameChoice", { arg: page, text: event.target.value });
}

function submit(app, event) {
  event.preventDefault();
  const { form } = event.target.dataset;
  if (form === "restore") app.attempt(() => app.restore(new FormData(event.target).get("plan")));
  else if (form) app.run(form);
}

function listenToDrops(app) {
  let dragged = null; // The number of a page of the filmstrip.
  document.addEventListener("dragstart", (event) => {
    dragged = event.target.closest?.("[data-page]")?.dataset.page ?? null;
  });
  document.addEventListener("dragend", () => {
    dragged = null;
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const target = event.target.closest?.("[data-page]")?.dataset.page,
      from = dragged;
    const onPicture = Boolean(event.target.closest?.("[data-drop=picture]"));
    const { files } = event.dataTransfer,
      text = event.dataTransfer.getData("text");
    app.attempt(() => (from === null ? drop(app, files[0], text, onPicture) : movePage(app, from, target)));
  });
}

async function movePage(app, from, target) {
  if (target === undefined || from === target) return;
  await api.edit(app.state.story.id, { operation: "move", page: Number(from), to: Number(target) });
}

async function drop(app, file, text, onPicture) {
  if (!file) {
    if (/^plan[12]\./.test(text)) await app.restore(text);
  } else if (!file.type.startsWith("image/")) await app.restore(await file.text());
  else if (app.state.ui.view === "codes") await app.seekPicture(file);
  else if (onPicture && app.state.story) await restoreOrReplace(app, file);
  else app.wait(await api.restorePicture(file));
}

/** On the open page, a page's PNG restores its story, and any other picture replaces the page's. */
async function restoreOrReplace(app, file) {
  const job = await api.restorePicture(file).catch(() => null);
  if (job) app.wait(job);
  else await app.replacePicture(file);
}

async function paste(app, file, text) {
  if (file && app.state.story) await restoreOrReplace(app, file);
  else if (/^plan[12]\./.test(text)) await app.restore(text);
}
