// Puts the page together: the state and its drawing, the events of the server, and what commands and input can do.
import { api, follow } from "./api.js";
import { COMMANDS } from "./commands.js";
import { morph } from "./dom.js";
import { listen } from "./input.js";
import { EMPTY, headOf, reduce } from "./reducers.js";
import { view } from "./view.js";
import { readAloud, watchVoices } from "./voice.js";

const TOAST = 6000; // Milliseconds that a message stays.
let state = EMPTY,
  drawingIsPlanned = false,
  opener = null,
  toastTimer = null;

function dispatch(action) {
  const before = state;
  state = reduce(state, action);
  if (state !== before && !drawingIsPlanned) {
    drawingIsPlanned = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  drawingIsPlanned = false;
  morph(document.getElementById("studio"), view(state));
  moveFocus();
  readAloud(state, ui);
  document.title = state.story ? `${state.story.title} · Studio` : "Studio";
}

/** Move the focus into a dialog or the reader when it opens, and back to the button that opened it when it closes. */
function moveFocus() {
  const isCovered = Boolean(state.ui.reader || state.ui.dialog);
  const first = document.querySelector(".layer [data-first]");
  if (isCovered && first && !document.querySelector(".layer :focus")) {
    opener ??= document.activeElement?.dataset?.do;
    first.focus();
  }
  if (!isCovered && opener) {
    document.querySelector(`[data-do=${opener}]`)?.focus();
    opener = null;
  }
}

/** Change what is shown. A story that is waited for may be there before the answer that it will be made. */
function ui(change) {
  dispatch({ type: "ui", change });
  const job = change.waiting && state.jobs[change.waiting];
  if (job?.status === "done") attempt(() => open(job.result.story));
}

/** Show a message for a while, and tell it to screen readers. */
function say(text) {
  ui({ toast: text });
  document.getElementById("live").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ui({ toast: null }), TOAST);
}

async function attempt(act) {
  try {
    await act();
  } catch (error) {
    say(error.message);
  }
}

async function run(name, more = {}) {
  const command = COMMANDS[name];
  if (command.when && !command.when(state)) return;
  await attempt(() => command.run({ state, ui, open, words, choose, say, ...more }));
}

async function open(id) {
  dispatch({ type: "story", data: await api.story(id) });
  ui({ view: "edit", reader: null, panel: false });
}

/** Keep what was typed on the open page. */
async function words(operation) {
  const box = document.querySelector(".words"),
    page = state.ui.page;
  const text = box.textContent.replace(/\s+/g, " ").trim();
  box.blur();
  if (text !== headOf(state.story).texts[page]) await api.edit(state.story.id, { operation, page, text });
}

/** Let a person choose a picture file: to search the codes by, or else to replace that of the open page. */
function choose(purpose) {
  const take = purpose === "codes" ? seekPicture : replacePicture;
  const onchange = () => attempt(() => take(input.files[0]));
  const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", onchange });
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

/** Show the story that a job makes, as soon as it is there. */
const wait = (job) => ui({ waiting: job.id, dialog: null, view: "edit", panel: false });

async function restore(text) {
  wait(await api.restore(text.trim()));
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
  follow(
    data.event,
    (event, source) => attempt(() => onEvent(event, source)),
    (value) => dispatch({ type: "online", value }),
  );
  const wanted = state.story?.id ?? data.stories[data.stories.length - 1]?.id;
  const drawn = data.jobs.find((job) => job.kind === "generate" && job.status === "running");
  if (drawn && !data.stories.length) ui({ waiting: drawn.id });
  if (wanted && data.stories.some((one) => one.id === wanted)) await open(wanted);
  ui({ found: await api.codes({ count: 24 }) });
}

listen({
  get state() {
    return state;
  },
  ui,
  run,
  attempt,
  restore,
  wait,
  seekPicture,
  replacePicture,
});
watchVoices((voices) => ui({ voices }));
draw();
attempt(start);
